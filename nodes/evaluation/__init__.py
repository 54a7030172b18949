"""Nodes that measure pictures, and choose among them."""
