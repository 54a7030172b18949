"""docs/api.md is true: its commands run as they stand, and ComfyUI answers what it says."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.demo.client import PromptError
from multi_ipadapter.demo_world.people import portrait

from .graphs import difference, render, with_inputs
from .people import write_people

ROOT = Path(__file__).parents[1]
TWINS = ROOT / "workflows" / "api"
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8188"
GRAPH, SAVE = "demo_pictures.json", "9"  # the file that the page sends, its Save Image
MINE = ("me1.png", "me2.png")  # pictures of the user's, for Load Image


def blocks(language: str, page: str = PAGE) -> list[str]:
    """The page's fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def bash() -> str:
    """On Windows, that of Git: the first one found there may be another system's."""
    git = shutil.which("git") if os.name == "nt" else None
    return str(Path(git).parents[1] / "bin" / "bash.exe") if git else "bash"


def run(command: list[str], script: str, folder: Path) -> str:
    """Run a script of the page in a folder; returns what it prints."""
    done = subprocess.run(
        command,
        input=script,
        cwd=folder,
        env=os.environ | {"no_proxy": "*", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(server, graph, tmp_path):
    """As the README's commands leave the pack's; ComfyUI has other pictures of those names."""
    twins = tmp_path / "workflows" / "api"
    twins.mkdir(parents=True)
    whole = (TWINS / GRAPH).read_text(encoding="utf-8")
    small = whole.replace('"width": 128', '"width": 64').replace('"height": 128', '"height": 64')
    assert {key: node["inputs"] for key, node in json.loads(small).items()} == {
        key: node["inputs"] for key, node in graph.items()
    }
    (twins / GRAPH).write_text(small, encoding="utf-8")
    for view, name in enumerate(MINE):
        portrait(0, view).picture.save(tmp_path / name)
    write_others(server)
    return tmp_path


def write_others(server) -> None:
    """Pictures of somebody else's below the names of the user's."""
    for name in MINE:
        Image.new("RGB", (128, 128), "red").save(server.base / "input" / name)


@pytest.fixture(scope="module")
def graph():
    """The one that the page sends, before it changes anything; its picture is smaller."""
    graph = json.loads((TWINS / GRAPH).read_text(encoding="utf-8"))
    return with_inputs(graph, "4", width=64, height=64)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int16)


def drawn(server, graph) -> np.ndarray:
    """Pixels of the graph's picture; older versions do not name those of a graph that has run."""
    drawn.runs = getattr(drawn, "runs", 0) + 1
    graph = with_inputs(graph, SAVE, filename_prefix=f"drawn{drawn.runs}")
    return render(server.client, graph)[SAVE]


def with_pictures(server, folder, graph):
    """The graph with the user's pictures, whatever names the page has given them."""
    for node, name in zip(("10", "11"), MINE, strict=True):
        graph = with_inputs(graph, node, image=server.client.upload(folder / name))
    return graph


# ---- the commands ------------------------------------------------------------------------------


def test_the_commands_with_curl(server, folder, graph):
    script = "\n".join(blocks("bash"))
    assert ADDRESS in script and "curl" in script
    pictures = []
    for _ in range(2):  # the second time nothing has changed, and no node runs
        printed = run([bash(), "-e", "-s"], script.replace(ADDRESS, server.client.url), folder)
        first = json.loads(printed[: printed.index("}") + 1])
        assert [first] == [example for example in examples() if "subfolder" in example]
        assert '"status_str": "success"' in printed
        pictures.append(pixels(folder / "me_curl.png"))
        (folder / "me_curl.png").unlink()
    expected = drawn(server, with_pictures(server, folder, graph))
    assert all(np.array_equal(picture, expected) for picture in pictures)


def test_the_commands_that_cancel(server, folder, graph):
    (commands,) = [block for block in blocks("bash") if "/interrupt" in block]
    graph = with_inputs(with_pictures(server, folder, graph), "7", steps=2000)
    cancelled = []

    def cancel(node, step, _steps):
        if node != "7" or not step or cancelled:
            return
        waiting = server.client.submit(with_inputs(graph, "7", seed=2))
        (running,) = [entry[1] for entry in server.client.get_json("/queue")["queue_running"]]
        for prompt_id in (waiting, running):
            script = f"server={server.client.url}\nid={prompt_id}\n{commands}"
            run([bash(), "-e", "-s"], script, folder)
            cancelled.append(prompt_id)

    with pytest.raises(PromptError, match="interrupted at KSampler"):
        server.client.run(graph, cancel)
    waiting, running = cancelled
    messages = server.client.get_json(f"/history/{running}")[running]["status"]["messages"]
    assert messages[-1][0] == "execution_interrupted"
    assert server.client.get_json("/queue")["queue_pending"] == []
    assert server.client.get_json(f"/history/{waiting}") == {}


@pytest.fixture(params=["README.md", "README.ru.md"])
def readme(request, server, tmp_path):
    """The commands of a README; a folder with what they need of the pack's."""
    shutil.copytree(TWINS, tmp_path / "workflows" / "api")
    script = "\n".join(blocks("bash", (ROOT / request.param).read_text(encoding="utf-8")))
    assert ADDRESS in script
    return script.replace(ADDRESS, server.client.url)


def test_the_readmes_commands_with_curl(readme, server, tmp_path):
    write_others(server)
    run([bash(), "-e", "-s"], readme, tmp_path)
    first, mine = pixels(tmp_path / "demo.png"), pixels(tmp_path / "mine.png")
    assert first.shape == mine.shape == (128, 128, 3) and difference(first, mine) > 16
    for view, name in enumerate(MINE):
        shown = np.asarray(portrait(0, 2 + view).picture).astype(np.int16)
        assert difference(pixels(tmp_path / name), shown) <= 1
    graph = with_pictures(server, tmp_path, json.loads((TWINS / GRAPH).read_text(encoding="utf-8")))
    assert np.array_equal(mine, drawn(server, graph))
    path = tmp_path / "workflows" / "api" / "demo.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"identity": 0', '"identity": 6'), encoding="utf-8")
    run([bash(), "-e", "-s"], f"{readme}\ndraw mine.json again.png\n", tmp_path)
    newest = pixels(tmp_path / "mine.png")
    assert difference(first, pixels(tmp_path / "demo.png")) > 16, "not the earlier picture"
    assert difference(mine, newest) > 16, "not the earlier person"
    assert np.array_equal(newest, pixels(tmp_path / "again.png")), "nothing has changed"


def test_the_readmes_commands_say_why_a_graph_is_refused_or_fails(readme, tmp_path):
    path = tmp_path / "workflows" / "api" / "demo.json"
    text = path.read_text(encoding="utf-8")
    for old, new, message in (
        ('"MultiIPAdapter_Demo"', '"NoSuchNode"', "NoSuchNode"),
        ('"weight": 1.5', '"weight": 99', "bigger than max of 5.0"),
        ('"reference_weights": ""', '"reference_weights": "1, 2, 3"', "Got 3 reference weights"),
    ):
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(AssertionError, match=message):
            run([bash(), "-e", "-s"], readme, tmp_path)


def test_the_script_in_python(server, folder, graph):
    write_people(server.base / "input" / "people")
    script = "\n".join(blocks("python"))
    assert ADDRESS in script
    printed = run([sys.executable, "-"], script.replace(ADDRESS, server.client.url), folder)
    lines = printed.splitlines()
    assert "KSampler" in lines and "  step 16 of 16" in lines
    assert {"still waiting: []", "execution_interrupted"} <= set(lines)
    assert any(line.startswith("training 6 of 6 [") for line in lines)
    assert {"preparing 0 of 6 ", "validating 4 of 6 ", "finished 6 of 6 "} <= set(lines)
    assert "saved as api_try.safetensors" in lines
    assert any(line.startswith("finished after step 6 with losses [") for line in lines)
    table = lines[lines.index(next(line for line in lines if line.startswith("step,loss"))) :]
    assert [row.split(",")[0] for row in table if row] == ["step", *"0123456"]

    said = "a person, laughing, with a blue cap, in front of a green wall"
    mine = with_pictures(server, folder, graph)
    same = with_inputs(mine, "2", text=said)
    same = with_inputs(same, "5", reference_weights="1, 0.5")
    same = with_inputs(with_inputs(same, "6", weight=0.8), "7", seed=42)
    expected = drawn(server, same)
    assert np.array_equal(pixels(folder / "me_python.png"), expected)
    assert difference(expected, drawn(server, mine)) > 16


# ---- the answers -------------------------------------------------------------------------------


def examples() -> list[dict]:
    """The page's answers of ComfyUI, of which it may show a part."""
    return [json.loads(block) for block in blocks("json")]


def shows(example, answer) -> bool:
    """Whether all that the example shows is in the answer."""
    if isinstance(example, dict):
        keys = example.keys() <= answer.keys()
        return keys and all(shows(value, answer[key]) for key, value in example.items())
    if isinstance(example, list):
        return len(example) == len(answer) and all(map(shows, example, answer))
    return example == answer


def example_with(key: str) -> dict:
    (found,) = [example for example in examples() if key in example]
    return found


def test_a_graph_that_cannot_run_is_refused_as_shown(server, graph):
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.client.post_json("/prompt", {"prompt": with_inputs(graph, "6", weight=99)})
    assert caught.value.code == 400
    answer = json.loads(caught.value.read())
    assert shows(example_with("error"), answer)
    assert not shows({"error": {"type": "another"}}, answer)


def test_a_node_that_is_left_out_is_told_as_shown(server, graph):
    second = {"class_type": "SaveImage", "inputs": {"filename_prefix": "second"}}
    answer = server.client.post_json("/prompt", {"prompt": graph | {"second": second}})
    (example,) = [e for e in examples() if set(e) == {"node_errors"}]
    assert shows(example, answer)
    assert server.client.wait(answer["prompt_id"])["9"]["images"], "the rest has run"


def test_a_node_that_fails_is_told_as_shown(server, graph):
    wrong = with_inputs(copy.deepcopy(graph), "5", reference_weights="1, 2, 3")
    prompt_id = server.client.submit(wrong)
    with pytest.raises(PromptError, match="Got 3 reference weights"):
        server.client.wait(prompt_id)
    messages = server.client.get_json(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
    (error,) = [data for kind, data in messages if kind == "execution_error"]
    assert shows(example_with("exception_message"), error)


# ---- the rest of the page ----------------------------------------------------------------------


def test_every_twin_is_in_the_table_and_every_workflow_has_one():
    table = PAGE.partition("## The graphs")[2].partition("##")[0]
    named = set(re.findall(r"`(\w+)\.json`", table))
    assert named == {path.stem for path in TWINS.glob("*.json")}
    assert {path.stem for path in (ROOT / "workflows").glob("*.json")} <= named


def test_addresses_answer(server):
    paths = re.findall(r"`GET (/[^`]+)`", PAGE)
    assert len(paths) == 3
    assert all(server.client.get_json(path) for path in paths)


def test_twins_are_no_templates(server):
    listed = server.client.get_json("/workflow_templates")
    (ours,) = [names for pack, names in listed.items() if "MultiIPAdapter" in pack]
    assert sorted(ours) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    assert server.client.get(f"/api/workflow_templates/{next(iter(listed))}/demo.json")
