"""The workflows for photographs, the sweep and the evaluation, run by a real ComfyUI to the end.

Those for portraits are in test_portraits_server, those that train in test_workflows and
test_train_server, the demo's in test_server.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from multi_ipadapter.demo.prompt import node
from multi_ipadapter.evaluation.networks.inception import InceptionModule

from .builders import SDXL_LAYOUT
from .evaluation_world import write_pictures
from .graphs import with_inputs
from .network_files import randomise
from .people import write_people
from .reports import read_report
from .test_portraits_server import difference, only, pixels, shipped
from .test_transformer_networks import clip_config, dino_model

PROMPTS = Path(__file__).parents[1] / "workflows" / "api"
LAYOUTS = {"sd15_multi_reference": "", "sdxl_multi_reference": json.dumps(SDXL_LAYOUT)}
PICTURES = 12  # as many as the splits of the Inception Score, and some


@pytest.fixture(scope="module")
def pictures(server):
    """Four pictures in the server's input folder."""
    folder = write_pictures(server.base / "input" / "references_of_a_workflow", 4, size=(64, 72))
    return [f"{folder.name}/{path.name}" for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def metrics(server):
    """Networks under the names that the workflows choose."""
    folder = server.base / "models" / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    inception = randomise(InceptionModule()).state_dict()
    torch.save(inception, folder / "pt_inception-2015-12-05-6726825d.pth")
    randomise(CLIPModel(clip_config())).save_pretrained(folder / "clip-vit-base-patch32")
    dino_model("dino").save_pretrained(folder / "dino-vits16")
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_three_pictures_steer_a_picture(name, server, pictures):
    graph = shipped(name, batch_size=1)
    graph["demo"] = node("TinyModels", layout=LAYOUTS[name])
    loaders = [key for key, x in graph.items() if x["class_type"] == "LoadImage"]
    for key, picture in zip(loaders, pictures[:3], strict=True):
        graph = with_inputs(graph, key, image=picture)
    saved = only(graph, "SaveImage", filename_prefix=name)
    (first,) = pixels(server, server.client.run(graph), saved)
    assert first.shape == (80, 64, 3) and first.std() > 5
    other = with_inputs(graph, loaders[-1], image=pictures[3])
    (changed,) = pixels(server, server.client.run(other), saved)
    assert difference(first, changed) > 2


def test_the_sweep_draws_and_measures_what_its_note_says(server, metrics):
    write_people(server.base / "input" / "people_of_a_workflow", 4, 5)
    graph = shipped("sweep")
    graph = with_inputs(
        graph, only(graph, "MultiIPAdapter_Dataset"), dataset="people_of_a_workflow"
    )
    sweep = only(graph, "MultiIPAdapter_Sweep")
    graph = with_inputs(graph, sweep, steps=1, width=64, height=64)
    server.client.run(graph)
    home = server.base / "output" / "evaluation"
    drawn = list((home / "sweep" / "pictures").rglob("*.png"))
    assert len(drawn) == 4 * 2 * 4 * 3 and len(list((home / "sweep" / "targets").iterdir())) == 4
    points = read_report(home / "sweep.json").points
    assert len(points) == 4 * 3 and {point.n for point in points} == {4 * 2}
    for point in points:
        assert set(point.values) == {"image_alignment", "text_alignment", "dino"}
        assert all(value.value is not None for value in point.values.values())
    figures = {path.stem for path in (home / "figures" / "sweep_figures").glob("*.png")}
    assert {"dino_against_weight", "image_alignment_against_references", "alignment"} <= figures


def test_two_folders_are_measured(server, metrics):
    write_pictures(server.base / "output" / "portraits", PICTURES, 1, size=(48, 40))
    write_pictures(server.base / "input" / "photos", PICTURES, 2, size=(48, 40))
    server.client.run(json.loads((PROMPTS / "evaluate.json").read_text(encoding="utf-8")))
    home = server.base / "output" / "evaluation"
    report = read_report(home / "report.json")
    (point,) = report.points
    numbers = {name: value.value for name, value in point.values.items()}
    assert {name for name, number in numbers.items() if number is None} == {"fid"}
    assert set(numbers) == {"fid", "kid", "is", "image_alignment", "text_alignment"}
    assert any(text.startswith("FID is not given") for text in report.warnings)
    assert (home / "figures" / "figures" / "table.png").is_file()
