"""Reports: strict JSON and back, tables for spreadsheets, comparisons."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace

import pytest

from multi_ipadapter.evaluation.report import (
    EvaluationReport,
    NetworkUse,
    Point,
    SourceUse,
    Value,
    compare,
    write_csv,
    write_json,
)

from .reports import read_report


def report(n=3, weights="a" * 64, resize="clean", real=5):
    points = [
        Point(
            {"weight": weight, "kind": "=1+1"},
            n,
            {
                "dino": Value(0.5 + weight, 0.4, 0.7, n, {"clusters": 2}),
                "fid": Value(None, n=n, detail={"reason": "too few"}),
                "is": Value(1.25, n=n, detail={"std": float("nan")}),
            },
        )
        for weight in (0.0, -0.25)
    ]
    rows = [
        {
            "image": "=cmd.png",
            "identity": "@a",
            "prompt": 'a "b", c\nd',
            "conditions": {"weight": 0.0, "kind": "-x"},
            "values": {"dino": -0.5, "identity": None},
        }
    ]
    return EvaluationReport(
        points,
        rows,
        [NetworkUse("inception", "fid-inception", weights, resize)],
        [
            SourceUse("generated", n, {"8x8": n}, {"PNG": n}, [["bad.png", "damaged"]]),
            SourceUse("real", real),
        ],
        {"seed": 0},
        ["a warning"],
    )


def table(path):
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "spreadsheets see UTF-8 by it"
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_json_is_strict_and_comes_back(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(report(), path)

    def refuse(name):
        raise AssertionError(name)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["points"][0]["values"]["is"]["detail"] == {"std": None}
    assert content["points"][1]["conditions"]["weight"] == -0.25
    again = read_report(path)
    assert again.to_dict() == report().to_dict() == content
    assert again.points[0].values["dino"] == Value(0.5, 0.4, 0.7, 3, {"clusters": 2})


def test_writing_replaces_whole_files_and_leaves_no_others(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(report(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", _full_disk)
    for write in (write_json, write_csv):
        with pytest.raises(OSError, match="full"):
            write(report(7), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["report.json"]


def _full_disk(_):
    raise OSError("full")


def test_tables_have_a_row_for_every_value(tmp_path):
    paths = write_csv(report(), tmp_path / "report.csv")
    assert [p.name for p in paths] == ["report.csv", "report_images.csv"]
    head, *rows = table(paths[0])
    assert head == ["weight", "kind", "metric", "value", "low", "high", "n", "detail"]
    assert rows[0] == ["0.0", "'=1+1", "dino", "0.5", "0.4", "0.7", "3", "clusters = 2"]
    assert rows[4] == ["-0.25", "'=1+1", "fid", "", "", "", "3", "reason = too few"]
    assert len(rows) == 6
    head, *rows = table(paths[1])
    assert head == ["image", "identity", "prompt", "weight", "kind", "dino", "identity"]
    assert rows == [["'=cmd.png", "'@a", 'a "b", c\nd', "0.0", "'-x", "-0.5", ""]]


def test_empty_cells_stay_empty(tmp_path):
    rows = [{"image": "a.png", "identity": "", "prompt": "", "conditions": {}, "values": {}}]
    report = EvaluationReport([Point({}, 1, {"is": Value(1.0)})], rows, [], [], {}, [])
    _, images = write_csv(report, tmp_path / "r.csv")
    assert b"'" not in images.read_bytes()


def test_all_cells_are_quoted(tmp_path):
    """A semicolon splits cells in some countries, and what follows it may begin like a formula."""
    changed = report()
    changed.per_image[0]["prompt"] = "x;=HYPERLINK(1)"
    _, images = write_csv(changed, tmp_path / "report.csv")
    assert '"x;=HYPERLINK(1)"' in images.read_text(encoding="utf-8-sig")


def test_comparison_warns_where_n_or_the_network_differ():
    assert compare({"a": report(), "b": report()}) == []
    (warning,) = compare({"a": report(), "b": report(n=4)})
    assert "Different numbers of generated pictures (a: 3, b: 4)" in warning
    (warning,) = compare({"a": report(), "b": report(real=9)})
    assert "Different numbers of real pictures (a: 5, b: 9)" in warning
    for other in (report(weights="b" * 64), report(resize="torch-fidelity")):
        (warning,) = compare({"a": report(), "b": other})
        assert warning.startswith("Different networks for inception (a: fid-inception aaaa")


def changed(part, **changes):
    """A report with other settings, or another detail of the metric `part`."""
    other = report()
    if part == "settings":
        return replace(other, settings={**other.settings, **changes})
    points = [
        replace(p, values={**p.values, part: replace(p.values[part], **changes)})
        for p in other.points
    ]
    return replace(other, points=points)


def test_comparison_warns_where_n_of_one_value_differs():
    (warning,) = compare({"a": report(), "b": changed("dino", n=2)})
    assert "generated pictures (a: 3, b: 2) behind dino of kind = =1+1, weight = 0.0" in warning
    assert "and 1 more values" in warning
    moved = report()
    points = [replace(moved.points[0], n=6), moved.points[1]]
    one_more = replace(moved, points=[*points, replace(points[0], conditions={"weight": 9})])
    one_more = replace(one_more, sources=[SourceUse("generated", 9), SourceUse("real", 5)])
    assert compare({"a": report(), "b": one_more}) == [], "what both have is of equal n"


@pytest.mark.parametrize(
    ("setting", "ours", "theirs"),
    [
        ("splits", 10, 1),
        ("fid_minimum", 50, 2),
        ("mixed_sizes", "resize", "skip"),
        ("statistics", None, "real.npz"),
        ("confidence", 0.95, 0.9),
    ],
)
def test_comparison_warns_where_settings_differ(setting, ours, theirs):
    a, b = changed("settings", **{setting: ours}), changed("settings", **{setting: theirs})
    (warning,) = compare({"a": a, "b": b})
    shown = "none" if ours is None else ours
    assert warning.startswith(f"Different {setting} (a: {shown}, b: {theirs}):")
    assert compare({"a": a, "b": a}) == compare({"a": a, "b": report()}) == []


def test_settings_of_metrics_that_are_not_shared_do_not_matter():
    a, b = changed("settings", splits=10), changed("settings", splits=1)
    points = [replace(p, values={"dino": p.values["dino"]}) for p in b.points]
    assert compare({"a": a, "b": replace(b, points=points)}) == []


@pytest.mark.parametrize("what", ["definition", "features", "recogniser", "head", "network"])
def test_comparison_warns_where_a_metric_is_defined_differently(what):
    a, b = changed("dino", detail={what: "one"}), changed("dino", detail={what: "other"})
    (warning,) = compare({"a": a, "b": b})
    assert warning.startswith(f"dino has different {what} (a: one, b: other)")
    assert compare({"a": a, "b": a}) == compare({"a": a}) == compare({}) == []


def test_text_for_people():
    text = str(report())
    assert "weight = 0.0, kind = =1+1 (n = 3)" in text and "0.5 [0.4, 0.7]" in text
    assert "fid              - (too few)" in text
    assert "generated: 3 pictures, 1 skipped" in text and "warning: a warning" in text
