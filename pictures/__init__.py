"""Data sets of pictures, and pictures as pixels."""
