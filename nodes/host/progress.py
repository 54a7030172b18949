"""What a running node tells the user, and whether the user has cancelled it."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.v0_0_2 import io
from server import PromptServer


class Progress:
    """The share that is done, in ComfyUI's progress bar."""

    def __init__(self):
        self._bar = comfy.utils.ProgressBar(1)

    def __call__(self, done: int, total: int, what: str) -> None:
        self._bar.update_absolute(done, total)


def cancelled() -> bool:
    """False; or it raises, which ComfyUI knows as the user's wish.

    Raises:
        InterruptProcessingException: the user has cancelled.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False


def show_text(cls: type[io.ComfyNode], text: str) -> None:
    """On the node itself; the schema must ask for `unique_id`. Nothing without a server."""
    server = getattr(PromptServer, "instance", None)
    node = cls.hidden.unique_id if cls.hidden else None
    if server is not None and node:
        server.send_progress_text(text, node)
