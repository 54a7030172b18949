"""What every node asks of ComfyUI: pictures, folders, progress, fingerprints, memory."""
