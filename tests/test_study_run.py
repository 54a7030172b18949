"""The study draws and scores with the real models; a few people instead of many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from multi_ipadapter.demo.study import run
from multi_ipadapter.demo.study.cells import BASE, DESCRIBED, MAIN, RECODED, Cell, without
from multi_ipadapter.demo.study.people import held_out
from multi_ipadapter.demo.study.summary import by_attribute

PEOPLE = 5
CELLS = [without(BASE), without(DESCRIBED), without(RECODED), Cell(*MAIN, 4, 1.0)]
ADAPTER = Path(run.__file__).parents[1] / "weights" / "adapter.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "adapters").mkdir()
    shutil.copy(ADAPTER, folder / "adapters" / f"{MAIN[0]}.safetensors")
    return folder


@pytest.fixture(scope="module")
def measured(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "PEOPLE", PEOPLE)
        patch.setattr(run, "grid", lambda: CELLS)
        yield run.measure(folder, folder / "adapters")


def test_references_and_words_tell_who_is_to_be_drawn(folder, measured):
    right = {cell: measured[cell]["accuracy"].mean().item() for cell in CELLS}
    base, told, recoded, four = (right[cell] for cell in CELLS)
    assert base + 0.2 < min(told, four) and max(told, four) < recoded
    assert measured[CELLS[0]]["accuracy"].shape == (PEOPLE * 3,)
    assert measured[CELLS[0]]["copying"].isnan().all()
    assert not measured[CELLS[3]]["copying"].isnan().any()


def test_each_attribute_is_counted_where_it_is_to_be_seen(folder, measured):
    people = held_out(folder / "pictures", PEOPLE)
    found = measured[CELLS[3]]
    truth, seen = people.pictures.attributes, people.pictures.visible
    rows = people.prompts.flatten().tolist()
    first = found["attribute.0"].argmax(1).tolist()
    shown = [k for k, row in enumerate(rows) if seen[row, 0]]
    right = sum(first[k] == truth[rows[k], 0] for k in shown)
    shares = by_attribute(found, people)
    assert shares[0] == pytest.approx(right / len(shown))
    assert len(shares) == truth.shape[1]


def test_what_is_measured_is_not_measured_again(folder, measured, monkeypatch):
    monkeypatch.setattr(run, "PEOPLE", PEOPLE)
    monkeypatch.setattr(run, "grid", lambda: CELLS)
    times = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = run.measure(folder, folder / "no adapters here")
    assert (again[CELLS[3]]["accuracy"] == measured[CELLS[3]]["accuracy"]).all()
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
