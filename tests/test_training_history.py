"""What a live chart reads of a run's folder, and what it is told while the run goes on."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from multi_ipadapter.nodes.training.events import TrainingEvents, newest_status
from multi_ipadapter.runs.history import MOST_POINTS, metrics_csv, run_history, thinned

VALIDATION = {name: {"mean": mean} for name, mean in zip("mns", (0.5, 0.6, 0.7), strict=True)}
NAMES = {"m": "matched", "n": "none", "s": "shuffled"}


def trained(step, *losses):
    values = {"learning_rate": step * 1e-5, "gradient_norm": 1.5, "samples_per_second": 8.0}
    return {"kind": "train", "step": step, "loss": 0.0, "losses": losses} | values


def validated(step):
    named = {NAMES[key]: value for key, value in VALIDATION.items()}
    return {"kind": "validation", "step": step} | named


@pytest.fixture
def folder(tmp_path):
    """A run of 10 steps that is at step 4; the last line is cut off."""
    entries = [validated(0), trained(2, 0.9, 0.8), trained(4, 0.7, None), validated(4)]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "train", "st')
    (tmp_path / "config.json").write_text('{"steps": 10}')
    for name in ("preview-00000004.png", "preview-00000000.png", "preview-x.png", "preview-4.png"):
        (tmp_path / name).touch()
    return tmp_path


def test_history_has_curves_steps_and_previews(folder):
    assert run_history(folder) == {
        "step": 4,
        "steps": 10,
        "loss": [(1, 0.9), (2, 0.8), (3, 0.7)],
        "learning_rate": [(2, 2e-5), (4, 4e-5)],
        "matched": [(0, 0.5), (4, 0.5)],
        "none": [(0, 0.6), (4, 0.6)],
        "shuffled": [(0, 0.7), (4, 0.7)],
        "previews": [0, 4],
    }


@pytest.mark.parametrize("config", [None, "", "[1]", '{"steps": "many"}', '{"steps": null}'])
def test_history_without_a_run_or_with_a_damaged_one(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    empty = dict.fromkeys(("loss", "learning_rate", "matched", "none", "shuffled", "previews"), [])
    assert run_history(tmp_path) == {"step": 0, "steps": 0} | empty
    assert run_history(tmp_path / "nowhere") == {"step": 0, "steps": 0} | empty


def test_table_has_every_step_and_its_values(folder):
    rows = list(csv.DictReader(io.StringIO(metrics_csv(folder))))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["loss"] for row in rows] == ["", "0.9", "0.8", "0.7", ""]
    assert [row["learning_rate"] for row in rows] == ["", "", "2e-05", "", "4e-05"]
    assert [row["shuffled"] for row in rows] == ["0.7", "", "", "", "0.7"]
    assert {row["gradient_norm"] for row in rows} == {"", "1.5"}
    head = "step,loss,learning_rate,gradient_norm,samples_per_second,matched,none,shuffled\n"
    assert metrics_csv(folder / "nowhere") == head


@pytest.mark.parametrize("count", [0, 1, MOST_POINTS, MOST_POINTS + 1, 10 * MOST_POINTS + 7])
def test_thinned_curves_keep_the_mean_and_the_last_step(count):
    points = [(step, float(step)) for step in range(1, count + 1)]
    left = thinned(points)
    assert len(left) == count if count <= MOST_POINTS else len(left) > 0.9 * MOST_POINTS / 2
    assert len(left) <= MOST_POINTS
    if count:
        assert left[-1][0] == count, "the chart must not end early"
        assert [y for _, y in left] == sorted(y for _, y in left)
        spans = [b[0] - a[0] for a, b in zip([(0, 0), *left], left, strict=False)]
        total = sum(span * y for span, (_, y) in zip(spans, left, strict=True))
        assert total == pytest.approx(sum(y for _, y in points))


# ---- status ------------------------------------------------------------------------------------


def test_status_is_kept_for_whoever_asks_later():
    with TrainingEvents("anna", "4", 10) as events:
        assert newest_status("anna")["phase"] == "preparing"
        events.tell({"losses": [0.5]}, phase="training", step=3, seconds_left=math.nan)
        status = newest_status("anna")
        assert (status["step"], status["steps"], status["node"]) == (3, 10, "4")
        assert status["seconds_left"] is None, "no JSON that browsers refuse"
        assert "losses" not in status and newest_status("bert") is None
        events.finished = True
    assert newest_status("anna")["phase"] == "finished"


def test_status_tells_how_a_run_ended():
    with TrainingEvents("anna", None, 10):
        pass
    assert newest_status("anna")["phase"] == "stopped"
    with pytest.raises(ValueError, match="memory"), TrainingEvents("anna", None, 10):
        raise ValueError("memory")
    assert newest_status("anna")["phase"] == "failed"
