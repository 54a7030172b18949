"""The pack in a real ComfyUI server, through the HTTP API: what headless users see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from multi_ipadapter.demo.__main__ import CASES, REFERENCES, draw
from multi_ipadapter.demo.client import PromptError
from multi_ipadapter.demo.prompt import ADAPTER_FILE, node
from multi_ipadapter.demo.server import PACK, ComfyServer, ServerError, comfyui_main, link_pack

from .graphs import (
    branches,
    difference,
    prompt_for,
    render,
    upload_portraits,
    with_inputs,
    write_adapter_like,
    write_pickle_with_code,
)

PROMPTS = Path(__file__).parents[1] / "workflows" / "api"


@pytest.fixture(scope="session")
def photos(server, tmp_path_factory):
    """Names of the uploaded pictures of four people."""
    return upload_portraits(server.client, tmp_path_factory.mktemp("portraits"), 4)


@pytest.fixture(scope="session")
def adapters(server):
    """The server's folder of adapters."""
    return server.base / "models" / "ipadapter"


@pytest.fixture
def good_prompt(server, photos):
    """After the test, a good prompt (not a cached one) still runs."""
    yield prompt_for(photos[:2])
    good_prompt.seed = getattr(good_prompt, "seed", 1000) + 1
    assert render(server.client, prompt_for(photos[:2], seed=good_prompt.seed))


def forget(server) -> None:
    """ComfyUI drops all results and models.

    It looks at the request after a prompt only, unless it comes while nothing else is to be done:
    so after this prompt at the latest.
    """
    server.client.post_json("/free", {"free_memory": True})
    picture = node("EmptyImage", width=16, height=16, batch_size=1, color=0)
    server.client.run({"picture": picture, "show": node("PreviewImage", images=["picture", 0])})


def error_of(server, graph) -> str:
    """The message with which a graph fails."""
    with pytest.raises(PromptError) as caught:
        server.client.run(graph)
    return str(caught.value)


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
    assert len(re.findall(r"\d+ of \d+ attributes right, similarity -?\d", told)) == 4


# ---- bad input ---------------------------------------------------------------------------------


def adapter_graph(prompt, file):
    return with_inputs(prompt, "adapter", ipadapter_file=file)


def test_wrong_encoder(server, good_prompt, adapters):
    write_adapter_like(adapters / "vit_h.safetensors", 7, 128, input_dim=1024)
    message = error_of(server, adapter_graph(good_prompt, "vit_h.safetensors"))
    assert "MultiIPAdapter_EncodeReferences" in message
    assert "CLIP-ViT-H-14" in message
    assert "pooled width 256" in message
    assert "models/clip_vision" in message


@pytest.mark.parametrize(
    ("family", "layers", "context_dim"), [("SDXL", 70, 2048), ("SD2.x", 16, 1024)]
)
def test_adapter_of_another_family(server, good_prompt, adapters, family, layers, context_dim):
    write_adapter_like(adapters / "other.safetensors", layers, context_dim, input_dim=256)
    graph = with_inputs(
        adapter_graph(good_prompt, "other.safetensors"), "save", filename_prefix=family
    )
    message = error_of(server, graph)
    assert "MultiIPAdapter_Apply" in message
    assert f"The adapter is for {family}" in message
    assert "context 128" in message
    assert "same family" in message


def test_file_that_is_no_adapter(server, good_prompt, adapters):
    save_file({"lora_unet_down.weight": torch.zeros(2, 2)}, adapters / "lora.safetensors")
    message = error_of(server, adapter_graph(good_prompt, "lora.safetensors"))
    assert "MultiIPAdapter_Load" in message
    assert "lora.safetensors: this is a LoRA, not an IP-Adapter" in message


def test_truncated_file(server, good_prompt, adapters):
    whole = (adapters / ADAPTER_FILE).read_bytes()
    (adapters / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    message = error_of(server, adapter_graph(good_prompt, "cut.safetensors"))
    assert "cut.safetensors" in message
    assert "download it again" in message


def test_pickle_with_code_is_not_run(server, good_prompt, adapters, tmp_path):
    marker = tmp_path / "ran"
    content = {"image_proj": {"proj.weight": torch.zeros(4, 4)}, "ip_adapter": {}}
    write_pickle_with_code(adapters / "code.bin", marker, content)
    message = error_of(server, adapter_graph(good_prompt, "code.bin"))
    assert "code.bin" in message
    assert "could run code" in message
    assert not marker.exists()


def with_picture(prompt, **nodes):
    """The prompt with `nodes` added, the last of which makes the first reference."""
    last = list(nodes)[-1]
    graph = with_inputs(prompt, "references", **{"reference_images.reference_image_0": [last, 0]})
    return graph | nodes


def test_nan_image(server, good_prompt):
    latent = torch.full((1, 32, 8, 8), float("nan"))
    file = {"latent_tensor": latent, "latent_format_version_0": torch.tensor([])}
    save_file(file, server.base / "input" / "nan.latent")
    graph = with_picture(
        good_prompt,
        broken=node("LoadLatent", latent="nan.latent"),
        nan=node("VAEDecode", samples=["broken", 0], vae=["models", 2]),
    )
    message = error_of(server, graph)
    assert "reference_image_0: the image holds NaN" in message
    assert "earlier node" in message


def test_image_with_transparency(server, good_prompt):
    graph = with_picture(
        good_prompt,
        rgba=node("JoinImageWithAlpha", image=["picture_0", 0], alpha=["picture_0", 1]),
    )
    assert "reference_image_0: got 4 channels; expected 3 (RGB)" in error_of(server, graph)


def test_mask_without_size(server, good_prompt):
    graph = with_inputs(good_prompt, "steered", mask=["nothing", 0]) | {
        "whole": node("SolidMask", value=1.0, width=32, height=32),
        "nothing": node("CropMask", mask=["whole", 0], x=64, y=0, width=8, height=8),
    }
    assert "Got a mask of shape (1, 8, 0); expected" in error_of(server, graph)


def test_more_references_than_inputs(server, good_prompt):
    name = "reference_images.reference_image_64"
    more = {name: good_prompt["references"]["inputs"]["reference_images.reference_image_0"]}
    message = error_of(server, with_inputs(good_prompt, "references", **more))
    assert f"Got the unknown input {name}; expected names from" in message


def test_no_references(server, good_prompt):
    first = {"reference_images.reference_image_0": None, "reference_images.reference_image_1": None}
    message = error_of(server, with_inputs(good_prompt, "references", **first))
    assert "MultiIPAdapter_EncodeReferences" in message
    assert "Got no reference images; connect at least one to reference_images." in message


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("1, 2, 3", "Got 3 reference weights for 2 reference images"),
        ("1, -2", "expected positive numbers"),
        ("1, 0", "expected positive numbers"),
        ("1, nan", "expected positive numbers"),
        ("one, two", "expected numbers separated by commas"),
    ],
)
def test_reference_weights(server, good_prompt, weights, expected):
    graph = with_inputs(good_prompt, "references", reference_weights=weights)
    assert expected in error_of(server, graph)


def test_start_after_end(server, good_prompt):
    graph = with_inputs(good_prompt, "steered", start_percent=0.8, end_percent=0.2)
    message = error_of(server, graph)
    assert "start_percent 0.8 and end_percent 0.2" in message
    assert "start_percent <= end_percent" in message


@pytest.mark.parametrize(
    "name", ["../escaped", "{folder}/escaped", "..\\escaped", "sub/escaped", ".."]
)
def test_names_with_path_parts_are_not_written(server, good_prompt, tmp_path, name):
    name = name.format(folder=tmp_path)
    graph = good_prompt | {
        "save": node("MultiIPAdapter_SaveReferences", references=["references", 0], name=name)
    }
    message = error_of(server, graph)
    assert f"Got the name {name!r}" in message
    assert "plain file name" in message
    assert not [*server.base.parent.rglob("*escaped*"), *tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["../{}", "../ipadapter/{}", "{base}/models/ipadapter/{}"])
def test_names_with_path_parts_are_not_read(server, good_prompt, name):
    name = name.format(ADAPTER_FILE, base=server.base)
    assert "Value not in list" in error_of(server, adapter_graph(good_prompt, name))
    graph = good_prompt | {
        "references": node("MultiIPAdapter_LoadReferences", references_file=name)
    }
    assert "Value not in list" in error_of(server, graph)


def test_interrupt_leaves_the_server_usable(server, good_prompt):
    graph = with_inputs(good_prompt, "sample", steps=1000)

    def interrupt(name, step, steps):
        if name == "sample" and 0 < step < 500:  # the server does not report every step
            server.client.post_json("/interrupt")

    with pytest.raises(PromptError, match="interrupted at KSampler"):
        server.client.run(graph, interrupt)


# ---- starting a server -------------------------------------------------------------------------


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
