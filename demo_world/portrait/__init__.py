"""Draws the portraits of the demo world: flat cartoon heads made of Pillow polygons."""
