"""The frozen diffusion model as plain callables, and its loss."""
