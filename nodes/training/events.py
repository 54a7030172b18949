"""How a training run goes, told to ComfyUI's front ends over their websocket as it happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
from server import PromptServer

from ...files.strict_json import finite

EVENT = "multi_ipadapter.training"

_newest: dict[str, Any] = {}  # replaced as a whole, because the server's thread reads it


def newest_status(run: str) -> dict[str, Any] | None:
    """Status of the run that this process trained last, if it has that name."""
    return _newest if _newest.get("run") == run else None


class TrainingEvents:
    """Status and new points of one run; without a server, nobody is told.

    An event is {"status": ..., and what is new of "losses", "learning_rate", "validation",
    "preview" and "begins"}. A status is {"run", "node", "phase", "step", "steps"} and, as soon as
    they are known, "done" and "count" (of pictures to encode), "seconds_left",
    "samples_per_second". Phases: preparing, encoding, training, validating; and, told on leaving
    the context: finished, stopped, failed.

    Args:
        run: name of its folder.
        node: id of the node in the running graph.
        steps: of the whole run.
    """

    def __init__(self, run: str, node: str | None, steps: int):
        self.status: dict[str, Any] = {"run": run, "node": node, "step": 0, "steps": steps}
        self.finished = False

    def __enter__(self) -> TrainingEvents:
        self.tell(phase="preparing")
        return self

    def __exit__(self, kind, error, traceback) -> None:
        stops = comfy.model_management.InterruptProcessingException
        failed = kind is not None and not issubclass(kind, stops)
        self.tell(phase="failed" if failed else "finished" if self.finished else "stopped")

    def tell(self, news: Mapping[str, Any] | None = None, **status: Any) -> None:
        """Change the status and send it with what is new; to all clients, so that one that was
        reloaded meanwhile hears it too."""
        global _newest
        self.status = self.status | status
        _newest = finite(self.status)
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync(EVENT, {"status": _newest} | finite(dict(news or {})))
