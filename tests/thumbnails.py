"""Workflows -> workflows/<name>.jpg, the pictures of the graphs in ComfyUI's template browser.

With COMFYUI_PATH set, `python -m multi_ipadapter.tests.thumbnails train sweep` draws these two
anew, and without names all that have none. It needs the browser of the browser tests.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from multi_ipadapter.demo.server import ComfyServer

from .browser import FrontEnd, open_front_end

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SIZE = (640, 360)
SHARPNESS = 3  # pixels of the tab for one of the thumbnail; the front end leaves out small texts
MOST_BYTES = 60_000
# Nothing but the graph and the widgets on it.
_BARE = """() => {
    document.head.append(document.createElement('style'))
    document.head.lastChild.textContent = `
        body *:not(#graph-canvas, .dom-widget, .dom-widget *) { visibility: hidden !important }
        #graph-canvas, .dom-widget { visibility: visible !important }`
}"""
# The whole graph into the tab; a file that this machine lacks is no fault of the workflow.
_FRAME = """async () => {
    const boxes = app.graph.nodes.map(({pos, size}) =>
        [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]])
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])))
    const [right, bottom] = [2, 3].map(i => Math.max(...boxes.map(box => box[i])))
    const {width, height} = app.canvas.canvas.getBoundingClientRect()
    const scale = Math.min(width / (right - left + 80), height / (bottom - top + 80), 1.5)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [
        width / scale / 2 - (left + right) / 2, height / scale / 2 - (top + bottom) / 2]
    for (const node of app.graph.nodes) node.has_errors = false
    app.canvas.setDirty(true, true)
    await new Promise(done => setTimeout(done, 1500))
}"""


def draw(tab: FrontEnd, name: str, workflow: dict[str, Any]) -> Image.Image:
    """Picture of a workflow's graph, without the notes, at `SIZE`."""
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    nodes = [node for node in workflow["nodes"] if node not in notes]
    tab.drop(name, workflow | {"nodes": nodes})
    tab.run(_FRAME)
    return Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB").resize(SIZE, Image.LANCZOS)


def jpeg(picture: Image.Image) -> bytes:
    """As a file of `MOST_BYTES` at most."""
    for quality in range(90, 0, -5):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()


def main(names: Sequence[str]) -> None:
    """Draw the named workflows, or all without a picture."""
    paths = [WORKFLOWS / f"{name}.json" for name in names] or [
        path for path in sorted(WORKFLOWS.glob("*.json")) if not path.with_suffix(".jpg").exists()
    ]
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), ["--cpu"]) as server:
        for setting, value in {
            "Comfy.TutorialCompleted": True,  # no dialog over the canvas
            "Comfy.Graph.CanvasInfo": False,
            "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
        }.items():
            server.client.post_json(f"/settings/{setting}", value)
        with open_front_end(server.client.url, Path(folder)) as tab:
            width, height = (SHARPNESS * side for side in SIZE)
            tab.page.set_viewport_size({"width": width, "height": height})
            tab.run(_BARE)
            for path in paths:
                workflow = json.loads(path.read_text(encoding="utf-8"))
                path.with_suffix(".jpg").write_bytes(jpeg(draw(tab, path.stem, workflow)))
                print(path.with_suffix(".jpg").name)


if __name__ == "__main__":
    main(sys.argv[1:])
