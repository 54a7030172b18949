"""Measurements on real ComfyUI models: `python dev.py bench NAME`; results are in README.md."""
