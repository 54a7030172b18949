"""The sampled UNet calls equal those of diffusers with the same weights and adapter file."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from multi_ipadapter.models.checkpoint import load_adapter
from multi_ipadapter.models.references import ReferenceEmbeds
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter

from .builders import apply, patches_of, sample
from .diffusers_models import CONTEXT, image_layers, nested, noise, sd15_pair, sdxl_pair
from .oracle import difference, recorded

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
SCALE = 0.7
POOLED, HIDDEN, PATCHES = 48, 64, 17


@pytest.fixture(scope="module", name="sd15_pair")
def _sd15_pair():
    return sd15_pair()


@pytest.fixture(scope="module", name="sdxl_pair")
def _sdxl_pair():
    return sdxl_pair()


@pytest.fixture(params=["sd15_pair", "sdxl_pair"])
def pair(request):
    """A diffusers UNet, a ComfyUI model with the same weights, the number of layers."""
    return request.getfixturevalue(request.param)


def _base_projection() -> dict[str, tuple]:
    return {
        "proj.weight": (4 * CONTEXT, POOLED),
        "proj.bias": (4 * CONTEXT,),
        "norm.weight": (CONTEXT,),
        "norm.bias": (CONTEXT,),
    }


def _plus_projection(tokens=8, dim=80, inner=128, depth=4) -> dict[str, tuple]:
    shapes = {
        "latents": (1, tokens, dim),
        "proj_in.weight": (dim, HIDDEN),
        "proj_in.bias": (dim,),
        "proj_out.weight": (CONTEXT, dim),
        "proj_out.bias": (CONTEXT,),
        "norm_out.weight": (CONTEXT,),
        "norm_out.bias": (CONTEXT,),
    }
    for i in range(depth):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{i}.{norm}.{end}": (dim,) for end in ("weight", "bias")}
        shapes |= {
            f"layers.{i}.0.to_q.weight": (inner, dim),
            f"layers.{i}.0.to_kv.weight": (2 * inner, dim),
            f"layers.{i}.0.to_out.weight": (dim, inner),
            f"layers.{i}.1.1.weight": (4 * dim, dim),
            f"layers.{i}.1.3.weight": (dim, 4 * dim),
        }
    return shapes


PROJECTIONS = {"base": _base_projection(), "plus": _plus_projection()}


def _write_adapter(path, unet: UNet2DConditionModel, kind: str) -> None:
    """A file with the public names and random weights, in the order of diffusers' layers."""
    generator = torch.Generator().manual_seed(11)

    tensors = {
        f"image_proj.{name}": noise(generator, *shape) for name, shape in PROJECTIONS[kind].items()
    }
    for name, tensor in tensors.items():
        if "norm" in name and name.endswith("weight") or name.endswith("1.0.weight"):
            tensor += 1  # a trained norm is near 1, and small tokens would hide mistakes
    save_file(tensors | image_layers(unet, generator), path)


def _load_into_diffusers(unet: UNet2DConditionModel, path) -> None:
    unet._load_ip_adapter_weights([nested(path)], low_cpu_mem_usage=False)
    for name, processor in unet.attn_processors.items():
        if "attn2" in name:
            processor.scale = [SCALE]


def _references(count: int, seed: int = 13) -> ReferenceEmbeds:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return ReferenceEmbeds(
        {
            "image_embeds": noise(count, POOLED),
            "penultimate_hidden_states": noise(count, PATCHES, HIDDEN),
        },
        {
            "image_embeds": torch.zeros(1, POOLED),
            "penultimate_hidden_states": noise(1, PATCHES, HIDDEN),
        },
        torch.ones(count),
    )


def _diffusers_output(unet, call, references: ReferenceEmbeds, kind: str) -> torch.Tensor:
    """The same rows: those of the negative prompt get the null image N times."""
    name = "image_embeds" if kind == "base" else "penultimate_hidden_states"
    shown, null = references.features[name], references.null[name]
    chunks = call.options["cond_or_uncond"]
    rows = len(call.x) // len(chunks)
    embeds = torch.cat(
        [(shown if i == 0 else null.expand_as(shown)).expand(rows, *shown.shape) for i in chunks]
    )  # [B, N, ...]
    return unet(
        call.x,
        call.t,
        encoder_hidden_states=call.context,
        added_cond_kwargs={"image_embeds": [embeds]},
    ).sample


def _sampled_call(model, clip_text, cfg=7.0):
    with recorded(model) as calls:
        sample(model, *clip_text, steps=1, cfg=cfg)
    (call,) = calls
    return call


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_the_unet_gives_what_diffusers_gives(pair, prompts, kind, count, tmp_path, record_property):
    unet, model, layers = pair
    path = tmp_path / f"{kind}.safetensors"
    _write_adapter(path, unet, kind)
    _load_into_diffusers(unet, path)
    adapter = LoadedAdapter(load_adapter(path, comfy.ops.manual_cast), path.name)
    assert len(adapter.config.layer_dims) == layers

    references = _references(count)
    patched = apply(model, adapter, references, weight=SCALE)
    call = _sampled_call(patched, prompts)
    wanted = _diffusers_output(unet, call, references, kind)

    assert sorted(call.options["cond_or_uncond"]) == [0, 1]
    measured = difference(call.out, wanted)
    record_property("max_abs_difference", measured)
    print(f"{layers} layers, {kind}, N = {count}: {measured:.1e}")
    assert measured <= TOLERANCE

    others = apply(model, adapter, _references(count, seed=14), weight=SCALE)
    assert difference(_sampled_call(others, prompts).out, wanted) > 200 * TOLERANCE


def test_every_layer_counts(pair, prompts, tmp_path):
    """Without any one spatial transformer's layers the comparison above fails, by far."""
    unet, model, layers = pair
    path = tmp_path / "base.safetensors"
    _write_adapter(path, unet, "base")
    _load_into_diffusers(unet, path)
    adapter = LoadedAdapter(load_adapter(path, comfy.ops.manual_cast), path.name)
    references = _references(2)
    patched = apply(model, adapter, references, weight=SCALE)
    wanted = _diffusers_output(unet, _sampled_call(patched, prompts), references, "base")

    patches = patches_of(patched)
    assert len(patches) == layers
    places = {name[:2] for name in patches}
    assert ("middle", 0) in places and len(places) == {16: 16, 70: 11}[layers]
    for place in places:
        lacking = patched.clone()
        kept = patches_of(lacking)
        for name in [name for name in kept if name[:2] == place]:
            del kept[name]
        missed = difference(_sampled_call(lacking, prompts).out, wanted)
        print(f"without {place}: {missed:.1e}")
        assert missed > 20 * TOLERANCE, place
