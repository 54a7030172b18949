"""The house's limits on functions: how long, how many parameters, how thin a node is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from .floors import FLOORS, MODULES, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

UNTYPED = {"demo", "benchmarks", "assets"}

LINES, PARAMETERS, EXECUTE = 50, 7, 15
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    """Every function of the pack with its name, schemas and what runs ComfyUI's nodes aside."""
    for module, path in sorted(MODULES.items()):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function) and node.name != "define_schema":
                yield f"{module}.{node.name}", node


def lines_of_body(function: Function) -> int:
    """Its docstring aside."""
    body = function.body[ast.get_docstring(function) is not None :]
    return function.end_lineno - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> int:
    """Those that a caller gives."""
    given = function.args
    names = [x.arg for x in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_functions_are_short():
    found = dict(functions())
    assert len(found) > 1000
    long = {name: n.end_lineno - n.lineno + 1 for name, n in found.items()}
    assert {
        name: lines
        for name, lines in long.items()
        if lines > LINES and not name.endswith(".execute")
    } == {}


def test_functions_take_few_parameters():
    many = {name: parameters(node) for name, node in functions()}
    assert {
        name: count
        for name, count in many.items()
        if count > PARAMETERS and not name.endswith(".execute")
    } == {}


def test_a_node_reads_calls_and_wraps():
    bodies = {
        name: lines_of_body(node)
        for name, node in functions()
        if name.startswith("nodes.") and name.endswith(".execute")
    }
    assert len(bodies) > 15
    assert {name: lines for name, lines in bodies.items() if lines > EXECUTE} == {}


def test_the_types_of_every_floor_are_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    checked = {
        name.removeprefix("multi_ipadapter.") for name in project["tool"]["mypy"]["packages"]
    }
    assert checked == {place.partition(".")[0] for place in FLOORS} - UNTYPED
