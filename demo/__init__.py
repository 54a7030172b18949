"""The pack at work, from outside: portraits -> a real ComfyUI server -> pictures."""
