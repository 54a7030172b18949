"""Draws docs/demo.jpg and docs/graph.jpg anew: the demo's sheet, and its graph after a run.

With COMFYUI_PATH set: `python -m multi_ipadapter.tests.screenshots`; needs a Chromium.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from multi_ipadapter.demo.__main__ import run_demo
from multi_ipadapter.demo.server import ComfyServer

from .browser import FrontEnd, open_front_end

ROOT = Path(__file__).parents[1]
_BORDER, _WIDTH = 18, 1525
# Puts all nodes but the note into the tab; returns the box that they fill, in pixels.
_SHOW = """async ([border, width]) => {
    const boxes = app.graph.nodes
        .filter(node => node.type !== 'MarkdownNote').map(node => node.getBounding())
    const left = Math.min(...boxes.map(([x]) => x)), top = Math.min(...boxes.map(([, y]) => y))
    const right = Math.max(...boxes.map(([x, , w]) => x + w))
    const bottom = Math.max(...boxes.map(([, y, , h]) => y + h))
    const scale = (width - 2 * border) / (right - left)
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const at = {x: 70, y: 150}  // below the bars, beside the menu
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [(at.x + border) / scale - left, (at.y + border) / scale - top]
    app.canvas.setDirty(true, true)
    await new Promise(done => setTimeout(done, 1500))
    return {x: canvas.x + at.x, y: canvas.y + at.y, width,
            height: (bottom - top) * scale + 2 * border}
}"""
_DONE = "() => app.graph.nodes.filter(node => node.imgs?.length).length === 3"


def sheet(folder: Path) -> Image.Image:
    """What `python dev.py demo` writes."""
    run_demo(folder)
    return Image.open(folder / "sheet.png").convert("RGB")


def graph(folder: Path) -> Image.Image:
    """The demo's graph in ComfyUI's front end, after a run."""
    (folder / "custom_nodes").mkdir()
    with ComfyServer(folder, ["--cpu"]) as server:
        server.client.post_json("/settings/Comfy.TutorialCompleted", True)
        with open_front_end(server.client.url, folder) as tab:
            tab.page.set_viewport_size({"width": 1700, "height": 900})
            tab.set("Comfy.Minimap.Visible", False)
            tab.drop("demo", json.loads((ROOT / "workflows/demo.json").read_text("utf-8")))
            tab.press_run()
            tab.wait(_DONE)
            return _shot(tab)


def _shot(tab: FrontEnd) -> Image.Image:
    tab.sizes()
    box = tab.run(_SHOW, [_BORDER, _WIDTH])
    return Image.open(io.BytesIO(tab.page.screenshot(clip=box))).convert("RGB")


def draw(name: str, how: Callable[[Path], Image.Image]) -> None:
    """Write docs/<name>.jpg."""
    with tempfile.TemporaryDirectory() as folder:
        path = ROOT / "docs" / f"{name}.jpg"
        how(Path(folder)).save(path, "JPEG", quality=90, optimize=True)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    draw("demo", sheet)
    draw("graph", graph)
