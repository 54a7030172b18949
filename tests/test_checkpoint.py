"""Adapter files of others: every public family is recognised, anything else is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from multi_ipadapter.models.checkpoint import (
    detect_config,
    load_adapter,
    normalise_keys,
)

from .families import (
    FAMILIES,
    SMALL_CONTEXT,
    SMALL_KINDS,
    Family,
    assert_equal,
    hollow,
    layers,
    linear,
    refusal,
    small_file,
)

BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, database=None)
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.file)


def flat(nested: Mapping[str, Mapping]) -> dict:
    return {
        f"{head}.{name}": value for head, inner in nested.items() for name, value in inner.items()
    }


# Public families


@EVERY_FAMILY
def test_public_families_are_recognised(family: Family, tmp_path):
    path = tmp_path / family.file
    torch.save(hollow(family.shapes()), path)
    random_state = torch.get_rng_state()
    adapter = load_adapter(path)

    assert torch.equal(torch.get_rng_state(), random_state), "weights were initialised"
    parameters = adapter.state_dict()
    assert not any(p.is_meta or p.requires_grad for p in adapter.parameters())
    # The file holds one number, of which the tensors are views: nothing else was allocated.
    assert {p.untyped_storage().nbytes() for p in parameters.values()} == {2}

    config = adapter.config
    found = {name: getattr(config.projection, name) for name in family.projection}
    assert found == family.projection
    assert config.projection.inputs == family.inputs
    assert config.projection.output_dim == family.context
    assert config.layer_dims == family.dims
    assert (config.slots, config.aggregation, config.aggregator_heads) == (1, "concat", 0)
    assert config.image_encoder == family.encoder
    assert config.base_model.startswith("SDXL (70" if family.sdxl else "SD1.x (16")

    standard = {"image_proj": family.image_proj, "ip_adapter": layers(family.dims, family.context)}
    assert {name: tuple(value.shape) for name, value in parameters.items()} == flat(standard)


@EVERY_FAMILY
def test_flat_keys_are_recognised_like_nested_ones(family: Family):
    tensors = hollow(family.shapes())
    assert detect_config(normalise_keys(flat(tensors))) == detect_config(normalise_keys(tensors))


@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_weights_of_a_safetensors_file_are_taken_as_they_are(kind, tmp_path):
    save_file(small_file(kind), tmp_path / "a.safetensors")
    assert_equal(load_adapter(tmp_path / "a.safetensors").state_dict(), small_file(kind))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_weights_of_a_pickled_file_are_taken_as_they_are(suffix, zipped, tmp_path):
    path = tmp_path / f"a{suffix}"
    torch.save(small_file("linear"), path, _use_new_zipfile_serialization=zipped)
    assert_equal(load_adapter(path).state_dict(), small_file("linear"))


@pytest.mark.parametrize(
    ("file", "choice", "shortcut"),
    [
        ("ip-adapter-faceid-plus_sd15.bin", "auto", False),
        ("ip-adapter-faceid-plusv2_sd15.bin", "auto", True),
        ("IP-Adapter-FaceID-Plus-V2.bin", "auto", True),
        ("face_plus_v2_renamed.bin", "auto", True),
        ("mine.bin", "auto", False),
        ("mine.bin", "v2", True),
        ("ip-adapter-faceid-plusv2_sd15.bin", "v1", False),
    ],
)
def test_faceid_plus_version_comes_from_the_name_or_by_choice(file, choice, shortcut, tmp_path):
    torch.save(small_file("faceid_plus"), tmp_path / file)
    adapter = load_adapter(tmp_path / file, faceid_plus=choice)
    assert adapter.config.projection.shortcut == adapter.image_proj.shortcut == shortcut


def test_a_choice_of_version_does_not_disturb_other_kinds(tmp_path):
    torch.save(small_file("faceid"), tmp_path / "a.bin")
    assert not load_adapter(tmp_path / "a.bin", faceid_plus="v2").config.projection.shortcut


# Raw training dumps


@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_dump_with_adapter_modules(prefix, tmp_path):
    tensors = small_file("linear")
    dump = {
        prefix
        + name.replace("image_proj.", "image_proj_model.").replace(
            "ip_adapter.", "adapter_modules."
        ): tensor
        for name, tensor in tensors.items()
    }
    dump[f"{prefix}unet.conv_in.weight"] = torch.zeros(4, 4, 3, 3)
    processor = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"
    dump[f"{prefix}{processor}.to_k_ip.weight"] = torch.zeros(9, SMALL_CONTEXT)
    torch.save(dump, tmp_path / "pytorch_model.bin")
    assert_equal(load_adapter(tmp_path / "pytorch_model.bin").state_dict(), tensors)


def test_training_dump_with_names_of_the_unet_only(tmp_path):
    """The order is that of diffusers' `attn_processors`, with 11 before 2 in none of the blocks."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=12,
            transformer_layers_per_block=(12, 1),
            cross_attention_dim=8,
            norm_num_groups=8,
        )
    names = [name for name in unet.attn_processors if ".attn2." in name]
    assert any("up_blocks.1.attentions.10.transformer_blocks.11." in name for name in names)
    dump = {f"image_proj_model.{k}": v for k, v in hollow(linear(8, 4)).items()}
    for i, name in sorted(enumerate(names), key=lambda item: item[1]):  # as a file sorts them
        for number, which in ((i, "k"), (-i, "v")):
            dump[f"unet.{name}.to_{which}_ip.weight"] = torch.full((3, 8), float(number))
    torch.save(dump, tmp_path / "dump.bin")
    adapter = load_adapter(tmp_path / "dump.bin")
    assert list(adapter.ip_adapter) == [str(2 * i + 1) for i in range(len(names))]
    for i, layer in enumerate(adapter.ip_adapter.values()):
        assert (layer.to_k_ip.weight == i).all() and (layer.to_v_ip.weight == -i).all()


# Other files


def _without(name: str) -> dict:
    tensors = small_file("linear")
    del tensors[name]
    return tensors


def _with(name: str, tensor, kind: str = "linear") -> dict:
    return small_file(kind) | {name: tensor}


def _shapes(*names: str) -> dict:
    return hollow(dict.fromkeys(names, (2, 2)))


_BASE = hollow(linear(SMALL_CONTEXT, 48))
_TRANSFORMER = {f"{i}.to_{w}_ip.weight": (16, SMALL_CONTEXT) for i in range(4) for w in "kv"}
_KOLORS = next(family for family in FAMILIES if "plusv2_sdxl" in family.file)
_KOLORS_FACE = _KOLORS.image_proj | {"norm.weight": (4096,), "proj.2.weight": (24576, 1024)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            _shapes("double_blocks.0.processor.k.weight", "ip_adapter_proj_model.proj.weight"),
            "XLabs IP-Adapter for Flux",
        ),
        (_shapes("double_blocks.0.img_attn.qkv.weight"), "a Flux model"),
        (_shapes("id_adapter.body.0.weight", "id_adapter_attn_layers.1.k.weight"), "a PuLID"),
        (_shapes("pulid_ca.0.norm1.weight"), "a PuLID"),
        (
            {"image_proj": _shapes("mapping_0.0.weight"), "ip_adapter": hollow(layers((4,), 4))},
            "a PuLID",
        ),
        ({"image_proj": _BASE, "ip_adapter": hollow(_TRANSFORMER)}, "Flux or SD3.5"),
        (
            {"lora_weights": _shapes("unet.to_q"), "id_encoder": _shapes("vision_model.a")},
            "PhotoMaker",
        ),
        (_shapes("model.diffusion_model.input_blocks.0.0.weight"), "a checkpoint"),
        (_shapes("lora_unet_down_blocks_0.lora_down.weight"), "a LoRA"),
        (_shapes("unet.down_blocks.0.attn1.to_q.lora_A.weight"), "is not an IP-Adapter"),
        (_shapes("vision_model.encoder.layers.0.mlp.fc1.weight"), "models/clip_vision"),
        (
            {
                "image_proj": hollow(_KOLORS_FACE),
                "adapter_modules": hollow(layers(_KOLORS.dims, 2048)),
            },
            "FaceID-Plus adapter for Kolors",
        ),
        ({}, "is not an IP-Adapter"),
        ({"image_proj": _BASE}, "is not an IP-Adapter"),
        ({"ip_adapter": hollow(layers((4,), 4))}, "is not an IP-Adapter"),
        ({"image_proj": _shapes("a", "b"), "ip_adapter": hollow(layers((4,), 4))}, "unknown kind"),
        (_without("ip_adapter.3.to_k_ip.weight"), "layers 3 are missing"),
        (_without("ip_adapter.3.to_v_ip.weight"), "missing tensors: ip_adapter.3.to_v_ip"),
        (_without("image_proj.norm.bias"), "missing tensors: image_proj.norm.bias"),
        (_with("ip_adapter.3.to_v_ip.weight", torch.zeros(24, 63)), r"\(24, 63\), expected"),
        (_with("ip_adapter.3.to_k_ip.weight", torch.zeros(24, 63)), r"\(24, 63\), expected"),
        (_with("ip_adapter.1.to_k_ip.weight", torch.zeros(16)), r"has shape \(16,\)"),
        (_with("ip_adapter.1.to_k_ip.weight", torch.zeros(16, 0)), r"has shape \(16, 0\)"),
        (_with("image_proj.proj.weight", torch.zeros(())), r"has shape \(\), expected 2"),
        (_with("ip_adapter.1.extra", torch.zeros(2)), "unexpected tensors: ip_adapter.1.extra"),
        (_with("aggregator.1.score", torch.zeros(2)), r"aggregator.1.score has shape \(2,\)"),
        (
            _with("ip_adapter.1.to_k_ip.weight", torch.zeros(16, 64, dtype=torch.int8)),
            "holds torch.int8",
        ),
        (_with("image_proj.latents", torch.zeros(2), "resampler"), "image_proj.latents has shape"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "some.bin")
    assert re.search(message, refusal(tmp_path / "some.bin"))


def test_odd_keys_are_no_obstacle(tmp_path):
    tensors = small_file("linear")
    content = tensors | {
        0: torch.zeros(2),
        "epoch": 3,
        "nested": {"deeper": {"a": 1}},
        "none": None,
    }
    content["itself"] = content
    torch.save(content, tmp_path / "a.bin")
    assert_equal(load_adapter(tmp_path / "a.bin").state_dict(), tensors)


@BOUNDED
@given(
    kind=st.sampled_from(list(SMALL_KINDS)),
    place=st.integers(0, 2**20),
    shape=st.none() | st.lists(st.sampled_from([0, 1, 2, 3, 512, 10**4]), max_size=4),
    name=st.none() | st.sampled_from(["ip_adapter.x.to_k_ip.weight", "image_proj.layers.10.a"]),
)
def test_any_wrong_tensor_gives_a_clear_error(kind, place, shape, name, tmp_path_factory):
    """Take one tensor away, or change its shape, or its name too."""
    shapes = {key: tuple(value.shape) for key, value in small_file(kind).items()}
    victim = sorted(shapes)[place % len(shapes)]
    before = shapes.pop(victim)
    if shape is not None:
        shapes[name or victim] = tuple(shape)
    path = tmp_path_factory.getbasetemp() / "wrong.bin"
    torch.save(hollow(shapes), path)
    if shapes.get(victim) != before:
        refusal(path)
