"""Faces: pictures -> the embedding of the largest face, for identity similarity; optional."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...faces.analysis import EMBEDDING, FaceAnalyser
from ...faces.insight import MissingPackageError, load_insight
from ..resize import check_pixels
from .weights import file_hash

__all__ = ["WIDTH", "Face", "MissingPackageError", "load_face"]

WIDTH = EMBEDDING


class Face:
    """A face detector and a recogniser of insightface's kind; see `FeatureNetwork`."""

    outputs = {"embedding": WIDTH, "found": 1}

    def __init__(self, analyser: FaceAnalyser, name: str, weights: str, size: int, device):
        self.analyser = analyser
        self.name, self.weights, self.device = name, weights, torch.device(device)
        self.resize = f"detect-{size}"

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "embedding" [B, 512] of unit norm, "found" [B, 1] of 1 and 0.

        Both are float32. Where there is no face, the embedding is zero; it must not be scored.
        """
        check_pixels(pixels)
        embedding = torch.zeros(len(pixels), WIDTH)
        for row, picture in zip(embedding, pixels.cpu(), strict=True):
            picture = picture.permute(1, 2, 0).numpy()
            faces = self.analyser.detect(picture)
            if faces:
                found = self.analyser.embed(picture, faces[0])
                row.copy_(torch.from_numpy(found / np.linalg.norm(found)))
        found = embedding.any(1, keepdim=True).float()
        return {"embedding": embedding.to(self.device), "found": found.to(self.device)}


def load_face(
    detector_path: str | Path,
    recogniser_path: str | Path,
    detection_size: int = 640,
    device: str | torch.device = "cpu",
) -> Face:
    """A detector with landmarks (SCRFD) and a recogniser (ArcFace), both ONNX files.

    Args:
        detection_size: side, in pixels, of the square that pictures are shrunk into to find
            faces; a multiple of 32. A detector of a fixed size ignores it.

    Raises:
        MissingPackageError: insightface or onnxruntime is not installed.
        ValueError: a file of another kind, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    analyser = load_insight(detector_path, recogniser_path, (detection_size,), device)
    name = f"face-{Path(recogniser_path).stem}"
    weights = f"{file_hash(detector_path)}+{file_hash(recogniser_path)}"
    return Face(analyser, name, weights, detection_size, device)
