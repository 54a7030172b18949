"""ComfyUI's IMAGE and the bytes that networks see of it: one rounding, that of Save Image."""

from __future__ import annotations

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

import nodes
from multi_ipadapter.nodes.evaluation import metric_networks
from multi_ipadapter.nodes.evaluation.rank import RankPictures
from multi_ipadapter.nodes.evaluation.score import ScorePairs
from multi_ipadapter.nodes.host.images import to_image, to_picture
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.pictures.pixels import to_bytes, to_floats

from .builders import make_adapter
from .face_blocks import BlockAnalyser, block_picture
from .test_faceid import FACEID


class Recorder(BlockAnalyser):
    """Keeps what it is shown; complete enough to be the network of the metric identity."""

    files, sizes = (), (64,)

    def __init__(self):
        super().__init__()
        self.seen: list[np.ndarray] = []

    def detect(self, picture):
        self.seen.append(picture.copy())
        return super().detect(picture)


def saved(images) -> list[np.ndarray]:
    """The pixels of the files that ComfyUI's Save Image writes."""
    names = [entry["filename"] for entry in nodes.SaveImage().save_images(images)["ui"]["images"]]
    folder = folder_paths.get_output_directory()
    return [np.asarray(Image.open(f"{folder}/{name}")) for name in names]


def between_bytes() -> torch.Tensor:
    """IMAGE [2, H, W, 3] of two people; no value but the blocks' blue is a byte's."""
    pictures = torch.cat([block_picture((n, 40), seed=n) for n in (1, 2)])
    return (pictures + 0.7 / 255).clamp(max=1)


def test_encode_rank_and_score_see_what_save_image_writes(base, sd15, monkeypatch):
    images, analyser = between_bytes(), Recorder()
    monkeypatch.setattr(metric_networks, "load_first_pack", lambda: analyser)
    adapter = make_adapter(sd15, FACEID)
    seen = {}

    def record(name: str, run) -> None:
        analyser.seen = []
        run()
        seen[name] = analyser.seen[: len(images)]

    references = {"reference_image_0": images}
    record(
        "encode",
        lambda: EncodeReferenceImages.execute(
            adapter, reference_images=references, face_analysis=analyser
        ),
    )
    record("rank", lambda: RankPictures.execute(images, "identity", references=images))
    record("score", lambda: ScorePairs.execute(images, images, "identity"))
    wanted = saved(images)
    for name, pictures in seen.items():
        for picture, file in zip(pictures, wanted, strict=True):
            assert np.array_equal(picture, file), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_are_those_of_save_image_whatever_the_precision(base, dtype):
    images = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    images = images.to(dtype)
    for image, file in zip(images, saved(images), strict=True):
        assert np.array_equal(to_bytes(image), file)
        assert np.array_equal(np.asarray(to_picture(image)), file)


def test_every_byte_comes_back():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(16, 16, 3)
    assert np.array_equal(to_bytes(to_floats(pixels)), pixels)
    picture = Image.fromarray(pixels.numpy())
    assert np.array_equal(to_picture(to_image(picture)[0]), picture)
