"""The study's arithmetic and its page, on scores that are known beforehand."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from multi_ipadapter.demo.prompt import CFG, WEIGHT
from multi_ipadapter.demo.study import pages as report
from multi_ipadapter.demo.study.__main__ import main
from multi_ipadapter.demo.study.cells import (
    COMPARED,
    CONFIRMED,
    CONFIRMED_WEIGHTS,
    DESCRIBED,
    MAIN,
    NUMBERS,
    RIVAL,
    SWEPT,
    TUNED,
    Cell,
)
from multi_ipadapter.demo.study.people import held_out
from multi_ipadapter.demo.study.results import HOLDS, Found, write
from multi_ipadapter.demo.study.side_by_side import side_by_side
from multi_ipadapter.demo.study.summary import claims, ranking, summarise
from multi_ipadapter.demo_world import world
from multi_ipadapter.evaluation.metrics.intervals import Interval

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
PEOPLE, WIDTH = 40, 4


def tensors(seed: int, accuracy: float, caption: float = 0.97, shift: float = 0.0):
    """A cell of PEOPLE * 3 pictures of that accuracy, give or take what people differ by."""
    random = torch.Generator().manual_seed(seed)
    count = PEOPLE * 3
    people = torch.randn(PEOPLE, generator=torch.Generator().manual_seed(1)).repeat_interleave(3)
    noise = 0.02 * torch.randn(count, generator=random)
    found = {
        "accuracy": accuracy + 0.1 * people + noise,
        "similarity": accuracy + 0.1 * people + noise,
        "caption": torch.full((count,), caption),
        "copying": torch.full((count,), -0.1),
        "features": torch.randn(count, WIDTH, generator=random) + shift,
    }
    for k, values in enumerate(world.ATTRIBUTES.values()):
        found[f"attribute.{k}"] = torch.randn(count, len(values), generator=random)
    return found


def accuracy_of(cell: Cell) -> float:
    if cell.adapter == DESCRIBED:
        return 0.80
    if not cell.references or not cell.weight:
        return 0.24
    gain = {1: 0.0, 2: 0.08, 3: 0.12, 4: 0.15, 6: 0.17, 8: 0.18}[cell.references]
    return 0.6 + gain - (0.03 if cell.adapter == RIVAL[0] else 0.0)


@pytest.fixture(scope="module")
def measured():
    return {
        cell: tensors(number, accuracy_of(cell), shift=0.0 if cell.references else 1.0)
        for number, cell in enumerate(COMPARED.cells)
    }


@pytest.fixture(scope="module")
def truth():
    return tensors(999, 0.85)


@pytest.fixture(scope="module")
def rows(measured, truth):
    return {cell: summarise(found, truth["features"]) for cell, found in measured.items()}


@pytest.fixture
def claimed(measured, rows, truth):
    """The claims, after some cells have been replaced."""

    def claimed(altered):
        new = {cell: summarise(found, truth["features"]) for cell, found in altered.items()}
        return claims({**measured, **altered}, truth, {**rows, **new}, 0.24, (1.0, TUNED))

    return claimed


def test_the_grid_has_each_condition_once_and_the_sweep():
    cells = COMPARED.cells
    assert len(set(cells)) == len(cells) == 63
    assert {c.weight for c in cells if c[:3] == (*MAIN, SWEPT)} == {
        *(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    }


def test_all_claims_hold_where_they_should(claimed):
    found = claimed({})
    assert [claim.text for claim in found if not claim.holds] == []
    gain = re.fullmatch(r"\+(\d+\.\d) \[\+(\d+\.\d), \+(\d+\.\d)\]", found[0].measured)
    mean, low, high = map(float, gain.groups())
    assert mean == pytest.approx(15, abs=0.5) and low < mean < high < 16.5


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({Cell(*MAIN, 1, 1.0): 0.68}, "accuracy: N = 4 is above N = 1 by at least 10 points"),
        ({Cell(*MAIN, 8, 1.0): 0.70}, "accuracy: N = 8 is not below N = 4"),
        ({Cell(*MAIN, 4, 1.0): 0.60}, "accuracy: N = 4 reaches 80 % of real pictures"),
        ({Cell("base", "", 0, 0.0): 0.40}, "accuracy without references is at chance"),
        (
            {Cell("single", "mean", 4, 1.0): 0.76},
            "trained on several against one reference",
        ),
    ],
)
def test_a_claim_that_does_not_hold_is_told(claimed, change, broken):
    altered = {cell: tensors(5000 + k, value) for k, (cell, value) in enumerate(change.items())}
    found = claimed(altered)
    assert any(claim.text.startswith(broken) and not claim.holds for claim in found)


def test_caption_and_fid_are_judged(claimed):
    worse = {Cell(*MAIN, 4, 1.0): tensors(6000, 0.75, caption=0.9, shift=3.0)}
    found = claimed(worse)
    broken = [claim.text for claim in found if not claim.holds]
    assert "caption alignment stays within 5 points of the base model" in broken
    assert "FID of N = 4 is below the base model's" in broken


def test_the_ranking_is_paired_and_the_best_comes_first(measured):
    best = Cell("multi_concat", "concat", SWEPT, 1.0)
    ranks = ranking({**measured, best: tensors(7000, 0.80)})
    assert ranks[0][:2] == ("multi_concat", "concat")
    gain = ranks[0].differences["accuracy"]
    # People differ by ten points, noise by two: pairing takes the people away.
    assert gain.mean == pytest.approx(0.05, abs=0.01) and gain.high - gain.low < 0.02


def test_the_page_shows_what_is_there(measured, rows, truth, tmp_path):
    found = claims(measured, truth, rows, 0.24, (1.0, TUNED))
    shares = [k / 100 for k in range(len(world.ATTRIBUTES))]
    known = {
        MAIN: [Interval(k / 10, k / 10 - 0.01, k / 10 + 0.01, 9, "identities", 9) for k in range(6)]
    }
    shown = Found(
        rows=rows,
        ceiling=summarise(truth, truth["features"]),
        ranks=ranking(measured),
        claims=found,
        attributes={"N = 4": shares, "real": shares[::-1]},
        covered=known,
        times_shown={use: values[:5] for use, values in known.items()},
        also_wrong=(0.5, 0.25),
    )
    write(tmp_path, shown, Image.new("RGB", (8, 8)), "About.")
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links and all((tmp_path / link).is_file() for link in links)
    for picture in tmp_path.glob("*.png"):
        assert len(Image.open(picture).convert("RGB").getcolors(1 << 20)) > 5
    said = re.search(
        r"are (\S+) to (\S+) points for the others .*, and (\S+) to (\S+) for those", page
    )
    several_low, several_high, one_low, one_high = map(float, said.groups())
    assert -1 < several_low <= 0 <= several_high < 1  # they differ by noise alone
    assert -4 < one_low < -2 and one_low < one_high < 1  # `single` was made 3 points worse
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(measured) + 1
    four = next(
        x for x in lines if (x["adapter"], x["references"], x["weight"]) == (MAIN[0], "4", "1.0")
    )
    assert float(four["accuracy"]) == pytest.approx(0.75, abs=0.03)
    assert "| face | 1 | 14 |" in page
    assert "| multi_learned, learned | 0.0 ± 1.0 | 10.0 ± 1.0 | 20.0 ± 1.0 |" in page
    assert re.search(r"draws (79|80)\.\d % right", page)
    assert "50 % are wrong when told in words too; of all" in page


def test_people_are_shown_with_what_each_condition_drew(tmp_path):
    def sheet(cell):
        """8 people; a reference's colour is its number, what was drawn 100, a real picture 200."""
        picture = Image.new("RGB", ((cell.references + 6) * 4, 8 * 4))
        for column in range(cell.references + 6):
            seed, real = divmod(column - cell.references, 2)
            value = column if column < cell.references else (200 if real else 100) + seed
            picture.paste((value, value, value), (column * 4, 0, column * 4 + 4, 32))
        path = tmp_path / f"{cell.adapter}{cell.references}.png"
        picture.save(path)
        return path

    whole = side_by_side(sheet)
    bottom = [whole.getpixel((x, whole.height - 1))[0] for x in range(2, whole.width, 4)]
    assert bottom == [0, 1, 2, 3, 101, 101, 101, 101, 201]


# ---- the second part ---------------------------------------------------------------------------


def test_the_second_part_tests_what_the_demo_ships_against_its_rival_at_its_best():
    assert CONFIRMED.cfg == CFG and CONFIRMED.weight == WEIGHT
    people = set(range(CONFIRMED.first, CONFIRMED.first + 256))
    looked_at = (range(256), range(1_000, 1_192), range(2_000, 2_256))
    assert all(people.isdisjoint(numbers) for numbers in looked_at)
    assert {c.references for c in CONFIRMED.cells if c[:2] == MAIN and c.weight == WEIGHT} == set(
        NUMBERS
    )
    for use in (MAIN, RIVAL, (RIVAL[0], "mean")):
        weights = {c.weight for c in CONFIRMED.cells if c[:3] == (*use, SWEPT)}
        assert weights == set(CONFIRMED_WEIGHTS)


@pytest.fixture
def confirmed_page(monkeypatch, tmp_path):
    """The page and the claims, from scores that are known."""
    cells = {
        cell: tensors(number, accuracy_of(cell), shift=0.0 if cell.references else 1.0)
        for number, cell in enumerate(CONFIRMED.cells)
    }
    truth = tensors(999, 0.85)
    rows = {cell: summarise(found, truth["features"]) for cell, found in cells.items()}
    ceiling = summarise(truth, truth["features"])
    people = held_out(tmp_path, PEOPLE, 0)
    scored = report.Measured(people, cells, truth, rows, ceiling)
    monkeypatch.setattr(report, "measured", lambda part, *_: {CONFIRMED: scored}[part])
    found = report.confirmed(tmp_path, tmp_path, tmp_path)
    return (tmp_path / "results-confirmed.md").read_text(encoding="utf-8"), found, people


def test_the_second_page_shows_each_condition(confirmed_page, tmp_path):
    text, found, _ = confirmed_page
    assert [claim.text for claim in found if not claim.holds] == []
    links = re.findall(r"\]\(([^)]+)\)", text.partition("\n## ")[2])
    assert len(links) == 3 and all((tmp_path / link).is_file() for link in links)
    lines = re.findall(r"^\| (\w+, \w+, N = \d, lambda [\d.]+) \|", text, re.M)
    # Three cells are without an adapter, and one is in both tables.
    assert len(lines) == len(CONFIRMED.cells) - 3 + 1 == len(set(lines)) + 1


def test_the_second_page_has_the_figures(confirmed_page):
    text, found, people = confirmed_page
    four = re.search(r"multi_learned, learned, N = 4, lambda 1.5 \| (\S+) ±", text)
    assert float(four[1]) == pytest.approx(75, abs=2)
    against = [claim.measured for claim in found if "against one reference" in claim.text]
    assert [float(text.split()[0]) for text in against] == pytest.approx([3, 3], abs=1)
    assert len(re.findall(r"^\| real pictures \|( \S+ ± \S+ \| 100.0 \|){3}$", text, re.M)) == 1
    unseen = total = 0
    for row in people.prompts.flatten().tolist():
        who = row // people.pictures.views
        given = people.pictures.visible[people.references[who, :SWEPT].numpy()].any(0)
        unseen += (people.pictures.visible[row] & ~given).sum()
        total += people.pictures.visible[row].sum()
    assert f"references together hide {100 * unseen / total:.1f} %" in text


def test_an_unknown_part_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path), "--adapters", str(tmp_path), "confirm"])
    assert "got confirm; expected compared or confirmed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "about", "cells"),
    [
        ("results", report.about_compared(), COMPARED.cells),
        ("results-confirmed", report.about_confirmed(), CONFIRMED.cells),
    ],
    ids=lambda value: value if value in ("results", "results-confirmed") else "",
)
def test_the_pages_in_the_docs_are_of_this_study(page, about, cells):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert text.partition("\n\n")[2].startswith(about + "\n\n## ")
    assert f"## Claims\n\n{HOLDS}\n\n" in text
    with open(DOCS / f"{page}.csv", newline="", encoding="utf-8") as file:
        measured = [tuple(line.values())[:4] for line in csv.DictReader(file)]
    assert measured[:-1] == [tuple(map(str, cell)) for cell in cells]
