"""Last step: adapter files. Public IP-Adapter families are recognised by their tensors' shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files.tensors import read_tensors, write_safetensors
from .adapter import MultiIPAdapter, MultiIPAdapterConfig, layer_key
from .aggregation import AGGREGATIONS
from .lora import is_lora, lora_tensors, read_lora
from .projection import ProjectionConfig

METADATA_KEY = "multi_ipadapter"

_ALIASES = {"adapter_modules": "ip_adapter", "image_proj_model": "image_proj"}

# Prefix of a key -> what the file is. They have no weights that a Stable Diffusion UNet could use.
_FOREIGN = {
    "ip_adapter_proj_model.": "an XLabs IP-Adapter for Flux",
    "double_blocks.": "a Flux model or adapter",
    "id_adapter.": "a PuLID adapter",
    "pulid_": "a PuLID adapter",
    "id_encoder.": "a PhotoMaker file",
    "image_proj.mapping_": "a PuLID adapter",
    "lora_": "a LoRA",
    "model.diffusion_model.": "a checkpoint",
    "vision_model.": "an image encoder (put it in models/clip_vision)",
}

# Hidden width of a CLIP image encoder and width of its pooled output -> usual name
_ENCODERS = {
    ("hidden", 1280): "CLIP-ViT-H-14",
    ("hidden", 1664): "CLIP-ViT-bigG-14",
    ("hidden", 1024): "CLIP-ViT-L-14",
    ("pooled", 1024): "CLIP-ViT-H-14",
    ("pooled", 1280): "CLIP-ViT-bigG-14",
    ("pooled", 768): "CLIP-ViT-L-14",
}


def encoder_name(feature: str, width: int) -> str:
    """Usual name of the encoder whose `feature` ("hidden" or "pooled") is `width` wide."""
    name = _ENCODERS.get((feature, width))
    return f"{name} ({feature} width {width})" if name else f"an encoder of {feature} width {width}"


def load_adapter(
    path: str | Path, operations: Any = nn, faceid_plus: str = "auto"
) -> MultiIPAdapter:
    """Load any public IP-Adapter file, or one of ours, without initialising weights.

    Args:
        path: `.safetensors`, or a pickled file, opened without running code.
        operations: layer classes, see `projection`.
        faceid_plus: "v1" or "v2" for FaceID-Plus files, whose tensors do not tell; "auto" asks
            the metadata, then the file name.

    Raises:
        ValueError: no adapter, another kind of adapter, or a damaged file.
    """
    path = Path(path)
    content, metadata = read_tensors(path)
    try:
        tensors = normalise_keys(content)
        saved = _saved_config(metadata) if METADATA_KEY in metadata else None
        if faceid_plus != "auto":
            shortcut = faceid_plus == "v2"
        elif saved:
            shortcut = bool(saved.projection.shortcut)
        else:
            shortcut = "plusv2" in _plain(path.name)
        config = detect_config(tensors, shortcut)
        if saved:
            config = _agreeing(config, saved)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return build_adapter(config, tensors, operations, path.name)


def build_adapter(
    config: MultiIPAdapterConfig,
    tensors: Mapping[str, Tensor],
    operations: Any = nn,
    name: str = "adapter",
) -> MultiIPAdapter:
    """Make an adapter that owns `tensors`; nothing is allocated or initialised for its weights."""
    own = {key: tensor for key, tensor in tensors.items() if not is_lora(key)}
    try:
        with torch.device("meta"):
            adapter = MultiIPAdapter(config, operations)
            # Asked of plain layers, since ComfyUI's may have no weights before they are loaded.
            wanted = {k: tuple(v.shape) for k, v in MultiIPAdapter(config).state_dict().items()}
    except (TypeError, RuntimeError, OverflowError) as error:  # sizes that are no sizes
        raise ValueError(
            f"{name}: no adapter has the sizes {config.projection} ({error}). The metadata is "
            "damaged; use another copy of the file."
        ) from error
    if wanted.keys() != own.keys():
        raise ValueError(
            f"{name}: missing tensors: {_some(wanted.keys() - own.keys())}; unexpected tensors: "
            f"{_some(own.keys() - wanted.keys())}. The file is incomplete or of an "
            "unknown kind. Download it again, or choose another file."
        )
    for key, shape in wanted.items():
        if shape != tuple(own[key].shape):
            raise ValueError(
                f"{name}: {key} has shape {tuple(own[key].shape)}, expected {shape}. The file is "
                "damaged or of an unknown kind. Choose another file."
            )
        if not own[key].is_floating_point():
            raise ValueError(
                f"{name}: {key} holds {own[key].dtype}, expected floating-point numbers. Use a "
                "file in float32, float16 or bfloat16."
            )
    adapter.load_state_dict(own, assign=True)
    try:
        adapter.lora = read_lora(tensors, len(config.layer_dims))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return adapter.eval().requires_grad_(False)


def save_adapter(adapter: MultiIPAdapter, path: str | Path) -> None:
    """Write one safetensors file, which loads as a plain IP-Adapter elsewhere when slots = 1."""
    metadata = {METADATA_KEY: json.dumps(adapter.config.to_dict()), "format": "pt"}
    write_safetensors(path, adapter.state_dict() | lora_tensors(adapter.lora), metadata)


def normalise_keys(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flat standard keys, from nested dicts, aliases and raw training dumps alike.

    Raises:
        ValueError: the file is something else, named in the message where it is known.
    """
    flat = _flatten(content)
    for prefix, kind in _FOREIGN.items():
        if any(key.startswith(prefix) for key in flat):
            raise ValueError(
                f"this is {kind}, not an IP-Adapter for a Stable Diffusion UNet. Expected "
                "tensors named image_proj.* and ip_adapter.*. Choose another file."
            )
    tensors = {k: v for k, v in flat.items() if k.startswith(("image_proj.", "ip_adapter."))}
    tensors |= {k: v for k, v in flat.items() if k.startswith("aggregator.")}
    if not any(k.startswith("ip_adapter.") for k in tensors):
        tensors |= _from_unet_processors(flat)
    if not any(_LAYER.match(k) for k in tensors) or not any(
        k.startswith("image_proj.") for k in tensors
    ):
        raise ValueError(
            f"this is not an IP-Adapter: expected tensors named image_proj.* and "
            f"ip_adapter.<n>.to_k_ip.weight, got {_some(flat)}. Choose another file."
        )
    return tensors


def _flatten(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """One level of nesting is all that IP-Adapter files have."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        head, dot, tail = str(key).removeprefix("module.").partition(".")
        key = _ALIASES.get(head, head) + dot + tail
        inner = value.items() if isinstance(value, Mapping) else ()
        flat |= {f"{key}.{name}": tensor for name, tensor in inner} or {key: value}
    return {key: value for key, value in flat.items() if isinstance(value, Tensor)}


_LAYER = re.compile(r"^ip_adapter\.([0-9]+)\.to_k_ip\.weight$")
_PROCESSOR = re.compile(
    r"^unet\.(down_blocks|up_blocks|mid_block)\.(.*)\.attn([12])\.processor\."
    r"(to_[kv]_ip|to_(?:q|k|v|out)_lora\.(?:down|up))\.weight$"
)


def _from_unet_processors(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raw dumps in which shared tensors were kept under the UNet's names only."""
    found: dict[tuple[int, ...], dict[tuple[int, str], Tensor]] = {}
    for key, tensor in flat.items():
        if match := _PROCESSOR.match(key):
            block = ("down_blocks", "up_blocks", "mid_block").index(match[1])
            place = (block, *(int(n) for n in re.findall(r"\d+", match[2])))
            found.setdefault(place, {})[int(match[3]), match[4]] = tensor
    return {
        f"ip_adapter.{2 * i + which - 1}.{name}.weight": tensor
        for i, place in enumerate(sorted(found))
        for (which, name), tensor in found[place].items()
    }


def detect_config(tensors: Mapping[str, Tensor], shortcut: bool = False) -> MultiIPAdapterConfig:
    """Read all sizes from the shapes of normalised tensors.

    Raises:
        ValueError: a family that is not supported.
    """
    layers = sorted(int(match[1]) for match in map(_LAYER.match, tensors) if match)
    if any(n % 2 == 0 for n in layers):
        raise ValueError(
            "its layers have even numbers, so it was made for a transformer such as Flux or SD3.5; "
            "expected an adapter for SD1.x, SD2.x or SDXL. Choose another file."
        )
    expected = [int(layer_key(i)) for i in range(len(layers))]
    if layers != expected:
        raise ValueError(
            f"layers {_some(set(expected) - set(layers))} are missing. The file is incomplete; "
            "download it again."
        )
    sizes = [_shape(tensors, f"ip_adapter.{n}.to_k_ip.weight") for n in layers]  # [D, C]
    context_dim = sizes[0][1]
    projection = _detect_projection(tensors, context_dim, shortcut)
    slots = {k.split(".")[3] for k in tensors if ".to_k_ip_slots." in k}
    score = f"aggregator.{layer_key(0)}.score"
    heads = _shape(tensors, score)[0] if score in tensors else 0
    return MultiIPAdapterConfig(
        projection=projection,
        layer_dims=tuple(dim for dim, _ in sizes),
        slots=1 + len(slots),
        aggregation="learned" if heads else "concat",
        aggregator_heads=heads,
        image_encoder=_encoder_of(projection),
    )


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int = 2) -> tuple[int, ...]:
    """Shape of a tensor that the file must hold, a matrix unless said otherwise."""
    if name not in tensors:
        raise ValueError(f"{name} is missing. The file is incomplete; download it again.")
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(
            f"{name} has shape {shape}, expected {ndim} dimensions, none of them 0. The file is "
            "damaged or of an unknown kind. Choose another file."
        )
    return shape


def _detect_projection(
    tensors: Mapping[str, Tensor], context_dim: int, shortcut: bool
) -> ProjectionConfig:
    names = {k.removeprefix("image_proj.") for k in tensors if k.startswith("image_proj.")}
    if "proj.weight" in names:
        out, width = _shape(tensors, "image_proj.proj.weight")
        return ProjectionConfig("linear", out // context_dim, context_dim, input_dim=width)
    if "proj.3.weight" in names:
        hidden, width = _shape(tensors, "image_proj.proj.0.weight")
        return ProjectionConfig("full_face", 0, context_dim, input_dim=width, hidden_dim=hidden)
    if "proj.2.weight" in names:
        return _detect_faceid(tensors, context_dim, shortcut)
    if "latents" in names:
        _, tokens, hidden = _shape(tensors, "image_proj.latents", ndim=3)
        width = _shape(tensors, "image_proj.proj_in.weight")[1]
        return ProjectionConfig(
            "resampler",
            tokens,
            context_dim,
            input_dim=width,
            hidden_dim=hidden,
            face_input=width == 512,
            **_perceiver_sizes(tensors, "image_proj."),
        )
    raise ValueError(
        f"the image projection is of an unknown kind: got image_proj tensors {_some(names)}; "
        "expected a linear, resampler (Plus), full-face or FaceID projection. Choose another file."
    )


def _detect_faceid(
    tensors: Mapping[str, Tensor], context_dim: int, shortcut: bool
) -> ProjectionConfig:
    hidden, id_dim = _shape(tensors, "image_proj.proj.0.weight")
    out, _ = _shape(tensors, "image_proj.proj.2.weight")
    (token_dim,) = _shape(tensors, "image_proj.norm.weight", ndim=1)
    if token_dim != context_dim:
        raise ValueError(
            f"its tokens are {token_dim} wide and its layers expect {context_dim}: this is a "
            "FaceID-Plus adapter for Kolors, which is not supported. Choose another file."
        )
    sizes: dict[str, Any] = {"id_dim": id_dim, "hidden_dim": hidden}
    if not any(k.startswith("image_proj.perceiver_resampler.") for k in tensors):
        return ProjectionConfig("faceid", out // token_dim, context_dim, **sizes)
    prefix = "image_proj.perceiver_resampler."
    return ProjectionConfig(
        "faceid_plus",
        out // token_dim,
        context_dim,
        input_dim=_shape(tensors, f"{prefix}proj_in.weight")[1],
        shortcut=shortcut,
        **sizes,
        **_perceiver_sizes(tensors, prefix),
    )


def _perceiver_sizes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    inner, _ = _shape(tensors, f"{prefix}layers.0.0.to_q.weight")
    wide, dim = _shape(tensors, f"{prefix}layers.0.1.1.weight")
    layers = f"{prefix}layers."
    dim_head = min(64, inner)
    return {
        "depth": len({k[len(layers) :].split(".")[0] for k in tensors if k.startswith(layers)}),
        "heads": inner // dim_head,
        "dim_head": dim_head,
        "ff_mult": wide // dim,
    }


def _encoder_of(projection: ProjectionConfig) -> str:
    if not projection.input_dim or projection.face_input:
        return ""
    feature = "pooled" if projection.kind == "linear" else "hidden"
    return encoder_name(feature, projection.input_dim)


# What a projection's shapes do not tell, or not all of it; the metadata does.
_UNTOLD = ("num_tokens", "heads", "dim_head", "face_input")


def _saved_config(metadata: Mapping[str, str]) -> MultiIPAdapterConfig:
    try:
        return MultiIPAdapterConfig.from_dict(json.loads(metadata[METADATA_KEY]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"its '{METADATA_KEY}' metadata cannot be read ({error!r}). The file is damaged; use "
            "another copy."
        ) from error


def _agreeing(detected: MultiIPAdapterConfig, saved: MultiIPAdapterConfig) -> MultiIPAdapterConfig:
    """The saved config, if the tensors bear it out; `build_adapter` compares the other sizes."""
    untold = {name: getattr(saved.projection, name) for name in _UNTOLD}
    for name in ("layer_dims", "slots", "aggregator_heads"):
        if getattr(detected, name) != getattr(saved, name):
            raise ValueError(
                f"its metadata says {name} = {getattr(saved, name)}, its tensors say "
                f"{getattr(detected, name)}. The file is damaged; use another copy."
            )
    if saved.aggregation not in AGGREGATIONS:
        raise ValueError(
            f"it was made for the aggregation '{saved.aggregation}'; expected one of "
            f"{', '.join(AGGREGATIONS)}. Update this node pack."
        )
    return replace(saved, projection=replace(detected.projection, **untold))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _some(names: Any, limit: int = 4) -> str:
    names = sorted(str(n) for n in names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
