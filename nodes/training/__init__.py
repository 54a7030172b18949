"""Nodes that train adapters, and the same without a graph."""
