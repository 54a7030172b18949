"""The words in which the source speaks to its users: errors, warnings, reasons for leaving out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .floors import FLOORS

ROOT = Path(__file__).parents[1]
SOURCES = tuple(place for place in FLOORS[: FLOORS.index("demo")] if "." not in place)
WIDGETS = "js/*.js"
FILES = (*(f"{folder}/**/*.py" for folder in SOURCES), "demo/*.py", "dev.py")
GAP = "…"  # stands for what is filled in
_ERROR = re.compile(r"\w*(Error|Interrupted|Cancelled|BadRequest)")
# What else takes a text for the user, and as which of its arguments.
_TAKES = {"warning": 0, "_warn": 0, "_damaged": 0, "Skipped": 1, "LoadedStatistics": 2}
_LISTS = ("warnings", "notes")  # that are shown
# In JavaScript, the texts given to this function; what is filled in has become a gap before.
_COMPLAINT = re.compile(r"""\bcomplaint\((?:"([^"\n]*)"|`([^`]*)`)\)""")
_DEPTH = 4  # of functions and variables that hold a text for another one

Function = ast.FunctionDef | ast.AsyncFunctionDef | None


class Message(NamedTuple):
    """A text with gaps, and the line that gives it to the user."""

    text: str
    place: str


class Silent(NamedTuple):
    """An expression in a text's place that holds none itself, such as another error's text."""

    expression: str
    place: str


class Sources:
    """All modules that speak to users, with the functions and constants that hold their words."""

    def __init__(self):
        paths = sorted({path for pattern in FILES for path in ROOT.glob(pattern)})
        self.trees = {
            path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
            for path in paths
        }
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.constants: dict[str, list[ast.expr]] = {}
        self.files: dict[ast.AST, str] = {}  # of the functions
        for file, tree in self.trees.items():
            for item in ast.walk(tree):
                if isinstance(item, ast.FunctionDef):
                    self.functions.setdefault(item.name, []).append(item)
                    self.files[item] = file
            for item in tree.body:
                if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                    self.constants.setdefault(item.targets[0].id, []).append(item.value)

    def messages(self) -> tuple[list[Message], list[Silent]]:
        """Every text, and the expressions that only pass one on."""
        found: list[Message] = []
        silent: list[Silent] = []
        for file, tree in self.trees.items():
            for function, told in _told(tree):
                place = f"{file}:{told.lineno}"
                texts = [clean(text) for text in self.texts(told, function)]
                texts = [text for text in texts if re.search(r"\w", text)]
                found += [Message(text, place) for text in texts]
                silent += [] if texts else [Silent(ast.unparse(told), place)]
        return found + list(_of_widgets()), silent

    def texts(self, value: ast.expr, function: Function, depth: int = 0) -> Iterator[str]:
        """What an expression may say, with gaps."""
        match value:
            case ast.Constant(value=str(text)) | str(text):
                yield text
            case ast.JoinedStr(values=[head, *rest]):
                tail = "".join(p.value if isinstance(p, ast.Constant) else GAP for p in rest)
                heads = filter(None, self.texts(getattr(head, "value", head), function, depth))
                yield from [text + tail for text in heads] or [GAP + tail]
            case ast.BinOp(op=ast.Add()):
                left = next(self.texts(value.left, function, depth), GAP)
                yield left + next(self.texts(value.right, function, depth), GAP)
            case ast.IfExp():
                yield from self._of_all([value.body, value.orelse], function, depth)
            case ast.BoolOp() | ast.Dict():
                yield from self._of_all(value.values, function, depth)
            case ast.List() | ast.Tuple():
                yield from self._of_all(value.elts, function, depth)
            case ast.Subscript():
                yield from self.texts(value.value, function, depth)
            case ast.Name(id=name) if depth < _DEPTH:
                yield from self._named(name, function, depth + 1)
            case ast.Call() if depth < _DEPTH:
                yield from self._made(value, function, depth + 1)

    def _of_all(self, values: list[ast.expr], function: Function, depth: int) -> Iterator[str]:
        for value in values:
            yield from self.texts(value, function, depth)

    def _named(self, name: str, function: Function, depth: int) -> Iterator[str]:
        """Texts of a variable of the function, or else of a constant."""
        own = [
            item.value
            for item in (ast.walk(function) if function else ())
            if isinstance(item, ast.Assign | ast.NamedExpr)
            and name in map(_name, getattr(item, "targets", [getattr(item, "target", None)]))
        ]
        yield from self._of_all(own or self.constants.get(name, []), function, depth)

    def _made(self, call: ast.Call, function: Function, depth: int) -> Iterator[str]:
        """Texts that a function returns, or that `format` and `join` fill in."""
        name = _name(call.func)
        if name == "format":
            yield from self.texts(call.func.value, function, depth)
        elif name == "join" and isinstance(call.args[0], ast.List):
            yield from self.texts(call.args[0].elts[0], function, depth)  # begins with it
        named = self.functions.get(name, [])
        file = self.files.get(function)
        for made in [f for f in named if self.files[f] == file] or named:
            for item in ast.walk(made):
                if isinstance(item, ast.Return | ast.Yield) and item.value is not None:
                    yield from self.texts(item.value, made, depth)


def _of_widgets() -> Iterator[Message]:
    """What the widgets say by themselves when something is wrong."""
    for path in sorted(ROOT.glob(WIDGETS)):
        text = re.sub(r"\$\{[^{}]*\}", GAP, path.read_text(encoding="utf-8"))
        for found in _COMPLAINT.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            place = f"{path.relative_to(ROOT).as_posix()}:{line}"
            yield Message(clean(found[1] or found[2]), place)


def _told(tree: ast.Module) -> Iterator[tuple[Function, ast.expr]]:
    """Expressions in the places of texts for users, each with the function that it stands in."""
    functions = [item for item in ast.walk(tree) if isinstance(item, Function)]
    inside = {id(item): function for function in functions for item in ast.walk(function)}
    for item in ast.walk(tree):
        for told in _texts_of(item):
            yield inside.get(id(item)), told


def _texts_of(item: ast.AST) -> list[ast.expr]:
    match item:
        case ast.Call(func=function, args=[], keywords=[ast.keyword(arg="text", value=value)]):
            return [value] if _ERROR.fullmatch(_name(function)) else []
        case ast.Call(func=function, args=args) if args:
            name = _name(function)
            if _ERROR.fullmatch(name):
                return args[-1:]  # an OSError has its number before
            if name in _TAKES:
                return args[_TAKES[name] :][:1]
            if name in ("append", "extend") and _name(function.value) in _LISTS:
                return args
            if name == "__init__":  # of an error that makes its own text
                return [arg for arg in args if isinstance(arg, ast.JoinedStr)]
            if name == "exit":
                return [arg for arg in args if isinstance(arg, ast.BinOp)]
        case ast.Assign(targets=[ast.Attribute(attr="reason")], value=value):
            return [value]
        case ast.AugAssign(target=target, value=value) if _name(target) in _LISTS:
            return [value]
    return []


def _name(value: ast.expr) -> str:
    """The last part of a dotted name."""
    return getattr(value, "attr", getattr(value, "id", ""))


def clean(text: str) -> str:
    """One line, with one kind of gap."""
    text = re.sub(r"%[sd]|\{\w*\}|\{\w+:[^}]*\}", GAP, text)
    return re.sub(rf"{GAP}(\s*{GAP})+", GAP, re.sub(r"\s+", " ", text)).strip()
