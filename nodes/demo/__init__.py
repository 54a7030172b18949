"""The demo's models and people as nodes."""
