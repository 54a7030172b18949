"""Nodes that find and prepare faces."""
