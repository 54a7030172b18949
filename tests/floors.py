"""The floors of the pack, from the ground up, and who imports whom, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "multi_ipadapter."

# A module imports from its own floor and from those before it.
FLOORS = (
    "files",
    "figures",
    "demo_world",
    "pictures",
    "models",
    "runs",
    "diffusion",
    "faces",
    "training",
    "evaluation",
    "nodes.host",
    "nodes.unet",
    "nodes.steering",
    "nodes.binding",
    "nodes.faces",
    "nodes.demo",
    "nodes.training",
    "nodes.evaluation",
    "nodes",  # its __init__: the list of nodes
    "demo",
    "benchmarks",
    "assets",
    "__main__",
)
# `python -m multi_ipadapter.training`, which documents and users name; the only arrow up.
DOORS = {("training.__main__", "nodes.training.headless")}


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it; the package itself is ""."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ("tests", "dev") or any(part.startswith(".") for part in parts):
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and full name of each module that one imports, wherever in it the import stands."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                yield node.lineno, PACK + (inner if inner in MODULES else source)


def own_imports(name: str) -> Iterator[tuple[int, str]]:
    """The same for the pack's own modules, by their names within it, tests aside."""
    for line, target in imports(name):
        if target.startswith(PACK) and target.removeprefix(PACK).partition(".")[0] != "tests":
            yield line, target.removeprefix(PACK)


def floor(name: str) -> int:
    """Number of a module's floor, the longest name that it begins with."""
    inside = [n for n, place in enumerate(FLOORS) if f"{name}.".startswith(f"{place}.")]
    assert inside, f"{name} is on no floor; give its folder a place in FLOORS"
    return max(inside, key=lambda n: len(FLOORS[n]))


def arrows_up(name: str) -> list[str]:
    """Imports of a module that point to a floor above its own."""
    return [
        f"{name}, line {line}: {target} is above it"
        for line, target in own_imports(name)
        if (name, target) not in DOORS and floor(target) > floor(name)
    ]
