"""Text on a node while, and after, it runs."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from server import PromptServer


def show_text(cls: type[io.ComfyNode], text: str) -> None:
    """On the node itself; the schema must ask for `unique_id`. Nothing without a server."""
    server = getattr(PromptServer, "instance", None)
    node = cls.hidden.unique_id if cls.hidden else None
    if server is not None and node:
        server.send_progress_text(text, node)
