"""Parquet files, as Hugging Face data sets have them, become an index; splits share nobody."""

from __future__ import annotations

import os
import sys

import pyarrow
import pyarrow.parquet
import pytest

from multi_ipadapter.pictures.captions import celeba_caption
from multi_ipadapter.pictures.inspection import inspect_dataset
from multi_ipadapter.pictures.load import load_picture
from multi_ipadapter.pictures.open import open_dataset

from .people import contents, jpeg


def write_parquet(path, owners, columns=None, identity="celeb_id", struct=True):
    images = [jpeg(i) for i in range(len(owners))]
    if struct:
        images = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(images)]
    table = pyarrow.table({"image": images, identity: owners, **(columns or {})})
    pyarrow.parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("struct", [True, False])
def test_parquet(tmp_path, struct):
    owners = [5, 3, 5, 3, 9]
    columns = {"Smiling": [True] * 5, "Male": [False, True] * 2 + [True]}
    write_parquet(tmp_path / "x.parquet", owners, columns, struct=struct)
    index = open_dataset(tmp_path / "x.parquet")
    assert contents(index) == {
        "3": ["x.parquet#1", "x.parquet#3"],
        "5": ["x.parquet#0", "x.parquet#2"],
        "9": ["x.parquet#4"],
    }
    for number, row in enumerate([1, 3, 0, 2, 4]):
        with index.open(number) as file:
            assert file.read() == jpeg(row)
        has = {"Smiling", "Male"} if columns["Male"][row] else {"Smiling"}
        assert index.caption(number) == celeba_caption(has, 0, f"x.parquet#{row}")
    assert index.sizes().tolist() == [len(jpeg(row)) for row in [1, 3, 0, 2, 4]]
    assert load_picture(index, 0, 32, "crop")[0].shape == (32, 32, 3)


def test_parquet_folder_with_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for name, owners in (
        ("train-00000-of-00002", ["a", "b"]),
        ("train-00001-of-00002", ["a", None]),
        ("test-00000-of-00001", ["c", "c"]),
    ):
        path = tmp_path / "data" / f"{name}.parquet"
        write_parquet(path, owners, {"caption": ["x", None]}, identity="identity")
    train = open_dataset(tmp_path)
    assert set(train.identities) == {"a", "b"} and train.caption(0) == "x"
    assert [s.reason for s in train.skipped] == ["has no identity"]
    assert set(open_dataset(tmp_path, split="test").identities) == {"c"}
    assert set(open_dataset(tmp_path, split="all").identities) == {"a", "b", "c"}
    with pytest.raises(ValueError, match="no parquet file of the split 'valid'"):
        open_dataset(tmp_path, split="valid")


LAYOUTS = ("data/{}-00000-of-00001", "default/{}/0000", "default/partial-{}/0000", "{}/x_1", "{}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_found_in_names_of_files_and_folders(tmp_path, layout):
    for split in ("train", "validation", "test"):
        path = tmp_path / f"{layout.format(split)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, [f"{split} {i}" for i in (1, 2, 1, 2)])
    for split, word in (("train", "train"), ("valid", "validation"), ("test", "test")):
        index = open_dataset(tmp_path, split=split)
        assert list(index.identities) == [f"{word} 1", f"{word} 2"] and index.skipped == []
    assert len(open_dataset(tmp_path, split="all").identities) == 6


def test_nobody_is_in_two_splits(tmp_path):
    write_parquet(tmp_path / "train.parquet", [1, 2, 1, 2, None])
    write_parquet(tmp_path / "valid.parquet", [3, 3, None])
    write_parquet(tmp_path / "test.parquet", [2, 4, 4, 2], identity="identity")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="1 identities of the split .*example 2.*split = .all"):
            open_dataset(tmp_path, split=split)
    assert list(open_dataset(tmp_path, split="valid").identities) == ["3"]
    assert list(open_dataset(tmp_path, split="all").identities) == ["1", "2", "3", "4"]


def test_files_that_belong_to_no_split_are_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", [1, 1])
    write_parquet(tmp_path / "more.parquet", [2, 2])
    write_parquet(tmp_path / "test.parquet", [3, 3], identity="person")
    index = open_dataset(tmp_path)
    assert list(index.identities) == ["1"]
    skipped = {s.path: s.reason for s in index.skipped}
    assert skipped.keys() == {"more.parquet", "test.parquet"}
    assert "names no split" in skipped["more.parquet"]
    assert "not compared with the split 'train': test.parquet has the" in skipped["test.parquet"]


def test_a_folder_without_splits_is_for_training(tmp_path):
    write_parquet(tmp_path / "0000.parquet", [1, 1])
    assert list(open_dataset(tmp_path).identities) == ["1"]
    with pytest.raises(ValueError, match="no parquet file of the split 'test'.*found 0000.parquet"):
        open_dataset(tmp_path, split="test")


def test_a_file_written_anew_is_another_version(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, [1, 1, None])
    before = open_dataset(path)
    digests = before.digest(), before.digest(times=True)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    after = open_dataset(path)
    assert after.digest() == digests[0] and after.digest(times=True) != digests[1]


def test_damaged_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, [1, 1], identity="person")
    with pytest.raises(ValueError, match="x.parquet has the columns image, person; expected one"):
        open_dataset(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="x.parquet is not a complete parquet file"):
        open_dataset(path)


def test_parquet_without_bytes_is_bad_by_row(tmp_path):
    images = [{"bytes": jpeg(i) if i else None, "path": f"{i}.jpg"} for i in range(3)]
    table = pyarrow.table({"image": images, "identity": ["a"] * 3})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    index = open_dataset(tmp_path / "x.parquet")
    report, good = inspect_dataset(index)
    assert report.missing == ("x.parquet#0",) and len(good) == 2


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    write_parquet(tmp_path / "x.parquet", [1, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        open_dataset(tmp_path / "x.parquet")
