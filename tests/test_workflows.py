"""The shipped workflows and example prompts fit the nodes' schemas and each other."""

from __future__ import annotations

import copy
import itertools
import json
import re
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from multi_ipadapter.demo.prompt import CFG, STEPS, WEIGHT, demo_prompt

from .people import SMALL
from .schemas import FILE_INPUTS, prompt_problems, to_prompt, workflow_problems
from .test_celeba import write_celeba

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PROMPTS = sorted((ROOT / "workflows" / "api").glob("*.json"))
PHOTOGRAPHS = ("sd15_multi_reference", "sdxl_multi_reference")
SIZE, MOST_BYTES = (640, 360), 60_000  # of a thumbnail


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def stem(path):
    return path.stem


def note_of(path):
    """The text that explains a workflow."""
    (note,) = [n for n in read(path)["nodes"] if n["type"] == "MarkdownNote"]
    return note["widgets_values"][0]


def test_expected_files_are_there():
    names = {"demo", "sd15_multi_reference", "sdxl_multi_reference", "train", "evaluate", "sweep"}
    names |= {"portrait", "portrait_pose", "two_people", "train_celeba"}
    assert names == set(map(stem, WORKFLOWS))
    more = {"save_references", "load_references", "two_adapters", "mask", "demo_pictures"}
    assert set(map(stem, PROMPTS)) == set(map(stem, WORKFLOWS)) | more


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_fits_the_schemas(path, object_info):
    assert workflow_problems(read(path), object_info) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_labels_the_inputs_that_have_grown(path):
    """Else the first of them shows the name of its group too."""
    inputs = [slot for node in read(path)["nodes"] for slot in node.get("inputs", [])]
    grown = [slot for slot in inputs if "." in slot["name"]]
    assert [slot.get("label") for slot in grown] == [
        slot["name"].partition(".")[2] for slot in grown
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_gives_its_prompt(path, object_info):
    expected = read(ROOT / "workflows" / "api" / path.name)
    for node in expected.values():
        del node["_meta"]
    assert to_prompt(read(path), object_info) == expected


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_nodes_lie_apart_and_one_explains(path):
    nodes = read(path)["nodes"]
    boxes = [(*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in nodes]
    title = 30  # height of the bar above a node
    for i, (left, top, right, bottom) in enumerate(boxes):
        for x0, y0, x1, y1 in boxes[i + 1 :]:
            assert right <= x0 or x1 <= left or bottom <= y0 - title or y1 <= top - title
    assert (
        sum(n["type"] == "MarkdownNote" and len(n["widgets_values"][0]) > 300 for n in nodes) == 1
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_has_a_thumbnail(path):
    file = path.with_suffix(".jpg")
    assert file.stat().st_size <= MOST_BYTES
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("JPEG", SIZE)


def test_thumbnails_tell_the_workflows_apart():
    """Small, as in a tile of the template browser, and without their colours."""
    small = {}
    for path in WORKFLOWS:
        with Image.open(path.with_suffix(".jpg")) as picture:
            small[path.stem] = np.asarray(picture.convert("L").resize((64, 36)), np.float32)
    plain = [name for name, grey in small.items() if grey.std() < 30]
    pairs = itertools.combinations(small, 2)
    alike = [(a, b) for a, b in pairs if np.abs(small[a] - small[b]).mean() < 20]
    assert (plain, alike) == ([], [])


@pytest.mark.parametrize("path", WORKFLOWS, ids=stem)
def test_workflow_has_an_id_of_its_own(path):
    """The front end tells graphs apart by it; what it shows as title is the file's name."""
    assert read(path)["id"] == str(uuid.uuid5(uuid.NAMESPACE_URL, f"multi-ipadapter/{path.stem}"))
    headings = [note_of(other).splitlines()[0] for other in WORKFLOWS]
    assert headings.count(note_of(path).splitlines()[0]) == 1
    assert re.match(r"## \w", note_of(path))


@pytest.mark.parametrize("name", [*PHOTOGRAPHS, "portrait", "portrait_pose", "two_people"])
def test_the_note_says_who_publishes_each_file(name):
    prompt = read(ROOT / "workflows" / "api" / f"{name}.json")
    models = set(FILE_INPUTS) - {"image"}
    files = {x["inputs"][key] for x in prompt.values() for key in models & x["inputs"].keys()}
    rows = re.findall(
        r"^\| \*\*(\w+)\*\* \| \*\*(.+)\*\* \| (.+) \|$",
        note_of(WORKFLOWS[0].with_stem(name)),
        re.M,
    )
    assert {file for _, file, _ in rows} == files - {"auto"}
    assert all(re.match(r"[\w-]+/[\w.-]+", where) for _, _, where in rows)
    assert {folder for folder, _, _ in rows} >= {"checkpoints", "clip_vision", "ipadapter"}
    page = (ROOT / "docs" / "portraits.md").read_text(encoding="utf-8")
    assert name in PHOTOGRAPHS or [row for row in rows if f"{row[1]}`" not in page] == []


@pytest.mark.parametrize("path", PROMPTS, ids=stem)
def test_prompt_fits_the_schemas(path, object_info):
    assert prompt_problems(read(path), object_info) == []


def test_the_celeba_workflow_trains_on_files_as_its_note_lays_them_out(server):
    write_celeba(server.base / "input" / "celeba")
    (note,) = [
        node["widgets_values"][0]
        for node in read(ROOT / "workflows" / "train_celeba.json")["nodes"]
        if node["type"] == "MarkdownNote"
    ]
    layout = note.partition("input/celeba/\n")[2].partition("```")[0].split()
    assert {name for name in layout if name != "..."} == {
        str(path.relative_to(server.base / "input" / "celeba"))
        for path in (server.base / "input" / "celeba").rglob("*")
        if path.suffix == ".txt" or path.name == "000001.jpg"
    }
    prompt = read(ROOT / "workflows" / "api" / "train_celeba.json")
    prompt["1"] = {"class_type": "MultiIPAdapter_Demo", "inputs": {}}  # for both loaders
    del prompt["2"]
    prompt["4"]["inputs"] |= SMALL | {"clip_vision": ["1", 3], "steps": 2}
    outputs = server.client.run(prompt)
    assert "2 identities" in outputs["3"]["text"][0]
    assert outputs["5"]["text"] == ["celeba.safetensors"]
    with safe_open(server.base / "models" / "ipadapter" / "celeba.safetensors", "pt") as file:
        training = json.loads(file.metadata()["multi_ipadapter"])["training"]
    assert training["steps"] == 2 and training["settings"]["masked_loss"] == 0.5


def test_the_script_of_the_portraits_page_changes_inputs_that_exist():
    text = (ROOT / "docs" / "portraits.md").read_text(encoding="utf-8")
    named = re.findall(r'prompt\["(\d+)"\]\["inputs"\]\["(\w+)"\] = (.+)', text)
    prompt = read(ROOT / "workflows" / "api" / "portrait.json")
    assert {name for _, name, _ in named} == {"folder", "text", "seed"}
    for key, name, value in named:
        assert type(prompt[key]["inputs"][name]) is type(json.loads(value))
        assert prompt[key]["_meta"]["title"] != "Negative prompt"


@pytest.mark.parametrize("count", [1, 4, 64])
def test_demo_prompt_fits_the_schemas(count, object_info):
    assert prompt_problems(demo_prompt(["example.png"] * count, 1.0), object_info) == []


def test_all_graphs_of_the_demo_models_draw_as_the_demo_does():
    """As the study tested and the documents say; a UI graph gives the same prompt, see above."""
    found = 0
    for path in PROMPTS:
        nodes = json.loads(path.read_text(encoding="utf-8")).values()
        by_type = {node["class_type"]: node["inputs"] for node in nodes}
        if "MultiIPAdapter_Demo" in by_type and "KSampler" in by_type:
            weights = [n["inputs"]["weight"] for n in nodes if "weight" in n["inputs"]]
            how = by_type["KSampler"]
            assert (sum(weights), how["cfg"], how["steps"]) == (WEIGHT, CFG, STEPS), path.name
            found += 1
    assert found >= 5


@pytest.mark.parametrize(
    ("node", "name", "value", "problem"),
    [
        ("steered", "aggregation", "median", "no option"),
        ("steered", "weight", 6.0, "outside"),
        ("steered", "weight", "1", "expected FLOAT"),
        ("steered", "lambda", 1.0, "unknown input"),
        ("steered", "model", ["models", 1], "got CLIP"),
        ("steered", "model", ["models", 9], "no such output"),
        ("steered", "model", ["nowhere", 0], "no such output"),
        ("references", "reference_images.reference_image_64", ["picture_0", 0], "unknown input"),
    ],
)
def test_checker_finds_faults_in_prompts(node, name, value, problem, object_info):
    prompt = demo_prompt(["example.png"], 1.0)
    prompt[node]["inputs"][name] = value
    assert any(problem in text for text in prompt_problems(prompt, object_info))


def test_checker_finds_missing_parts_of_prompts(object_info):
    prompt = demo_prompt(["example.png"], 1.0)
    del prompt["steered"]["inputs"]["model"]
    del prompt["references"]["inputs"]["adapter"]
    del prompt["save"]
    assert sorted(prompt_problems(prompt, object_info)) == [
        "no output node",
        "references.adapter: missing",
        "steered.model: missing",
    ]


def _break_link(workflow):
    workflow["links"][0][5] = "MASK"


def _drop_link(workflow):
    del workflow["links"][0]


def _add_value(workflow):
    _apply_node(workflow)["widgets_values"].append(1)


def _drop_value(workflow):
    _apply_node(workflow)["widgets_values"].pop()


def _swap_values(workflow):
    _apply_node(workflow)["widgets_values"].reverse()


def _apply_node(workflow):
    return next(n for n in workflow["nodes"] if n["type"] == "MultiIPAdapter_Apply")


@pytest.mark.parametrize("fault", [_break_link, _drop_link, _add_value, _drop_value, _swap_values])
def test_checker_finds_faults_in_workflows(fault, object_info):
    workflow = copy.deepcopy(read(WORKFLOWS[0]))
    fault(workflow)
    assert workflow_problems(workflow, object_info) != []
