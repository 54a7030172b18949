"""The attention patch: adds the image attention of one or more adapters to a model's layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor
from torch.nn import functional as F

from ...models.attention import add_image_attention
from ..unet.attention import core_attention
from ..unet.routing import WRAPPER_PREFIX, RowRouter, Rows, tell_roles
from ..unet.sites import Site
from .key_values import LayerKeyValues

CLONE_KEY = "multi_ipadapter"


class RegionMask:
    """Where in the picture the references act: masks [M, H, W] in 0..1, brought to each layer."""

    def __init__(self, masks: Tensor):
        self.masks = masks.unsqueeze(1)  # [M, 1, H, W]
        self._resized: dict[tuple, Tensor] = {}  # a model has three or four sizes of layers

    def at(self, q: Tensor, extra_options: dict, latent: Tensor) -> Tensor:
        """[B or 1, L, 1] for queries [B, L, D].

        Raises:
            ValueError: another patch has merged or cut the queries, whose places are then unknown.
        """
        size = tuple(extra_options["activations_shape"][2:])
        if size[0] * size[1] != q.shape[1]:
            raise ValueError(
                f"Got {q.shape[1]} queries for a layer of {size[0]} x {size[1]}: another node "
                "merges or cuts them, so the mask cannot be placed. Remove the mask or that node."
            )
        masks = self._resize(q, size) if torch.compiler.is_compiling() else self._cached(q, size)
        return masks if masks.shape[0] == 1 else masks[latent % masks.shape[0]]

    def to(self, device: torch.device) -> None:
        """Move, so that a compiled UNet need not."""
        self.masks = self.masks.to(device)

    def _cached(self, q: Tensor, size: tuple[int, ...]) -> Tensor:
        wanted = (size, q.device, q.dtype)
        if wanted not in self._resized:
            self._resized[wanted] = self._resize(q, size)
        return self._resized[wanted]

    def _resize(self, q: Tensor, size: tuple[int, ...]) -> Tensor:
        masks = self.masks.to(q.device)
        masks = F.interpolate(masks, size=size, mode="bilinear", antialias=True)
        return masks.flatten(1).unsqueeze(-1).to(q.dtype)  # [M, L, 1]


class ImageAttention:
    """One adapter in one layer: lambda softmax(Q G^T / sqrt d) U, added to what is there."""

    def __init__(
        self, key: str, key_values: LayerKeyValues, scale: float, mask: RegionMask | None = None
    ):
        self.key = key
        self.home = key_values  # stays where it is; other runs share it
        self.key_values = key_values
        self.scale = scale
        self.scale_tensor = torch.tensor(scale)
        self.mask = mask

    def __call__(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        rows: Rows | None = extra_options.get(self.key)
        if rows is None:
            return out
        scale: Tensor | float = self.scale
        if torch.compiler.is_compiling():
            # Python values would be frozen into the compiled graph.
            scale = (self.scale_tensor.to(q.device) * rows.gate).to(q.dtype)
        elif not rows.active:
            return out
        _check_rows(q, rows)
        if self.mask is not None:
            scale = scale * self.mask.at(q, extra_options, rows.latent)
        keys, values, bias = self.key_values.select(rows.is_cond, q)
        return add_image_attention(
            out,
            q,
            keys,
            values,
            scale,
            lambda q, k, v, mask: core_attention(q, k, v, extra_options, mask),
            bias,
        )

    def to(self, target: torch.device | torch.dtype) -> ImageAttention:
        """Move to a device. A dtype is ignored: a model's storage type may be unfit to compute."""
        if not isinstance(target, torch.dtype):
            self.key_values = self.home.to(target)
            self.scale_tensor = torch.tensor(self.scale, device=target)
            if self.mask is not None:
                self.mask.to(target)
        return self

    def copy(self) -> ImageAttention:
        """A copy that can be moved by itself; tensors are shared."""
        twin = object.__new__(ImageAttention)
        twin.__dict__.update(self.__dict__)
        return twin


def _check_rows(q: Tensor, rows: Rows) -> None:
    """Regional prompt nodes repeat rows inside the UNet; whose they are is not told."""
    if q.shape[0] != rows.is_cond.shape[0]:
        raise ValueError(
            f"Got {q.shape[0]} rows in a cross-attention layer for a batch of "
            f"{rows.is_cond.shape[0]}: another node (regional prompts by attention coupling, say) "
            "repeats them, so the references cannot be dealt out. Use area or mask conditioning "
            "instead of that node, or remove Apply Multi-IPAdapter."
        )


class AddedCallback:
    """A contribution of another pack, by the `.add(callback, **kwargs)` protocol."""

    def __init__(self, callback: Callable, kwargs: dict[str, Any]):
        self.callback = callback
        self.kwargs = kwargs

    def __call__(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        if not self._in_window(extra_options):
            return out
        added = self.callback(out, q, k, v, extra_options, **self.kwargs)
        return (out + added).to(out.dtype)  # some packs compute in float32

    def _in_window(self, extra_options: dict) -> bool:
        if "sigma_start" not in self.kwargs or "sigmas" not in extra_options:
            return True
        sigma = float(extra_options["sigmas"][0])
        return self.kwargs.get("sigma_end", 0.0) <= sigma <= self.kwargs["sigma_start"]

    def to(self, target: torch.device | torch.dtype) -> AddedCallback:
        """Its pack moves its own tensors."""
        return self

    def copy(self) -> AddedCallback:
        """Nothing in it changes."""
        return self


class Attn2Replace:
    """Replaces the attention of one text cross-attention layer.

    Runs what stood there before (`previous`), or ComfyUI's attention, then its parts in order.
    """

    def __init__(self, previous: Any = None):  # another pack's, with the methods that it has
        self.previous = previous
        self.parts: list[ImageAttention | AddedCallback] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        """q [B, L, D], k and v [B, M, D] -> [B, L, D]."""
        if self.previous is None:
            out = core_attention(q, k, v, extra_options)
        else:
            out = self.previous(q, k, v, extra_options)
        for part in self.parts:
            out = part(out, q, k, v, extra_options)
        return out

    def add(self, callback: Callable, **kwargs: Any) -> None:
        """Protocol of other packs: `callback(out, q, k, v, extra_options, **kwargs)` is added."""
        self.parts.append(AddedCallback(callback, kwargs))

    def copy(self) -> Attn2Replace:
        """For a clone of the model: additions there do not reach this one."""
        twin = Attn2Replace(self.previous)
        twin.parts = [part.copy() for part in self.parts]
        return twin

    def to(self, target: torch.device | torch.dtype) -> Attn2Replace:
        """ComfyUI moves patches with the model."""
        self.parts = [part.to(target) for part in self.parts]
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(target)
        return self

    def models(self) -> list:
        """Models that must be loaded with the UNet: those of what stood here before."""
        return self.previous.models() if hasattr(self.previous, "models") else []

    def cleanup(self) -> None:
        """Called when sampling ends."""
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def add_to_model(
    model: comfy.model_patcher.ModelPatcher,
    sites: list[Site],
    layers: list[LayerKeyValues],
    scales: list[float],
    router: RowRouter,
    mask: RegionMask | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` with one more adapter in the sites whose scale is not 0.

    `router` is told the key under which the layers will look for the adapter's rows: a running
    number, so that a compiled UNet finds those of the next run under the same name.
    """
    clone = model.clone()
    key = f"{WRAPPER_PREFIX}{_count_adapters(clone)}"
    router.key = key
    router.layout = _layout(layers, scales, mask)
    several = any(site.index for site in sites)
    for site, key_values, scale in zip(sites, layers, scales, strict=True):
        if scale != 0:
            replace = _replace_at(clone, site, several)
            replace.parts.append(ImageAttention(key, key_values, scale, mask))
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, router)
    if not clone.get_wrappers(WrappersMP.PREDICT_NOISE, CLONE_KEY):
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, CLONE_KEY, tell_roles)
        clone.add_callback_with_key(CallbacksMP.ON_CLONE, CLONE_KEY, _copy_patches)
    return clone


def _layout(layers: list[LayerKeyValues], scales: list[float], mask: RegionMask | None) -> str:
    """A name for all that shapes the compiled graph."""
    shapes = [
        tuple(None if x is None else tuple(x.shape) for x in layer) if scale != 0 else None
        for layer, scale in zip(layers, scales, strict=True)
    ]
    region = None if mask is None else tuple(mask.masks.shape)
    return hashlib.sha256(repr((shapes, region)).encode()).hexdigest()[:16]


def _count_adapters(model: comfy.model_patcher.ModelPatcher) -> int:
    wrappers = model.wrappers.get(WrappersMP.APPLY_MODEL, {})
    return sum(str(key).startswith(WRAPPER_PREFIX) for key in wrappers)


def _replace_at(model: comfy.model_patcher.ModelPatcher, site: Site, several: bool) -> Attn2Replace:
    """Our object at this site: the one there, or a new one chained to what is there.

    ComfyUI looks (block, id, index) up before (block, id), so ours goes where it will be found.
    Other packs use the short name where every spatial transformer has one layer.
    """
    present = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    long_name = (*site.block, site.index)
    use_long = several or long_name in present
    name = long_name if use_long else site.block
    existing = present.get(name)
    if isinstance(existing, Attn2Replace):
        return existing
    replace = Attn2Replace(existing if existing is not None else present.get(site.block))
    model.set_model_attn2_replace(replace, *site.block, site.index if use_long else None)
    return replace


def _copy_patches(_: Any, clone: comfy.model_patcher.ModelPatcher) -> None:
    """ON_CLONE: a clone gets copies of our objects, so that branches do not see each other."""
    patches = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for name, patch in patches.items():
        if isinstance(patch, Attn2Replace):
            patches[name] = patch.copy()
