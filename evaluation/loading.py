"""The feature networks that metrics need, from the files below some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .catalogue import MissingWeightsError, find
from .plan import METRICS
from .resize import MODES

CLIPS = ("clip-vit-b-32", "clip-vit-l-14", "clip-vit-l-14-336")
DINOS = ("dino-vits16", "dinov2-vits14", "dinov2-vitb14", "dinov2-vitl14")
LPIPS = ("lpips-alex", "lpips-vgg")
FACE_ROLES = frozenset({"face", "copy_paste"})  # copy_paste can do without
_CMMD = "clip-vit-l-14-336"
_OF_WIDTH = {768: "clip-vit-l-14", 512: "clip-vit-b-32"}  # the CLIP below an aesthetic head


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, where several can serve.

    Attributes:
        clip, dino, lpips: names of the catalogue.
        resize: of the FID-Inception, one of `resize.MODES`.
    """

    clip: str = CLIPS[0]
    dino: str = DINOS[0]
    lpips: str = LPIPS[0]
    resize: str = MODES[0]


def roles_of(metrics: Sequence[str]) -> set[str]:
    """Roles of the networks that the metrics read."""
    return {
        role
        for name in metrics
        for role in (*METRICS[name].heads, *(role for role, _ in METRICS[name].passes))
    }


def load_networks(
    metrics: Sequence[str],
    folders: Sequence[str | Path],
    choice: NetworkChoice | None = None,
    *,
    tokenizer: str | Path | None = None,
    device: str | torch.device = "cpu",
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Networks by role, for `run.evaluate`; each file is read once.

    Args:
        metrics: names of `plan.METRICS`; what none of them needs is not loaded.
        tokenizer: folder of vocab.json and merges.txt; None: the folder of the CLIP file.
        given: networks by role that need no file.

    Raises:
        MissingWeightsError: a file is missing; says what it is called, and where to get it.
        ValueError: a file is damaged, of something else, or would run code.
    """
    choice = choice or NetworkChoice()
    files = _Files(folders, tokenizer, device)
    out = dict(given or {})
    roles = roles_of(metrics) - out.keys()
    if "inception" in roles:
        out["inception"] = files.inception(choice.resize)
    if roles & FACE_ROLES and "face" not in out:
        found = files.face(needed="face" in roles)
        if found is None:  # copy_paste can do with CLIP, and the report says so
            roles |= {"clip"} - out.keys()
        else:
            out["face"] = found
    if "clip" in roles:
        out["clip"] = files.clip(choice.clip)
    if "cmmd_clip" in roles:
        try:
            out["cmmd_clip"] = files.clip(_CMMD)
        except MissingWeightsError:  # the report then says that it is not the published one
            out["cmmd_clip"] = out.get("clip") or files.clip(choice.clip)
    if "dino" in roles:
        out["dino"] = files.dino(choice.dino)
    if "lpips" in roles:
        out["lpips"] = files.lpips(choice.lpips)
    if "aesthetic" in roles:
        out["aesthetic"] = files.aesthetic()
        out["aesthetic_clip"] = files.clip(_OF_WIDTH.get(out["aesthetic"].width, choice.clip))
    return out


class _Files:
    """Loads one network at a time.

    The networks are imported where they are loaded, because transformers takes a second that
    ComfyUI's start need not wait for.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        tokenizer: str | Path | None,
        device: str | torch.device,
    ):
        self._folders, self._tokenizer, self._device = folders, tokenizer, device
        self._clips: dict[str, Any] = {}

    def inception(self, resize: str) -> Any:
        from .networks.inception import load_inception

        return load_inception(self._find("fid-inception"), resize, self._device)

    def face(self, needed: bool) -> Any:
        """Finds and recognises faces; None where it cannot be loaded and need not be."""
        from .networks.face import MissingPackageError, load_face

        try:
            detector, recogniser = self._find("face-detector"), self._find("face-recogniser")
            return load_face(detector, recogniser, device=self._device)
        except (MissingWeightsError, MissingPackageError):
            if needed:
                raise
            return None

    def clip(self, name: str) -> Any:
        """The same object for the same name."""
        from .networks.clip import load_clip

        if name not in self._clips:
            path = self._find(name)
            beside = path.parent if (path.parent / "vocab.json").is_file() else None
            self._clips[name] = load_clip(path, self._tokenizer or beside, self._device)
        return self._clips[name]

    def dino(self, name: str) -> Any:
        from .networks.dino import load_dino

        return load_dino(self._find(name), self._device)

    def lpips(self, name: str) -> Any:
        from .networks.lpips import load_lpips

        heads = self._find(f"{name}-heads")
        return load_lpips(self._find(name), heads, self._device)

    def aesthetic(self) -> Any:
        from .networks.aesthetic import load_aesthetic

        return load_aesthetic(self._find("aesthetic"), self._device)

    def _find(self, name: str) -> Path:
        return find(name, self._folders)
