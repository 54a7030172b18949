"""Small pictures of the encoded references, which the front end shows on the node."""

from __future__ import annotations

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from server import PromptServer

from multi_ipadapter.nodes.steering.reference_thumbnails import FOLDER, SIDE, thumbnails

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.8)


@pytest.fixture
def shown(base, monkeypatch):
    """As in a running server, whose instance nothing but its presence is asked of."""
    monkeypatch.setattr(PromptServer, "instance", object(), raising=False)
    return base / "temp" / FOLDER


def plain(colour, size=(300, 200), count=1):
    """IMAGE [count, *size, 3] of one colour."""
    return torch.tensor(colour).expand(count, *size, 3)


def test_a_small_picture_for_each_reference(shown):
    batch = torch.cat([plain(RED), plain(BLUE)])
    images = {"reference_image_0": plain(BLUE, (64, 90)), "reference_image_3": batch}
    (slots,) = thumbnails(images)["references"]
    assert [(slot["slot"], len(slot["files"])) for slot in slots] == [
        ("reference_image_0", 1),
        ("reference_image_3", 2),
    ]
    sizes, colours = [], []
    for slot in slots:
        for name in slot["files"]:
            with Image.open(shown / name) as picture:
                sizes.append(picture.size)
                colours.append(np.asarray(picture.convert("RGB")).mean((0, 1)) / 255)
    assert sizes == [(90, 64), (85, SIDE), (85, SIDE)]
    np.testing.assert_allclose(colours, [BLUE, RED, BLUE], atol=0.03)


def test_the_same_picture_is_one_file(shown):
    images = {f"reference_image_{i}": plain(RED) for i in range(3)}
    first, second = thumbnails(images), thumbnails(images)
    assert first == second
    assert len(list(shown.iterdir())) == 1
    thumbnails({"reference_image_0": plain(BLUE)})
    assert len(list(shown.iterdir())) == 2


def test_nothing_without_a_server(base, monkeypatch):
    monkeypatch.setattr(PromptServer, "instance", None, raising=False)
    assert thumbnails({"reference_image_0": plain(RED)}) is None
    assert not any((base / "temp").iterdir())


def test_out_of_range_values_are_clipped(shown):
    (slots,) = thumbnails({"reference_image_0": plain((1.7, -0.4, 0.5))})["references"]
    assert folder_paths.get_temp_directory() == str(shown.parent)
    with Image.open(shown / slots[0]["files"][0]) as picture:
        np.testing.assert_allclose(np.asarray(picture)[5, 5], [255, 0, 127], atol=4)
