"""Faces: pictures -> the embedding of the face each is of, for identity similarity; optional."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...faces.analysis import EMBEDDING
from ...faces.find import is_usable, main_face
from ...faces.insight import SIZES, InsightFace, MissingPackageError, load_insight
from ..resize import check_pixels
from .weights import file_hash

__all__ = ["WIDTH", "Face", "MissingPackageError", "load_face"]

WIDTH = EMBEDDING


class Face:
    """A face detector and a recogniser of insightface's kind; see `FeatureNetwork`."""

    outputs = {"embedding": WIDTH, "found": 1}

    def __init__(self, analyser: InsightFace, device: str | torch.device = "cpu"):
        self.analyser, self.device = analyser, torch.device(device)
        self.name = f"face-{analyser.recogniser}"
        self.weights = "+".join(map(file_hash, analyser.files))
        self.resize = "-".join(["main-face", *map(str, analyser.sizes)])

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "embedding" [B, 512] of unit norm, "found" [B, 1] of 1 and 0.

        Both are float32, of the face that adapters read too (`main_face`). Where there is none,
        or its embedding is no usable one, the row is zero; it must not be scored.
        """
        check_pixels(pixels)
        embedding = torch.zeros(len(pixels), WIDTH)
        for row, picture in zip(embedding, pixels.cpu(), strict=True):
            picture = picture.permute(1, 2, 0).numpy()
            face = main_face(self.analyser, picture)
            if face is not None:
                seen = self.analyser.embed(picture, face)
                if is_usable(seen):
                    row.copy_(torch.from_numpy(seen / np.linalg.norm(seen)))
        found = embedding.any(1, keepdim=True).float()
        return {"embedding": embedding.to(self.device), "found": found.to(self.device)}


def load_face(
    detector_path: str | Path,
    recogniser_path: str | Path,
    sizes: Sequence[int] = SIZES,
    device: str | torch.device = "cpu",
) -> Face:
    """A detector with landmarks (SCRFD) and a recogniser (ArcFace), both ONNX files.

    Args:
        sizes: see `InsightFace`; multiples of 32.

    Raises:
        MissingPackageError: insightface or onnxruntime is not installed.
        ValueError: a file of another kind, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    return Face(load_insight(detector_path, recogniser_path, sizes, device), device)
