"""The pack at work, from outside: photographs -> a real ComfyUI server -> pictures."""
