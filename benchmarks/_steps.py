"""Time of one guided sampling step on an SD1.5-size UNet, for each aggregation and for a rival."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import comfy.sample
import comfy.samplers
import torch
from comfy.model_management import load_model_gpu
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn import functional as F

from ..models.aggregation import AGGREGATIONS
from ..models.projection import HIDDEN
from ..models.references import ReferenceEmbeds
from ..nodes.key_values import LoadedAdapter
from ..nodes.steering.steer import Steering, steer
from ..nodes.unet.attention import core_attention
from ..nodes.unet.sites import cross_attention_sites
from ._models import references
from ._timing import Quiet, Summary, interleaved, per_round, ratios, summarise

BASELINE, CONTROL, NAIVE = "unpatched", "unpatched, control", "naive concat"
WEIGHTED = "concat, unequal weights"


class StepResult(NamedTuple):
    """One line of the table: seconds per step, and the ratio to the unpatched model.

    The control is the unpatched model once more: how far its ratio is from 1 is the noise.
    """

    references: int
    variant: str
    seconds: Summary
    ratio: Summary


class Check(NamedTuple):
    """Largest change of the result for the most references, as shares of the result's range.

    `naive`: between the rival and `concat`, which should agree; `effect`: between `concat` and the
    unpatched model, so that agreement means something.
    """

    naive: float
    effect: float


class NaiveImageAttention:
    """K and V projected from the tokens in every layer at every step, as public adapters do.

    Like them it projects as many null images as there are references, and joins all tokens. The
    attention function and the values are ours, so that the difference is the projection alone.
    """

    def __init__(self, to_k: Tensor, to_v: Tensor, tokens: Tensor):
        self.to_k = to_k  # [D, C]
        self.to_v = to_v
        self.tokens = tokens  # [2, N T, C]: references, null images

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        text = core_attention(q, k, v, extra_options)
        chunks = extra_options["cond_or_uncond"]
        latents = q.shape[0] // len(chunks)
        tokens = torch.cat([self.tokens[i : i + 1].expand(latents, -1, -1) for i in chunks])
        keys, values = F.linear(tokens, self.to_k), F.linear(tokens, self.to_v)
        return text + core_attention(q, keys, values, extra_options)


def apply_naive(
    model: ModelPatcher, loaded: LoadedAdapter, embeds: ReferenceEmbeds
) -> ModelPatcher:
    """The rival of `concat` on a clone of the model."""
    load_model_gpu(loaded.patcher)
    place = {"device": loaded.patcher.load_device, "dtype": model.model.get_dtype_inference()}
    features, null = embeds.features[HIDDEN], embeds.null[HIDDEN]
    project = loaded.adapter.image_proj
    tokens = project(features.to(place["device"])).flatten(0, 1)  # [N T, C]
    nulls = project(null.to(place["device"])).repeat(len(features), 1, 1).flatten(0, 1)
    tokens = torch.stack([tokens, nulls]).to(**place)
    clone = model.clone()
    sites = cross_attention_sites(model.model.diffusion_model)
    for site, layer in zip(sites, loaded.adapter.ip_adapter.values(), strict=True):
        weights = layer.to_k_ip.weight.to(**place), layer.to_v_ip.weight.to(**place)
        clone.set_model_attn2_replace(NaiveImageAttention(*weights, tokens), *site.block)
    return clone


class StepTimer:
    """Runs core's sampler for one step and times the model call inside it, guidance included.

    On a CPU it counts processor time of one thread, which other processes disturb least.
    """

    def __init__(self, size: int, device: torch.device):
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.noise = torch.randn(1, 4, size // 8, size // 8, generator=generator)
        text = torch.randn(2, 77, 768, generator=generator)
        self.positive, self.negative = [[text[:1], {}]], [[text[1:], {}]]
        self.duration = 0.0
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter

    def __call__(self, model: ModelPatcher) -> tuple[float, Tensor]:
        """Seconds, and the denoised latent [1, 4, h, w]."""
        sampler = comfy.samplers.KSAMPLER(self._sample)
        out = comfy.sample.sample_custom(
            model,
            self.noise,
            7.0,
            sampler,
            torch.tensor([2.0, 0.0]),
            self.positive,
            self.negative,
            torch.zeros_like(self.noise),
            disable_pbar=True,
            seed=0,
        )
        return self.duration, out

    def _sample(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        self._synchronise()
        start = self.clock()
        denoised = model(x, sigmas[:1], **extra_args)
        self._synchronise()
        self.duration = self.clock() - start
        return denoised

    def _synchronise(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def measure(
    model: ModelPatcher,
    loaded: LoadedAdapter,
    size: int,
    counts: Sequence[int],
    rounds: int,
    quiet: Quiet,
) -> tuple[list[StepResult], Check]:
    """All lines of the table, and the check that the rival computes the same."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", _check_batch)
    timer = StepTimer(size, model.load_device)
    groups = {n: _variants(model, loaded, n) for n in counts}
    check = _check(timer, model, groups[counts[-1]])
    patched = {(n, name): m for n, group in groups.items() for name, m in group.items()}
    patched |= {(n, BASELINE): model for n in counts} | {(0, CONTROL): model}
    runs = {name: lambda m=m: timer(m)[0] for name, m in patched.items()}
    samples = interleaved(runs, rounds, quiet, "steps")
    base = per_round([samples.pop((n, BASELINE)) for n in counts])
    results = [
        StepResult(*name, summarise(values), ratios(values, base))
        for name, values in {(0, BASELINE): base, **samples}.items()
    ]
    return sorted(results, key=lambda row: row.references), check


def _check(timer: StepTimer, model: ModelPatcher, group: dict[str, ModelPatcher]) -> Check:
    base, ours, rival = (timer(m)[1] for m in (model, group["concat"], group[NAIVE]))
    size = ours.max() - ours.min()
    return Check(*(float((ours - other).abs().max() / size) for other in (rival, base)))


def _check_batch(executor, x, *args, **kwargs):
    """APPLY_MODEL wrapper: ComfyUI splits the batch when memory is short; then ratios mislead."""
    if x.shape[0] != 2:
        raise RuntimeError(
            f"ComfyUI ran {x.shape[0]} row per UNet call; expected 2 (both prompts). Free memory."
        )
    return executor(x, *args, **kwargs)


def _variants(model: ModelPatcher, loaded: LoadedAdapter, count: int) -> dict[str, ModelPatcher]:
    embeds = references(count)
    patched = {}
    for aggregation in AGGREGATIONS:
        patched[aggregation] = _apply(model, loaded, embeds, aggregation)
    patched[WEIGHTED] = _apply(model, loaded, references(count, equal=False), "concat")
    patched[NAIVE] = apply_naive(model, loaded, embeds)
    return patched


def _apply(model, loaded, embeds, aggregation) -> ModelPatcher:
    return steer(model, loaded, embeds, Steering(aggregation=aggregation))
