"""Spatial masks: where in the picture the references act, at every resolution of the UNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from .builders import apply, encode, make_adapter, make_images, patches_of, sample
from .oracle import assert_rows, difference, recorded, texts

CLOSE = 1e-5


@pytest.fixture
def adapter(sd15):
    return make_adapter(sd15)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3), "1, 2, 0.5")


def test_a_white_mask_is_no_mask(sd15, adapter, references, prompts):
    whole = apply(sd15, adapter, references, mask=torch.ones(1, 64, 64))
    plain = sample(apply(sd15, adapter, references), *prompts)
    assert difference(sample(whole, *prompts), plain) <= CLOSE * float(plain.abs().max())


def test_a_black_mask_is_the_unpatched_model(sd15, adapter, references, prompts):
    nowhere = apply(sd15, adapter, references, mask=torch.zeros(1, 64, 64))
    assert torch.equal(sample(nowhere, *prompts), sample(sd15, *prompts))


def test_a_grey_mask_is_a_weight(sd15, adapter, references, prompts):
    grey = sample(apply(sd15, adapter, references, mask=torch.full((32, 32), 0.5)), *prompts)
    weaker = sample(apply(sd15, adapter, references, weight=0.5), *prompts)
    assert difference(grey, weaker) <= CLOSE * float(weaker.abs().max())


def resized(masks, size):
    """[M, H, W] -> [M, h w, 1] by Pillow's resampling, which averages where it shrinks."""
    images = [Image.fromarray(mask.numpy()).resize(size[::-1], Image.BILINEAR) for mask in masks]
    return torch.stack([torch.from_numpy(np.array(x)) for x in images]).flatten(1).unsqueeze(-1)


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (256, 128)), (2, (9, 9)), (3, (40, 200)), (4, (100, 50))]
)
def test_masks_are_stretched_to_every_layer_and_dealt_out(
    sd15, adapter, references, prompts, count, shape
):
    """Latent i gets mask i modulo their number, in the rows of both prompts."""
    masks = torch.rand(count, *shape, generator=torch.Generator().manual_seed(2))
    patched = apply(sd15, adapter, references, weight=0.9, mask=masks)
    with recorded(patched) as calls:
        sample(patched, *prompts, steps=1, batch=4, size=(32, 16))
    (call,) = calls
    owners = torch.arange(4).repeat(2) % count
    assert_rows(
        patched,
        calls,
        adapter,
        references,
        texts(prompts[0]),
        texts(prompts[1]),
        region=lambda size: resized(masks, size)[owners],
    )


def test_masks_of_split_batches(sd15, adapter, references, prompts, monkeypatch):
    masks = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(2))
    patched = apply(sd15, adapter, references, mask=masks)
    joint = sample(patched, *prompts)
    monkeypatch.setattr(patched.model, "memory_required", lambda *_, **__: 1e18)
    split = sample(patched, *prompts)
    assert difference(split, joint) <= CLOSE * float(joint.abs().max())


def first_attention(model, prompts):
    """What leaves the attention of the first layer: [rows, 16, 16, channels]."""
    seen = []

    def record(out, q, k, v, extra_options):
        seen.append(out.clone())
        return torch.zeros_like(out)

    listening = model.clone()
    patches_of(listening)["input", 1].add(record)
    sample(listening, *prompts, steps=1)
    return seen[0].unflatten(1, (16, 16))


def test_a_half_black_mask_leaves_that_half_of_the_attention_alone(
    sd15, adapter, references, prompts
):
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1
    black, half, white = (
        first_attention(apply(sd15, adapter, references, mask=m), prompts)
        for m in (0 * mask, mask, torch.ones_like(mask))
    )
    assert torch.equal(half[:, :, :7], black[:, :, :7])
    assert torch.equal(half[:, :, 9:], white[:, :, 9:])
    assert (white - black).abs().amax((1, 2, 3)).min() > 1e-2
