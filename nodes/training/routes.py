"""Two addresses from which the front end reads training runs; both only read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from server import PromptServer

from ...files.names import plain_name
from ...runs.history import metrics_csv, run_history
from ..host.folders import runs_folder
from .events import newest_status

HISTORY = "/multi_ipadapter/training"
TABLE = "/multi_ipadapter/training.csv"


def add_routes() -> None:
    """Register them with ComfyUI's server; nothing where there is none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(HISTORY)(send_history)
        server.routes.get(TABLE)(send_table)


async def send_history(request: web.Request) -> web.Response:
    """`?run=NAME` -> `run_history` and the newest status, if this process trains or trained it."""
    name, folder = _run(request)
    history = await asyncio.to_thread(run_history, folder)
    return web.json_response(history | {"run": name, "status": newest_status(name)})


async def send_table(request: web.Request) -> web.Response:
    """`?run=NAME` -> `metrics_csv`, to be kept as a file."""
    name, folder = _run(request)
    text = await asyncio.to_thread(metrics_csv, folder)
    return web.Response(text=text, content_type="text/csv", charset="utf-8")


def _run(request: web.Request) -> tuple[str, Path]:
    """A run's name and folder, which may not exist; an answer of 400 for anything else."""
    try:
        name = plain_name(request.query.get("run", ""), "run")
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    runs, folder = runs_folder(), runs_folder() / name
    if not folder.resolve().is_relative_to(runs.resolve()):
        raise web.HTTPBadRequest(text=f"The run {name!r} lies outside of the folder of the runs.")
    return name, folder
