"""Benchmark of evaluation: FID against SciPy's matrix root, the extractor, and peak memory.

`python dev.py bench evaluation [--quick] [--device auto|cpu|gpu] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from . import _evaluation_distance, _evaluation_extract
from ._timing import Quiet

MANY, FEW = 10_000, 500
SECONDS_GOALS = {MANY: 5.0, FEW: 0.5}
RATIO_GOAL = 4.0
EXTRACT_GOAL = 0.95
MEMORY_GOAL = 2e9


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python dev.py bench evaluation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds, fewer pictures: for a look")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--rounds", type=int, default=0, help="(default: 5; at least 2)")
    parser.add_argument(
        "--memory", type=int, default=0, help="pictures whose memory is measured (default: 50,000)"
    )
    parser.add_argument(
        "--patience", type=float, default=300.0, help="seconds to wait in all for other processes"
    )
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        results = run(options, Path(folder))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}")


def run(options: argparse.Namespace, folder: Path) -> dict:
    """All measurements, as plain values; each table is printed as soon as it is known."""
    device = _device(options.device)
    rounds = options.rounds or (2 if options.quick else 5)
    on_cpu = device.type == "cpu"
    batch_size = 8 if on_cpu else 64
    pictures = batch_size * (4 if options.quick else 16) * (1 if on_cpu else 8)
    machine = {
        "device": str(device),
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "rounds": rounds,
        "pictures": pictures,
        "batch": batch_size,
    }
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    quiet = Quiet(options.patience)
    distances = [row for n in (MANY, FEW) for row in _evaluation_distance.measure(n, rounds, quiet)]
    print_distances(distances)
    rates = _evaluation_extract.measure(folder, device, pictures, batch_size, rounds, quiet)
    print_rates(rates)
    print(f"\nDisturbed by other processes: {quiet.disturbed} of {quiet.taken} samples.")
    count = options.memory or (2_000 if options.quick else 50_000)
    memory = {n: measure_memory(folder, n) for n in (count // 10, count)}
    print_memory(memory)
    return {
        "machine": machine,
        "distances": [_plain(row) for row in distances],
        "extract": [_plain(row) for row in rates],
        "memory": memory,
        "samples": {"taken": quiet.taken, "disturbed": quiet.disturbed},
    }


def _device(name: str) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()


def measure_memory(folder: Path, count: int) -> dict[str, float]:
    """Peak bytes after each step of evaluating `count` pictures, in a process of its own."""
    command = [sys.executable, "-m", f"{__package__}._evaluation_memory", str(folder), str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_distances(rows) -> None:
    """Medians over the rounds, quartiles in brackets."""
    print("\n## FID from features of 2,048 values\n")
    print("| pictures | computed | s | sqrtm takes | FID | goal |")
    print("|--:|---|--:|--:|--:|---|")
    for row in rows:
        ratio = goal = ""
        if row.ratio:
            ratio = f"{row.ratio.median:.1f}x [{row.ratio.low:.1f}, {row.ratio.high:.1f}]"
        if row.variant == _evaluation_distance.OURS:
            limit = SECONDS_GOALS[row.pictures]
            goal = _verdict(row.seconds.median <= limit, f"<= {limit} s")
            goal += ", " + _verdict(row.ratio.median >= RATIO_GOAL, f">= {RATIO_GOAL:.0f}x")
        time = f"{row.seconds.median:.3f} [{row.seconds.low:.3f}, {row.seconds.high:.3f}]"
        print(
            f"| {row.pictures:,} | {row.variant} | {time} | {ratio} | {row.value:.9f} | {goal} |",
            flush=True,
        )


def print_rates(rows) -> None:
    """Pictures per second, and the ratio to the network's plain calls of the same round."""
    print("\n## FID-Inception on PNG files of 512 px\n")
    print("| | pictures per s | ratio | goal |")
    print("|---|--:|--:|---|")
    for row in rows:
        goal = ""
        if row.variant == _evaluation_extract.EXTRACT:
            goal = _verdict(row.ratio.median >= EXTRACT_GOAL, f">= {EXTRACT_GOAL}")
        rate = f"{row.per_second.median:.2f} [{row.per_second.low:.2f}, {row.per_second.high:.2f}]"
        ratio = f"{row.ratio.median:.3f} [{row.ratio.low:.3f}, {row.ratio.high:.3f}]"
        print(f"| {row.variant} | {rate} | {ratio} | {goal} |", flush=True)


def print_memory(memory: dict[int, dict[str, float]]) -> None:
    """What evaluation adds at most to a process that has ComfyUI imported, after each step."""
    print("\n## Peak memory added by evaluate(), two different sets of so many pictures each\n")
    print("64 PNG files of 512 px through FID-Inception, then tiny pictures and noise, for time.\n")
    print("| pictures | features stored, MB | FID | and IS, KID | goal |")
    print("|--:|--:|--:|--:|---|")
    for count, peak in memory.items():
        added = [peak[step] - peak["start"] for step in ("extracted", "fid", "all")]
        cells = " | ".join(f"{value / 1e6:.0f}" for value in added)
        goal = _verdict(added[-1] < MEMORY_GOAL, f"< {MEMORY_GOAL / 1e9:.0f} GB")
        print(f"| {count:,} | {cells} | {goal} |", flush=True)


def _plain(row) -> dict:
    return {k: v._asdict() if hasattr(v, "_asdict") else v for k, v in row._asdict().items()}


def _verdict(met: bool, text: str) -> str:
    return f"{text}: {'met' if met else 'MISSED'}"


if __name__ == "__main__":
    main()
