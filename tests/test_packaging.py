"""What users of the registry and of ComfyUI-Manager get: the metadata, and the archive at work.

The archive is what git tracks, less what .comfyignore names; git's own reading of that file takes
the place of comfy-cli, which brings 50 packages along. CI runs comfy-cli's `node validate`, which
must warn of nothing, and compares what its `node pack` puts into the archive.

The archive runs without the packages that only the tests need, so that it proves to require none.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import posixpath
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml
from PIL import Image

from multi_ipadapter.demo import server as demo_server
from multi_ipadapter.nodes import MultiIPAdapterExtension

from .clean_python import hide, not_of_comfyui
from .schemas import to_prompt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMFY = PROJECT["tool"]["comfy"]
FOLDER = PROJECT["project"]["name"]  # ComfyUI-Manager unpacks the archive below this name
DEVELOPMENT = (".ci/", ".github/", "benchmarks/", "tests/")
DEVELOPMENT += (".comfyignore", ".gitattributes", ".gitignore", "CONTRIBUTING.md", "dev.py")
DEVELOPMENT += ("assets/draw.py",)

# Imports all modules of the pack at the front of sys.path and tells which file each came from.
IMPORT_ALL = """
import importlib, json, sys
from multi_ipadapter.runs.comfyui import prepare_comfyui
prepare_comfyui()
for name in sys.argv[1:]:
    importlib.import_module(name)
ours = {n: m.__file__ for n, m in sys.modules.items() if n.startswith("multi_ipadapter.")}
print(json.dumps(ours))
"""


def tracked(*options: str) -> set[str]:
    """Files that git tracks; with options of `git ls-files`, some of them."""
    # The checkout may be another user's, as in a container.
    command = ["git", "-C", ROOT, "-c", "safe.directory=*", "ls-files", "-z", "--cached", *options]
    output = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    return {name for name in output.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def names():
    """Files of the archive, with / on every platform."""
    return tracked() - tracked("--ignored", "--exclude-from=.comfyignore")


@pytest.fixture(scope="module")
def installed(names, tmp_path_factory):
    """The archive, unpacked where ComfyUI-Manager unpacks it; the base directory is two above."""
    base = tmp_path_factory.mktemp("clean")
    with zipfile.ZipFile(base / "node.zip", "w") as archive:
        for name in names:
            archive.write(ROOT / name, name)
    folder = base / "custom_nodes" / FOLDER
    with zipfile.ZipFile(base / "node.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder for PYTHONPATH: Python has what ComfyUI brings, as a new user's has."""
    return hide(not_of_comfyui(), tmp_path_factory.mktemp("bare") / "path")


@pytest.fixture(scope="module")
def clean(installed, bare):
    """A ComfyUI that has the archive and nothing else of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_server, "PACK", installed)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(bare))
        with demo_server.ComfyServer(installed.parents[1], ["--cpu"]) as running:
            yield running


@pytest.fixture(scope="module")
def nodes_there(clean):
    """All schemas of that ComfyUI."""
    return clean.client.get_json("/object_info")


def module_of(name: str) -> str:
    """`nodes/steering/apply.py` is multi_ipadapter.nodes.steering.apply."""
    parts = ("multi_ipadapter", *PurePosixPath(name).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def package_of(name: str) -> str:
    """`nodes/steering/apply.py` and `nodes/__init__.py` are in multi_ipadapter.nodes."""
    return module_of(str(PurePosixPath(name).parent / "__init__.py"))


def modules(names: set[str]) -> dict[str, str]:
    """Module -> file."""
    return {module_of(name): name for name in names if name.endswith(".py")}


# ---- metadata ----------------------------------------------------------------------------------


def test_metadata_is_what_the_registry_asks_for():
    project = PROJECT["project"]
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["dependencies"] == []
    assert set(project["optional-dependencies"]) == {"faces", "distributed"}
    assert "Operating System :: OS Independent" in project["classifiers"]
    assert {"Repository", "Documentation", "Issues"} <= set(project["urls"])
    assert COMFY["PublisherId"] and COMFY["DisplayName"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("GNU GENERAL PUBLIC")


def test_the_changelog_knows_the_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['project']['version']}\n" in changes


def test_ci_runs_what_the_metadata_promises():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]
    oldest = COMFY["requires-comfyui"].removeprefix(">=")
    assert f"v{oldest}" in {leg["comfyui"] for leg in matrix["include"]}
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def jobs_of(file: str) -> dict[str, dict]:
    """Jobs of a GitHub workflow."""
    text = (ROOT / ".github" / "workflows" / file).read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def steps_of(job: str, file: str = "ci.yml") -> list[dict]:
    return jobs_of(file)[job]["steps"]


def test_only_this_repositorys_main_branch_is_published():
    """Started by hand, a workflow runs on whatever branch is chosen."""
    jobs = jobs_of("publish.yml")
    first, *_ = conditions = jobs["version"]["if"].split(" && ")
    assert first == "github.repository_owner == 'multi-ipadapter'"
    assert "github.ref == 'refs/heads/main'" in conditions
    # A job that needs a skipped one is skipped.
    assert [jobs[name]["needs"] for name in ("test", "publish")] == ["version", "test"]


def test_on_linux_ci_needs_a_browser():
    (tests,) = [step for step in steps_of("test") if step.get("run") == "python dev.py test tests"]
    assert (
        tests["env"]["MULTI_IPADAPTER_NEED_BROWSER"] == "${{ runner.os == 'Linux' && '1' || '' }}"
    )


def test_lint_and_quick_tests_come_once_before_the_matrix():
    jobs = jobs_of("ci.yml")
    runs = {job: [step.get("run", "") for step in steps_of(job)] for job in jobs}
    assert {job: [run for run in all_ if "dev.py" in run] for job, all_ in runs.items()} == {
        "archive": [],
        "quick": ["python dev.py lint", "python dev.py test --quick"],
        "test": ["python dev.py test tests"],  # with an argument it does not lint
    }
    assert jobs["test"]["needs"] == "quick" and "strategy" not in jobs["quick"]


def test_ci_runs_comfy_cli_of_one_version():
    script = "\n".join(step.get("run", "") for step in steps_of("archive"))
    assert re.search(r"pip install comfy-cli==\d+\.\d+\.\d+$", script, re.M)
    assert "node validate" in script and "node pack" in script


def test_actions_of_others_are_named_by_their_commit():
    """A tag can be moved; GitHub's own are trusted."""
    used = [
        step["uses"]
        for file, jobs in (("ci.yml", ("quick", "test", "archive")), ("publish.yml", ("publish",)))
        for job in jobs
        for step in steps_of(job, file)
        if "uses" in step
    ]
    others = [name for name in used if not name.startswith("actions/")]
    assert len(others) == 2
    assert [name for name in others if not re.search(r"@[0-9a-f]{40}$", name)] == []


@pytest.mark.parametrize(("entry", "shape"), [("Icon", (400, 400)), ("Banner", (1260, 540))])
def test_pictures_for_the_registry(entry, shape):
    repository = PROJECT["project"]["urls"]["Repository"].partition("github.com")[2]
    raw = f"https://raw.githubusercontent.com{repository}/main/"
    assert COMFY[entry].startswith(raw)
    path = ROOT / COMFY[entry].removeprefix(raw)
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", shape)
    assert path.stat().st_size < 200_000


# ---- the archive -------------------------------------------------------------------------------


def test_only_development_files_are_left_out(names):
    left_out = tracked() - names
    assert {name for name in names if name.startswith(DEVELOPMENT)} == set()
    assert {name for name in left_out if not name.startswith(DEVELOPMENT)} == set()
    assert all(any(name.startswith(part) for name in left_out) for part in DEVELOPMENT)


def test_the_archive_has_what_users_see(names):
    folders = {name.partition("/")[0] for name in names}
    assert {"README.md", "LICENSE", "docs", "js", "locales", "subgraphs", "workflows"} <= folders
    assert "workflows/demo.json" in names


def linked(page: str, link: str) -> str:
    """File of a page's link, by its path in the archive."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link.partition("#")[0]))


def test_pages_in_the_archive_link_to_what_is_in_it(names):
    there = names | {str(folder) for name in names for folder in PurePosixPath(name).parents}
    missing = [
        f"{name} -> {link}"
        for name in sorted(names)
        if name.endswith(".md")
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        if "://" not in link and not link.startswith("#")
        if linked(name, link) not in there
    ]
    assert missing == []


def test_packages_are_the_folders_with_modules(names):
    packages = {module_of(name) for name in names if name.endswith("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages
    assert {package_of(name) for name in names if name.endswith(".py")} == packages


@pytest.mark.process
def test_a_bare_python_has_comfyuis_packages_and_no_others(bare):
    wanted = ("torch", "transformers", "aiohttp", "yaml")
    others = ("accelerate", "diffusers", "insightface", "onnxruntime", "pyarrow", "pytest")
    code = "import sys; from importlib.util import find_spec as find\n"
    code += "print(*(name for name in sys.argv[1:] if find(name)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *wanted, *others],
        env=os.environ | {"PYTHONPATH": str(bare)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == list(wanted)


@pytest.mark.process
def test_every_module_imports_from_the_archive_alone(names, installed, bare, tmp_path):
    package = tmp_path / "multi_ipadapter"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__ = [{str(installed)!r}]\n", encoding="utf-8")
    wanted = {n: f for n, f in modules(names).items() if n != "multi_ipadapter"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *sorted(wanted)],
        env=os.environ | {"PYTHONPATH": f"{bare}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = {name: Path(file) for name, file in json.loads(done.stdout.splitlines()[-1]).items()}
    assert files == {name: installed / file for name, file in wanted.items()}


def missing_imports(file: str, names: set[str]) -> list[str]:
    """Modules of ours that a module imports, perhaps not until it runs, and the archive lacks."""
    there, missing = modules(names), []
    package = package_of(file).split(".")
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            source = ".".join([*above, node.module] if node.module else above)
            named = [f"{source}.{alias.name}" for alias in node.names] if not node.module else []
            missing += [name for name in [source, *named] if name not in there]
    return missing


def test_nothing_imports_what_is_left_out(names):
    found = {name: missing_imports(name, names) for name in names if name.endswith(".py")}
    assert {name: missing for name, missing in found.items() if missing} == {}
    assert missing_imports("tests/graphs.py", names) == []
    assert "multi_ipadapter.tests.schemas" in missing_imports("tests/test_packaging.py", names)


# ---- the archive in ComfyUI --------------------------------------------------------------------


def test_all_nodes_register(clean, nodes_there, base):
    listed = asyncio.run(MultiIPAdapterExtension().get_node_list())
    ours = {name for name in nodes_there if name.startswith("MultiIPAdapter_")}
    assert ours == {node.GET_SCHEMA().node_id for node in listed}
    assert {nodes_there[name]["python_module"] for name in ours} == {f"custom_nodes.{FOLDER}"}
    log = clean.log.read_text(encoding="utf-8", errors="replace")
    assert re.search(rf"seconds: .*{FOLDER}$", log, re.MULTILINE)  # not "(IMPORT FAILED)"


def test_the_demo_workflow_makes_a_picture(clean, nodes_there, installed):
    workflow = json.loads((installed / "workflows" / "demo.json").read_text(encoding="utf-8"))
    outputs = clean.client.run(to_prompt(workflow, nodes_there))
    (save,) = (str(x["id"]) for x in workflow["nodes"] if x["type"] == "SaveImage")
    assert len(clean.client.pictures({save: outputs[save]})) == 1


def test_templates_are_listed_and_served(clean, names, installed):
    files = {name for name in names if name.startswith("workflows/")}
    graphs = {name for name in files if name.endswith(".json") and name.count("/") == 1}
    listed = clean.client.get_json("/workflow_templates")[FOLDER]
    assert set(listed) == {PurePosixPath(name).stem for name in graphs}
    for name in files:
        address = f"/api/workflow_templates/{FOLDER}/{name.partition('/')[2]}"
        assert clean.client.get(address) == (installed / name).read_bytes()


def test_the_front_end_part_and_help_pages_are_served(clean, names, installed):
    files = {name for name in names if name.startswith("js/") and "/." not in name}
    assert {PurePosixPath(name).suffix for name in files} >= {".js", ".md"}
    for name in files:
        address = f"/extensions/{FOLDER}/{name.partition('/')[2]}"
        assert clean.client.get(address) == (installed / name).read_bytes()


def test_translations_and_blueprints_are_found(clean, names, installed):
    told = clean.client.get_json("/i18n")
    for language in {name.split("/")[1] for name in names if name.startswith("locales/")}:
        file = installed / "locales" / language / "nodeDefs.json"
        nodes = json.loads(file.read_text(encoding="utf-8"))
        assert nodes and {n: told[language]["nodeDefs"][n] for n in nodes} == nodes
    blueprints = clean.client.get_json("/global_subgraphs").values()
    found = {b["name"] for b in blueprints if b["info"]["node_pack"] == f"custom_nodes.{FOLDER}"}
    shipped = {PurePosixPath(name).stem for name in names if name.startswith("subgraphs/")}
    assert shipped and found == shipped
