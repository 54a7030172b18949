"""What earlier versions wrote is read and goes on: runs, caches, identities, sweeps, statistics."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from multi_ipadapter.evaluation.metrics.statistics import gaussian_of, load_statistics
from multi_ipadapter.models.references import load_references

from .earlier import (
    FILES,
    PROVENANCE,
    STEPS,
    STOPPED,
    losses,
    set_times,
    small_models,
    sweep,
    train,
)


@pytest.fixture
def earlier(base):
    """ComfyUI's folders as an earlier version left them."""
    shutil.rmtree(base / "input" / "people")
    shutil.copytree(FILES, base, dirs_exist_ok=True)
    set_times(base / "input")
    return base


def contents(folder):
    """Bytes of every file below, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_run_and_its_cache_go_on(earlier):
    caches, run = earlier / "output" / "training_cache", earlier / "output" / "training" / "earlier"
    before = contents(caches)
    assert max(losses(run)) == STOPPED and len(before) == 2
    train(small_models()[0], STEPS)
    wanted = {int(k): v for k, v in json.loads((earlier / "losses.json").read_text()).items()}
    # Other processors round otherwise; other noise or other rows would differ by a tenth.
    assert losses(run) == pytest.approx(wanted, abs=1e-4)
    assert contents(caches) == before  # nothing was encoded again


def test_a_sweep_goes_on(earlier):
    home = earlier / "output" / "evaluation" / "earlier"
    before = contents(home)
    gone = "pictures/000_p05/p00_w1_n2_s0.png"
    (home / gone).unlink()
    sweep(*small_models())
    after = contents(home)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {gone}


def test_an_identity_is_read(earlier):
    references = load_references(earlier / "output" / "references" / "earlier.safetensors")
    assert references.num_references == 2
    assert all(x.isfinite().all() for x in references.features.values())


def test_statistics_are_read(earlier):
    found = load_statistics(earlier / "statistics.npz", PROVENANCE).gaussian
    wanted = gaussian_of(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))
    assert found.n == 40
    assert torch.allclose(found.mean, wanted.mean)
    assert torch.allclose(found.covariance, wanted.covariance)
