"""Node: files of a face detector and a recogniser -> MULTI_IPADAPTER_FACES."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.v0_0_2 import io

from ...faces.analysis import FaceAnalyser
from ...faces.insight import (
    PACKS,
    InsightFace,
    MissingPackageError,
    MissingPackError,
    load_pack,
    pack_files,
)
from ..host.wires import CATEGORY, FaceAnalysisSocket
from .mediapipe import MissingMediaPipeError, load_mediapipe, mediapipe_files

log = logging.getLogger("MultiIPAdapter")

FOLDER = "insightface"
AUTO, MEDIAPIPE = "auto", "mediapipe"
_PUBLISHED = (
    "insightface publishes its packs at github.com/deepinsight/insightface, release model-zoo, for "
    "non-commercial research only"
)


def insight_roots() -> list[Path]:
    """models/insightface and the folders registered under `insightface`, also their `models`."""
    registered = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))[0]
    roots = dict.fromkeys([*map(str, registered), os.path.join(folder_paths.models_dir, FOLDER)])
    return [Path(root) / inside for root in roots for inside in ("models", "")]


def packs() -> dict[str, Path]:
    """Complete packs by name, the published ones first."""
    found: dict[str, Path] = {}
    for folder in _folders():
        with suppress(MissingPackError):
            pack_files(folder)
            found.setdefault(folder.name, folder)
    order = [*(name for name in PACKS if name in found), *sorted(found.keys() - PACKS.keys())]
    return {name: found[name] for name in order}


def _folders() -> Iterator[Path]:
    for root in insight_roots():
        with suppress(OSError), os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
            yield from (root / name for name in names if not name.startswith("."))


def load_analyser(name: str) -> FaceAnalyser:
    """The face analysis of a name of the combo; "auto": a pack, else MediaPipe.

    Raises:
        MissingPackError: nothing there to find faces with; says what is expected where.
        MissingPackageError, MissingMediaPipeError, ValueError: as the loaders.
    """
    if name == MEDIAPIPE:
        return load_mediapipe()
    if name == AUTO:
        return _automatic()
    there = packs()
    if name not in there:
        raise MissingPackError(_missing(name))
    return load_pack(there[name], comfy.model_management.get_torch_device())


def load_first_pack() -> InsightFace:
    """The first pack that is there; other models' folders beside it are passed over.

    Raises:
        MissingPackError: there is none; says what is expected where.
        MissingPackageError: as the loader.
        ValueError: the files of a published pack are damaged.
    """
    for name, folder in packs().items():
        try:
            return load_pack(folder, comfy.model_management.get_torch_device())
        except (MissingPackError, ValueError):
            if name in PACKS:
                raise
    raise MissingPackError(_missing(next(iter(PACKS))))


def _automatic() -> FaceAnalyser:
    try:
        return load_first_pack()
    except (MissingPackError, MissingPackageError) as error:
        failed = error
    try:
        analyser = load_mediapipe()
    except MissingMediaPipeError as error:
        raise type(failed)(f"{failed} Or use ComfyUI's own MediaPipe detector: {error}") from error
    if isinstance(failed, MissingPackageError):  # a pack is there, and meant to be used
        log.warning(f"Faces are found by MediaPipe, which cannot recognise them. {failed}")
    return analyser


def _missing(name: str) -> str:
    files = PACKS.get(name)
    what = " and ".join(files) if files else "a face detector and a recogniser (.onnx files)"
    return (
        f"There is no face model pack {name!r}. Expected {what} in "
        f"models/{FOLDER}/models/{name}. {_PUBLISHED}."
    )


class LoadFaceAnalysis(io.ComfyNode):
    """Load what finds, and with a recogniser tells apart, faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        options = list(dict.fromkeys([AUTO, *packs(), *PACKS, MEDIAPIPE]))
        return io.Schema(
            node_id="MultiIPAdapter_LoadFaceAnalysis",
            display_name="Load Face Analysis",
            category=CATEGORY,
            description="Finds faces, and tells people apart if there is a recogniser. Model packs "
            f"lie in models/{FOLDER}; nothing is downloaded. {_PUBLISHED}.",
            search_aliases=["insightface", "face detection", "buffalo_l", "antelopev2", "faceid"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=options,
                    default=AUTO,
                    optional=True,
                    tooltip="auto: the first insightface pack that is there, else MediaPipe, "
                    "which finds faces but cannot recognise them. FaceID adapters need "
                    "buffalo_l, InstantID antelopev2.",
                )
            ],
            outputs=[
                FaceAnalysisSocket.Output(
                    display_name="face_analysis",
                    tooltip="For 'Prepare Faces', 'Encode Reference Images' and training.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = AUTO) -> str:
        """ComfyUI loads again when models were added or replaced."""
        files = [file for folder in packs().values() for file in pack_files(folder)]
        return "|".join(f"{p} {p.stat().st_mtime_ns}" for p in (*files, *mediapipe_files()))

    @classmethod
    def execute(cls, model: str = AUTO) -> io.NodeOutput:
        return io.NodeOutput(load_analyser(model))
