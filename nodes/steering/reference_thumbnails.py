"""Encoded references -> small pictures for the strip that the front end shows on the node."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
from server import PromptServer
from torch import Tensor

from ...files.atomic import atomically
from ..host.images import to_picture

FOLDER = "multi_ipadapter"  # in ComfyUI's folder for temporary files
SIDE = 128


def thumbnails(images: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The node's ui output; None without a server, as nobody would look at it.

    Args:
        images: by input name, each [b, H, W, 3] in 0..1.

    Returns:
        {"references": [[{"slot": input name, "files": a name for each picture}, ...]]}. A list
        in the list: ComfyUI counts dicts there as outputs of the graph.
    """
    if getattr(PromptServer, "instance", None) is None:
        return None
    folder = Path(folder_paths.get_temp_directory()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    slots = [
        {"slot": name, "files": [_write(picture, folder) for picture in batch]}
        for name, batch in images.items()
    ]
    return {"references": [slots]}


def _write(picture: Tensor, folder: Path) -> str:
    """[H, W, 3] -> name of the file, which equal pictures share."""
    small = to_picture(picture)
    small.thumbnail((SIDE, SIDE))
    content = BytesIO()
    small.save(content, "WEBP", quality=80)
    name = f"{hashlib.sha256(content.getvalue()).hexdigest()[:24]}.webp"
    if not (folder / name).exists():
        with atomically(folder / name) as temporary:
            temporary.write_bytes(content.getvalue())
    return name
