"""Trains the demo world's models from scratch: `python -m multi_ipadapter.demo.build`."""
