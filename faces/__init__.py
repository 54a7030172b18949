"""Faces in pictures: found, recognised, cut out and chosen; needs no ComfyUI."""
