"""Who may import whom: floors, from the ground up; only nodes/ knows ComfyUI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .floors import DOORS, FLOORS, MODULES, arrows_up, floor, imports, own_imports

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes"}
COMFYUI |= {"server", "execution"}
# Below nodes/, these alone know ComfyUI: who starts it, and what is built and measured inside it.
INSIDE_COMFYUI = ("runs.comfyui", "nodes", "demo.build", "demo.study", "benchmarks")
# Read by dev.py's commands and by plain scripts: no torch.
LIGHT = ("files.atomic", "files.folder", "files.names", "files.claims", "files.lock")
LIGHT += ("demo_world.world", "demo_world.people", "demo_world.description", "demo.client")

# As ComfyUI loads a pack: by its path, under a name of its own.
LOAD_BY_PATH = f"""
import importlib.util, sys
path = {str(ROOT / "__init__.py")!r}
spec = importlib.util.spec_from_file_location("pack at some path", path)
pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
"""


def modules_after(code: str, blocked: tuple[str, ...] = ()) -> set[str]:
    """Names in `sys.modules` after running the code in a fresh interpreter.

    Args:
        blocked: packages that are not installed there.
    """
    block = f"import sys; sys.modules |= dict.fromkeys({blocked})"
    report = "import json; print(json.dumps([n for n, m in sys.modules.items() if m is not None]))"
    command = [sys.executable, "-c", f"{block}\n{code}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("place", FLOORS)
def test_imports_point_down(place):
    inside = [name for name in MODULES if name and FLOORS[floor(name)] == place]
    assert inside, f"{place} is empty; take it out of FLOORS"
    assert [arrow for name in inside for arrow in arrows_up(name)] == []


@pytest.mark.parametrize(
    ("name", "statement", "target"),
    [
        (
            "files.atomic",
            "def late():\n    from ..nodes.steering import apply",
            "nodes.steering.apply",
        ),
        ("nodes.host.wires", "from ..training.train import Train", "nodes.training.train"),
        ("evaluation.plan", "from ..nodes import demo", "nodes.demo"),
        ("training.loop", "import multi_ipadapter.nodes.training.run", "nodes.training.run"),
    ],
)
def test_an_import_that_points_up_is_found(name, statement, target, tmp_path, monkeypatch):
    planted = tmp_path / "planted.py"
    planted.write_text(statement)
    monkeypatch.setitem(MODULES, name, planted)
    line = statement.count("\n") + 1
    assert arrows_up(name) == [f"{name}, line {line}: {target} is above it"]


@pytest.mark.parametrize("room", ["nodes.host", "nodes.unet", "nodes.steering"])
def test_steering_stands_on_no_engine_that_trains_or_measures(room):
    found = [
        (name, target)
        for name in MODULES
        if name.startswith(room)
        for _, target in own_imports(name)
        if target.partition(".")[0] in ("training", "evaluation")
    ]
    assert found == []


def test_every_door_is_used():
    assert {
        door for door in DOORS if door[1] in {target for _, target in own_imports(door[0])}
    } == DOORS


def test_only_nodes_import_comfyui():
    found = {name for name in MODULES for _, x in imports(name) if x.partition(".")[0] in COMFYUI}
    assert len(found) > 20
    assert [
        name
        for name in sorted(found)
        if not f"{name}.".startswith(tuple(f"{place}." for place in INSIDE_COMFYUI))
    ] == []


@pytest.mark.process
def test_what_scripts_read_is_light():
    loaded = modules_after("\n".join(f"import multi_ipadapter.{name}" for name in LIGHT))
    assert not top_level(loaded) & (COMFYUI | {"torch", "transformers"})


@pytest.mark.process
@pytest.mark.parametrize("name", ["training.loop", "evaluation.run", "evaluation.loading"])
def test_training_and_evaluation_know_no_comfyui(name):
    loaded = modules_after(f"import multi_ipadapter.{name}")
    assert f"multi_ipadapter.{name}" in loaded
    assert not top_level(loaded) & (COMFYUI | {"transformers"})  # which is slow to import
    assert not any(name.startswith("multi_ipadapter.nodes") for name in loaded)


@pytest.mark.process
def test_the_nodes_need_no_optional_package():
    """insightface brings cv2 and onnxruntime along; all nodes are there without them."""
    optional = ("insightface", "onnxruntime", "cv2", "accelerate", "skimage")
    code = f"""
import asyncio
sys.path.insert(0, {os.environ["COMFYUI_PATH"]!r})
import utils.install_util  # as main.py does, before nodes.py puts comfy/utils.py in its place
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
from multi_ipadapter.nodes import MultiIPAdapterExtension
found = asyncio.run(MultiIPAdapterExtension().get_node_list())
assert {{"PrepareFaces", "EncodeReferenceImages", "RankPictures"}} <= {{n.__name__ for n in found}}
"""
    loaded = modules_after(code, optional)
    assert "multi_ipadapter.faces.insight" in loaded
    assert not top_level(loaded) & set(optional)


@pytest.mark.process
@pytest.mark.parametrize("code", ["import multi_ipadapter", LOAD_BY_PATH], ids=["name", "path"])
def test_the_package_itself_imports_nothing_heavy(code):
    loaded = modules_after(code)
    assert not top_level(loaded) & (COMFYUI | {"torch", "numpy", "safetensors"})


@pytest.mark.process
def test_what_comfyui_finds_in_the_package():
    modules_after(
        LOAD_BY_PATH
        + """
import inspect, pathlib
assert (pathlib.Path(path).parent / pack.WEB_DIRECTORY).is_dir()
assert inspect.iscoroutinefunction(pack.comfy_entrypoint)
assert not inspect.signature(pack.comfy_entrypoint).parameters
assert not hasattr(pack, "NODE_CLASS_MAPPINGS")  # it would win over comfy_entrypoint
"""
    )
