"""ComfyUI's own MediaPipe face detector as a FaceAnalyser; it cannot tell people apart."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
from safetensors import SafetensorError, safe_open

from ...faces.analysis import Face

FOLDER = "detection"
_FILE = "mediapipe_face_fp32.safetensors"
_PARTS = ("detector_short.", "detector_full.", "mesh.", "blendshapes.", "canonical_", "topology.")
# Among the mesh's 478 points: corners and lids of the eyes, nose tip, corners of the mouth, in the
# order of `Face.landmarks`.
_POINTS = ((33, 133, 159, 145), (362, 263, 386, 374), (1,), (61,), (291,))
_LEAST_SCORE = 0.5


class MissingMediaPipeError(RuntimeError):
    """This ComfyUI has no MediaPipe detector, or its weights are not there."""


class MediaPipeFaces:
    """Boxes and landmarks by ComfyUI's MediaPipe port; see `FaceAnalyser`."""

    name = "mediapipe"
    recogniser = ""

    def __init__(self, model):
        self._model = model

    def detect(self, picture: np.ndarray) -> list[Face]:
        """Faces of an RGB picture, uint8 [H, W, 3], the largest first.

        By the detector for close faces or the one for far ones, whichever finds more.
        """
        found: list[dict] = []
        for variant in ("short", "full"):
            (faces,) = self._model.detect_batch(
                [picture], num_faces=0, score_thresh=_LEAST_SCORE, variant=variant
            )
            found = faces if len(faces) > len(found) else found
        faces = [
            Face(face["bbox_xyxy"], five_points(face["landmarks_xy"]), float(face["score"]))
            for face in found
        ]
        return sorted(faces, key=lambda face: -face.size)

    def embed(self, picture: np.ndarray, face: Face) -> np.ndarray:
        raise ValueError(
            "MediaPipe finds faces but cannot recognise them. Choose an insightface pack in Load "
            "Face Analysis."
        )


def five_points(mesh: np.ndarray) -> np.ndarray:
    """MediaPipe's 478 points, [478, 2], to the five of `Face.landmarks`, float32 [5, 2]."""
    return np.array([mesh[list(points)].mean(0) for points in _POINTS], np.float32)


def mediapipe_files() -> list[Path]:
    """Files in models/detection, the published name first; what is in them is not looked at."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        return []
    names = [n for n in folder_paths.get_filename_list(FOLDER) if n.endswith(".safetensors")]
    names.sort(key=lambda name: (Path(name).name != _FILE, name))
    paths = (folder_paths.get_full_path(FOLDER, name) for name in names)
    return [Path(path) for path in paths if path]


def load_mediapipe() -> MediaPipeFaces:
    """The detector with the first weights file of its layout.

    Raises:
        MissingMediaPipeError: too old a ComfyUI, or no such file.
    """
    try:
        from comfy_extras.nodes_mediapipe import FaceLandmarkerModel
    except ImportError as error:
        raise MissingMediaPipeError(
            "This version of ComfyUI has no MediaPipe face detector. Update ComfyUI (v0.30.0 has "
            "it), or use an insightface pack."
        ) from error
    for path in mediapipe_files():
        if _is_mediapipe(path):
            tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
            return MediaPipeFaces(FaceLandmarkerModel(tensors))
    raise MissingMediaPipeError(
        f"Expected {_FILE} in models/{FOLDER}. It is published by Comfy-Org on Hugging Face "
        "(repository Comfy-Org/mediapipe, folder detection). Put it there."
    )


def _is_mediapipe(path: Path) -> bool:
    """Whether a file has all parts of the model; ComfyUI itself would take any."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return False
    return all(any(name.startswith(part) for name in names) for part in _PARTS)
