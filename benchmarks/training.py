"""Benchmark of training: samples per second and peak memory, cached, online, and a plain loop.

`python dev.py bench training [--quick] [--device auto|cpu|gpu] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from ._comfyui import prepare

CACHED_GOAL = 2.0  # times online encoding, four references, 512 px, on a GPU
WAIT_GOAL = 0.05
TELL_GOAL = 0.01
MEMORY_GOALS = {4: 8e9, 16: 20e9}  # bytes by batch size, SD1.5 at 512 px on a GPU


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python dev.py bench training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 steps: for a look")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--rounds", type=int, default=0, help="(default: 9)")
    parser.add_argument(
        "--patience", type=float, default=-1.0, help="seconds to wait in all for other processes"
    )
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    options = parse_arguments()
    prepare(cpu=options.device == "cpu" or (options.device == "auto" and not _has_gpu()))
    import torch

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        results = run(options, Path(folder))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}")


def _has_gpu() -> bool:
    import torch

    return torch.accelerator.is_available()


def run(options: argparse.Namespace, folder: Path) -> dict:
    """All measurements, as plain values; each table is printed as soon as it is known."""
    # Imported only now: ComfyUI chooses the device when it is imported.
    import torch
    from comfy.model_management import get_torch_device
    from comfyui_version import __version__ as comfyui_version

    from . import _timing, _training_steps, _training_world

    device = get_torch_device()
    scale = _training_world.scale_of(device)
    rounds = options.rounds or (3 if options.quick else 9)
    steps = 2 if options.quick else 4
    machine = {
        "device": str(device),
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "comfyui": comfyui_version,
        "unet": f"SD1.x layout, {scale.models.unet['model_channels']} channels",
        "pixels": scale.pixels,
        "batch": scale.batch_size,
        "precision": scale.precision,
        "rounds": rounds,
        "steps per sample": steps,
    }
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    _training_world.draw_pictures(folder / "pictures", scale)
    world = _training_world.World(folder, scale)
    world.build_cache()
    patience = options.patience if options.patience >= 0 else (20.0 if options.quick else 90.0)
    quiet = _timing.Quiet(patience)
    results = _training_steps.measure(world, rounds, steps, quiet)
    print_lines(results, scale.batch_size, device.type)
    print(f"\nDisturbed by other processes: {quiet.disturbed} of {quiet.taken} samples.")
    del world
    memory = measure_memory(folder, scale.memory_batches, device.type)
    print_memory(memory, device.type)
    return {
        "machine": machine,
        "steps": [_plain(line) for line in results.lines],
        "telling": _plain(results.telling),
        "check": results.check._asdict(),
        "arithmetic": results.arithmetic._asdict(),
        "memory": memory,
        "samples": {"taken": quiet.taken, "disturbed": quiet.disturbed},
    }


def measure_memory(folder: Path, batches: tuple[int, ...], kind: str) -> list[dict]:
    """Peak bytes of each way and batch size, each in a process of its own."""
    from . import _training_steps

    ways = (_training_steps.CACHED, _training_steps.ONLINE, _training_steps.PLAIN)
    return [
        {"batch": batch, "way": way, "peak": _in_own_process(way, folder, batch, kind)}
        for batch in batches
        for way in ways
    ]


def _in_own_process(way: str, folder: Path, batch: int, kind: str) -> int:
    module = f"{__package__}._training_memory"
    command = [sys.executable, "-m", module, way, str(folder), str(batch), kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def print_lines(results, batch_size: int, kind: str) -> None:
    """Medians over the rounds, quartiles in brackets."""
    cost = "processor" if kind == "cpu" else "wall"
    print("\n## Training step\n")
    print(
        f"| references | way | samples/s | {cost} s per step | plain / this | online / this | "
        "waited for data |"
    )
    print("|---|---|--:|--:|--:|--:|--:|")
    for line in results.lines:
        speed = [batch_size / line.wall[i] for i in (0, 2, 1)]  # slow steps are low speeds
        waited = "" if line.waited is None else _brackets(line.waited, ".2%")
        print(
            f"| {line.references} | {line.way} | {_brackets(speed, '.2f')} | "
            f"{line.cost.median:.3f} | {_brackets(line.over_plain, '.2f')} | "
            f"{_brackets(line.over_online, '.2f')} | {waited} |"
        )
    print_findings(results)


def print_findings(results) -> None:
    """Goals, the arithmetic behind the ratios, and the check that the rival is a fair one."""
    cached = next(x for x in results.lines if (x.references, x.way) == ("4", "cached"))
    telling, check, count = results.telling, results.check, results.arithmetic
    print("\n| goal | value | |")
    print("|---|--:|---|")
    for text, value, form, met in (
        (
            f"cached >= {CACHED_GOAL:.0f}x online, 4 references (set for a GPU at 512 px)",
            cached.over_online.median,
            ".2f",
            cached.over_online.median >= CACHED_GOAL,
        ),
        (
            f"waiting for data < {WAIT_GOAL:.0%} of a step, cached",
            cached.waited.median,
            ".2%",
            cached.waited.median < WAIT_GOAL,
        ),
        (
            f"logging and progress < {TELL_GOAL:.0%}, reports every {telling.log_every} steps",
            telling.share,
            ".3%",
            telling.share < TELL_GOAL,
        ),
    ):
        print(f"| {text} | {value:{form}} | {'met' if met else 'MISSED'} |")
    print(
        f"\nOne report takes {telling.seconds.median * 1e3:.2f} ms. Arithmetic of a step: "
        f"{count.cached:.4f} TFLOP cached, {count.plain:.4f} plain "
        f"({count.plain / count.cached:.2f}x). Loss of the same rows and noise: "
        f"{check.ours:.6f} by the engine with concat, "
        f"{check.plain:.6f} by the plain loop, {check.none:.6f} without references."
    )


def print_memory(rows: list[dict], kind: str) -> None:
    """Peak of each way in its own process."""
    what = "allocated on the GPU" if kind == "cuda" else "added to the process"
    print(f"\n## Peak memory, {what}\n")
    print("| batch | way | MB | goal |")
    print("|--:|---|--:|---|")
    for row in rows:
        goal = MEMORY_GOALS.get(row["batch"]) if kind == "cuda" and row["way"] == "cached" else None
        met = "met" if goal and row["peak"] <= goal else "MISSED"
        text = f"<= {goal / 1e6:.0f}: {met}" if goal else ""
        print(f"| {row['batch']} | {row['way']} | {row['peak'] / 1e6:.0f} | {text} |")


def _brackets(values, form: str) -> str:
    return f"{values[0]:{form}} [{values[1]:{form}}, {values[2]:{form}}]"


def _plain(row) -> dict:
    return {k: v._asdict() if hasattr(v, "_asdict") else v for k, v in row._asdict().items()}


if __name__ == "__main__":
    main()
