"""Weights files of feature networks: never run, found under their names, asked for clearly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from multi_ipadapter.evaluation.catalogue import ENTRIES, MissingWeightsError, find
from multi_ipadapter.evaluation.networks.aesthetic import load_aesthetic
from multi_ipadapter.evaluation.networks.clip import load_clip
from multi_ipadapter.evaluation.networks.dino import load_dino
from multi_ipadapter.evaluation.networks.inception import load_inception
from multi_ipadapter.evaluation.networks.lpips import load_lpips

from .network_files import Payload
from .test_lpips import HEADS

LOADERS = {
    "inception": load_inception,
    "clip": load_clip,
    "dino": load_dino,
    "aesthetic": load_aesthetic,
    "lpips backbone": lambda path: load_lpips(path, HEADS / "vgg.pth"),
}
EVERY_LOADER = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
EVERY_ENTRY = pytest.mark.parametrize("name", ENTRIES)


@EVERY_LOADER
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(load, zipped, tmp_path):
    path, folder = tmp_path / "weights.pth", tmp_path / "made"
    content = {"fc.weight": torch.zeros(1), "payload": Payload(folder)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="weights.pth holds more than tensors .*could run code"):
        load(path)
    assert not folder.exists()
    torch.load(path, weights_only=False)  # it would have
    assert folder.exists()


@EVERY_LOADER
def test_missing_empty_and_nested_files_are_refused(load, tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="There is no file weights.pth"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="weights.pth .* is not a complete PyTorch file"):
        load(path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="weights.pth holds a dict under 'state_dict'"):
        load(path)
    torch.save({3: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="weights.pth holds a Tensor under 3; expected tensors"):
        load(path)
    torch.save({}, path)
    with pytest.raises(ValueError, match="weights.pth is not"):
        load(path)


@EVERY_ENTRY
def test_a_missing_file_is_asked_for(name, tmp_path):
    """By its names, with where it is published, under which licence, and where to put it."""
    folders = [tmp_path / "metrics", tmp_path / "more"]
    with pytest.raises(MissingWeightsError) as error:
        find(name, folders)
    entry, message = ENTRIES[name], str(error.value)
    assert error.value.name == name == entry.name
    parts = [name, *entry.files, entry.published, entry.licence, *map(str, folders)]
    assert all(part in message for part in parts)
    assert re.search(r"github\.com/\w+|openai/clip-\S+ on Hugging Face", entry.published)


@EVERY_ENTRY
def test_each_name_of_a_file_is_found_and_the_first_goes_before(name, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (second, first):
        for file in reversed(ENTRIES[name].files):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            assert find(name, [first, second]) == path


def test_names_stay_inside_the_folder():
    for entry in ENTRIES.values():
        for file in entry.files:
            assert not Path(file).is_absolute() and ".." not in Path(file).parts


def test_a_folder_that_is_missing_holds_nothing(tmp_path):
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").touch()
    assert find("fid-inception", [tmp_path / "none", tmp_path]).parent == tmp_path


def test_an_unknown_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Got feature network 'vgg'; expected one of fid-incept"):
        find("vgg", [tmp_path])
