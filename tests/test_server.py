"""The pack in a real ComfyUI server, through the HTTP API: what headless users see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.demo.__main__ import CASES, REFERENCES, draw
from multi_ipadapter.demo.prompt import node
from multi_ipadapter.demo.server import PACK, ComfyServer, ServerError, comfyui_main, link_pack

from .graphs import branches, difference, prompt_for, render, upload_portraits, with_inputs

PROMPTS = Path(__file__).parents[1] / "workflows" / "api"


@pytest.fixture(scope="module")
def photos(server, tmp_path_factory):
    """Names of the uploaded pictures of four people."""
    return upload_portraits(server.client, tmp_path_factory.mktemp("portraits"), 4)


def forget(server) -> None:
    """ComfyUI drops all results and models.

    It looks at the request after a prompt only, unless it comes while nothing else is to be done:
    so after this prompt at the latest.
    """
    server.client.post_json("/free", {"free_memory": True})
    picture = node("EmptyImage", width=16, height=16, batch_size=1, color=0)
    server.client.run({"picture": picture, "show": node("PreviewImage", images=["picture", 0])})


# ---- the nodes are there, and do what the design says ------------------------------------------


def test_all_nodes_are_listed(object_info):
    ours = {name for name in object_info if name.startswith("MultiIPAdapter_")}
    names = {"Load", "EncodeReferences", "Apply", "SaveReferences", "LoadReferences", "Demo"}
    names |= {"Dataset", "Train", "Save", "Sweep", "Evaluate", "Report", "Score", "Rank"}
    names |= {"ClassWord", "DemoReferences", "LoadFaceAnalysis", "PrepareFaces"}
    assert ours == {f"MultiIPAdapter_{name}" for name in names}
    assert {object_info[name]["category"] for name in ours} == {"multi-ipadapter"}


def test_only_required_inputs_mean_the_defaults(server, photos, object_info):
    short = with_inputs(prompt_for(photos[:2]), "steered", weight=None)
    options = object_info["MultiIPAdapter_Apply"]["input"]["optional"]
    defaults = {name: spec[1]["default"] for name, spec in options.items() if name != "mask"}
    long = with_inputs(short, "steered", **defaults)
    long = with_inputs(long, "references", reference_weights="", fit="crop")
    long = with_inputs(long, "adapter", faceid_plus="auto")
    pictures = render(server.client, branches(short=short, long=long))
    assert np.array_equal(pictures["short"], pictures["long"])


def test_references_steer_and_weight_0_does_not(server, photos):
    without = prompt_for(photos[:1])
    without = with_inputs(without, "sample", model=["models", 0])
    graph = branches(
        unpatched=without,
        zero=prompt_for(photos[:1], 0.0),
        one=prompt_for(photos[:1]),
        four=prompt_for(photos),
        half=prompt_for(photos, 0.5),
    )
    pictures = render(server.client, graph)
    assert np.array_equal(pictures["unpatched"], pictures["zero"])
    shown = [pictures[name] for name in ("zero", "one", "four", "half")]
    for i, first in enumerate(shown):
        for second in shown[i + 1 :]:
            assert difference(first, second) > 16


def test_aggregations_agree_on_one_reference(server, photos):
    prompts = {
        method: with_inputs(prompt_for(photos[:1]), "steered", aggregation=method)
        for method in ("concat", "mean", "learned")
    }
    pictures = render(server.client, branches(**prompts))
    assert difference(pictures["concat"], pictures["mean"]) <= 1
    assert difference(pictures["concat"], pictures["learned"]) <= 1


@pytest.mark.parametrize("method", ["concat", "mean", "learned"])
def test_order_of_references_does_not_matter(server, photos, method):
    prompts = {
        name: with_inputs(prompt_for(pictures), "steered", aggregation=method)
        for name, pictures in {"there": photos, "back": photos[::-1], "some": photos[:3]}.items()
    }
    pictures = render(server.client, branches(**prompts))
    assert difference(pictures["there"], pictures["back"]) <= 1
    assert difference(pictures["there"], pictures["some"]) > 16


@pytest.mark.parametrize("method", ["concat", "mean", "learned"])
def test_duplicating_all_references_changes_nothing(server, photos, method):
    prompts = {
        name: with_inputs(prompt_for(pictures), "steered", aggregation=method)
        for name, pictures in {"once": photos, "twice": [*photos, *photos]}.items()
    }
    pictures = render(server.client, branches(**prompts))
    assert difference(pictures["once"], pictures["twice"]) <= 1


def test_outside_of_start_and_end_nothing_changes(server, photos):
    """None of the three steps falls on 40 percent."""
    prompt = prompt_for(photos, steps=3)
    graph = branches(
        unpatched=with_inputs(prompt, "sample", model=["models", 0]),
        outside=with_inputs(prompt, "steered", start_percent=0.4, end_percent=0.4),
        inside=with_inputs(prompt, "steered", start_percent=0.0, end_percent=0.5),
    )
    pictures = render(server.client, graph)
    assert np.array_equal(pictures["unpatched"], pictures["outside"])
    assert difference(pictures["unpatched"], pictures["inside"]) > 16


def test_running_again_gives_the_same_picture(server, photos):
    graph, pictures = prompt_for(photos), []
    for _ in range(2):
        forget(server)
        prompt_id = server.client.submit(graph)
        pictures += server.client.pictures(server.client.wait(prompt_id))
        status = server.client.get_json(f"/history/{prompt_id}")[prompt_id]["status"]
        cached = [data["nodes"] for kind, data in status["messages"] if kind == "execution_cached"]
        assert "sample" not in cached[0]
    assert pictures[0] == pictures[1]


def test_branches_do_not_see_each_other(server, photos):
    first = prompt_for(photos[:1], seed=7)
    second = with_inputs(prompt_for(photos[2:], 0.5, seed=7), "steered", aggregation="mean")
    plain = with_inputs(first, "sample", model=["models", 0])
    alone = render(server.client, plain)[""], render(server.client, first)[""]
    forget(server)
    both = render(server.client, branches(second=second, first=first, plain=plain))
    assert np.array_equal(both["plain"], alone[0])
    assert np.array_equal(both["first"], alone[1])
    assert difference(both["plain"], both["first"]) > 16
    assert difference(both["first"], both["second"]) > 16


def test_kept_references_give_the_same_picture(server, photos):
    graph = prompt_for(photos)
    graph["keep"] = node(
        "MultiIPAdapter_SaveReferences", references=["references", 0], name="kept", overwrite=True
    )
    graph = with_inputs(graph, "references", reference_weights="1, 2, 3, 4")
    before = render(server.client, graph)[""]
    again = {k: v for k, v in graph.items() if k != "keep" and not k.startswith("picture")}
    again["references"] = node("MultiIPAdapter_LoadReferences", references_file="kept.safetensors")
    assert np.array_equal(before, render(server.client, again)[""])


def test_example_prompts_run(server):
    for name in ("demo", "save_references", "load_references", "two_adapters", "mask"):
        graph = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
        for key, entry in graph.items():
            if entry["class_type"] == "EmptyLatentImage":
                graph = with_inputs(graph, key, width=64, height=64)
            if entry["class_type"] == "KSampler":
                graph = with_inputs(graph, key, steps=2)
        outputs = server.client.run(graph)
        if name == "save_references":
            assert outputs["save"]["text"] == ["anna.safetensors"]
        else:
            saved = {k: v for k, v in outputs.items() if graph[k]["class_type"] == "SaveImage"}
            assert len(server.client.pictures(saved)) == 1


def test_progress_tells_nodes_and_steps(server, photos):
    events = []
    server.client.run(prompt_for(photos[:1], steps=3, seed=11), lambda *e: events.append(e))
    assert [e for e in events if e[0] == "sample"][0] == ("sample", 0, 0)
    assert [e for e in events if e[0] == "sample" and e[2] == 3][-1] == ("sample", 3, 3)
    assert ("save", 0, 0) in events


def test_demo_draws_its_pictures_and_a_sheet(server, tmp_path, capsys):
    written = draw(server.client, tmp_path / "out", steps=2)
    references = [f"reference_{k}.png" for k in range(REFERENCES)]
    drawn = [case.file for case in CASES]
    assert [path.name for path in written] == [*references, *drawn, "truth.png", "sheet.png"]
    shown = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in written}
    steered = [shown[name].astype(np.int16) for name in drawn]
    assert min(difference(*steered[:2]), difference(*steered[1:])) > 16
    assert shown["sheet.png"].shape[1] > 1000
    told = capsys.readouterr().out
    assert "KSampler: step 2 of 2" in told and "hides: " in told
    assert len(re.findall(r"\d+ of \d+ visible attributes right, similarity -?\d", told)) == 4


# ---- starting a server -------------------------------------------------------------------------


@pytest.mark.process
def test_server_that_cannot_start_says_why(tmp_path):
    with (
        pytest.raises(
            ServerError, match="(?s)exit code 2.*unrecognized arguments: --no-such-option"
        ),
        ComfyServer(tmp_path, ["--cpu", "--no-such-option"]),
    ):
        pass


def test_missing_comfyui_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ServerError, match="expected the top folder of a ComfyUI checkout"):
        comfyui_main()
    monkeypatch.delenv("COMFYUI_PATH")
    with pytest.raises(ServerError, match="COMFYUI_PATH is not set"):
        comfyui_main()


def test_link_replaces_links_and_spares_folders(tmp_path):
    link = tmp_path / "ComfyUI-MultiIPAdapter"
    link.symlink_to(tmp_path / "gone")
    link_pack(tmp_path)
    assert link.samefile(PACK)
    link_pack(tmp_path)
    assert link.samefile(PACK)
    link.unlink()
    (link / "somebody's").mkdir(parents=True)
    with pytest.raises(ServerError, match="is in the way"):
        link_pack(tmp_path)
    assert (link / "somebody's").is_dir()
