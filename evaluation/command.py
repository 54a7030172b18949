"""Evaluation without the graph: `python -m multi_ipadapter.evaluation generated/ real/`.

Several processes or machines: `accelerate launch -m multi_ipadapter.evaluation generated/ real/`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch

from ..pictures.sources import FolderSource
from ..runs.comfyui import find_comfyui
from ..runs.processes import Accelerated, OneProcess, StopSignals, start_processes
from .encoders import file_fingerprint
from .extract import Interrupted
from .generated import read_generated
from .loading import CLIPS, DINOS, LPIPS, NetworkChoice, load_networks
from .networks.face import MissingPackageError
from .plan import METRICS, parse_metrics
from .report import write_csv, write_json
from .request import MIXED_SIZES, Request
from .resize import MODES
from .run import evaluate
from .store import remove_features

PROGRAM = "python -m multi_ipadapter.evaluation"
_TIMEOUT = timedelta(days=1)  # one process computes the metrics while the others wait
_EVERY_SECONDS = 0.5  # between two lines of progress


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Command line; 0 when finished, 3 when stopped, 1 for bad input."""
    options = _read_arguments(arguments, program)
    try:
        return run(options)
    except Interrupted as error:
        print(
            f"evaluation: {error} The features so far are in {_features_folder(options)}; the "
            "same command goes on from there.",
            file=sys.stderr,
        )
        return 3
    except (ValueError, OSError, MissingPackageError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Evaluate, and write the report."""
    metrics = parse_metrics(options.metrics)
    stop = StopSignals("evaluation: stopping after this batch; features are kept")
    generated = read_generated(options.generated, options.references, options.prompt)
    if options.conditioning:
        generated.conditioning += (file_fingerprint(options.conditioning),)
    processes = start_processes(_TIMEOUT)
    device = choose_device(options.device, processes)
    networks = load_networks(
        metrics,
        weights_folders(options.weights),
        NetworkChoice(options.clip, options.dino, options.lpips, options.resize),
        tokenizer=options.tokenizer or comfyui_tokenizer(),
        device=device,
    )
    request = Request(
        metrics,
        generated,
        FolderSource(options.real) if options.real else None,
        options.statistics,
        options.save_statistics,
        options.batch_size,
        device,
        options.mixed_sizes,
        options.seed,
        options.splits,
        options.fid_minimum,
    )
    folder = _features_folder(options)
    tell = Progress() if processes.rank == 0 else None
    report = evaluate(
        request, networks, store=folder, on_step=tell, cancelled=stop, processes=processes
    )
    if report is not None:
        written = [options.out, options.save_statistics]
        write_json(report, options.out)
        if options.csv:
            written += write_csv(report, options.out.with_suffix(".csv"))
        if not options.features:
            remove_features(folder)
        print(report, *filter(None, written), sep="\n")
    processes.close()
    return 0


def _read_arguments(arguments: Sequence[str] | None, program: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(name: str, help: str, **how) -> None:
        default = "" if how.get("default") in (None, "") else " (default: %(default)s)"
        parser.add_argument(name, help=help + default, **how)

    add("generated", type=Path, help="folder of generated pictures, with manifest.jsonl or not")
    add("real", type=Path, nargs="?", help="folder of real pictures")
    add("--metrics", default="fid,is,kid", help=f"comma separated, of {', '.join(METRICS)}")
    add("--out", type=Path, default=Path("report.json"), help="report to write")
    add("--csv", action="store_true", help="write tables beside the report, too")
    add("--references", type=Path, help="folder of reference pictures, one folder per identity")
    add("--prompt", default="", help="for pictures that have none")
    add("--weights", type=Path, help="folder of the networks (default: ComfyUI's models/metrics)")
    add("--tokenizer", type=Path, help="folder of CLIP's vocab.json and merges.txt")
    add("--clip", choices=CLIPS, default=CLIPS[0], help="network of the alignment scores")
    add("--dino", choices=DINOS, default=DINOS[0], help="network of dino")
    add("--lpips", choices=LPIPS, default=LPIPS[0], help="network of lpips and lpips_diversity")
    add("--resize", choices=MODES, default=MODES[0], help="of the FID-Inception")
    add("--conditioning", type=Path, help="image encoder that conditioned the pictures")
    add("--statistics", type=Path, help="file in place of the real pictures, for FID")
    add("--save-statistics", type=Path, help="write those of the real pictures")
    add("--features", type=Path, help="folder that keeps the features (default: while running)")
    add("--batch-size", type=int, default=32, help="pictures at a time")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    sizes = "pictures of another size than most: resize them like the others, or leave them out"
    add("--mixed-sizes", choices=MIXED_SIZES, default=MIXED_SIZES[0], help=sizes)
    add("--splits", type=int, default=10, help="of the Inception Score")
    add("--fid-minimum", type=int, default=50, help="no FID below so many pictures")
    add("--seed", type=int, default=0, help="of drawn subsets and intervals")
    return parser.parse_args(arguments)


def _features_folder(options: argparse.Namespace) -> Path:
    return options.features or options.out.with_name(f"{options.out.name}.features")


def weights_folders(given: Path | None) -> list[Path]:
    """Where the networks lie.

    Raises:
        ValueError: no folder is given, and there is no ComfyUI.
    """
    if given is None:
        try:
            return [find_comfyui() / "models" / "metrics"]
        except ValueError as error:
            raise ValueError(f"{error} Or give --weights, the folder of the networks.") from error
    if not given.is_dir():
        raise ValueError(f"There is no folder {given}; check --weights.")
    return [given]


def comfyui_tokenizer() -> Path | None:
    """CLIP's vocabulary, which ComfyUI ships; None without ComfyUI."""
    try:
        folder = find_comfyui() / "comfy" / "sd1_tokenizer"
    except ValueError:
        return None
    return folder if (folder / "vocab.json").is_file() else None


def choose_device(name: str, processes: OneProcess) -> torch.device:
    """The device of this process.

    Raises:
        ValueError: no device of this name.
    """
    if name == "auto":
        if isinstance(processes, Accelerated):
            return processes.accelerator.device
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used: {reason}. Try --device cpu.") from error


class Progress:
    """Lines on stderr, not too many."""

    def __init__(self):
        self._last = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= _EVERY_SECONDS:
            self._last = now
            print(f"{done}/{total} {what}", file=sys.stderr, flush=True)
