"""Per UNet call: which batch rows see the references, and whether the adapter acts at this step.

The guider knows which conditioning is the negative one, the model call knows the batch layout;
each tells it through `transformer_options`, as tensors, so that a compiled UNet reads them anew.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from torch import Tensor

ROLES_KEY = "multi_ipadapter_roles"
WRAPPER_PREFIX = "multi_ipadapter_rows_"


class Rows(NamedTuple):
    """What the attention of one adapter needs to know about one UNet call.

    Attributes:
        active: False outside [start, end] and at weight 0.
        gate: 1.0 or 0.0, the same as a tensor without dimensions.
        is_cond: True where a row sees the references, bool [B, 1, 1, 1].
        latent: number of the latent that each row belongs to, int64 [B].
    """

    active: bool
    gate: Tensor
    is_cond: Tensor
    latent: Tensor


class Roles(NamedTuple):
    """Which conditionings see the references, by uuid. Empty: no guider has told."""

    by_uuid: dict[Any, bool]

    def sees_references(self, entry: Any, index: int) -> bool:
        """Without a guider, core's order is positive, negative.

        A conditioning that is not the guider's own is one that another node evaluates beside it,
        such as an empty prompt: it sees the null image.
        """
        return self.by_uuid.get(entry, False) if self.by_uuid else index == 0


DEFAULT_ROLES = Roles({})


def _is_negative(name: str) -> bool:
    return any(word in name for word in ("neg", "uncond", "empty"))


def guider_roles(conds: dict[str, list[dict] | None]) -> Roles:
    """Roles of a guider's conditionings, by their names.

    For every area of the positive prompt core adds a copy of its entry to the negative list, uuid
    and all. Such a copy gets a uuid of its own here, in the run's own lists.
    """
    by_uuid: dict[Any, bool] = {}
    for name in sorted(conds, key=_is_negative):
        entries = conds[name] or []
        for place, entry in enumerate(entries):
            sees = not _is_negative(name)
            if by_uuid.get(entry.get("uuid"), sees) != sees:
                entry = entries[place] = entry | {"uuid": uuid.uuid4()}
            by_uuid[entry.get("uuid")] = sees
    return Roles(by_uuid)


def tell_roles(executor, x, timestep, model_options=None, seed=None):
    """PREDICT_NOISE wrapper: put the guider's roles into transformer_options."""
    model_options = dict(model_options or {})
    model_options["transformer_options"] = model_options.get("transformer_options", {}) | {
        ROLES_KEY: guider_roles(getattr(executor.class_obj, "conds", {}))
    }
    return executor(x, timestep, model_options, seed)


class RowRouter:
    """APPLY_MODEL wrapper of one adapter: puts its `Rows` into transformer_options[key].

    `layout` names the layers and shapes that the adapter adds, for compiled UNets.
    """

    def __init__(self, weight: float, start_percent: float, end_percent: float):
        self.key = ""
        self.layout = ""
        self.weight = weight
        self.window = (start_percent, end_percent)
        self._sampling: Any = None
        self._sigmas = (0.0, 0.0)

    def __call__(
        self,
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **kwargs,
    ):
        options = dict(transformer_options or {})
        options[self.key] = self.rows(executor.class_obj, x, t, options)
        if _is_compiled(executor.class_obj, options):
            # Core's compile node drops all guards on transformer_options: the UNet would go on
            # with a graph made without this adapter, or for other shapes. It does see new names.
            kwargs[f"{self.key}_{self.layout}"] = None
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def rows(self, model: Any, x: Tensor, t: Tensor, options: dict) -> Rows:
        """x [B, ...], t: sigmas [B]."""
        active = self.weight != 0 and self._in_window(model, t)
        chunks = options.get("cond_or_uncond") or [0]
        uuids = options.get("uuids") or [None] * len(chunks)
        roles: Roles = options.get(ROLES_KEY, DEFAULT_ROLES)
        flags = tuple(roles.sees_references(u, i) for u, i in zip(uuids, chunks, strict=True))
        is_cond, latent = _row_tensors(flags, x.shape[0] // len(flags), x.device)
        gate = torch.full((), float(active), device=x.device)
        return Rows(active, gate, is_cond, latent)

    def _in_window(self, model: Any, t: Tensor) -> bool:
        if self.window == (0.0, 1.0):
            return True
        if self._sampling is not model.model_sampling:  # a node after Apply may have replaced it
            self._sampling = model.model_sampling
            start, end = (float(self._sampling.percent_to_sigma(p)) for p in self.window)
            self._sigmas = (start, end)
        sigma = float(t.max())  # the only wait for the device, once per UNet call
        return self._sigmas[1] <= sigma <= self._sigmas[0]


@lru_cache(maxsize=64)
def _row_tensors(
    flags: tuple[bool, ...], latents: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`is_cond` and `latent` of `Rows`; every step asks for the same few."""
    with torch.inference_mode(False):  # they may be needed in training, too
        is_cond = torch.tensor(flags).repeat_interleave(latents).view(-1, 1, 1, 1)
        latent = torch.arange(latents).repeat(len(flags))
        return is_cond.to(device), latent.to(device)


def _is_compiled(model: Any, options: dict) -> bool:
    unet = getattr(model, "diffusion_model", None)
    return hasattr(unet, "_orig_mod") or bool(
        get_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile", options)
    )
