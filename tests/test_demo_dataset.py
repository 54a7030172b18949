"""Drawn people for those who want to try training: a folder that the trainer reads."""

from __future__ import annotations

import numpy as np
from PIL import Image

from multi_ipadapter.demo.dataset import main
from multi_ipadapter.demo_world import world
from multi_ipadapter.pictures.inspection import inspect_dataset
from multi_ipadapter.pictures.open import open_dataset


def test_a_folder_to_train_on(tmp_path, capsys):
    folder = tmp_path / "input" / "people"
    assert main([str(folder), "--people", "12", "--pictures", "3"]) == 0
    assert "36 pictures of 12 people" in capsys.readouterr().out
    report = inspect_dataset(open_dataset(folder))[0]
    assert report.identities == 12 and report.notes == ("all 36 pictures have a caption.",)
    shown = np.asarray(Image.open(folder / "person_07" / "2.png"))
    assert np.array_equal(shown, world.draw(world.identity(7), world.view(7, 2)))
    told = (folder / "person_07" / "2.txt").read_text(encoding="utf-8")
    assert told == world.caption(world.view(7, 2))


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "mine.png").touch()
    assert main([str(tmp_path)]) == 1
    assert "is not empty; expected a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
