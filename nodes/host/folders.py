"""Where nodes find what a user names, and where they write: ComfyUI's folders, no others."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...files.names import plain_name

DATASETS = "datasets"
METRICS = "metrics"  # models/metrics: weights of feature networks, and statistics
STATISTICS = "ipadapter_statistics"  # output/evaluation and models/metrics
STATISTICS_SUFFIX = ".npz"


def dataset_roots() -> list[Path]:
    """Folders below which datasets may lie: the input folder, and those under `datasets`."""
    registered = folder_paths.folder_names_and_paths.get(DATASETS, ([], set()))[0]
    return [Path(p) for p in (folder_paths.get_input_directory(), *registered)]


def find_dataset(name: str) -> Path:
    """Path of a dataset named relative to one of the roots.

    Raises:
        ValueError: it would lie outside of them, or does not exist.
    """
    roots = dataset_roots()
    allowed = [root.resolve() for root in roots]
    why = "is not there"
    for root in allowed:
        path = (root / name).resolve()
        if path.exists() and any(path != x and path.is_relative_to(x) for x in allowed):
            return path
        inside = Path(os.path.abspath(root / name))  # as it is written, links not followed
        if Path(name).is_absolute():
            why = "is a full path"
        elif path in allowed:
            why = "names the whole folder"
        elif not inside.is_relative_to(root):
            why = "leads out of the folder"
        elif inside.exists():
            why = "leads elsewhere through a link"
    places = " or ".join(root.name for root in roots)
    raise ValueError(
        f"Got the dataset {name!r}, which {why}; expected the name of a folder or file below "
        f"{places}. Put the pictures there, one folder for each identity, or register their folder "
        "under 'datasets' in extra_model_paths.yaml."
    )


def changed_at(path: Path) -> str:
    """When the file, or anything directly in the folder or one level deeper, was changed."""
    times = [path.stat().st_mtime_ns]
    if path.is_dir():
        with os.scandir(path) as entries:
            times += [entry.stat().st_mtime_ns for entry in entries]
    return f"{len(times)} {max(times)}"


def runs_folder() -> Path:
    """The folder below which all runs of the Train node lie."""
    return Path(folder_paths.get_output_directory()) / "training"


def caches_folder() -> Path:
    """The folder below which runs share what they have encoded."""
    return Path(folder_paths.get_output_directory()) / "training_cache"


def evaluation_directory(name: str = "") -> Path:
    """output/evaluation, or the folder in it that belongs to an evaluation of this name.

    Raises:
        ValueError: the name is more than a plain file name.
    """
    folder = Path(folder_paths.get_output_directory()) / "evaluation"
    return folder / plain_name(name) if name else folder


def figures_directory(name: str) -> Path:
    """output/evaluation/figures/<name>: apart from pictures, which would count figures as theirs.

    Raises:
        ValueError: the name is more than a plain file name.
    """
    return evaluation_directory() / "figures" / plain_name(name)


def find_pictures(name: str, what: str) -> Path:
    """A folder of pictures, named relative to the output folder, the input folder or `datasets`.

    Raises:
        ValueError: it would lie outside of them, or there is none.
    """
    roots = [Path(folder_paths.get_output_directory()), *dataset_roots()]
    allowed = [root.resolve() for root in roots]
    for root in allowed:
        path = (root / name).resolve()
        if path.is_dir() and any(path != x and path.is_relative_to(x) for x in allowed):
            return path
    raise ValueError(
        f"Got {name!r} for {what}; expected the name of a folder below ComfyUI's output or input "
        "folder, such as 'evaluation/portraits', or below one that extra_model_paths.yaml "
        "registers under 'datasets'."
    )


def changed_below(path: Path) -> str:
    """Another text when a file below a folder was added, removed, renamed or changed."""
    found = []
    for folder, _, files in os.walk(path):
        for name in files:
            file = os.path.join(folder, name)
            with suppress(OSError):
                state = os.stat(file)
                found.append((os.path.relpath(file, path), state.st_size, state.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found)).encode("utf-8", "backslashreplace")).hexdigest()


def metric_folders() -> list[Path]:
    """Where weights of feature networks lie: models/metrics, and what others have registered."""
    return [Path(path) for path in folder_paths.get_folder_paths(METRICS)]
