"""FaceID, portrait and unnorm files give what diffusers gives: projections, and sampled UNets."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import comfy.ops
import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from safetensors.torch import save_file
from torch.nn import functional as F

from multi_ipadapter.models.checkpoint import build_adapter, detect_config, load_adapter
from multi_ipadapter.models.references import ReferenceEmbeds
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter

from .builders import apply, sample
from .diffusers_models import (
    CONTEXT,
    image_layers,
    lora_changes,
    lora_layers,
    nested,
    sd15_pair,
    sdxl_pair,
)
from .families import faceid, faceid_plus, filled, plus
from .oracle import difference, recorded

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of a UNet's output, which is about 1
SCALE = 0.7
HIDDEN, PATCHES = 64, 17
FACE, PATCH = "face_embeds", "penultimate_hidden_states"


@dataclass(frozen=True)
class Kind:
    """A public kind of file in small: its projection, and how it is used."""

    image_proj: dict
    lora: bool = True
    version: str = "auto"
    unit: bool = True
    shortcut_weight: float = 1.0


KINDS = {
    "faceid": Kind(faceid(CONTEXT)),
    "plus v1": Kind(faceid_plus(CONTEXT, HIDDEN, heads=2), version="v1"),
    "plus v2": Kind(faceid_plus(CONTEXT, HIDDEN, heads=2), version="v2"),
    "plus v2, 0.4": Kind(faceid_plus(CONTEXT, HIDDEN, heads=2), version="v2", shortcut_weight=0.4),
    "portrait": Kind(faceid(CONTEXT, tokens=16), lora=False),
    "portrait-unnorm": Kind(plus(CONTEXT, 512, dim=80, heads=2), lora=False, unit=False),
}


@pytest.fixture(scope="module", params=[sd15_pair, sdxl_pair], ids=["sd15", "sdxl"])
def pair(request):
    """A UNet of diffusers, a MODEL with its weights, cross-attention layers."""
    return request.param()


def write(path, unet, kind: Kind) -> None:
    generator = torch.Generator().manual_seed(11)
    tensors = {f"image_proj.{name}": x for name, x in filled(kind.image_proj).items()}
    tensors |= image_layers(unet, generator)
    save_file(tensors | (lora_layers(unet, generator) if kind.lora else {}), path)


def into_diffusers(unet, path, kind: Kind):
    """A copy of the UNet with the file loaded, its LoRA merged."""
    unet = copy.deepcopy(unet)
    if kind.lora:
        for name, change in lora_changes(unet, path).items():
            unet.get_parameter(name).add_(change)
    unet._load_ip_adapter_weights([nested(path)], low_cpu_mem_usage=False)
    for name, processor in unet.attn_processors.items():
        if "attn2" in name:
            processor.scale = [SCALE]
    return unet


def references(count: int, seed: int = 13) -> ReferenceEmbeds:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return ReferenceEmbeds(
        {FACE: draw(count, 512), PATCH: draw(count, PATCHES, HIDDEN)},
        {FACE: torch.zeros(1, 512), PATCH: draw(1, PATCHES, HIDDEN)},
        torch.ones(count),
    )


def diffusers_output(unet, call, given: ReferenceEmbeds, kind: Kind) -> torch.Tensor:
    """The same rows: those of the negative prompt get the null face N times."""
    chunks = call.options["cond_or_uncond"]
    rows, count = len(call.x) // len(chunks), given.num_references

    def by_row(name: str) -> torch.Tensor:
        shown, null = given.features[name], given.null[name]
        null = null.expand(count, *null.shape[1:])
        parts = [shown if i == 0 else null for i in chunks]
        return torch.cat([part.expand(rows, *part.shape) for part in parts])  # [B, N, ...]

    (projection,) = unet.encoder_hid_proj.image_projection_layers
    faces = F.normalize(by_row(FACE), dim=-1) if kind.unit else by_row(FACE).unsqueeze(2)
    if kind.version != "auto":
        projection.shortcut = kind.version == "v2"
        projection.shortcut_scale = kind.shortcut_weight
        projection.clip_embeds = by_row(PATCH)
    return unet(
        call.x,
        call.t,
        encoder_hidden_states=call.context,
        added_cond_kwargs={"image_embeds": [faces]},
    ).sample


def sampled_call(model, prompts):
    with recorded(model) as calls:
        sample(model, *prompts, steps=1)
    (call,) = calls
    return call


CASES = [(name, 1) for name in KINDS] + [("faceid", 3), ("plus v2, 0.4", 3)]


@pytest.mark.parametrize(("name", "count"), CASES)
def test_the_unet_gives_what_diffusers_gives(pair, prompts, name, count, tmp_path):
    kind = KINDS[name]
    unet, model, layers = pair
    path = tmp_path / "faces.safetensors"
    write(path, unet, kind)
    theirs = into_diffusers(unet, path, kind)
    adapter = LoadedAdapter(load_adapter(path, comfy.ops.manual_cast, kind.version), path.name)
    assert len(adapter.config.layer_dims) == layers

    given = references(count)
    options = {"weight": SCALE, "faceid_v2_weight": kind.shortcut_weight}
    call = sampled_call(apply(model, adapter, given, **options), prompts)
    assert sorted(call.options["cond_or_uncond"]) == [0, 1]
    measured = difference(call.out, diffusers_output(theirs, call, given, kind))
    print(f"{layers} layers, N = {count}: {measured:.1e}")
    assert measured <= TOLERANCE

    wanted = diffusers_output(theirs, call, references(count, seed=14), kind)
    assert difference(call.out, wanted) > 100 * TOLERANCE, "faces must matter"
    if kind.lora:
        without = sampled_call(apply(model, adapter, given, lora_weight=0, **options), prompts)
        wanted = diffusers_output(theirs, without, given, kind)
        assert difference(without.out, wanted) > 100 * TOLERANCE, "the LoRA must matter"


# ---- projections at their public widths ------------------------------------------------------

PUBLIC = {
    "faceid sd15": (faceid(768), "auto"),
    "faceid sdxl": (faceid(2048), "auto"),
    "portrait sd15": (faceid(768, tokens=16), "auto"),
    "portrait sdxl": (faceid(2048, tokens=16), "auto"),
    "unnorm sdxl": (plus(2048, 512, dim=1280, heads=20), "auto"),
    "plus v1 sd15": (faceid_plus(768, 1280, heads=12), "v1"),
    "plus v2 sd15": (faceid_plus(768, 1280, heads=12), "v2"),
    "plus v2 sdxl": (faceid_plus(2048, 1280, heads=32), "v2"),
}


@pytest.mark.parametrize(("shapes", "version"), PUBLIC.values(), ids=list(PUBLIC))
def test_projections_at_public_widths(shapes, version):
    raw = filled(shapes)
    context = next(shapes[n] for n in ("norm.weight", "norm_out.weight") if n in shapes)[0]
    tensors = {f"image_proj.{name}": x for name, x in raw.items()}
    tensors |= {f"ip_adapter.1.to_{end}_ip.weight": torch.zeros(8, context) for end in "kv"}
    adapter = build_adapter(detect_config(tensors, version == "v2"), tensors)
    convert = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    theirs = convert(raw, low_cpu_mem_usage=False).eval()

    generator = torch.Generator().manual_seed(3)
    faces = 20 * torch.randn(1, 2, 512, generator=generator)
    hidden = torch.randn(1, 2, PATCHES, 1280, generator=generator)
    unit = "latents" not in shapes
    read = (F.normalize(faces, dim=-1) if unit else faces.unsqueeze(2)).flatten(0, 1)
    for scale in (1.0, 0.0, 0.35, 1.6) if version == "v2" else (1.0,):
        if version != "auto":
            theirs.shortcut, theirs.shortcut_scale = version == "v2", scale
            theirs.clip_embeds = hidden
        tokens = adapter.project({FACE: faces, PATCH: hidden}, scale)
        torch.testing.assert_close(tokens[0], theirs(read), atol=1e-5, rtol=0)
