"""Face analysis by insightface and onnxruntime: the files of a model pack -> a FaceAnalyser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .analysis import EMBEDDING, Face

LEAST_SCORE = 0.5  # insightface's own
SIZES = (640, 128)  # insightface's own; close-ups are found at the smaller one only
INSTALL = 'python -m pip install "insightface>=2.1" onnxruntime'
_LEAST_VERSION = (2, 1)  # needs no compiler
# Detector and recogniser of the published packs; their further models are never loaded.
PACKS = {
    "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx"),
    "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
}
_OTHERS = ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx")


class MissingPackageError(RuntimeError):
    """The optional packages for faces are not installed; says how to install them."""


class MissingPackError(FileNotFoundError):
    """A model pack is not there, or not complete; says what is expected where."""


class InsightFace:
    """A detector with landmarks (SCRFD) and a recogniser (ArcFace); see `FaceAnalyser`.

    Attributes:
        sizes: sides, in pixels, of the squares that a picture is shrunk into to find faces; what
            is found at several counts once. Where nothing is found in a larger picture, twice the
            largest follows, for faces far away. A detector of a fixed size has only its own.
        files: of the detector and the recogniser.
    """

    def __init__(
        self,
        detector,
        recogniser,
        name: str,
        space: str,
        sizes: Sequence[int],
        files: Sequence[Path],
    ):
        self._detector, self._recogniser, self.files = detector, recogniser, tuple(files)
        self.name, self.recogniser, self.sizes = name, space, tuple(sizes)
        self._fixed = detector.static_input_size is not None
        if self._fixed:
            self.sizes = self.sizes[:1]  # insightface takes the fixed one instead

    def detect(self, picture: np.ndarray) -> list[Face]:
        """Faces of an RGB picture, uint8 [H, W, 3], the largest first."""
        largest = max(self.sizes)
        boxes, landmarks = self._detect(picture, self.sizes)
        if not len(boxes) and not self._fixed and max(picture.shape[:2]) > largest:
            boxes, landmarks = self._detect(picture, (2 * largest,))
        faces = [
            Face(box[:4].astype(np.float32), points.astype(np.float32), float(box[4]))
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.size)

    def _detect(self, picture: np.ndarray, sizes: Sequence[int]):
        """Boxes with scores [n, 5] and landmarks [n, 5, 2]."""
        short, long = sorted(picture.shape[:2])
        squares = [(size, size) for size in sizes if short * size >= long]
        if not squares:  # a line; insightface would make a picture without pixels of it
            return np.empty((0, 5)), np.empty((0, 5, 2))
        return self._detector.detect(_bgr(picture), input_size=squares, det_thresh=LEAST_SCORE)

    def embed(self, picture: np.ndarray, face: Face) -> np.ndarray:
        """The recogniser's output for a face of an RGB picture, float32 [512], not normalised."""
        from insightface.app.common import Face as Found

        found = Found(bbox=face.box, kps=face.landmarks, det_score=face.score)
        return self._recogniser.get(_bgr(picture), found)


def load_insight(
    detector_path: str | Path,
    recogniser_path: str | Path,
    sizes: Sequence[int] = SIZES,
    device: str | torch.device = "cpu",
    pack: str = "",
) -> InsightFace:
    """Both ONNX files of an analyser.

    Args:
        sizes: see `InsightFace`; multiples of 32.
        pack: name of the folder that the files come in, if they do.

    Raises:
        MissingPackageError: insightface or onnxruntime is not installed.
        ValueError: a file of another kind, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    for size in sizes:
        if size < 32 or size % 32:
            raise ValueError(f"Got detection size {size}; expected a multiple of 32.")
    paths = Path(detector_path), Path(recogniser_path)
    opened = {path: _open(path, device) for path in paths}
    return _analyser(opened, *paths, sizes, pack)


def load_pack(folder: str | Path, device: str | torch.device = "cpu") -> InsightFace:
    """The detector and the recogniser of a pack; its folder may lie in one of the same name.

    Raises:
        MissingPackError: no such folder, or not exactly one detector and one recogniser in it.
        MissingPackageError, ValueError: as `load_insight`.
    """
    folder = Path(folder)
    files = pack_files(folder)
    if folder.name in PACKS:
        detector, recogniser = files
        return load_insight(detector, recogniser, SIZES, device, folder.name)
    opened = {path: _open(path, device) for path in files}
    of_task = {}
    for task in ("detection", "recognition"):
        named = [path for path, model in opened.items() if _task(model) == task]
        if len(named) != 1:
            names = ", ".join(path.name for path in named) or "none"
            raise MissingPackError(
                f"Got {names} for face {task} in {_shown(folder)}; expected exactly one such "
                "file. Remove the others from the folder, or put the missing one there."
            )
        of_task[task] = named[0]
    detector, recogniser = of_task.values()
    return _analyser(opened, detector, recogniser, SIZES, folder.name)


def pack_files(folder: Path) -> list[Path]:
    """A published pack's detector and recogniser; of another pack all files that may be them.

    Raises:
        MissingPackError: no such folder, or files are missing.
    """
    names = PACKS.get(folder.name)
    inside = folder / folder.name  # as antelopev2.zip unpacks
    for place in (folder, inside):
        if names and all((place / name).is_file() for name in names):
            return [place / name for name in names]
        if not names and place.is_dir():
            files = sorted(p for p in place.glob("*.onnx") if p.name not in _OTHERS)
            if files:
                return files
    what = " and ".join(names) if names else "a face detector and a recogniser (.onnx)"
    raise MissingPackError(f"{_shown(folder)} does not hold {what}.")


def space_of(stem: str, pack: str) -> str:
    """Name of an embedding space; other packs reuse the published packs' file names.

    Without a pack (""), the file's name is all there is.
    """
    home = {Path(recogniser).stem: name for name, (_, recogniser) in PACKS.items()}.get(stem)
    return stem if not pack or home in (None, pack) else f"{pack}/{stem}"


def _analyser(opened, detector: Path, recogniser: Path, sizes, pack: str) -> InsightFace:
    _check_kind(opened[detector], "detection", detector)
    _check_kind(opened[recogniser], "recognition", recogniser)
    name = f"insightface {pack or recogniser.stem}"
    space = space_of(recogniser.stem, pack)
    files = detector, recogniser
    return InsightFace(opened[detector], opened[recogniser], name, space, sizes, files)


def _bgr(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, :, ::-1])


def _shown(folder: Path) -> str:
    """The folder as a user knows it, without where ComfyUI lies."""
    return "/".join(folder.parts[-3:])


def _task(model) -> str:
    return getattr(model, "taskname", "")


def _check_kind(model, task: str, path: Path) -> None:
    if _task(model) != task:
        raise ValueError(
            f"{path.name} is not a model for face {task}. Choose the file of another model."
        )
    if task == "detection" and not model.use_kps:
        raise ValueError(
            f"{path.name} finds faces without landmarks, which the recogniser needs. Choose a "
            "detector with five landmarks (its name often ends in kps)."
        )
    if task == "recognition" and model.output_shape[-1] != EMBEDDING:
        raise ValueError(
            f"{path.name} gives embeddings of width {model.output_shape[-1]}, expected "
            f"{EMBEDDING}. Choose another recogniser."
        )


def _open(path: Path, device: str | torch.device):
    """insightface's object for an ONNX file, which must be there: nothing is downloaded."""
    try:
        import insightface
        import onnxruntime
        from insightface import model_zoo
    except ImportError as error:
        raise MissingPackageError(
            f"Finding and recognising faces needs insightface and onnxruntime ({error}). Install "
            f"them with: {INSTALL}"
        ) from error
    if tuple(map(int, re.findall(r"\d+", insightface.__version__)[:2])) < _LEAST_VERSION:
        raise MissingPackageError(
            f"Got insightface {insightface.__version__}; expected 2.1 or newer. Update it with: "
            f"{INSTALL.replace('install', 'install --upgrade')}"
        )
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
    return model
