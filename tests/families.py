"""Names and shapes of the public IP-Adapter files, written down independently of the loader.

Tensors of these shapes, and what the tests of files share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from multi_ipadapter.models.checkpoint import load_adapter

Shapes = dict[str, tuple[int, ...]]

SD15_DIMS = (320, 320, 640, 640) + (1280,) * 5 + (640,) * 3 + (320,) * 3 + (1280,)
SDXL_DIMS = (640,) * 4 + (1280,) * 50 + (640,) * 6 + (1280,) * 10


def linear(context: int, width: int, tokens: int = 4) -> Shapes:
    """Base: pooled embedding -> tokens."""
    return _affine("proj", tokens * context, width) | _norm("norm", context)


def full_face(context: int, width: int) -> Shapes:
    """Full-face: MLP on every hidden state."""
    return (
        _affine("proj.0", width, width)
        | _affine("proj.2", context, width)
        | _norm("proj.3", context)
    )


def faceid(context: int, tokens: int = 4, id_dim: int = 512) -> Shapes:
    """FaceID and FaceID-Portrait: MLP on the face embedding."""
    return (
        _affine("proj.0", 2 * id_dim, id_dim)
        | _affine("proj.2", tokens * context, 2 * id_dim)
        | _norm("norm", context)
    )


def faceid_plus(context: int, width: int, heads: int, tokens: int = 4, id_dim: int = 512) -> Shapes:
    """FaceID-Plus v1 and v2: the MLP's tokens attend to the hidden states."""
    layers = perceiver(context, width, context, heads)
    return faceid(context, tokens, id_dim) | {
        f"perceiver_resampler.{name}": shape for name, shape in layers.items()
    }


def plus(context: int, width: int, dim: int, heads: int, tokens: int = 16) -> Shapes:
    """Plus: learned latents attend to the hidden states."""
    return {"latents": (1, tokens, dim)} | perceiver(dim, width, context, heads)


def perceiver(dim: int, width: int, out: int, heads: int, depth: int = 4) -> Shapes:
    """Attention to the features and a feed-forward network, `depth` times."""
    shapes = _affine("proj_in", dim, width) | _affine("proj_out", out, dim) | _norm("norm_out", out)
    for i in range(depth):
        shapes |= _norm(f"layers.{i}.0.norm1", dim) | _norm(f"layers.{i}.0.norm2", dim)
        shapes |= {
            f"layers.{i}.0.to_q.weight": (heads * 64, dim),
            f"layers.{i}.0.to_kv.weight": (2 * heads * 64, dim),
            f"layers.{i}.0.to_out.weight": (dim, heads * 64),
            f"layers.{i}.1.1.weight": (4 * dim, dim),
            f"layers.{i}.1.3.weight": (dim, 4 * dim),
        } | _norm(f"layers.{i}.1.0", dim)
    return shapes


def layers(dims: tuple[int, ...], context: int, lora: bool = False) -> Shapes:
    """K and V of every cross-attention layer; FaceID files add LoRA pairs for all attentions."""
    shapes: Shapes = {}
    for i, dim in enumerate(dims):
        shapes[f"{2 * i + 1}.to_k_ip.weight"] = (dim, context)
        shapes[f"{2 * i + 1}.to_v_ip.weight"] = (dim, context)
        for number, name in [(2 * i, "q"), (2 * i + 1, "q"), (2 * i + 1, "out")] if lora else []:
            shapes[f"{number}.to_{name}_lora.down.weight"] = (128, dim)
            shapes[f"{number}.to_{name}_lora.up.weight"] = (dim, 128)
    return shapes


def _affine(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


@dataclass(frozen=True)
class Family:
    """A public file, and what a loader must read out of it."""

    file: str
    image_proj: Shapes
    sdxl: bool
    projection: Mapping[str, Any]
    inputs: tuple[str, ...]
    encoder: str = ""
    lora: bool = False
    names: tuple[str, str] = ("image_proj", "ip_adapter")
    dims: tuple[int, ...] = field(init=False)
    context: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "dims", SDXL_DIMS if self.sdxl else SD15_DIMS)
        object.__setattr__(self, "context", 2048 if self.sdxl else 768)

    def shapes(self) -> dict[str, Shapes]:
        """As the nested dicts of a `.bin` file."""
        image_proj, ip_adapter = self.names
        return {
            image_proj: self.image_proj,
            ip_adapter: layers(self.dims, self.context, self.lora),
        }


_POOLED, _HIDDEN, _FACE = "image_embeds", "penultimate_hidden_states", "face_embeds"
_H_POOLED = "CLIP-ViT-H-14 (pooled width 1024)"
_H_HIDDEN = "CLIP-ViT-H-14 (hidden width 1280)"
_BIG_G = "CLIP-ViT-bigG-14 (pooled width 1280)"
_L_HIDDEN = "CLIP-ViT-L-14 (hidden width 1024)"
_MARK = ("image_proj_model", "adapter_modules")


def _linear(file, sdxl, width, encoder, **options):
    shapes = linear(2048 if sdxl else 768, width)
    sizes = {"kind": "linear", "num_tokens": 4, "input_dim": width}
    return Family(file, shapes, sdxl, sizes, (_POOLED,), encoder, **options)


def _plus(file, sdxl, width, dim, heads, encoder, **options):
    shapes = plus(2048 if sdxl else 768, width, dim, heads)
    face = width == 512
    sizes = {"kind": "resampler", "num_tokens": 16, "input_dim": width, "hidden_dim": dim}
    sizes |= {"depth": 4, "heads": heads, "dim_head": 64, "ff_mult": 4, "face_input": face}
    return Family(file, shapes, sdxl, sizes, (_FACE if face else _HIDDEN,), encoder, **options)


def _faceid(file, sdxl, tokens, lora):
    shapes = faceid(2048 if sdxl else 768, tokens)
    sizes = {"kind": "faceid", "num_tokens": tokens, "id_dim": 512, "hidden_dim": 1024}
    return Family(file, shapes, sdxl, sizes, (_FACE,), lora=lora)


def _faceid_plus(file, sdxl, heads, shortcut):
    shapes = faceid_plus(2048 if sdxl else 768, 1280, heads)
    sizes = {"kind": "faceid_plus", "num_tokens": 4, "id_dim": 512, "hidden_dim": 1024}
    sizes |= {"input_dim": 1280, "depth": 4, "heads": heads, "shortcut": shortcut}
    return Family(file, shapes, sdxl, sizes, (_FACE, _HIDDEN), _H_HIDDEN, lora=True)


FAMILIES = [
    _linear("ip-adapter_sd15.bin", False, 1024, _H_POOLED),
    _linear("ip-adapter_sd15_light_v11.bin", False, 1024, _H_POOLED),
    _linear("ip-adapter_sd15_vit-G.bin", False, 1280, _BIG_G),
    _plus("ip-adapter-plus_sd15.bin", False, 1280, 768, 12, _H_HIDDEN),
    _plus("ip-adapter-plus-face_sd15.bin", False, 1280, 768, 12, _H_HIDDEN),
    Family(
        "ip-adapter-full-face_sd15.bin",
        full_face(768, 1280),
        False,
        {"kind": "full_face", "input_dim": 1280, "hidden_dim": 1280},
        (_HIDDEN,),
        _H_HIDDEN,
    ),
    _linear("ip-adapter_sdxl.bin", True, 1280, _BIG_G),
    _linear("ip-adapter_sdxl_vit-h.bin", True, 1024, _H_POOLED),
    _plus("ip-adapter-plus_sdxl_vit-h.bin", True, 1280, 1280, 20, _H_HIDDEN),
    _plus("ip_plus_composition_sdxl.bin", True, 1280, 1280, 20, _H_HIDDEN),
    _faceid("ip-adapter-faceid_sd15.bin", False, 4, lora=True),
    _faceid("ip-adapter-faceid_sdxl.bin", True, 4, lora=True),
    _faceid_plus("ip-adapter-faceid-plus_sd15.bin", False, 12, shortcut=False),
    _faceid_plus("ip-adapter-faceid-plusv2_sd15.bin", False, 12, shortcut=True),
    _faceid_plus("ip-adapter-faceid-plusv2_sdxl.bin", True, 32, shortcut=True),
    _faceid("ip-adapter-faceid-portrait-v11_sd15.bin", False, 16, lora=False),
    _faceid("ip-adapter-faceid-portrait_sdxl.bin", True, 16, lora=False),
    _plus("ip-adapter-faceid-portrait_sdxl_unnorm.bin", True, 512, 1280, 20, ""),
    _plus("ip-adapter.bin", True, 512, 1280, 20, ""),  # InstantID
    _plus("ip_adapter_plus_general.bin", True, 1024, 2048, 12, _L_HIDDEN),  # Kolors
    _linear("noobIPAMARK1_mark1.bin", True, 1280, _BIG_G, names=_MARK),
    _plus("noobIPAMARK1_plus.bin", True, 1280, 1280, 20, _H_HIDDEN, names=_MARK),
]


def hollow(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of these (nested) shapes that share one number, so that real sizes cost nothing."""
    number = torch.zeros((), dtype=torch.float16)
    return {
        name: hollow(shape) if isinstance(shape, dict) else number.expand(shape)
        for name, shape in shapes.items()
    }


def filled(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        value = value / shape[-1] ** 0.5 if len(shape) > 1 else 1 + 0.1 * value
        tensors[name] = value.to(dtype)
    return tensors


# One small file of each kind, in sizes that the oracle's fixed numbers (heads of 64) permit.
SMALL_CONTEXT = 64
SMALL_DIMS = (16, 24, 32)
SMALL_KINDS: dict[str, Shapes] = {
    "linear": linear(SMALL_CONTEXT, 48),
    "resampler": plus(SMALL_CONTEXT, 40, dim=96, heads=2, tokens=5),
    "resampler_face": plus(SMALL_CONTEXT, 512, dim=96, heads=2, tokens=5),
    "full_face": full_face(SMALL_CONTEXT, 40),
    "faceid": faceid(SMALL_CONTEXT, tokens=3, id_dim=32),
    "faceid_plus": faceid_plus(SMALL_CONTEXT, 40, heads=2, id_dim=32),
}


def small_file(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Flat tensors of a small adapter file with random values."""
    shapes = {f"image_proj.{k}": v for k, v in SMALL_KINDS[kind].items()}
    shapes |= {f"ip_adapter.{k}": v for k, v in layers(SMALL_DIMS, SMALL_CONTEXT).items()}
    return filled(shapes, seed, dtype)


def refusal(path: Path, **options) -> str:
    """What the loader says of a file; it must name the file and say what to do."""
    advice = "(Choose|Use|use|Rename|Check|Update|Download|download) "
    with pytest.raises(ValueError, match=advice) as caught:
        load_adapter(path, **options)
    assert path.name in str(caught.value)
    return str(caught.value)


def assert_equal(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, types and bits."""
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name
