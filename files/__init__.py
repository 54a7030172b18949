"""Files that are read safely, written whole, and kept inside their folders."""
