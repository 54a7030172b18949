"""The feature networks that metrics need, from the files below some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .catalogue import MissingWeightsError, find
from .plan import METRICS

CLIPS = ("clip-vit-b-32", "clip-vit-l-14", "clip-vit-l-14-336")
DINOS = ("dino-vits16", "dinov2-vits14", "dinov2-vitb14", "dinov2-vitl14")
LPIPS = ("lpips-alex", "lpips-vgg")
FACE_ROLES = frozenset({"face", "copy_paste"})  # copy_paste can do without
_CMMD = "clip-vit-l-14-336"
_OF_WIDTH = {768: "clip-vit-l-14", 512: "clip-vit-b-32"}  # the CLIP below an aesthetic head


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
    *,
    resize: str = "torch-fidelity",
    clip: str = CLIPS[0],
    dino: str = DINOS[0],
    lpips: str = LPIPS[0],
    tokenizer: str | Path | None = None,
    device: str | torch.device = "cpu",
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Networks by role, for `run.evaluate`; each file is read once.

    Args:
        metrics: names of `plan.METRICS`; what none of them needs is not loaded.
        resize: of the FID-Inception.
        clip, dino, lpips: names of the catalogue.
        tokenizer: folder of vocab.json and merges.txt; None: the folder of the CLIP file.
        given: networks by role that need no file.

    Raises:
        MissingWeightsError: a file is missing; says what it is called, and where to get it.
        ValueError: a file is damaged, of something else, or would run code.
    """
    # Imported here, because transformers takes a second that ComfyUI's start need not wait for.
    from .networks.aesthetic import load_aesthetic
    from .networks.clip import load_clip
    from .networks.dino import load_dino
    from .networks.face import MissingPackageError, load_face
    from .networks.inception import load_inception
    from .networks.lpips import load_lpips

    out = dict(given or {})
    roles = roles_of(metrics) - out.keys()
    clips: dict[str, Any] = {}

    def clip_named(name: str) -> Any:
        if name not in clips:
            path = find(name, folders)
            beside = path.parent if (path.parent / "vocab.json").is_file() else None
            clips[name] = load_clip(path, tokenizer or beside, device)
        return clips[name]

    if "inception" in roles:
        out["inception"] = load_inception(find("fid-inception", folders), resize, device)
    if roles & FACE_ROLES and "face" not in out:
        try:
            detector = find("face-detector", folders)
            out["face"] = load_face(detector, find("face-recogniser", folders), device=device)
        except (
            MissingWeightsError,
            MissingPackageError,
        ):  # copy_paste can do with CLIP, and the report says so
            if "face" in roles:
                raise
            roles |= {"clip"} - out.keys()
    if "clip" in roles:
        out["clip"] = clip_named(clip)
    if "cmmd_clip" in roles:
        try:
            out["cmmd_clip"] = clip_named(_CMMD)
        except MissingWeightsError:  # the report then says that it is not the published one
            out["cmmd_clip"] = out.get("clip") or clip_named(clip)
    if "dino" in roles:
        out["dino"] = load_dino(find(dino, folders), device)
    if "lpips" in roles:
        heads = find(f"{lpips}-heads", folders)
        out["lpips"] = load_lpips(find(lpips, folders), heads, device)
    if "aesthetic" in roles:
        out["aesthetic"] = load_aesthetic(find("aesthetic", folders), device)
        out["aesthetic_clip"] = clip_named(_OF_WIDTH.get(out["aesthetic"].width, clip))
    return out
