"""Faces: pictures -> the embedding of the largest face, for identity similarity; optional."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..resize import check_pixels
from .weights import file_hash

WIDTH = 512
_LEAST_SCORE = 0.5  # insightface's own


class MissingPackageError(RuntimeError):
    """The optional packages for faces are not installed; says how to install them."""


class Face:
    """A face detector and a recogniser of insightface's kind; see `FeatureNetwork`."""

    outputs = {"embedding": WIDTH, "found": 1}

    def __init__(self, detector, recogniser, name: str, weights: str, size: int, device):
        self.detector, self.recogniser = detector, recogniser
        self.name, self.weights, self.device = name, weights, torch.device(device)
        self.size, self.resize = size, f"detect-{size}"

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "embedding" [B, 512] of unit norm, "found" [B, 1] of 1 and 0.

        Both are float32. Where there is no face, the embedding is zero; it must not be scored.
        """
        check_pixels(pixels)
        embedding = torch.zeros(len(pixels), WIDTH)
        for row, picture in zip(embedding, pixels.cpu(), strict=True):
            found = self._embed(picture.permute(1, 2, 0).numpy()[:, :, ::-1])
            if found is not None:
                row.copy_(torch.from_numpy(found / np.linalg.norm(found)))
        found = embedding.any(1, keepdim=True).float()
        return {"embedding": embedding.to(self.device), "found": found.to(self.device)}

    def _embed(self, picture: np.ndarray) -> np.ndarray | None:
        """uint8 [H, W, 3] in BGR -> [512], None without a face."""
        from insightface.app.common import Face as Found

        picture = np.ascontiguousarray(picture)
        boxes, landmarks = self.detector.detect(
            picture, input_size=(self.size, self.size), det_thresh=_LEAST_SCORE
        )
        if not len(boxes):
            return None
        largest = np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        face = Found(bbox=boxes[largest], kps=landmarks[largest], det_score=boxes[largest, 4])
        return self.recogniser.get(picture, face)


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
    if detection_size < 32 or detection_size % 32:
        raise ValueError(f"Got detection size {detection_size}; expected a multiple of 32.")
    detector = _open(Path(detector_path), "detection", device)
    recogniser = _open(Path(recogniser_path), "recognition", device)
    if not detector.use_kps:
        raise ValueError(
            f"{Path(detector_path).name} finds faces without landmarks, which the recogniser "
            "needs. Choose a detector with five landmarks (its name often ends in kps)."
        )
    if recogniser.output_shape[-1] != WIDTH:
        raise ValueError(
            f"{Path(recogniser_path).name} gives embeddings of width "
            f"{recogniser.output_shape[-1]}, expected {WIDTH}. Choose another recogniser."
        )
    name = f"face-{Path(recogniser_path).stem}"
    weights = f"{file_hash(detector_path)}+{file_hash(recogniser_path)}"
    return Face(detector, recogniser, name, weights, detection_size, device)


def _open(path: Path, task: str, device: str | torch.device):
    """insightface's object for an ONNX file, which must be there: nothing is downloaded."""
    try:
        import onnxruntime
        from insightface import model_zoo
    except ImportError as error:
        raise MissingPackageError(
            f"Identity similarity needs insightface and onnxruntime ({error}). Install them with: "
            'python -m pip install "insightface>=2.1" onnxruntime'
        ) from error
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path.name} in {path.parent}. Check the name, or put the file there."
        )
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    available = onnxruntime.get_available_providers()
    providers = [p for p in wanted if p in available] + ["CPUExecutionProvider"]
    try:
        model = model_zoo.get_model(str(path), providers=providers)
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) is not a complete ONNX model "
            f"({type(error).__name__}). Download it again."
        ) from error
    if getattr(model, "taskname", None) != task:
        raise ValueError(
            f"{path.name} is not a model for face {task}. Choose the file of another model."
        )
    return model
