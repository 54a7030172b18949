"""What a user of the real server is told about bad input; afterwards good input still runs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from multi_ipadapter.demo.client import PromptError
from multi_ipadapter.demo.prompt import ADAPTER_FILE, node

from .graphs import (
    prompt_for,
    render,
    upload_portraits,
    with_inputs,
    write_adapter_like,
    write_pickle_with_code,
)


@pytest.fixture(scope="module")
def photos(server, tmp_path_factory):
    """Names of the uploaded pictures of two people."""
    return upload_portraits(server.client, tmp_path_factory.mktemp("portraits"), 2)


@pytest.fixture(scope="module")
def adapters(server):
    """The server's folder of adapters."""
    return server.base / "models" / "ipadapter"


@pytest.fixture
def good_prompt(server, photos):
    """After the test, a good prompt (not a cached one) still runs."""
    yield prompt_for(photos)
    good_prompt.seed = getattr(good_prompt, "seed", 1000) + 1
    assert render(server.client, prompt_for(photos, seed=good_prompt.seed))


def error_of(server, graph) -> str:
    """The message with which a graph fails."""
    with pytest.raises(PromptError) as caught:
        server.client.run(graph)
    return str(caught.value)


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
