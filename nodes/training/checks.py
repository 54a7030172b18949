"""Tells which captions the text encoder will cut, before anything is encoded."""

from __future__ import annotations

import logging
from typing import Any

from ...pictures.index import PictureIndex

log = logging.getLogger("MultiIPAdapter")

_CAPTIONS, _TOKENS = 1000, 75  # looked at; between a start and an end token


def tell_long_captions(clip: Any, index: PictureIndex) -> None:
    """Training reads the first chunk of 77 tokens only, as rows of a batch are of one length."""
    numbers = range(0, len(index), max(1, len(index) // _CAPTIONS))
    captions = [index.caption(number) for number in numbers]
    long = sum(_is_cut(clip, caption) for caption in captions)
    if long:
        log.warning(
            "%d of %d captions looked at are longer than %d tokens; what comes after is cut off. "
            "Put what matters first.",
            long,
            len(captions),
            _TOKENS,
        )


def _is_cut(clip: Any, caption: str) -> bool:
    if len(caption.encode("utf-8", "replace")) <= _TOKENS:  # no token is shorter than a byte
        return False
    return any(len(chunks) > 1 for chunks in clip.tokenize(caption).values())
