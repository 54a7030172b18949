"""K' and V' of one layer, and Z'' against loops written straight from its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multi_ipadapter.models.attention import (
    ImageKeyValue,
    add_image_attention,
    attend_by_products,
)

from .plain_attention import sdpa

BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention_by_loops(q, k, v, heads, bias=None):
    """softmax(q k^T / sqrt d + bias) v with every number written out; [B, L, D]."""
    out = torch.zeros_like(q)
    d = q.shape[-1] // heads
    for b in range(q.shape[0]):
        for h in range(heads):
            channels = slice(h * d, (h + 1) * d)
            for i in range(q.shape[1]):
                logits = [
                    float(q[b, i, channels] @ k[b, j, channels]) / math.sqrt(d)
                    + (float(bias[b % bias.shape[0], j]) if bias is not None else 0.0)
                    for j in range(k.shape[1])
                ]
                terms = [math.exp(x) for x in logits]
                for term, value in zip(terms, v[b, :, channels], strict=True):
                    out[b, i, channels] += term / sum(terms) * value
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_products_are_attention(masked):
    q, k, v = draw(2, 5, 12), draw(2, 7, 12, seed=1), draw(2, 7, 12, seed=2)
    bias = draw(2, 7, seed=3) if masked else None
    found = attend_by_products(q, k, v, 3, None if bias is None else bias[:, None, None])
    assert torch.allclose(found, attention_by_loops(q, k, v, 3, bias), atol=1e-12)


@BOUNDED
@given(
    heads=st.sampled_from([1, 2, 4]),
    queries=st.integers(1, 5),
    tokens=st.integers(1, 6),
    scale=st.floats(-1, 3),
    bias_rows=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 2**20),
)
def test_output_is_text_plus_lambda_times_image_attention(
    heads, queries, tokens, scale, bias_rows, seed
):
    batch, dim = 2, 8
    q, text = draw(batch, queries, dim, seed=seed), draw(batch, queries, dim, seed=seed + 1)
    k, v = draw(batch, tokens, dim, seed=seed + 2), draw(batch, tokens, dim, seed=seed + 3)
    bias = draw(bias_rows, tokens, seed=seed + 4) if bias_rows else None
    expected = text + scale * attention_by_loops(q, k, v, heads, bias)
    out = add_image_attention(text, q, k, v, scale, sdpa(heads), bias)
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


def test_scale_may_be_a_mask_over_the_queries():
    q, text, k, v = (draw(2, 4, 8, seed=seed) for seed in range(4))
    mask = torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=torch.float64)[None, :, None]  # [1, L, 1]
    out = add_image_attention(text, q, k, v, mask, sdpa(2))
    assert torch.equal(out[:, [0, 3]], text[:, [0, 3]])
    expected = text + mask * attention_by_loops(q, k, v, 2)
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


def test_scale_zero_leaves_the_text_attention_alone():
    q, text, k, v = (draw(2, 4, 8, seed=seed) for seed in range(4))
    assert torch.equal(add_image_attention(text, q, k, v, 0.0, sdpa(2)), text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_masked_token(dtype):
    q, text, k, v = (draw(2, 4, 8, seed=seed) for seed in range(4))
    bias = torch.tensor([[0.0, -0.5, float("-inf"), 1.0]])
    expected = text + 0.7 * attention_by_loops(q, k, v, 2, bias)
    half = [x.to(dtype) for x in (text, q, k, v)]
    out = add_image_attention(*half, 0.7, sdpa(2), bias)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("references", [1, 2, 3])
def test_reference_i_uses_pair_i(slots, references):
    layer = ImageKeyValue(6, 10, slots).double()
    weights = dict(layer.state_dict())
    tokens = draw(2, references, 4, 6)
    keys, values = layer(tokens)
    assert keys.shape == values.shape == (2, references, 4, 10)
    for i in range(references):
        pair = "" if slots == 1 or i == 0 else f"_slots.{i}"
        for got, name in ((keys, "to_k_ip"), (values, "to_v_ip")):
            expected = tokens[:, i] @ weights[f"{name}{pair}.weight"].T
            torch.testing.assert_close(got[:, i], expected, atol=1e-12, rtol=0)


def test_one_shared_slot_takes_any_number_of_references():
    keys, _ = ImageKeyValue(6, 10)(draw(1, 64, 4, 6, dtype=torch.float32))
    assert keys.shape == (1, 64, 4, 10)


def test_more_references_than_slots_are_refused():
    with pytest.raises(ValueError, match="Got 4 reference images.*for 3.*Use at most 3"):
        ImageKeyValue(6, 10, slots=3)(draw(1, 4, 4, 6, dtype=torch.float32))


def test_names_of_the_weights():
    assert set(ImageKeyValue(6, 10).state_dict()) == {"to_k_ip.weight", "to_v_ip.weight"}
    assert set(ImageKeyValue(6, 10, 3).state_dict()) == {
        "to_k_ip.weight",
        "to_v_ip.weight",
        "to_k_ip_slots.1.weight",
        "to_k_ip_slots.2.weight",
        "to_v_ip_slots.1.weight",
        "to_v_ip_slots.2.weight",
    }
