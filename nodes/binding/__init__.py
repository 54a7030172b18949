"""ComfyUI's MODEL, CLIP, VAE and CLIP_VISION as the plain callables of the engines."""
