"""One run of Prepare Faces in a process of its own: prints its memory, time and reports as JSON."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from ._comfyui import prepare

prepare(cpu=True)

import comfy.model_management  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402

from ..nodes.faces.analysis import LoadFaceAnalysis  # noqa: E402
from ..nodes.faces.prepare import PrepareFaces  # noqa: E402
from ._load_memory import peak_memory  # noqa: E402


class Watch:
    """Counts progress reports and opened pictures, and presses Cancel after `stop` pictures."""

    def __init__(self, stop: int):
        self.stop, self.steps, self.opened = stop, 0, 0
        comfy.utils.set_progress_bar_global_hook(self._on_progress)
        sys.addaudithook(self._on_event)

    def _on_progress(self, done, total, preview, **_) -> None:
        self.steps += 1
        if self.stop and done == self.stop:
            comfy.model_management.interrupt_current_processing(True)

    def _on_event(self, event: str, arguments: tuple) -> None:
        if event == "open" and str(arguments[0]).endswith(".jpg"):
            self.opened += 1


def main(folder: str, name: str, keep: str, stop: str) -> None:
    """Prepare the pictures of a folder below `folder`/input.

    Args:
        keep: the node's own; 0: all.
        stop: Cancel is pressed when so many pictures are done; 0: never.
    """
    root = Path(folder)
    folder_paths.models_dir = str(root / "models")
    folder_paths.set_input_directory(str(root / "input"))
    folder_paths.set_temp_directory(str(root / "temp"))
    count = len(list((root / "input" / name).iterdir()))
    (analyser,) = LoadFaceAnalysis.execute("buffalo_l").args
    gc.collect()
    before = psutil.Process().memory_info().rss
    watch = Watch(int(stop))
    start = time.perf_counter()
    try:
        results = PrepareFaces.execute(
            analyser, {}, folder=name, keep=int(keep), drop_duplicates=False
        ).args
    except comfy.model_management.InterruptProcessingException:
        results = ()
    held = sum(x.nbytes for x in results if isinstance(x, torch.Tensor))
    report = {
        "pictures": count,
        "kept": len(results[2]) if results else 0,
        "peak": peak_memory() - before,
        "results": held + (results[0].nbytes // 4 if results else 0),  # cut out as bytes first
        "seconds": time.perf_counter() - start,
        "steps": watch.steps,
        "opened": watch.opened,
        "stopped": not results,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
