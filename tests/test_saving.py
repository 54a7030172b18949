"""Adapter files of ours: they come back bit-equal, and their metadata is checked."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from multi_ipadapter.models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from multi_ipadapter.models.checkpoint import (
    METADATA_KEY,
    detect_config,
    load_adapter,
    save_adapter,
)

from .families import (
    SMALL_CONTEXT,
    SMALL_DIMS,
    SMALL_KINDS,
    assert_equal,
    refusal,
    small_file,
)

BOUNDED = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def make_adapter(kind: str, slots: int, heads: int, dtype=torch.float32, **config):
    """A small adapter with random weights everywhere, the aggregator's included."""
    detected = detect_config(small_file(kind))
    sizes = replace(detected, slots=slots, aggregator_heads=heads, **config)
    adapter = MultiIPAdapter(sizes).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(slots + heads)
    for parameter in adapter.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("slots", "heads"), [(1, 0), (1, 1), (1, 2), (3, 0), (3, 2)])
@pytest.mark.parametrize("kind", ["linear", "resampler_face", "full_face", "faceid_plus"])
def test_saved_and_loaded_is_bit_equal(kind, slots, heads, dtype, tmp_path):
    path = tmp_path / "folder" / "mine.safetensors"
    adapter = make_adapter(
        kind,
        slots,
        heads,
        dtype,
        aggregation="learned" if heads else "mean",
        image_encoder="the encoder of a test",
        training={"steps": 12, "lr": 1e-4, "data": ["a", "b"], "seed": None},
    )
    save_adapter(adapter, path)
    random_state = torch.get_rng_state()
    loaded = load_adapter(path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert loaded.config == adapter.config
    assert not any(p.is_meta or p.requires_grad for p in loaded.parameters())
    assert_equal(loaded.state_dict(), adapter.state_dict())
    context = torch.randn(1, 2, 4, SMALL_CONTEXT).to(dtype)
    for got, expected in zip(loaded.aggregate(context), adapter.aggregate(context), strict=True):
        assert torch.equal(got.keys, expected.keys) and torch.equal(got.values, expected.values)
    save_adapter(loaded, path)  # over the file that it was loaded from
    assert_equal(load_adapter(path).state_dict(), adapter.state_dict())


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_one_slot_has_the_standard_keys_and_the_aggregator(kind, heads, tmp_path):
    save_adapter(make_adapter(kind, slots=1, heads=heads), tmp_path / "a.safetensors")
    shapes = {k: tuple(v.shape) for k, v in load_file(tmp_path / "a.safetensors").items()}
    standard = {k: tuple(v.shape) for k, v in small_file(kind).items()}
    score = {
        f"aggregator.{2 * i + 1}.score": (heads, dim // heads)
        for i, dim in enumerate(SMALL_DIMS if heads else ())
    }
    assert shapes == standard | score


def test_further_slots_have_names_of_their_own(tmp_path):
    save_adapter(make_adapter("linear", slots=3, heads=0), tmp_path / "a.safetensors")
    added = {
        f"ip_adapter.{2 * i + 1}.to_{which}_ip_slots.{slot}.weight"
        for i in range(len(SMALL_DIMS))
        for which in "kv"
        for slot in (1, 2)
    }
    assert set(load_file(tmp_path / "a.safetensors")) == set(small_file("linear")) | added


def test_files_without_metadata_still_tell_slots_and_aggregator(tmp_path):
    """Conversion tools drop metadata."""
    adapter = make_adapter("linear", slots=3, heads=2, aggregation="learned")
    save_file(adapter.state_dict(), tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.config == replace(adapter.config, aggregation="learned")
    assert_equal(loaded.state_dict(), adapter.state_dict())


def saved_metadata(tmp_path, kind="faceid_plus", **config) -> tuple[dict, dict]:
    path = tmp_path / "ip-adapter-faceid-plusv2.safetensors"
    save_adapter(make_adapter(kind, 1, 0, **config), path)
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()[METADATA_KEY])


def rewrite(path, tensors, values):
    save_file(
        tensors, path, {METADATA_KEY: values if isinstance(values, str) else json.dumps(values)}
    )


def test_metadata_holds_the_config_as_json(tmp_path):
    _, values = saved_metadata(tmp_path, training={"steps": 3})
    assert values["format_version"] == 1
    assert values["base_model"].startswith("another UNet (3 cross-attention layers, context 64")
    assert values["projection"]["kind"] == "faceid_plus"
    assert values["training"] == {"steps": 3}


def test_metadata_beats_the_file_name_and_a_choice_beats_both(tmp_path):
    saved_metadata(tmp_path)  # says v1 in a file that is named v2
    path = tmp_path / "ip-adapter-faceid-plusv2.safetensors"
    assert not load_adapter(path).config.projection.shortcut
    assert load_adapter(path, faceid_plus="v2").config.projection.shortcut
    save_adapter(load_adapter(path, faceid_plus="v2"), tmp_path / "renamed.safetensors")
    assert load_adapter(tmp_path / "renamed.safetensors").config.projection.shortcut


def test_metadata_tells_what_shapes_do_not(tmp_path):
    """Heads of another size than 64, and a hidden width that looks like a face embedding."""
    projection = detect_config(small_file("resampler_face")).projection
    projection = replace(projection, heads=8, dim_head=16, face_input=False)
    adapter = MultiIPAdapter(MultiIPAdapterConfig(projection, SMALL_DIMS))
    save_adapter(adapter, tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").config == adapter.config


def test_metadata_of_later_versions_is_read(tmp_path):
    tensors, values = saved_metadata(tmp_path)
    values["new"], values["projection"]["newer"], values["format_version"] = 1, 2, 9
    rewrite(tmp_path / "a.safetensors", tensors, values)
    assert load_adapter(tmp_path / "a.safetensors").config.format_version == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_dims": [16, 24]}, r"layer_dims = \(16, 24\), its tensors say \(16, 24, 32\)"),
        ({"slots": 2}, "slots = 2, its tensors say 1"),
        ({"aggregator_heads": 1}, "aggregator_heads = 1, its tensors say 0"),
        ({"aggregation": "median"}, "aggregation 'median'; expected one of concat"),
        ({"projection": 3}, "metadata cannot be read"),
    ],
)
def test_metadata_that_does_not_agree_is_refused(change, message, tmp_path):
    tensors, values = saved_metadata(tmp_path)
    rewrite(tmp_path / "a.safetensors", tensors, values | change)
    assert re.search(message, refusal(tmp_path / "a.safetensors"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@BOUNDED
@given(data=st.data(), inside=st.booleans(), value=json_values)
def test_any_metadata_loads_or_gives_a_clear_error(data, inside, value, tmp_path_factory):
    """Replace one value of the config, or of its projection, or all of it."""
    path = tmp_path_factory.getbasetemp() / "metadata.safetensors"
    adapter = make_adapter("faceid", 1, 0)
    tensors, values = adapter.state_dict(), adapter.config.to_dict()
    target = values["projection"] if inside else values
    key = data.draw(st.sampled_from([*target, ""]))
    if key:
        target[key] = value
    rewrite(path, tensors, values if key else value)
    try:
        adapter = load_adapter(path)
    except ValueError:
        refusal(path)
    else:
        assert_equal(adapter.state_dict(), tensors)


def test_files_of_earlier_versions_name_the_recogniser():
    config = replace(detect_config(small_file("faceid")), recogniser="w600k_r50")
    values = config.to_dict()
    assert values["face_recogniser"] == "w600k_r50" and "recogniser" not in values
    assert MultiIPAdapterConfig.from_dict(json.loads(json.dumps(values))) == config
