"""The documentation holds together: links, files that pages name, the drawing of the folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .floors import DOORS, FLOORS, MODULES, floor, own_imports

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
READMES = ("README.md", "README.ru.md")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
(REPOSITORY,) = re.findall(r'^Repository = "(.+)"$', PROJECT, re.M)


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    there = [link for link in links if "://" not in link]
    assert [link for link in there if not leads_somewhere(path, link)] == []
    ours = [link.removeprefix(REPOSITORY) for link in links if link.startswith(REPOSITORY)]
    files = [link.removeprefix("/blob/main/") for link in ours]
    assert [file for file in files if not (ROOT / file).is_file()] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether the file, and the heading in it, are there."""
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    if not target.exists():
        return False
    return not anchor or anchor in map(anchor_of, re.findall(r"^#+ (.*)$", prose(target), re.M))


def anchor_of(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in PAGES if path.parent.name == "docs"]
    assert [name for name in pages if f"](docs/{name}" not in readme] == []


@pytest.mark.parametrize("name", READMES)
def test_a_readme_names_the_repository_to_clone(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"`git clone (\S+)`", text) == [REPOSITORY] * 2  # to try, to install


@pytest.mark.parametrize("name", READMES)
def test_a_readme_says_what_its_commands_need(name):
    """Neither way to install makes the package importable for `python -m`."""
    sections = re.split(r"^## ", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
    parts = [section.partition("python -m multi_ipadapter") for section in sections]
    before = [text for text, command, _ in parts if command]
    assert len(before) == 2
    assert all("pip install --no-deps -e ." in text for text in before)


@pytest.mark.parametrize(
    ("name", "install"), [("README.md", "Install"), ("README.ru.md", "Установка")]
)
def test_a_readme_gives_few_percentages_before_the_install_section(name, install):
    text, heading, _ = (ROOT / name).read_text(encoding="utf-8").partition(f"\n## {install}")
    assert heading
    assert len(re.findall(r"\d\s*%", text)) <= 3


@pytest.mark.parametrize(
    ("name", "heading"), [("README.md", "Try it"), ("README.ru.md", "Попробовать")]
)
def test_trying_begins_with_the_two_commands(name, heading):
    text = (ROOT / name).read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {heading}.*\n+(.*\n.*)", text, re.M)
    commands = [re.split(" {2,}#", line)[0] for line in section.splitlines()]
    assert commands == ["    python dev.py demo", "    python dev.py test"]


# ---- what the source says of itself ------------------------------------------------------------


def texts_of(path: Path) -> Iterator[str]:
    """Docstrings of a module, and the tooltips and descriptions in it, each from its beginning."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.keyword) and node.arg in ("tooltip", "description"):
            constants = (x.value for x in ast.walk(node.value) if isinstance(x, ast.Constant))
            yield str(next(constants, ""))


def test_no_text_begins_with_of():
    """A reader has to guess the noun that is meant."""
    packages = [init.parent for init in ROOT.glob("*/__init__.py")]
    modules = [path for package in packages for path in package.rglob("*.py")]
    found = [(path, text) for path in modules for text in texts_of(path)]
    assert sum("tooltip" in path.read_text(encoding="utf-8") for path in modules) > 15
    assert [(path.name, text) for path, text in found if text.startswith("Of ")] == []


# ---- architecture.md ---------------------------------------------------------------------------


def test_files_that_the_page_names_are_there():
    folders = "|".join({"tests", *(place.partition(".")[0] for place in FLOORS)})
    named = set(re.findall(rf"\b(?:{folders})/(?:\w+/)*\w+\.py", ARCHITECTURE))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_names_that_the_page_tells_to_extend_are_there():
    recipes = ARCHITECTURE.partition("## Where to add")[2]
    for name, file in (
        ("Aggregation", "models/aggregation.py"),
        ("METRICS", "evaluation/plan.py"),
        ("PictureScores", "evaluation/picture_scores.py"),
        ("SetScores", "evaluation/set_scores.py"),
        ("_detect_projection", "models/checkpoint.py"),
        ("PictureIndex", "pictures/index.py"),
    ):
        assert f"`{name}`" in recipes
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), name


def test_the_arrows_of_the_drawing_are_the_imports():
    real = imports_of_folders()
    assert drawn_arrows("-->") == reduced(real)
    assert drawn_arrows("-.->") - {("comfy", "nodes")} == set(DOORS_OF_FOLDERS)
    assert {folder for arrow in real for folder in arrow} == {FLOOR_NAMES[f] for f in FLOORS}


FLOOR_NAMES = {place: place.replace(".", "_").strip("_") for place in FLOORS}
DOORS_OF_FOLDERS = {
    (FLOOR_NAMES[FLOORS[floor(door)]], FLOOR_NAMES[FLOORS[floor(target)]]) for door, target in DOORS
}


def drawn_arrows(kind: str) -> set[tuple[str, str]]:
    """Arrows of the first drawing, as (importing folder, imported folder)."""
    drawing = ARCHITECTURE.partition("```mermaid")[2].partition("```")[0]
    arrows = set()
    for line in drawing.splitlines():
        line = re.sub(r"-\. [^.]*? \.->", "-.->", re.sub(r'\[".*?"\]|\(\[.*?\]\)', "", line))
        sources, arrow, targets = line.partition(f" {kind} ")
        if arrow:
            pairs = ((a.strip(), b.strip()) for a in sources.split("&") for b in targets.split("&"))
            arrows |= set(pairs)
    return arrows


def imports_of_folders() -> set[tuple[str, str]]:
    """The same of the code, less the doors."""
    found = set()
    for name in filter(None, MODULES):
        for _, target in own_imports(name):
            if (name, target) not in DOORS:
                found.add((FLOOR_NAMES[FLOORS[floor(name)]], FLOOR_NAMES[FLOORS[floor(target)]]))
    return {(source, target) for source, target in found if source != target}


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that no other way leads along."""

    def beyond(source: str) -> set[str]:
        direct = {target for start, target in arrows if start == source}
        return direct.union(*map(beyond, direct))

    return {
        (source, target)
        for source, target in arrows
        if not any(
            target in beyond(other)
            for start, other in arrows
            if start == source and other != target
        )
    }
