"""What the front end gets of a report: each value of each point, as strict JSON."""

from __future__ import annotations

import json
import math

from multi_ipadapter.evaluation.report import EvaluationReport, Point, Value
from multi_ipadapter.nodes.evaluation.report_view import report_view


def report_of(*points, warnings=()):
    return EvaluationReport(list(points), [], [], [], {}, list(warnings))


def point(weight, **values):
    return Point({"weight": weight}, 60, values)


def test_a_row_for_each_point_and_metric():
    fid = Value(12.5, 11.0, 14.0, 60)
    inception = Value(3.25, n=60, detail={"std": 0.5})
    report = report_of(point(0.0, fid=fid, **{"is": inception}), point(1.0, fid=fid))
    (rows,) = report_view({"": report}, [])["report"]
    assert [(row["conditions"], row["metric"]) for row in rows] == [
        ({"weight": 0.0}, "fid"),
        ({"weight": 0.0}, "is"),
        ({"weight": 1.0}, "fid"),
    ]
    assert rows[0] == {
        "report": "",
        "conditions": {"weight": 0.0},
        "metric": "fid",
        "value": 12.5,
        "low": 11.0,
        "high": 14.0,
        "std": None,
        "n": 60,
        "better": "lower",
        "reason": "",
    }
    assert (rows[1]["value"], rows[1]["std"], rows[1]["better"]) == (3.25, 0.5, "higher")


def test_what_has_no_value_says_why():
    report = report_of(point(0.5, fid=Value(None, n=7, detail={"reason": "too few pictures"})))
    ((row,),) = report_view({"": report}, [])["report"]
    assert row["value"] is None and row["n"] == 7 and row["reason"] == "too few pictures"


def test_numbers_that_are_not_finite_are_none():
    broken = Value(math.nan, -math.inf, math.inf, 60, {"std": math.nan})
    view = report_view({"": report_of(point(math.inf, fid=broken))}, [])
    ((row,),) = json.loads(json.dumps(view, allow_nan=False))["report"]
    assert [row[key] for key in ("value", "low", "high", "std")] == [None] * 4
    assert row["conditions"] == {"weight": None}


def test_names_warnings_and_figures():
    reports = {
        "small": report_of(point(0.5, kid=Value(0.1)), warnings=["few pictures"]),
        "large": report_of(point(0.5, kid=Value(0.2))),
    }
    view = report_view(reports, {"table": 1, "best": 2}, ["different n"])
    assert [row["report"] for row in view["report"][0]] == ["small", "large"]
    assert view["warnings"] == ["small: few pictures", "different n"]
    assert view["figures"] == ["table", "best"]
