"""Figures show the values of a report where they belong, and leave room for all text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from multi_ipadapter.evaluation.figures import alignment_scatter, metric_chart, table
from multi_ipadapter.evaluation.report import EvaluationReport, Point, Value
from multi_ipadapter.evaluation.sheets import xy_sheet
from multi_ipadapter.figures.axes import COLOURS, Axes, Drawn, font, shortened
from multi_ipadapter.figures.sheets import contact_sheet, ranked_strip
from multi_ipadapter.pictures.sources import TensorSource

WEIGHTS, COUNTS = (0.0, 0.6, 1.2), (1, 4)
LONG = "a warning that goes on " + "and on " * 40


def report(weights=WEIGHTS, counts=COUNTS, warnings=()):
    points, rows = [], []
    for n in counts:
        for weight in weights:
            score = 0.3 + 0.1 * weight + 0.02 * n
            values = {
                "dino": Value(score, score - 0.05, score + 0.05, 8),
                "text_alignment": Value(0.3 - 0.05 * weight, n=8),
                "image_alignment": Value(score, n=8),
                "fid": Value(None, n=8, detail={"reason": "too few"}),
            }
            conditions = {"weight": weight, "references": n}
            points.append(Point(conditions, 8, values))
            for identity in ("anna", "bert"):
                rows.append(
                    {
                        "image": f"image {len(rows)}",
                        "identity": identity,
                        "prompt": "at the sea",
                        "conditions": conditions,
                        "values": {"dino": score if weight else None},
                    }
                )
    return EvaluationReport(points, rows, [], [], {}, list(warnings))


def count(image: Image.Image, colour: str) -> int:
    """Pixels of exactly this colour."""
    return int((np.array(image) == ImageColor.getrgb(colour)[:3]).all(-1).sum())


def plain(value: int, size=(40, 30)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, value // 2))


def test_axes_place_the_values_inside_the_frame():
    xs, ys = [0, 0.6, 1.2], [-3.0, 8.0]
    axes = Axes("title", "x", "y", xs, ys, [Drawn("a curve", COLOURS[0])])
    left, bottom = axes.place(0, -3)
    right, top = axes.place(1.2, 8)
    assert axes.left <= left < right <= axes.right < 960
    assert axes.top <= top < bottom <= axes.bottom < 600
    x, y = axes.place(0.6, 2.5)
    assert x == pytest.approx((left + right) / 2) and y == pytest.approx((top + bottom) / 2)
    axes.line([(0.6, 2.5)], COLOURS[1])
    assert axes.image.getpixel((round(x), round(y))) == ImageColor.getrgb(COLOURS[1])


@pytest.mark.parametrize("ys", [[1.0], [0.0, 0.0], [1e-9, 2e-9], [-1e6, 1e6]])
def test_axes_of_few_or_extreme_values(ys):
    axes = Axes("title", "x", "y", [3.0], ys)
    for y in ys:
        px, py = axes.place(3.0, y)
        assert axes.left < px < axes.right and axes.top <= py <= axes.bottom


def test_a_metric_against_the_weight_has_a_curve_for_every_other_condition():
    figure = metric_chart(report(), "dino")
    assert figure.size == (960, 600)
    assert all(count(figure, COLOURS[i]) > 300 for i in range(2)) and not count(figure, COLOURS[2])
    against_n = metric_chart(report(), "dino", "references")
    assert all(count(against_n, COLOURS[i]) > 300 for i in range(3))
    both = metric_chart({"first": report(), "second": report()}, "dino")
    assert all(count(both, COLOURS[i]) > 100 for i in range(2, 4))


def test_bands_are_drawn_where_there_are_intervals():
    with_bands, without = metric_chart(report(), "dino"), metric_chart(report(), "image_alignment")
    light = [
        ((np.array(figure).min(-1) > 180) & (np.ptp(np.array(figure), axis=-1) > 8)).sum()
        for figure in (with_bands, without)
    ]
    assert light[0] > 10_000 and light[1] < 2_000


def test_figures_without_numbers_are_refused():
    for metric, along in (("fid", "weight"), ("dino", "steps"), ("kid", "weight")):
        with pytest.raises(ValueError, match=f"There is no {metric} with a number for '{along}'"):
            metric_chart(report(), metric, along)
    with pytest.raises(ValueError, match="No point has both fid and dino"):
        alignment_scatter(report(), "fid", "dino")
    with pytest.raises(ValueError, match="has the condition 'steps'"):
        xy_sheet(report(), TensorSource(torch.zeros(12, 8, 8, 3)), across="steps")


def test_the_alignment_scatter_has_a_labelled_dot_for_every_point():
    figure = alignment_scatter(report())
    assert all(count(figure, COLOURS[i]) > 200 for i in range(2))
    unlabelled = alignment_scatter(report(), label="seed")
    assert np.array(figure).tobytes() != np.array(unlabelled).tobytes()


def test_a_sheet_has_every_picture_in_its_place():
    cells = [[plain(10), None, plain(90)], [plain(120), plain(150), plain(180)]]
    sheet = contact_sheet(cells, ["first", "second"], ["a", "b", "c"], [["x"] * 3] * 2, "title", 60)
    for row in cells:
        for picture in filter(None, row):
            shown = (np.array(sheet) == picture.getpixel((0, 0))).all(-1)
            assert shown.sum() == 60 * 45
    array = np.array(sheet)

    def centre(row, column):
        found = np.argwhere((array == cells[row][column].getpixel((0, 0))).all(-1))
        return found.mean(0)

    assert centre(0, 0)[0] == centre(0, 2)[0] < centre(1, 0)[0]
    assert centre(0, 0)[1] == centre(1, 0)[1] < centre(1, 1)[1] < centre(1, 2)[1]
    assert contact_sheet([[plain(3)]]).size == (6 + 198, 6 + 198)


def test_the_xy_sheet_shows_one_identity_by_weight_and_number():
    colours = torch.tensor([[0.2 + 0.05 * i, 0.9 - 0.05 * i, 0.1] for i in range(12)])
    source = TensorSource(colours.view(12, 1, 1, 3).expand(12, 16, 16, 3))
    sheet = np.array(xy_sheet(report(), source, "dino", side=40))
    centres = {}
    for number in range(12):
        colour = tuple(int(c) for c in source.load(number).pixels[:, 0, 0])
        found = np.argwhere((sheet == colour).all(-1))
        assert len(found) == (0 if number % 2 else 40 * 40), "anna's pictures, whole; bert's not"
        centres[number] = found.mean(0) if len(found) else None
    rows = [[centres[n] for n in (0, 2, 4)], [centres[n] for n in (6, 8, 10)]]
    for above, below in zip(*rows, strict=True):
        assert above[1] == below[1] and above[0] < below[0]
    for row in rows:
        assert row[0][1] < row[1][1] < row[2][1] and row[0][0] == row[1][0] == row[2][0]


def test_a_place_of_the_xy_sheet_without_a_picture_stays_empty():
    whole = report()
    missing = [row for row in whole.per_image if row["image"] != "image 4"]  # anna's, not bert's
    partial = EvaluationReport(whole.points, missing, [], [], {}, [])
    colours = torch.tensor([[0.2 + 0.05 * i, 0.9 - 0.05 * i, 0.1] for i in range(12)])
    source = TensorSource(colours.view(12, 1, 1, 3).expand(12, 16, 16, 3))
    sheet = np.array(xy_sheet(partial, source, "dino", side=40))
    for number in (4, 5):
        colour = tuple(int(c) for c in source.load(number).pixels[:, 0, 0])
        assert not (sheet == colour).all(-1).any()
    assert (sheet == 0xF0).all(-1).sum() >= 40 * 40


def test_a_strip_keeps_its_order_and_breaks_into_rows():
    pictures = [plain(20 * i + 15) for i in range(5)]
    strip = np.array(ranked_strip(pictures, [5.0, 4.0, 3.5, None, 1.0], columns=3, side=50))
    places = [
        np.argwhere((strip == p.getpixel((0, 0))).all(-1)).mean(0).round().tolist()
        for p in pictures
    ]
    assert places[0][0] == places[1][0] == places[2][0] < places[3][0] == places[4][0]
    assert places[0][1] == places[3][1] < places[1][1] == places[4][1] < places[2][1]


def test_a_table_has_room_for_all_rows_and_whole_warnings():
    few, many = table(report((0.0,), (1,))), table(report())
    values = {f"a metric of a long name {i}": Value(i / 3, i / 4, i / 2, 9) for i in range(12)}
    wide = table(EvaluationReport([Point({}, 9, values)], [], [], [], {}, []))
    warned = table(report((0.0,), (1,), [LONG, LONG, "another"]))
    assert few.height < many.height and few.height < warned.height
    for figure in (few, many, warned, wide):
        edge = np.array(figure)[:, -4:]
        assert (edge > 230).all(), "no text runs off the edge"
    assert count(warned, "#a04000") > 500


def test_long_text_is_cut_to_its_width():
    text = shortened(LONG, 200, 14)
    assert text.endswith("...") and font(14).getlength(text) <= 200
    assert shortened("short", 200, 14) == "short"
    assert shortened("two\nlines", 200, 14) == "two lines"


def test_dashed_lines_and_levels_have_gaps():
    def drawn(colour, **options):
        axes = Axes("t", "x", "y", [0.0, 1.0], [0.0, 1.0], [Drawn("a", "#000000")])
        axes.line([(0.0, 0.2), (1.0, 0.8)], colour, **options)
        return count(axes.image, colour)

    whole, dashed = drawn("#0072b2"), drawn("#0072b2", dashed=True)
    assert 0.4 < dashed / whole < 0.75
    axes = Axes("t", "x", "y", [0.0, 1.0], [0.0, 1.0])
    axes.level(0.5, "#d55e00")
    row = round(axes.place(0.0, 0.5)[1])
    inked = (np.array(axes.image)[row] == ImageColor.getrgb("#d55e00")).all(-1)
    ends = np.flatnonzero(inked)
    assert ends[0] == axes.left and ends[-1] > axes.right - 11
    assert 0.4 < inked[axes.left : axes.right].mean() < 0.75
