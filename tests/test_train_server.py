"""Training in a real ComfyUI server through its API: train, cancel, resume, use, save, load."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path

import aiohttp
import pytest
from safetensors import safe_open

from multi_ipadapter.demo.client import PromptError
from multi_ipadapter.demo.prompt import node

from .graphs import difference, prompt_for, render, upload_portraits, with_inputs
from .people import SMALL, settings_with, write_people

ROOT = Path(__file__).parents[1]
STEPS = 100
SETTINGS = settings_with(log_every=5)


@pytest.fixture(scope="module")
def photos(server, tmp_path_factory):
    return upload_portraits(server.client, tmp_path_factory.mktemp("portraits"), 2)


@pytest.fixture(scope="module")
def people(server):
    """Name of a dataset in the server's input folder."""
    write_people(server.base / "input" / "trained_on")  # the server is shared by all modules
    return "trained_on"


def training_graph(people, run, **inputs):
    values = SMALL | {"batch_size": 1, "steps": 4, "settings": SETTINGS} | inputs
    return {
        "models": node("MultiIPAdapter_Demo"),
        "dataset": node("MultiIPAdapter_Dataset", dataset=people),
        "train": node(
            "MultiIPAdapter_Train",
            model=["models", 0],
            clip=["models", 1],
            vae=["models", 2],
            clip_vision=["models", 3],
            dataset=["dataset", 0],
            **({"name": run} | values),
        ),
        "keep": node("MultiIPAdapter_Save", adapter=["train", 0], name=run, overwrite=True),
    }


def losses_of(server, run):
    path = server.base / "output" / "training" / run / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [loss for entry in entries if entry["kind"] == "train" for loss in entry["losses"]]


def ran(server, graph):
    """Nodes that ran, rather than being served from ComfyUI's cache, and the outputs."""
    prompt_id = server.client.submit(graph)
    outputs = server.client.wait(prompt_id)
    messages = server.client.get_json(f"/history/{prompt_id}")[prompt_id]["status"]["messages"]
    (cached,) = [data["nodes"] for kind, data in messages if kind == "execution_cached"]
    return set(graph) - set(cached), outputs


def error_of(server, graph) -> str:
    with pytest.raises(PromptError) as caught:
        server.client.run(graph)
    return str(caught.value)


# ---- train, cancel, resume, use ----------------------------------------------------------------


def test_cancel_keeps_what_was_learned_and_running_again_finishes(server, people):
    graph = training_graph(people, "cancelled", steps=STEPS)
    events = []

    def cancel(name, step, steps):
        events.append((name, step, steps))
        if name == "train" and steps == STEPS and 0 < step < STEPS:
            server.client.post_json("/interrupt")

    outputs = server.client.run(graph, cancel)
    assert outputs["keep"]["text"] == ["cancelled.safetensors"], "the nodes after it have run"
    assert ("train", 32, 32) in events, "32 pictures are encoded first"
    done = len(losses_of(server, "cancelled"))
    assert 0 < done < STEPS
    file = server.base / "models" / "ipadapter" / "cancelled.safetensors"
    assert steps_in(file) == done

    before = losses_of(server, "cancelled")
    again, _ = ran(server, graph)
    assert {"train", "keep"} <= again and "models" not in again and "dataset" not in again
    assert steps_in(file) == STEPS
    losses = losses_of(server, "cancelled")
    assert len(losses) == STEPS and losses[:done] == before
    assert ran(server, graph)[0] == set(), "the finished run is served from the cache"


def steps_in(file) -> int:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["multi_ipadapter"])["training"]["steps"]


def test_a_trained_adapter_plugs_into_apply_and_its_file_into_load(server, people, photos):
    training = training_graph(people, "straight")
    sampling = prompt_for(photos)
    del sampling["adapter"]
    for key in ("references", "steered"):
        sampling = with_inputs(sampling, key, adapter=["train", 0])
    graph = training | sampling
    wired = render(server.client, graph)[""]
    plain = with_inputs(graph, "sample", model=["models", 0])
    assert difference(wired, render(server.client, plain)[""]) > 4

    listed = server.client.get_json("/object_info/MultiIPAdapter_Load")["MultiIPAdapter_Load"]
    spec = listed["input"]["required"]["ipadapter_file"]
    options = spec[1].get("options") if len(spec) > 1 else spec[0]
    assert "straight.safetensors" in (options or spec[0])
    loaded = with_inputs(prompt_for(photos), "adapter", ipadapter_file="straight.safetensors")
    assert difference(wired, render(server.client, loaded)[""]) == 0

    with safe_open(server.base / "models/ipadapter/straight.safetensors", "pt") as file:
        parts = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
        layers = {int(key.split(".")[1]) for key in file.keys() if key[:11] == "ip_adapter."}  # noqa: SIM118
    assert parts == {"image_proj", "ip_adapter", "aggregator"}
    assert layers == set(range(1, 14, 2)), "the demo's UNet has 7"


def test_chart_previews_and_cores_loss_graph(server, people):
    settings = settings_with(validate_every=2, previews=1)
    graph = training_graph(people, "watched", steps=2, settings=settings) | {
        "losses": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "chart": node("PreviewImage", images=["train", 2]),
        "sheet": node("SaveImage", images=["train", 3], filename_prefix="sheet"),
    }
    outputs = server.client.run(graph)
    assert set(outputs) >= {"train", "dataset", "keep", "losses", "chart", "sheet"}
    assert "8 identities" in outputs["dataset"]["text"][0]
    for name in ("train", "losses", "chart", "sheet"):
        assert len(server.client.pictures({name: outputs[name]})) == 1


async def texts_of(server, graph) -> list[tuple[str, str]]:
    """(node, text) of what ComfyUI's front end is told to show below the nodes."""
    found = []
    address = f"{server.client.url.replace('http', 'ws', 1)}/ws?clientId=texts"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        server.client.submit(graph, "texts")
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind, length = struct.unpack(">II", message.data[:8])
                if kind == 3:  # text: length of the node's id, the id, the text
                    words = message.data[8:]
                    found.append((words[:length].decode(), words[length:].decode()))
            elif json.loads(message.data)["type"] in ("execution_success", "execution_error"):
                return found
    return found


def test_the_dataset_shows_its_report_and_training_leaves_that_to_its_chart(server):
    write_people(server.base / "input" / "shown")  # not in ComfyUI's cache yet
    graph = training_graph("shown", "shown", steps=3, settings=settings_with(log_every=1))
    found = asyncio.run(asyncio.wait_for(texts_of(server, graph), 120))
    assert [node for node, _ in found] == ["dataset"]
    assert "8 identities" in found[0][1]


def test_the_shipped_workflow_replaces_no_adapter():
    prompt = json.loads((ROOT / "workflows/api/train.json").read_text(encoding="utf-8"))
    (save,) = [x for x in prompt.values() if x["class_type"] == "MultiIPAdapter_Save"]
    assert save["inputs"]["overwrite"] is False


# ---- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def still_works(server, people):
    """After the test, the server still trains."""
    yield
    still_works.runs = getattr(still_works, "runs", 0) + 1
    graph = training_graph(people, f"after{still_works.runs}", steps=1)
    assert server.client.run(graph)["keep"]["text"]


@pytest.mark.parametrize("name", ["../output", "/etc", "", "nowhere", "trained_on/../../models"])
def test_datasets_outside_of_the_input_folder(server, still_works, name):
    message = error_of(server, training_graph(name, "outside"))
    assert "MultiIPAdapter_Dataset" in message and f"Got the dataset {name!r}" in message
    assert "below input" in message


def test_pictures_of_one_each(server, still_works):
    write_people(server.base / "input" / "loners", 3, 1)
    message = error_of(server, training_graph("loners", "loners"))
    assert "No identity with two pictures" in message and "two or more" in message


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"settings": "speed = 3"}, "unknown settings speed"),
        ({"settings": 'cache_folder = "/tmp"'}, "cache_folder in settings"),
        ({"settings": "slots = 2"}, "max_references = 8; expected at most 2"),
        ({"steps": 0}, "Value 0 smaller than min of 1"),
        ({"start_from": "../secret.safetensors"}, "Value not in list"),
        ({"name": "../run"}, "Got the name '../run'"),
    ],
)
def test_bad_values(server, people, still_works, inputs, expected):
    graph = training_graph(people, "bad", **inputs)
    assert expected in error_of(server, graph)
    assert not (server.base / "output" / "training" / "bad" / "adapter.safetensors").exists()


def test_another_aggregation_under_the_same_name(server, people, still_works):
    server.client.run(training_graph(people, "same_name", steps=1))
    message = error_of(server, training_graph(people, "same_name", steps=2, aggregation="mean"))
    assert "aggregation: 'learned' there, 'mean' now" in message and "new folder" in message
