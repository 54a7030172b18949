"""G and U against loops from their formulas, and what must not change the image attention."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multi_ipadapter.models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from multi_ipadapter.models.aggregation import AGGREGATIONS, TokenScore, aggregate
from multi_ipadapter.models.attention import add_image_attention
from multi_ipadapter.models.projection import ProjectionConfig

from .plain_attention import sdpa

BATCH, DIM, HEADS, QUERIES = 2, 8, 2, 5
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, database=None)
ALL = pytest.mark.parametrize("method", AGGREGATIONS)

references = st.integers(1, 5)
tokens = st.integers(1, 4)
seeds = st.integers(0, 2**20)
weight = st.floats(0.05, 20)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_all(n: int, t: int, seed: int):
    """Queries, K', V' and a score that is not zero."""
    q = draw(BATCH, QUERIES, DIM, seed=seed)
    keys, values = (draw(BATCH, n, t, DIM, seed=seed + i) for i in (1, 2))
    return q, keys, values, draw(2, DIM // 2, seed=seed + 3)


def attended(method, q, keys, values, weights=None, mask=None, score=None):
    """softmax(Q G^T / sqrt d) U, [B, L, D]."""
    g, u, bias = aggregate(method, keys, values, weights, mask, score)
    return add_image_attention(torch.zeros_like(q), q, g, u, 1.0, sdpa(HEADS), bias)


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@BOUNDED
@given(tokens, seeds, weight)
def test_one_reference_is_a_plain_ip_adapter_in_every_aggregation(t, seed, w):
    q, keys, values, score = draw_all(1, t, seed)
    plain = add_image_attention(torch.zeros_like(q), q, keys[:, 0], values[:, 0], 1.0, sdpa(HEADS))
    for method in AGGREGATIONS:
        same(attended(method, q, keys, values, score=score), plain)
        same(attended(method, q, keys, values, torch.tensor([[w]]), score=score), plain)


@ALL
@BOUNDED
@given(data=st.data(), n=references, t=tokens, seed=seeds)
def test_order_of_the_references_does_not_matter(method, data, n, t, seed):
    q, keys, values, score = draw_all(n, t, seed)
    weights = torch.tensor([data.draw(st.lists(weight, min_size=n, max_size=n))])
    order = data.draw(st.permutations(range(n)))
    before = attended(method, q, keys, values, weights, score=score)
    after = attended(method, q, keys[:, order], values[:, order], weights[:, order], score=score)
    same(before, after)


@ALL
@BOUNDED
@given(n=references, t=tokens, copies=st.integers(2, 3), seed=seeds)
def test_duplicating_all_references_does_not_matter(method, n, t, copies, seed):
    q, keys, values, score = draw_all(n, t, seed)
    copied = (x.repeat(1, copies, 1, 1) for x in (keys, values))
    same(
        attended(method, q, keys, values, score=score),
        attended(method, q, *copied, score=score),
    )


@ALL
@BOUNDED
@given(n=references, t=tokens, extra=st.integers(1, 3), weighted=st.booleans(), seed=seeds)
def test_masked_padding_does_not_matter_whatever_it_holds(method, n, t, extra, weighted, seed):
    q, keys, values, score = draw_all(n, t, seed)
    weights = draw(1, n, seed=seed).exp() if weighted else None
    mask = torch.tensor([[True] * n + [False] * extra]).expand(BATCH, -1)

    def padded(x, size):
        return torch.cat([x, size * draw(*x.shape[:1], extra, *x.shape[2:], seed=9)], dim=1)

    before = attended(method, q, keys, values, weights, score=score)
    weights = torch.cat([weights, torch.ones(1, extra)], 1) if weighted else None
    for size in (0.0, 1e4):
        after = attended(method, q, padded(keys, size), padded(values, size), weights, mask, score)
        same(before, after)


@ALL
def test_rows_of_one_batch_may_have_different_numbers_of_references(method):
    q, keys, values, score = draw_all(4, 3, 0)
    mask = torch.tensor([[True, False, True, False], [True, True, True, True]])
    weights = draw(BATCH, 4, seed=1).exp()
    together = attended(method, q, keys, values, weights, mask, score)
    for row in range(BATCH):
        here = mask[row]
        alone = attended(
            method,
            q[row : row + 1],
            keys[row : row + 1, here],
            values[row : row + 1, here],
            weights[row : row + 1, here],
            score=score,
        )
        same(together[row : row + 1], alone)


@ALL
def test_gradients_are_finite_and_do_not_reach_the_padding(method):
    with torch.inference_mode(False):
        q, keys, values, score = draw_all(3, 2, 0)
        weights = torch.tensor([[1.0, 2.0, 1.0]])
        mask = torch.tensor([[True, True, False], [True, False, False]])
        for x in (keys, values, score):
            x.requires_grad_()
        attended(method, q, keys, values, weights, mask, score).square().sum().backward()
        for x in (keys, values):
            assert torch.isfinite(x.grad).all()
            assert (x.grad[~mask] == 0).all()
            assert (x.grad[mask].abs().amax(dim=(-1, -2)) > 0).all()
        if method == "learned":
            assert torch.isfinite(score.grad).all()
            assert (score.grad != 0).any()


@BOUNDED
@given(data=st.data(), n=references, t=tokens, seed=seeds)
def test_concat_bias_weighs_the_softmax_terms(data, n, t, seed):
    """w_i exp(q k) / sum of w_i exp(q k), over the tokens of every reference."""
    q, keys, values, _ = (x.double() for x in draw_all(n, t, seed))
    w = data.draw(st.lists(weight, min_size=n, max_size=n))
    d = DIM // HEADS
    expected = torch.zeros_like(q)
    for head in range(HEADS):
        c = slice(head * d, (head + 1) * d)
        terms = torch.einsum("blc,bntc->blnt", q[..., c], keys[..., c]).div(math.sqrt(d)).exp()
        terms = terms * torch.tensor(w, dtype=torch.float64)[:, None]
        total = torch.einsum("blnt,bntc->blc", terms, values[..., c])
        expected[..., c] = total / terms.sum(dim=(2, 3))[..., None]
    same(attended("concat", q, keys, values, torch.tensor([w])), expected, atol=2e-6)


@BOUNDED
@given(data=st.data(), n=references, t=tokens, seed=seeds)
def test_mean_is_the_weighted_mean(data, n, t, seed):
    _, keys, values, _ = (x.double() for x in draw_all(n, t, seed))
    w = data.draw(st.lists(weight, min_size=n, max_size=n))
    g, u, bias = aggregate("mean", keys, values, torch.tensor([w]))
    assert bias is None
    for got, given_ in ((g, keys), (u, values)):
        expected = sum(w[i] / sum(w) * given_[:, i] for i in range(n))
        same(got, expected, atol=2e-6)


@BOUNDED
@given(data=st.data(), n=references, t=tokens, groups=st.sampled_from([1, 2]), seed=seeds)
def test_learned_is_a_softmax_per_token(data, n, t, groups, seed):
    """a_i = softmax_i(s . K'_i,t / sqrt d + log w_i), for whole tokens or per head group."""
    _, keys, values, _ = (x.double() for x in draw_all(n, t, seed))
    w = data.draw(st.lists(weight, min_size=n, max_size=n))
    d = DIM // groups
    score = 3 * draw(groups, d, seed=seed).double()
    g, u, _ = aggregate("learned", keys, values, torch.tensor([w]), None, score)
    for b in range(BATCH):
        for token in range(t):
            for group in range(groups):
                c = slice(group * d, (group + 1) * d)
                terms = [
                    w[i] * math.exp(float(score[group] @ keys[b, i, token, c]) / math.sqrt(d))
                    for i in range(n)
                ]
                for got, given_ in ((g, keys), (u, values)):
                    expected = sum(
                        term / sum(terms) * given_[b, i, token, c] for i, term in enumerate(terms)
                    )
                    same(got[b, token, c], expected, atol=1e-5)


@BOUNDED
@given(data=st.data(), n=references, t=tokens, groups=st.sampled_from([1, 2]), seed=seeds)
def test_learned_begins_as_mean(data, n, t, groups, seed):
    _, keys, values, _ = draw_all(n, t, seed)
    weights = torch.tensor([data.draw(st.lists(weight, min_size=n, max_size=n))])
    fresh = TokenScore(DIM, groups).score
    mean = aggregate("mean", keys, values, weights)
    for score in (fresh, None):
        learned = aggregate("learned", keys, values, weights, score=score)
        same(learned.keys, mean.keys, atol=1e-6)
        same(learned.values, mean.values, atol=1e-6)


def test_a_trained_score_prefers_references():
    """Not the mean any more: the reference whose key agrees with s gets nearly everything."""
    keys, values = torch.zeros(1, 2, 1, DIM), torch.arange(2.0).reshape(1, 2, 1, 1)
    keys[0, 1] = 1.0
    u = aggregate("learned", keys, values.expand(1, 2, 1, DIM), score=torch.full((1, DIM), 9.0))[1]
    assert u.min() > 0.99


@pytest.mark.parametrize(("method", "tokens"), [("concat", 12), ("mean", 3), ("learned", 3)])
def test_sizes(method, tokens):
    _, keys, values, score = draw_all(4, 3, 0)
    g, u, bias = aggregate(method, keys, values, torch.ones(1, 4), score=score)
    assert g.shape == u.shape == (BATCH, tokens, DIM)
    assert bias is None if method != "concat" else bias.shape == (BATCH, tokens)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type(method, dtype):
    q, keys, values, score = draw_all(4, 3, 0)
    half = aggregate(method, keys.to(dtype), values.to(dtype), torch.ones(1, 4), score=score)
    full = aggregate(method, keys, values, torch.ones(1, 4), score=score)
    assert half.keys.dtype == half.values.dtype == dtype
    torch.testing.assert_close(half.keys.float(), full.keys, atol=0.03, rtol=0.03)
    torch.testing.assert_close(half.values.float(), full.values, atol=0.03, rtol=0.03)


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ValueError, match="Got aggregation 'median'; expected one of concat, mean"):
        aggregate("median", torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))


def make_adapter(**config) -> MultiIPAdapter:
    projection = ProjectionConfig("linear", num_tokens=3, output_dim=6, input_dim=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = MultiIPAdapter(MultiIPAdapterConfig(projection, (8, 16), **config))
    for parameter in adapter.aggregator.parameters():
        parameter.data = draw(*parameter.shape, seed=1)
    return adapter.requires_grad_(False)


@ALL
def test_adapter_gives_each_layer_its_own_aggregate(method):
    adapter = make_adapter(aggregation=method, aggregator_heads=2)
    context = draw(BATCH, 4, 3, 6)
    layers = adapter.aggregate(context)
    assert len(layers) == 2
    for number, layer in zip(("1", "3"), layers, strict=True):
        keys, values = adapter.ip_adapter[number](context)
        expected = aggregate(method, keys, values, score=adapter.aggregator[number].score)
        assert torch.equal(layer.keys, expected.keys)
        assert torch.equal(layer.values, expected.values)


@ALL
def test_adapter_with_slots_tells_the_references_apart(method):
    """With one pair of weights per reference, order matters; with one shared pair it does not."""
    context = draw(1, 3, 3, 6)
    swapped = context[:, [1, 0, 2]]
    q = draw(1, QUERIES, 8, seed=2)
    for slots, differs in ((1, False), (3, True)):
        adapter = make_adapter(slots=slots)
        outputs = []
        for tokens_ in (context, swapped):
            g, u, bias = adapter.aggregate(tokens_, method)[0]
            zero = torch.zeros_like(q)
            outputs.append(add_image_attention(zero, q, g, u, 1.0, sdpa(HEADS), bias))
        assert ((outputs[0] - outputs[1]).abs().max() > 1e-3) == differs
