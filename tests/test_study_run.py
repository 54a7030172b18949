"""The study draws and scores with the real models; a few people instead of many."""

from __future__ import annotations

import shutil

import pytest
import torch

from multi_ipadapter.demo.study import measure as run
from multi_ipadapter.demo.study.cells import BASE, DESCRIBED, MAIN, RECODED, Cell, Part, without
from multi_ipadapter.demo.study.judging import told_factors
from multi_ipadapter.demo.study.people import held_out
from multi_ipadapter.demo.study.summary import also_wrong, by_attribute, by_showing, chance
from multi_ipadapter.demo_world import world

pytestmark = pytest.mark.slow

PEOPLE, N = 5, 4
BASE_CELL, TOLD, CODED, FOUR = CELLS = [
    *map(without, (BASE, DESCRIBED, RECODED)),
    Cell(*MAIN, N, 1.0),
]
FIRST, CFG = 0, 5.0
PART = Part(FIRST, CFG, 1.0, tuple(CELLS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "adapters").mkdir()
    bundled = world.WEIGHTS_FOLDER / "adapter.safetensors"
    shutil.copy(bundled, folder / "adapters" / f"{MAIN[0]}.safetensors")
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "PEOPLE", PEOPLE)
        yield


@pytest.fixture(scope="module")
def people(folder):
    return held_out(folder / "pictures", PEOPLE, FIRST)


@pytest.fixture(scope="module")
def measured(folder, people):
    judged = run.measure(PART, folder, folder / "adapters")
    real = run.real_pictures(folder)
    found = {cell: run.scored(said, cell, people, real) for cell, said in judged.items()}
    return found, run.ceiling(people, real)


def test_references_and_words_tell_who_is_to_be_drawn(measured):
    found, truth = measured
    base, told, coded, four = (found[cell]["accuracy"].mean().item() for cell in CELLS)
    assert base + 0.2 < min(told, four) and max(told, four) < coded
    assert coded <= truth["accuracy"].mean().item() + 0.02
    assert found[BASE_CELL]["accuracy"].shape == (PEOPLE * 3,)
    assert found[BASE_CELL]["copying"].isnan().all()
    assert not found[FOUR]["copying"].isnan().any()


def test_attributes_are_counted_where_they_are_to_be_seen(measured, people):
    found, truth = measured
    attributes, seen = people.pictures.attributes, people.pictures.visible
    wanted = people.prompts.flatten().tolist()
    said = torch.stack([found[FOUR][f"attribute.{k}"].argmax(1) for k in range(16)], 1).tolist()
    shares, groups = [[] for _ in range(16)], {}
    for picture, row in enumerate(wanted):
        given = people.references[row // people.pictures.views, :N]
        for k in range(16):
            if seen[row, k]:
                right = said[picture][k] == attributes[row, k]
                shares[k].append(right)
                groups.setdefault(sum(seen[g, k] for g in given), []).append(right)
    expected = [sum(each) / len(each) for each in shares]
    assert by_attribute(found[FOUR], people) == pytest.approx(expected)
    for times, each in groups.items():
        shown = by_showing(found[FOUR], people, N, range(times, times + 1))
        assert (shown.mean, shown.n) == (pytest.approx(sum(each) / len(each)), len(each))
    missed, anyway = also_wrong(found[FOUR], found[FOUR], truth, people)
    assert missed == 1 and 0 < anyway < 0.5
    assert also_wrong(found[FOUR], truth, truth, people) == (0, 0)
    # A guess among all values is lower, since those that are seen more often count more often.
    blind = [
        sum(1 / len(names) for k, names in enumerate(world.ATTRIBUTES.values()) if seen[row, k])
        / seen[row].sum()
        for row in wanted
    ]
    assert sum(blind) / len(blind) < chance(people) < 0.3


def test_a_caption_is_held_to_what_it_tells():
    scene = dict.fromkeys(world.VIEW_FACTORS, 0)

    def told(caption, **values):
        chosen = scene | {name.replace("_", " "): value for name, value in values.items()}
        marks = told_factors(caption, list(chosen.values()))
        return {name for name, mark in zip(world.VIEW_FACTORS, marks, strict=True) if mark}

    always = {"pose", "background", "hat", "eyewear", "lower face", "crop"}
    assert told("a person, white wall") == always | {"eyes"}
    assert told("a person, with sunglasses", eyewear=1) == always
    cap, scarf = {"hat": 1}, {"lower_face": 1}
    assert told("a person with a red cap", **cap) == always | {"eyes", "hat colour"}
    assert told("a person, red scarf", **scarf) == always | {"eyes", "scarf colour"}
    assert told("a person, dressed in red, at night", light=3) == always | {
        "eyes",
        "shirt",
        "light",
    }


def test_what_is_measured_is_measured_again_only_when_its_models_change(folder, measured):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}

    before = times()
    run.measure(PART, folder, folder / "adapters")
    assert times() == before
    other = folder / "other"
    other.mkdir()
    bundled = (world.WEIGHTS_FOLDER / "adapter.safetensors").read_bytes()
    (other / f"{MAIN[0]}.safetensors").write_bytes(bundled + b" ")  # another file, by its bytes
    people = run.checksum(held_out(folder / "pictures", PEOPLE, FIRST))
    marks = [run.fingerprint(FOUR, folder / name, people, CFG) for name in ("adapters", "other")]
    assert marks[0] != marks[1]
    assert run.fingerprint(TOLD, other, people, CFG) == run.fingerprint(TOLD, folder, people, CFG)
    with pytest.raises(FileNotFoundError, match="multi_learned.safetensors is not there"):
        run.fingerprint(FOUR, folder / "nothing", people, CFG)


def test_other_settings_or_people_make_the_cells_stale(folder, measured, people, monkeypatch):
    shown, adapters = run.checksum(people), folder / "adapters"
    before = run.fingerprint(FOUR, adapters, shown, CFG)
    assert run.fingerprint(FOUR, adapters, shown + 1, CFG) != before
    assert run.fingerprint(FOUR, adapters, shown, CFG + 1) != before
    monkeypatch.setattr(run, "STEPS", run.STEPS + 1)
    assert run.fingerprint(FOUR, adapters, shown, CFG) != before
