"""One load in a process of its own: prints as JSON what it adds to the process's memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ._comfyui import prepare

prepare(cpu=True)

import psutil  # noqa: E402
import torch  # noqa: E402

from ._load import WAYS, read  # noqa: E402


def peak_memory() -> int:
    """Most bytes of memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss would count the parent process in
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main(way: str, path: str) -> None:
    """Load, then read every weight."""
    start = psutil.Process().memory_info().rss
    state = torch.get_rng_state()
    adapter = WAYS[way](Path(path))
    loaded = peak_memory() - start
    draws_random = not torch.equal(state, torch.get_rng_state())
    read(adapter)
    report = {
        "draws_random": draws_random,
        "peak_mb": loaded / 1e6,
        "read_peak_mb": (peak_memory() - start) / 1e6,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
