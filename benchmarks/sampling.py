"""Benchmark of sampling: time per step, re-execution of Apply, and Load; prints Markdown tables.

`python dev.py bench sampling [--quick] [--device auto|cpu|gpu] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from ._comfyui import prepare

COUNTS, QUICK_COUNTS = (1, 4, 16, 64), (1, 16)
STEP_GOAL = 1.05
APPLY_GOALS = {"SD1.5": 0.050, "SDXL": 0.200}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python dev.py bench sampling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds and N = 1, 16: for a look")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--rounds", type=int, default=0, help="of the steps (default: 9)")
    parser.add_argument(
        "--patience", type=float, default=300.0, help="seconds to wait in all for other processes"
    )
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    options = parse_arguments()
    prepare(cpu=options.device == "cpu" or (options.device == "auto" and not _has_gpu()))
    import torch

    with torch.inference_mode():
        results = run(options)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}")


def _has_gpu() -> bool:
    import torch

    return torch.accelerator.is_available()


def run(options: argparse.Namespace) -> dict:
    """All measurements, as plain values; each table is printed as soon as it is known."""
    # Imported only now: ComfyUI chooses the device when it is imported.
    import torch
    from comfy.ldm.modules.attention import optimized_attention
    from comfy.model_management import get_torch_device
    from comfyui_version import __version__ as comfyui_version

    from . import _apply, _load, _models, _steps, _timing

    device = get_torch_device()
    size = 256 if device.type == "cpu" else 512
    counts = QUICK_COUNTS if options.quick else COUNTS
    rounds = options.rounds or (3 if options.quick else 9)
    machine = {
        "device": str(device),
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "comfyui": comfyui_version,
        "attention": optimized_attention.__name__,
        "pixels": size,
        "rounds": rounds,
    }
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = _models.sd15_unet(dtype)
    adapter = _models.plus_adapter(model, dtype)
    quiet = _timing.Quiet(options.patience)
    applies = _apply.measure((model, adapter), counts, 3 if options.quick else 31, quiet)
    print_applies(applies)
    report = _load.measure(3 if options.quick else 9, quiet)
    print_load(report)
    steps, check = _steps.measure(model, adapter, size, counts, rounds, quiet)
    print_steps(steps, check)
    print(f"\nDisturbed by other processes: {quiet.disturbed} of {quiet.taken} samples.")
    return {
        "machine": machine,
        "apply": [_plain(row) for row in applies],
        "load": {"file_mb": report.file_mb, "ways": [_plain(row) for row in report.results]},
        "steps": [_plain(row) for row in steps],
        "check": check._asdict(),
        "samples": {"taken": quiet.taken, "disturbed": quiet.disturbed},
    }


def _plain(row) -> dict:
    return {k: v._asdict() if hasattr(v, "_asdict") else v for k, v in row._asdict().items()}


def print_steps(rows, check) -> None:
    """Medians over the rounds, quartiles in brackets."""
    print("\n## Time per step\n")
    print("| N | variant | s per step | ratio to unpatched | goal |")
    print("|--:|---|--:|--:|---|")
    for row in rows:
        goal = ""
        if row.variant in ("mean", "learned"):
            goal = _verdict(row.ratio.median, STEP_GOAL, f"<= {STEP_GOAL}")
        ratio = f"{row.ratio.median:.3f} [{row.ratio.low:.3f}, {row.ratio.high:.3f}]"
        print(
            f"| {row.references or ''} | {row.variant} | {row.seconds.median:.3f} | {ratio} | "
            f"{goal} |"
        )
    print(
        f"\nResult of naive concat: {check.naive:.1e} of the range from concat, which is "
        f"{check.effect:.1e} from the unpatched model."
    )


def print_applies(rows) -> None:
    """First execution, and medians of those in which only `weight` changed."""
    print("\n## Apply\n")
    print("| model | N | aggregation | first, ms | weight changed, ms | goal |")
    print("|---|--:|---|--:|--:|---|")
    for row in rows:
        goal = APPLY_GOALS[row.base]
        again = row.again
        print(
            f"| {row.base} | {row.references} | {row.aggregation} | {row.first * 1e3:.0f} | "
            f"{again.median * 1e3:.2f} [{again.low * 1e3:.2f}, {again.high * 1e3:.2f}] | "
            f"{_verdict(again.median, goal, f'<= {goal * 1e3:.0f}')} |"
        )


def print_load(report) -> None:
    """Seconds to load, and with every weight read once; memory that it takes at most."""
    print(f"\n## Load of a {report.file_mb:.0f} MB file (SDXL, Plus, float16)\n")
    print("| way | s | s, weights read | draws random numbers | peak MB | peak MB, read |")
    print("|---|--:|--:|---|--:|--:|")
    for row in report.results:
        print(
            f"| {row.way} | {row.seconds.median:.3f} | {row.read_seconds.median:.3f} | "
            f"{'yes' if row.draws_random else 'no'} | {row.peak_mb:.0f} | {row.read_peak_mb:.0f} |",
            flush=True,
        )


def _verdict(value: float, goal: float, text: str) -> str:
    return f"{text}: {'met' if value <= goal else 'MISSED'}"


if __name__ == "__main__":
    main()
