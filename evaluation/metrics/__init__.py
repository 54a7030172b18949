"""Metrics as pure functions of features."""
