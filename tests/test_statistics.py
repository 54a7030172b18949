"""Mean and covariance: streamed, merged, saved, and refused when they come from something else."""

from __future__ import annotations

import io
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multi_ipadapter.evaluation.metrics.statistics import (
    Gaussian,
    GaussianStatistics,
    Provenance,
    gaussian_of,
    load_statistics,
    save_statistics,
)

from .builders import assert_says, refusal
from .features import random_features

HERE = Provenance("fid-inception", "ab" * 32, "torch-fidelity", "pool")


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def streamed(features, sizes):
    statistics = GaussianStatistics()
    for part in features.split(sizes):
        statistics.update(part)
    return statistics


def test_streaming_equals_numpy():
    x = random_features(300, 20, mean=5)
    found = streamed(x, [1, 7, 92, 200]).gaussian()
    assert found.n == 300 and found.dim == 20
    assert error(found.mean, x.mean(dim=0)) < 1e-14
    assert error(found.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False))) < 1e-12
    assert torch.equal(found.covariance, found.covariance.T)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 59), max_size=5), mean=st.sampled_from([0.0, 5.0, 1e4]))
def test_any_split_gives_the_same(cuts, mean):
    x = random_features(60, 6, mean=mean)
    edges = sorted({0, *cuts, 60})
    split = streamed(x, [end - start for start, end in pairwise(edges)])
    found, wanted = split.gaussian(), gaussian_of(x)
    assert found.n == 60
    assert error(found.mean, wanted.mean) < 1e-12
    assert error(found.covariance, wanted.covariance) < 1e-12 * max(1, mean)


def test_a_mean_far_from_zero_costs_no_digits():
    x = random_features(500, 8)
    far = streamed(x + 1e6, 50).gaussian()
    # Adding 1e6 itself rounds x to 1e-10.
    assert error(far.covariance, gaussian_of(x).covariance) < 1e-8


def test_float32_features_are_summed_in_float64():
    x = (random_features(1000, 4) + 5).float()
    found = streamed(x, 10).gaussian()
    assert found.covariance.dtype == torch.float64
    assert error(found.covariance, gaussian_of(x.double()).covariance) < 1e-13


def test_statistics_made_in_inference_mode_go_on_outside():
    x = random_features(20, 3)
    statistics = streamed(x[:10], 5)
    with torch.inference_mode(False):
        statistics.update(x[10:].clone())
    assert error(statistics.gaussian().covariance, gaussian_of(x).covariance) < 1e-13


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        (torch.full((3, 4), torch.nan), ["3 of 3", "NaN", "float32"]),
        (torch.zeros(3, 5), ["5 values", "4", "same number", "same network"]),
        (torch.zeros(4), ["[4]", "[pictures, values]", "one row"]),
        (torch.zeros(2, 4, dtype=torch.int64), ["int64", "floating-point"]),
        (torch.zeros(0, 4), ["0 added", "at least 1", "Add pictures"]),
    ],
)
def test_bad_features_are_refused_and_nothing_is_added(features, parts):
    statistics = streamed(random_features(10, 4), 10)
    before = statistics.gaussian()
    assert_says(refusal(statistics.update, features), *parts)
    assert torch.equal(statistics.gaussian().covariance, before.covariance)
    assert statistics.n == 10


def test_one_picture_has_no_covariance():
    assert_says(refusal(gaussian_of, torch.ones(1, 4)), "1 picture", "at least 2", "Add")
    assert_says(refusal(GaussianStatistics().gaussian), "0 picture", "at least 2", "Add")


def test_files_give_back_every_bit(tmp_path):
    saved = gaussian_of(random_features(50, 6, mean=1))
    path = tmp_path / "folder" / "real.npz"
    save_statistics(path, saved, HERE)
    loaded = load_statistics(path, HERE)
    assert torch.equal(loaded.gaussian.mean, saved.mean)
    assert torch.equal(loaded.gaussian.covariance, saved.covariance)
    assert loaded.gaussian.n == 50 and loaded.provenance == HERE and loaded.warning == ""
    assert [p.name for p in path.parent.iterdir()] == ["real.npz"]


def test_public_tools_read_the_file(tmp_path):
    saved = gaussian_of(random_features(50, 6))
    save_statistics(tmp_path / "a.npz", saved, HERE)
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid does
        assert np.array_equal(file["mu"], saved.mean.numpy())
        assert np.array_equal(file["sigma"], saved.covariance.numpy())


@pytest.mark.parametrize("field", Provenance._fields)
def test_statistics_of_something_else_are_refused(tmp_path, field):
    path = tmp_path / "real.npz"
    save_statistics(path, gaussian_of(random_features(50, 6)), HERE)
    wanted = HERE._replace(**{field: "other"})
    message = refusal(load_statistics, path, wanted)
    assert_says(message, "real.npz", field, getattr(HERE, field), "other", "again")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_files_of_public_tools_are_read_with_a_warning(tmp_path, dtype):
    x = random_features(50, 6).numpy()
    np.savez(
        tmp_path / "tool.npz",
        mu=x.mean(axis=0).astype(dtype),
        sigma=np.cov(x, rowvar=False).astype(dtype),
    )
    loaded = load_statistics(tmp_path / "tool.npz", HERE)
    assert loaded.provenance is None and loaded.gaussian.n is None
    assert error(loaded.gaussian.mean, torch.from_numpy(x).mean(dim=0)) < 1e-6
    assert loaded.gaussian.covariance.dtype == torch.float64
    assert_says(loaded.warning, "tool.npz", "network", "resize")


def test_statistics_of_unknown_size_are_not_saved(tmp_path):
    unknown = Gaussian(torch.zeros(2), torch.eye(2), None)
    message = refusal(save_statistics, tmp_path / "a.npz", unknown, HERE)
    assert_says(message, "a.npz", "number of pictures", "again")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "real.npz"
    old = gaussian_of(random_features(50, 6))
    save_statistics(path, old, HERE)

    def full(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("os.fsync", full)
        save_statistics(path, gaussian_of(random_features(50, 6, seed=1)), HERE)
    assert torch.equal(load_statistics(path).gaussian.mean, old.mean)
    assert [p.name for p in tmp_path.iterdir()] == ["real.npz"]


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = {"mu": np.zeros(3), "sigma": np.eye(3)}
BOMBS = np.array([Bomb()], dtype=object)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (pickle.dumps(Bomb()), ["cannot be read", "never loaded", "again"]),
        (npz(mu=BOMBS, sigma=np.eye(3)), ["cannot be read", "never loaded", "again"]),
        (npz(**GOOD)[:-40], ["cannot be read", "cut off", "again"]),
        (npz(**GOOD)[:40], ["cannot be read", "cut off", "again"]),
        (b"", ["cannot be read", "again"]),
        (npy(np.zeros(3)), ["cannot be read", "npz", "again"]),
        (npz(feats=np.zeros((5, 3))), ["feats", "'mu' and 'sigma'", "Choose"]),
        (npz(mu=np.zeros(3), sigma=np.eye(4)), ["[3]", "[4, 4]", "[D, D]", "again"]),
        (npz(mu=np.zeros(3, int), sigma=np.eye(3)), ["floating-point", "again"]),
        (npz(mu=np.full(3, np.nan), sigma=np.eye(3)), ["NaN", "finite", "again"]),
        (npz(format=1, **GOOD), ["damaged", "extractor", "again"]),
        (npz(format=2, n=5, **HERE._asdict(), **GOOD), ["format 2", "expected 1", "Update"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_files_are_refused(tmp_path, content, parts):
    path = tmp_path / "real.npz"
    path.write_bytes(content)
    assert_says(refusal(load_statistics, path), "real.npz", *parts)


def test_a_missing_file_is_named(tmp_path):
    assert_says(refusal(load_statistics, tmp_path / "no.npz"), "no.npz", "does not exist", "Check")
