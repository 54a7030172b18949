"""The addresses from which the front end reads a run, in a real server: they only read runs."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request

import aiohttp
import pytest

from multi_ipadapter.nodes.training.events import EVENT
from multi_ipadapter.nodes.training.routes import HISTORY, TABLE

from .people import settings_with, write_people
from .test_train_server import training_graph

WATCHED = settings_with(log_every=1, validate_every=2, previews=1)


async def events_of(server, graph) -> list[dict]:
    """What a client that did not queue the graph hears of the training."""
    found = []
    address = f"{server.client.url.replace('http', 'ws', 1)}/ws?clientId=bystander"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        prompt_id = server.client.submit(graph, "another")
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] == EVENT:
                    found.append(event["data"])
                    if event["data"]["status"]["phase"] in ("finished", "stopped", "failed"):
                        break
    server.client.wait(prompt_id)
    return found


@pytest.fixture(scope="module")
def events(server):
    """Events of the run 'told', 4 steps."""
    write_people(server.base / "input" / "told")
    graph = training_graph("told", "told", settings=WATCHED)
    return asyncio.run(asyncio.wait_for(events_of(server, graph), 300))


def history(server, run):
    return json.loads(server.client.get(HISTORY, run=run))


def test_events_follow_the_run(events):
    assert {(e["status"]["run"], e["status"]["node"]) for e in events} == {("told", "train")}
    phases = [event["status"]["phase"] for event in events]
    changes = [b for a, b in zip([None, *phases], phases, strict=False) if a != b]
    between = ["validating", "training"]
    assert changes == ["preparing", "encoding", "training", *(between * 3), "finished"]
    assert [e["status"]["count"] for e in events if e["status"]["phase"] == "encoding"][-1] == 32
    losses = [loss for event in events for loss in event.get("losses", [])]
    assert len(losses) == 4 and all(loss > 0 for loss in losses)
    assert [e["validation"]["step"] for e in events if "validation" in e] == [0, 2, 4]
    assert [e["preview"] for e in events if "preview" in e] == [0, 2, 4]
    left = [e["status"].get("seconds_left") for e in events if "losses" in e]
    assert left[0] is None and left[-1] == 0 and all(seconds > 0 for seconds in left[1:-1])


def test_history_is_what_the_events_told(server, events):
    found = history(server, "told")
    losses = [loss for event in events for loss in event.get("losses", [])]
    assert found["loss"] == [[step, loss] for step, loss in enumerate(losses, 1)]
    for name in ("matched", "none", "shuffled"):
        told = [e["validation"] for e in events if "validation" in e]
        assert found[name] == [[v["step"], v[name]] for v in told]
    assert (found["run"], found["step"], found["steps"]) == ("told", 4, 4)
    assert found["previews"] == [0, 2, 4]
    assert found["status"] == events[-1]["status"]
    picture = {"filename": "preview-00000002.png", "subfolder": "training/told", "type": "output"}
    assert server.client.get("/view", **picture).startswith(b"\x89PNG")


def test_table_of_a_run(server, events):
    lines = server.client.get(TABLE, run="told").decode().splitlines()
    assert lines[0].startswith("step,loss,learning_rate,") and len(lines) == 6


def test_a_run_that_nobody_has_trained_is_empty(server):
    found = history(server, "nobody")
    assert found["loss"] == [] and found["step"] == 0 and found["status"] is None
    assert not (server.base / "output" / "training" / "nobody").exists()


@pytest.mark.parametrize("path", [HISTORY, TABLE])
@pytest.mark.parametrize(
    "run", ["", "..", ".", "../secret", "/etc", "a/b", "a\\b", "told\0", "out"]
)
def test_nothing_outside_of_the_runs_can_be_read(server, path, run):
    secret = server.base / "output" / "secret"
    for folder in (secret, server.base / "output"):
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "losses": [0.123]}\n')
    link = server.base / "output" / "training" / "out"
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(secret, target_is_directory=True)
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.client.get(path, run=run)
    answer = caught.value.read().decode()
    assert caught.value.code == 400 and "0.123" not in answer
    assert "Got the run" in answer or "lies outside" in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_addresses_only_read(server, method):
    address = f"{server.client.url}{HISTORY}?{urllib.parse.urlencode({'run': 'told'})}"
    request = urllib.request.Request(address, b"", method=method)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    assert caught.value.code == 405
