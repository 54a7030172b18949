"""Pictures -> encoded features, batch by batch; decoding runs ahead of encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files.names import printable
from ..pictures.decode import BadPictureError, UnusablePicturesError
from ..pictures.index import PictureIndex
from ..pictures.load import load_picture
from .batch import LATENTS, MASK

# Pictures uint8 [b, H, W, 3] -> {"latents": [b, c, h, w], other features: [b, ...]}; a second
# argument names those that are wanted, so that references cost no pass of the VAE.
Encode = Callable[..., Mapping[str, Tensor]]
BATCH = 16  # pictures at a time
_THREADS = 4


@dataclass(frozen=True)
class Encoders:
    """The models that read pictures for training.

    Attributes:
        fingerprint: of all of them but the recogniser; another one means other features.
        widths: of the features of references, by name.
        recogniser: the one behind the face embeddings; "" where none are read.
        batch_size: pictures at a time.
    """

    encode: Encode
    fingerprint: str
    widths: Mapping[str, int]
    recogniser: str = ""
    batch_size: int = BATCH


@dataclass(frozen=True)
class Encoded:
    """A batch: those pictures that could be read.

    Attributes:
        numbers: of the pictures, in order.
        features: by name, [b, ...] each.
        masks: [b, 1, h, w] at latent size; ones for pictures without a mask; empty when neither
            masks nor latents are wanted.
        bad: reasons why the others could not.
    """

    numbers: list[int]
    features: Mapping[str, Tensor]
    masks: Tensor
    bad: Mapping[int, str]


def encode_pictures(
    index: PictureIndex,
    numbers: Sequence[int],
    encode: Encode,
    size: int,
    fit: str,
    batch_size: int,
    names: Sequence[str] | None = None,
) -> Iterator[Encoded]:
    """Encode pictures in order, in batches.

    Args:
        names: features that are wanted, "mask" among them; None: all.

    Raises:
        ValueError: the encoder gave values that are not finite.
    """
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    with ThreadPoolExecutor(_THREADS) as pool:

        def load(batch: Sequence[int]) -> list[Future]:
            return [pool.submit(_load, index, n, size, fit) for n in batch]

        ahead = load(batches[0]) if batches else []
        for i, batch in enumerate(batches):
            loaded = [future.result() for future in ahead]
            ahead = load(batches[i + 1]) if i + 1 < len(batches) else []
            yield _encode_batch(index, batch, loaded, encode, names)


def _load(
    index: PictureIndex, number: int, size: int, fit: str
) -> tuple[Tensor, Tensor | None] | str:
    try:
        return load_picture(index, number, size, fit)
    except BadPictureError as error:
        return str(error)


def _encode_batch(index: PictureIndex, batch, loaded, encode: Encode, names) -> Encoded:
    bad = {n: x for n, x in zip(batch, loaded, strict=True) if isinstance(x, str)}
    good = [(n, *x) for n, x in zip(batch, loaded, strict=True) if not isinstance(x, str)]
    if not good:
        return Encoded([], {}, torch.zeros(0), bad)
    pictures = torch.stack([pixels for _, pixels, _ in good])
    try:
        features = encode(pictures) if names is None else encode(pictures, _to_encode(names))
    except UnusablePicturesError as error:
        for place, reason in error.reasons.items():
            number = good[place][0]
            loaded[batch.index(number)] = f"{printable(index.name(number))}: {reason}"
        return _encode_batch(index, batch, loaded, encode, names)  # the others
    numbers = [number for number, _, _ in good]
    for name, values in features.items():
        if not values.isfinite().all():
            some = ", ".join(index.name(n) for n in numbers[:3])
            raise ValueError(
                f"The encoder's {name} of {some} are not finite numbers. Run the VAE and the "
                "image encoder in float32 (ComfyUI: --fp32-vae)."
            )
    if LATENTS not in features:  # a mask has their size
        return Encoded(numbers, features, torch.zeros(0), bad)
    height, width = features[LATENTS].shape[-2:]
    masks = [_at_latent_size(mask, height, width) for _, _, mask in good]
    return Encoded(numbers, features, torch.stack(masks), bad)


def _to_encode(names: Sequence[str]) -> list[str]:
    return sorted({LATENTS if name == MASK else name for name in names})


def _at_latent_size(mask: Tensor | None, height: int, width: int) -> Tensor:
    """[size, size] -> [1, h, w]."""
    if mask is None:
        return torch.ones(1, height, width)
    return F.adaptive_avg_pool2d(mask[None], (height, width))
