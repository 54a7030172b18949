"""An encoded identity comes back bit-equal; its weights and its file are checked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from multi_ipadapter.models.references import (
    METADATA_KEY,
    ReferenceEmbeds,
    check_weights,
    load_references,
    parse_weights,
    save_references,
)

BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def make_references(n: int, dtype: torch.dtype = torch.float32) -> ReferenceEmbeds:
    generator = torch.Generator().manual_seed(n)

    def features(count: int) -> dict[str, torch.Tensor]:
        shapes = {"image_embeds": (6,), "penultimate_hidden_states": (5, 4)}
        return {
            name: torch.randn(count, *shape, generator=generator).to(dtype)
            for name, shape in shapes.items()
        }

    return ReferenceEmbeds(features(n), features(1), torch.rand(n, generator=generator) + 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 4, 64])
def test_saved_and_loaded_is_bit_equal(n, dtype, tmp_path):
    references = make_references(n, dtype)
    save_references(references, tmp_path / "who.safetensors")
    loaded = load_references(tmp_path / "who.safetensors")
    assert loaded.num_references == references.num_references == n
    assert loaded.weights.dtype == torch.float32
    assert torch.equal(loaded.weights, references.weights)
    for got, expected in (
        (loaded.features, references.features),
        (loaded.null, references.null),
    ):
        assert set(got) == set(expected)
        for name in expected:
            assert got[name].dtype == dtype and torch.equal(got[name], expected[name])


def test_null_features_may_share_memory_with_the_references(tmp_path):
    hidden = torch.randn(3, 5, 4)
    name = "penultimate_hidden_states"
    shared = ReferenceEmbeds({name: hidden}, {name: hidden[:1]}, torch.ones(3))
    save_references(shared, tmp_path / "a.safetensors")
    assert torch.equal(load_references(tmp_path / "a.safetensors").null[name], hidden[:1])


DAMAGE = {
    "no weights": lambda t: t.pop("weights"),
    "too few weights": lambda t: t.update(weights=t["weights"][:2]),
    "weights are no list": lambda t: t.update(weights=t["weights"].sum()),
    "weights in a table": lambda t: t.update(weights=t["weights"][:, None]),
    "weight zero": lambda t: t.update(weights=t["weights"] * 0),
    "weight NaN": lambda t: t.update(weights=t["weights"] + float("nan")),
    "no features": lambda t: [t.pop(k) for k in list(t) if k.startswith("features.")],
    "no null": lambda t: [t.pop(k) for k in list(t) if k.startswith("null.")],
    "one null missing": lambda t: t.pop("null.image_embeds"),
    "null of another shape": lambda t: t.update({"null.image_embeds": torch.zeros(1, 7)}),
    "null of two": lambda t: t.update({"null.image_embeds": torch.zeros(2, 6)}),
    "a feature is a number": lambda t: t.update({"features.image_embeds": torch.zeros(())}),
    "no references": lambda t: t.update(
        {k: v[:0] for k, v in t.items() if not k.startswith("null.")}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_fit_together_is_refused(damage, tmp_path):
    save_references(make_references(3), tmp_path / "who.safetensors")
    tensors = load_file(tmp_path / "who.safetensors")
    DAMAGE[damage](tensors)
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        tmp_path / "who.safetensors",
        {METADATA_KEY: "{}"},
    )
    with pytest.raises(ValueError, match="who.safetensors .*(damaged|no encoded references)"):
        load_references(tmp_path / "who.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_another_file_is_refused(suffix, tmp_path):
    tensors = {"weights": torch.ones(2), "features.a": torch.zeros(2, 3)}
    write = save_file if suffix == ".safetensors" else torch.save
    write(tensors, tmp_path / f"other{suffix}")
    with pytest.raises(ValueError, match="other.* holds no encoded references; expected.*Save"):
        load_references(tmp_path / f"other{suffix}")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file who.safetensors"):
        load_references(tmp_path / "who.safetensors")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1, 1, 1]),
        ("  ,\n", [1, 1, 1]),
        ("1, 0.5, 2", [1, 0.5, 2]),
        ("1 0.5 2", [1, 0.5, 2]),
        ("1;.5\n2e0,", [1, 0.5, 2]),
    ],
)
def test_weights_are_read(text, expected):
    weights = parse_weights(text, 3)
    assert weights.dtype == torch.float32 and weights.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 2", "Got 2 reference weights for 3 reference images; expected one for each"),
        ("1, 2, 3, 4", "Got 4 reference weights for 3"),
        ("1, x, 2", 'Got reference weights "1, x, 2"; expected numbers'),
        ("1, 0, 2", "expected positive numbers. To leave a reference out"),
        ("1, -1, 2", "expected positive numbers"),
        ("1, nan, 2", "expected positive numbers"),
        ("1, inf, 2", "expected positive numbers"),
        ("1, 1e-60, 2", "expected positive numbers"),  # zero in float32
        ("1, 1e60, 2", "expected positive numbers"),  # infinite in float32
    ],
)
def test_bad_weights_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_weights(text, 3)


@BOUNDED
@given(st.text(max_size=12), st.integers(1, 4))
def test_any_text_gives_positive_weights_or_a_clear_error(text, count):
    try:
        weights = parse_weights(text, count)
    except ValueError as error:
        assert "expected" in str(error)
    else:
        assert weights.shape == (count,) and bool((weights > 0).all())


@BOUNDED
@given(st.lists(st.floats(2**-20, 2**20, width=32), min_size=1, max_size=8))
def test_weights_written_out_are_read_back(values):
    text = ", ".join(map(str, values))
    assert torch.equal(parse_weights(text, len(values)), check_weights(values, len(values)))
    assert parse_weights(text, len(values)).tolist() == values
