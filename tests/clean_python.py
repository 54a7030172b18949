"""A Python that has what ComfyUI requires, and nothing of what the tests bring along."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Hidden modules look as if they were not installed, also to who only asks, as transformers does.
_HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {hidden!r}


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in HIDDEN else super().find_spec(name, path, target)


sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def not_of_comfyui() -> set[str]:
    """Modules that are installed, but not because of ComfyUI's requirements.txt."""
    theirs = _with_what_they_need(Path(os.environ["COMFYUI_PATH"]) / "requirements.txt")
    return {
        module
        for module, projects in packages_distributions().items()
        if theirs.isdisjoint(map(canonicalize_name, projects))
    }


def _with_what_they_need(requirements: Path) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    waiting = [Requirement(line) for line in lines if line]
    found: set[tuple[str, ...]] = set()
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), sorted(one.extras)
        if (name, *extras) in found:
            continue
        found.add((name, *extras))
        try:
            needs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue  # of another version of ComfyUI
        for need in needs:
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": x}) for x in ("", *extras)):
                waiting.append(need)
    return {name for name, *_ in found}


def hide(modules: set[str], folder: Path) -> Path:
    """Make `folder`, for PYTHONPATH: there Python starts without these modules."""
    folder.mkdir()
    text = _HIDE.format(hidden=sorted(modules))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return folder
