"""Folders and manifests become an index; a report says what is wrong with them."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from PIL import Image

from multi_ipadapter.pictures.inspection import inspect_dataset, picture_bytes
from multi_ipadapter.pictures.load import load_picture
from multi_ipadapter.pictures.open import open_dataset
from multi_ipadapter.runs.streams import SPLIT, numbers
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.sampling import DropOneSampler

from .people import contents, jpeg, picture


@pytest.fixture
def people(tmp_path):
    """anna: 3 pictures, bert: 2, cleo: 1."""
    root = tmp_path / "people"
    for identity, count in (("bert", 2), ("anna", 3), ("cleo", 1)):
        (root / identity).mkdir(parents=True)
        for i in range(count):
            (root / identity / f"{i}.jpg").write_bytes(
                jpeg(len(identity) * 31 + ord(identity[0]) * 7 + i)
            )
    (root / "anna" / "1.txt").write_text("\ufeffanna smiles,\n  outdoors ", encoding="utf-8")
    return root


def test_a_folder_of_identities(people):
    index = open_dataset(people)
    assert contents(index) == {
        "anna": ["anna/0.jpg", "anna/1.jpg", "anna/2.jpg"],
        "bert": ["bert/0.jpg", "bert/1.jpg"],
        "cleo": ["cleo/0.jpg"],
    }
    assert len(index) == 6 and index.pictures_of(1) == range(3, 5)
    assert [index.identity_of(n) for n in range(6)] == [0, 0, 0, 1, 1, 2]
    shown = index.picture(1)
    assert (shown.path, shown.identity) == (people / "anna" / "1.jpg", "anna")
    assert shown.caption == index.caption(1) == "anna smiles, outdoors" and index.caption(0) == ""
    assert index.notes == [
        "5 of 6 pictures have no caption (a .txt file of the same name); the text condition says "
        "nothing about them."
    ]


def test_the_sampler_takes_the_index(people):
    sampler = DropOneSampler(open_dataset(people), TrainingConfig(batch_size=5))
    rows = sampler.batch(0)
    assert sorted(row.target for row in rows) == [0, 1, 2, 3, 4]  # cleo has no second picture


def test_other_files_are_named_hidden_ones_are_not(people):
    (people / "anna" / "x.heic").write_bytes(b"x")
    (people / "anna" / ".DS_Store").write_bytes(b"x")
    (people / ".cache").mkdir()
    (people / "stray.jpg").write_bytes(jpeg(0))
    skipped = {s.path: s.reason for s in open_dataset(people).skipped}
    assert set(skipped) == {"anna/x.heic", "stray.jpg"}
    assert "anna/x.heic: is none of .jpg" in "".join(map(str, open_dataset(people).skipped))
    assert "convert it" in skipped["anna/x.heic"] and "move it" in skipped["stray.jpg"]


def test_links_out_of_the_folder_are_left_out(people, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.jpg").write_bytes(jpeg(0))
    (tmp_path / "secret" / "s.txt").write_text("secret words")
    (people / "anna" / "s.jpg").symlink_to(tmp_path / "secret" / "s.jpg")
    (people / "anna" / "2.txt").symlink_to(tmp_path / "secret" / "s.txt")
    (people / "dora").symlink_to(tmp_path / "secret")
    (people / "bert" / "alias.jpg").symlink_to(people / "bert" / "0.jpg")
    index = open_dataset(people)
    assert {s.path for s in index.skipped} == {"anna/s.jpg", "dora"}
    assert index.caption(2) == "" and "bert/alias.jpg" in contents(index)["bert"]


@pytest.mark.parametrize("name", ["ünï çødé", "with # and spaces", "b\udcff"])
def test_names_of_any_kind(tmp_path, name):
    (tmp_path / name).mkdir()
    for i in range(2):
        (tmp_path / name / f"{i}.jpg").write_bytes(jpeg(i))
    index = open_dataset(tmp_path)
    assert list(index.identities) == [name]
    load_picture(index, 1, 32, "crop")
    report, _ = inspect_dataset(index)
    str(report).encode()
    json.dumps(report.to_dict()).encode()


@pytest.mark.parametrize("kind", ["empty", "singles", "flat"])
def test_nothing_to_train_on(tmp_path, kind):
    for i in range(3 if kind != "empty" else 0):
        folder = tmp_path / (f"p{i}" if kind == "singles" else ".")
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    with pytest.raises(ValueError, match="No identity with two pictures.*one folder for each"):
        open_dataset(tmp_path)


def test_no_such_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no dataset at"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(ValueError, match="x.csv; expected a folder, a .json"):
        open_dataset(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="kind 'zip'; expected one of auto, folder"):
        open_dataset(tmp_path, kind="zip")
    with pytest.raises(ValueError, match="split 'dev'; expected one of train"):
        open_dataset(tmp_path, split="dev")


def test_parts_of_an_index(people):
    index = open_dataset(people)
    part = index.subset([2, 0])
    assert contents(part) == {"cleo": ["cleo/0.jpg"], "anna": contents(index)["anna"]}
    assert part.picture(0).identity == "cleo" and part.caption(2) == "anna smiles, outdoors"
    less = index.without([0, 5])
    assert contents(less) == {"anna": ["anna/1.jpg", "anna/2.jpg"], "bert": contents(index)["bert"]}
    assert contents(index.subset([])) == {}


@pytest.mark.parametrize("count", [0, 3, 4])
def test_split_is_disjoint_and_repeatable(tmp_path, count):
    for i in range(22):
        (tmp_path / f"p{i:02}").mkdir()
        for j in range(2 if i < 20 else 1):
            (tmp_path / f"p{i:02}" / f"{j}.jpg").touch()
    index = open_dataset(tmp_path)
    train, held = index.split(count, numbers(3, SPLIT))
    assert len(held.identities) == count and len(held) == 2 * count
    assert sorted([*train.identities, *held.identities]) == list(index.identities)
    assert contents(index.split(count, numbers(3, SPLIT))[1]) == contents(held)
    if count == 4:
        assert contents(index.split(count, numbers(4, SPLIT))[1]) != contents(held)
    with pytest.raises(ValueError, match="20 identities with two or more pictures and 20"):
        index.split(20, numbers(0, SPLIT))


# Manifests


def write_manifest(root, entries, lines: bool):
    path = root / ("m.jsonl" if lines else "m.json")
    path.write_text("\n".join(map(json.dumps, entries)) if lines else json.dumps(entries))
    return path


@pytest.mark.parametrize("lines", [True, False])
def test_a_manifest(people, lines):
    Image.new("L", (80, 80), 255).crop((0, 0, 80, 80)).save(people / "white.png")
    half = Image.new("L", (40, 40))
    half.paste(255, (0, 0, 20, 40))
    half.save(people / "half.png")
    entries = [
        {"image": "bert/0.jpg", "identity": "zoe", "caption": "a", "mask": "half.png"},
        {"image": "anna/0.jpg", "identity": 7},
        {"image": "bert/1.jpg", "identity": "zoe", "mask": None},
        {"image": "anna/1.jpg", "identity": 7, "caption": "b"},
    ]
    index = open_dataset(write_manifest(people, entries, lines))
    assert contents(index) == {
        "7": ["anna/0.jpg", "anna/1.jpg"],
        "zoe": ["bert/0.jpg", "bert/1.jpg"],
    }
    assert [index.caption(n) for n in range(4)] == ["", "b", "a", ""]
    mask = load_picture(index, 2, 32, "crop")[1]
    assert mask[:, :15].min() == 1 and mask[:, 17:].max() == 0
    assert load_picture(index, 3, 32, "crop")[1] is None


def test_bad_entries_are_skipped_by_line(people, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg(0))
    (people / "out").symlink_to(tmp_path)
    good = [{"image": f"anna/{i}.jpg", "identity": "a"} for i in range(2)]
    bad = {
        "leads out of the dataset folder; give": {"image": "../secret.jpg", "identity": "a"},
        "leads out": {"image": str(tmp_path / "secret.jpg"), "identity": "a"},
        "through a link": {"image": "out/secret.jpg", "identity": "a"},
        "mask ../s.jpg: leads": {"image": "anna/0.jpg", "identity": "a", "mask": "../s.jpg"},
        "C:": {"image": "C:\\secret.jpg", "identity": "a"},
        "missing": {"image": "anna/9.jpg", "identity": "a"},
        "is not a file": {"image": "anna", "identity": "a"},
        "has no identity": {"image": "anna/0.jpg"},
        "has no image": {"identity": "a"},
        "caption is no text": {"image": "anna/0.jpg", "identity": "a", "caption": ["x"]},
        "no object": ["anna/0.jpg", "a"],
    }  # fmt: skip
    path = write_manifest(people, [*good, *bad.values()], lines=True)
    path.write_text(path.read_text() + "\n{broken\n")
    index = open_dataset(path)
    assert len(index) == 2
    assert [s.path for s in index.skipped] == [f"m.jsonl, line {i}" for i in range(3, 15)]
    for skipped, reason in zip(index.skipped, [*bad, "not valid JSON"], strict=True):
        assert reason in skipped.reason


def test_damaged_manifests(people):
    path = people / "m.json"
    path.write_text("[{")
    with pytest.raises(ValueError, match="m.json is not valid JSON"):
        open_dataset(path)
    path.write_text('{"image": "a"}')
    with pytest.raises(ValueError, match="m.json holds a dict; expected a list"):
        open_dataset(path)
    path.write_text('[{"image": "../x.jpg", "identity": "a"}]')
    with pytest.raises(ValueError, match="No identity with two pictures.*m.json, entry 1.*leads"):
        open_dataset(path)


# The report


@pytest.fixture
def damaged(people):
    """people with a cut-off, an empty, a vanished, a tiny and two equal pictures."""
    (people / "anna" / "3.jpg").write_bytes(jpeg(1)[:400])
    (people / "anna" / "4.jpg").touch()
    (people / "anna" / "5.jpg").write_bytes((people / "anna" / "0.jpg").read_bytes())
    (people / "anna" / "6.png").write_bytes(b"")
    picture(5, 20).save(people / "bert" / "tiny.png")
    (people / "cleo" / "same.jpg").write_bytes((people / "bert" / "0.jpg").read_bytes())
    (people / "bert" / "gone.jpg").write_bytes(jpeg(2))
    index = open_dataset(people)
    (people / "bert" / "gone.jpg").unlink()
    return index


def test_quick_report(damaged):
    report, good = inspect_dataset(damaged, batch_size=4, picture_bytes=1000)
    assert (report.identities, report.pictures, report.opened) == (3, 13, 0)
    assert report.missing == ("bert/gone.jpg",)
    assert report.corrupt == (("anna/4.jpg", "empty file"), ("anna/6.png", "empty file"))
    assert report.duplicates == (("anna/0.jpg", "anna/5.jpg"),)
    assert report.tiny == ("anna/3.jpg",)
    assert report.histogram == {2: 1, 3: 1, 5: 1} and report.singles == ()
    assert (report.usable_pictures, report.usable_identities) == (10, 3)
    assert (report.cache_bytes, report.steps_per_epoch) == (10_000, 3)
    assert len(good) == 10


def test_deep_report(damaged):
    calls = []
    report, good = inspect_dataset(damaged, deep=True, on_progress=lambda *a: calls.append(a))
    assert [name for name, _ in report.corrupt] == ["anna/3.jpg", "anna/4.jpg", "anna/6.png"]
    assert "cut off" in report.corrupt[0][1]
    assert report.tiny == ("bert/tiny.png",)
    assert report.duplicates == (("anna/0.jpg", "anna/5.jpg"), ("bert/0.jpg", "cleo/same.jpg"))
    assert report.opened == 10 and calls[-1] == (10, 10)
    assert len(good) == 9
    for number in range(len(good)):
        load_picture(good, number, 32, "crop")


def test_a_damaged_mask_is_found(people):
    (people / "mask.png").write_bytes(b"no picture")
    entries = [{"image": f"anna/{i}.jpg", "identity": "a"} for i in range(3)]
    entries[1]["mask"] = "mask.png"
    index = open_dataset(write_manifest(people, entries, lines=False))
    report, good = inspect_dataset(index, deep=True)
    assert [name for name, _ in report.corrupt] == ["anna/1.jpg"]
    assert "mask mask.png: not a picture" in report.corrupt[0][1] and len(good) == 2


def test_the_deep_look_can_be_stopped(damaged):
    report, _ = inspect_dataset(damaged, deep=True, should_stop=lambda: True)
    assert report.opened == 0 and len(report.corrupt) == 2


def test_the_report_reads_well(damaged):
    report, _ = inspect_dataset(damaged, deep=True, picture_bytes=690_176, cache_of="SD1.5")
    text = str(report)
    for part in (
        "13 pictures of 3 identities; usable: 9 pictures of 3 identities",
        "identities by their number of pictures: 3 with 2 to 4",
        "10 pictures opened; 2 steps per epoch; cache about 6.21 MB (SD1.5)",
        "missing: 1 (bert/gone.jpg)",
        "groups of equal pictures: 2 (anna/0.jpg = anna/5.jpg; bert/0.jpg = cleo/same.jpg)",
        "note: 12 of 13 pictures have no caption",
    ):
        assert part in text
    assert json.loads(json.dumps(report.to_dict()))["pictures"] == 13


def test_singles_are_named(people):
    report, _ = inspect_dataset(open_dataset(people))
    assert report.singles == ("cleo",) and report.usable_pictures == 5
    assert "identities with one picture, not usable: 1 (cleo)" in str(report)


def test_estimated_bytes_are_those_of_the_reference_table():
    kib = 1024
    assert picture_bytes(features=[]) == 32 * kib
    assert picture_bytes(features=[(1024,)]) == 34 * kib
    assert picture_bytes() == 34 * kib + 642.5 * kib
    assert picture_bytes(int8=True) == 34 * kib + 257 * 1280 + 257 * 2
    assert picture_bytes(features=[], masks=True) == 40 * kib


def test_a_large_folder_takes_little_memory(tmp_path):
    """20,000 files; names take 20 bytes each, and nothing else grows with them by much."""
    for i in range(1000):
        (tmp_path / f"id{i:05}").mkdir()
        for j in range(20):
            (tmp_path / f"id{i:05}" / f"{j:08}.jpg").touch()
    open_dataset(tmp_path)  # imports and caches
    tracemalloc.start()
    try:
        index = open_dataset(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == 20_000 and len(index.identities) == 1000
    assert kept / len(index) < 60 and peak / len(index) < 200
    assert index.name(12_345) == "id00617/00000005.jpg"
