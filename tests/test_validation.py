"""Validation at fixed noise, and the adapter that a run starts from."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multi_ipadapter.files.tensors import write_safetensors
from multi_ipadapter.models.adapter import MultiIPAdapter
from multi_ipadapter.models.checkpoint import load_adapter, save_adapter
from multi_ipadapter.models.projection import POOLED
from multi_ipadapter.training.initial import initial_adapter
from multi_ipadapter.training.loop import TrainingError
from multi_ipadapter.training.validation import Interval, Validator

from .builders import assert_says, refusal
from .training_world import WIDTHS, World, make_run, one_layer_backbone, settings


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


def fresh(widths=WIDTHS, text_weights=None, **changes) -> MultiIPAdapter:
    weights = text_weights or one_layer_backbone().text_weights()
    return initial_adapter(settings(**changes), weights, widths)


def weights_of(*shape):
    return [(torch.randn(shape), torch.randn(shape))]


@pytest.mark.parametrize(
    ("values", "quantile"),  # Student's t, 97.5 %, from a printed table
    [([1.0, 3.0], 12.706), ([1.0, 2.0, 3.0, 6.0], 3.182), ([1.0, 5.0] * 500, 1.962)],
)
def test_an_interval_is_the_mean_and_its_uncertainty(values, quantile):
    values = torch.tensor(values, dtype=torch.float64)
    interval = Interval.of(values)
    assert interval.mean == pytest.approx(values.mean().item())
    half = quantile * values.std().item() / len(values) ** 0.5
    assert interval.high - interval.mean == pytest.approx(half, rel=3e-4)
    assert interval.mean - interval.low == pytest.approx(half, rel=3e-4)


def test_the_same_every_time_and_paired():
    validator = Validator(one_layer_backbone(), World(), settings())
    adapter = fresh()
    first = validator(adapter)
    torch.randn(3)
    assert validator(adapter) == first
    assert first.identities == 5
    assert first.gain.mean == pytest.approx(first.none.mean - first.matched.mean, abs=1e-6)
    assert first.gain_over_shuffled.mean == pytest.approx(
        first.shuffled.mean - first.matched.mean, abs=1e-6
    )


def test_the_batch_size_changes_nothing():
    sizes = (1, 3, 8, 32)
    reports = [
        Validator(one_layer_backbone(), World(), settings(batch_size=b))(fresh()) for b in sizes
    ]
    for report in reports[1:]:
        for name in ("matched", "none", "shuffled"):
            mean = getattr(report, name).mean
            assert mean == pytest.approx(getattr(reports[0], name).mean, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_no_more_rows_at_a_time_than_in_training(batch_size):
    backbone, rows = one_layer_backbone(), []

    def counted(function):
        def call(noisy, *args):
            rows.append(len(noisy))
            return function(noisy, *args)

        return call

    watched = dataclasses.replace(
        backbone,
        denoise=counted(backbone.denoise),
        attention_ratio=counted(backbone.attention_ratio),
    )
    Validator(watched, World(), settings(batch_size=batch_size))(fresh())
    assert max(rows) == batch_size and sum(rows) == 5 * 8 * 4  # cases, times, kinds of passes


@pytest.mark.parametrize("first", [1, 50])
def test_memory_that_runs_out_in_a_validation(tmp_path, first):
    backbone, calls = one_layer_backbone(), []

    def attention_ratio(*args):
        calls.append(1)
        if len(calls) >= first:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backbone.attention_ratio(*args)

    small = dataclasses.replace(backbone, attention_ratio=attention_ratio)
    config = settings(validate_every=2, batch_size=1)
    run = make_run(tmp_path, config, small, World(seed=1))
    message = refusal(run.go, kind=TrainingError)
    left = "no checkpoint" if first == 1 else "state-00000002.safetensors, is intact"
    step = 0 if first == 1 else 2
    assert_says(message, f"Memory ran out after step {step}", "Lower batch_size", left)


def test_the_largest_seed(tmp_path):
    config = settings(seed=2**32 - 1, validate_every=1, steps=1)
    run = make_run(tmp_path, config, held_out=World(seed=1))
    assert run.go().finished
    assert_says(refusal(settings, seed=2**32), f"seed = {2**32}", f"below {2**32}")


def test_references_that_say_nothing_gain_nothing_over_shuffled_ones():
    world = World()
    world.tensors[POOLED][:] = 1.0
    report = Validator(one_layer_backbone(), world, settings())(fresh())
    assert abs(report.gain_over_shuffled.mean) < 1e-6 < abs(report.gain.mean)


def test_no_more_references_than_slots():
    config = settings(slots=2, max_references=2, validation_references=4)
    validator = Validator(one_layer_backbone(), World(), config)
    assert max(len(case.references) for case in validator.cases) == 2
    assert validator(initial_adapter(config, one_layer_backbone().text_weights(), WIDTHS))


class Standing(World):
    """The pictures of the second identity cannot be read; those of the third stand in for them."""

    def readable(self, rows):
        """As `OnlineSource` does it."""
        third = self.index.pictures_of(2)
        second = self.index.pictures_of(1)
        return [
            dataclasses.replace(row, target=third[0], references=(third[1],))
            if row.target in second
            else row
            for row in rows
        ]


def test_shuffled_references_are_those_of_another_identity():
    """The third identity comes after the one that it stands in for."""
    world, seen = Standing(), []
    fetch, noticed = world.fetch, world.index.pictures_of(2)

    def watched(numbers, names):
        seen.append(list(numbers))
        return fetch(numbers, names)

    world.fetch = watched
    Validator(one_layer_backbone(), world, settings(batch_size=1))(fresh())
    matched, none, shuffled, target = seen[4:8]  # the second case
    assert target == [noticed[0]] and matched == none == [noticed[1]]
    assert shuffled and set(shuffled) <= set(world.index.pictures_of(3))


def test_too_few_identities():
    message = refusal(Validator, one_layer_backbone(), World(counts=[3, 1]), settings())
    assert_says(message, "1 held-out", "at least 2", "validate_every = 0")


@pytest.mark.parametrize("slots", [1, 3])
def test_it_starts_as_the_text_weights(slots):
    ((to_k, to_v),) = weights = weights_of(16, 8)
    for key, value in fresh(text_weights=weights, slots=slots).ip_adapter["1"].pairs():
        assert torch.equal(key.weight, to_k) and torch.equal(value.weight, to_v)
        assert key.weight.requires_grad and key.weight.data_ptr() != to_k.data_ptr()


def saved(tmp_path, **changes):
    adapter = fresh(text_weights=weights_of(16, 8), aggregator_heads=2, **changes)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.randn_like(p))
    save_adapter(adapter, tmp_path / "start.safetensors")
    return adapter, str(tmp_path / "start.safetensors")


def test_it_goes_on_from_our_own_file(tmp_path):
    adapter, path = saved(tmp_path)
    again = fresh(start_from=path, aggregator_heads=2)
    wanted = adapter.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(v, wanted[k]) for k, v in again.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in again.parameters())


def test_more_slots_start_as_the_first_and_a_score_of_other_heads_at_zero(tmp_path):
    adapter, path = saved(tmp_path, slots=2, max_references=2)
    again = fresh(start_from=path, slots=3, aggregator_heads=1)
    own = adapter.ip_adapter["1"].pairs()
    for found, wanted in zip(again.ip_adapter["1"].pairs(), [*own, own[0]], strict=True):
        assert all(torch.equal(f.weight, w.weight) for f, w in zip(found, wanted, strict=True))
    assert (again.aggregator["1"].score == 0).all()


def test_it_goes_on_from_a_plain_public_file(tmp_path):
    """Tensors alone, without our metadata, in half precision."""
    adapter, _ = saved(tmp_path)
    tensors = {k: v.half() for k, v in adapter.state_dict().items() if k[:10] != "aggregator"}
    path = tmp_path / "public.safetensors"
    write_safetensors(path, tensors, {})
    assert load_adapter(path).config.aggregator_heads == 0
    again = fresh(start_from=str(path))
    for name, value in tensors.items():
        assert torch.equal(again.state_dict()[name], value.float())
    assert again.config.aggregation == "learned" and (again.aggregator["1"].score == 0).all()


def test_a_file_for_another_model_or_encoder_is_refused(tmp_path):
    _, path = saved(tmp_path)
    for other in (weights_of(16, 12), weights_of(24, 8), weights_of(16, 8) * 2):
        message = refusal(fresh, text_weights=other, start_from=path)
        assert_says(message, "start from is for", "Choose a file")
    message = refusal(fresh, {POOLED: 96}, start_from=path)
    assert_says(message, "width 48", "96")
