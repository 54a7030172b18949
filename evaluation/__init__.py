"""Metrics of generated pictures: feature networks, pure functions over features, and reports."""
