"""Binds ComfyUI's MODEL, CLIP, VAE and CLIP_VISION to the training engine as plain callables."""

from __future__ import annotations

import copy
import hashlib
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..faces.analysis import EMBEDDING, FaceAnalyser
from ..models.aggregation import Aggregated
from ..models.attention import add_image_attention, attend_by_products
from ..models.projection import FACE, HIDDEN, POOLED
from ..training.backbone import Backbone
from ..training.batch import LATENTS, pinned
from ..training.config import TrainingConfig
from .face_features import embed_pictures
from .patch import core_attention
from .training_checks import check_model
from .unet import Site, cross_attention_sites
from .vision import encode, encode_null

LAYERS_KEY, PROBE_KEY = "multi_ipadapter_layers", "multi_ipadapter_probe"
FEATURES = (POOLED, HIDDEN)
# Without a cache, pictures are encoded in a thread beside the loop; ComfyUI's loading of models is
# not made for two at once.
LOADING = threading.RLock()
# About 4,500 captions of SD1.x or 1,600 of SDXL on a machine with 16 GB.
_CAPTION_BYTES = int(comfy.model_management.total_ram * 2**20 / 16)
_SMALL = 128 * 128  # logits of a head up to which products beat the fused attention on a CPU
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingAttention:
    """Attention of one layer in training: G and U come with the call, and get gradients."""

    def __init__(self, layer: int):
        self.layer = layer

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        text = core_attention(q, k, v, extra_options)
        layers: Sequence[Aggregated] = extra_options[LAYERS_KEY]
        if not layers:
            return text
        keys, values, bias = layers[self.layer]
        out = add_image_attention(
            text,
            q,
            keys.to(q.dtype),
            values.to(q.dtype),
            1.0,
            lambda q, k, v, mask: core_attention(q, k, v, extra_options, mask),
            bias,
        )
        if PROBE_KEY in extra_options:
            extra_options[PROBE_KEY][self.layer] = (out - text).norm() / text.norm()
        return out


@contextmanager
def training_backbone(
    model: comfy.model_patcher.ModelPatcher,
    clip: Any,
    clip_vision: Any,
    config: TrainingConfig,
    size: int,
    faces: FaceAnalyser | None = None,
) -> Iterator[Backbone]:
    """A backbone on a private copy of the model's UNet, which is given back at the end.

    To be used under `torch.inference_mode(False)`. `size` is the pictures' side in pixels, for
    SDXL's micro-conditioning.

    Raises:
        ValueError: a model that cannot be trained for.
    """
    prediction = check_model(model)
    device = comfy.model_management.get_torch_device()
    null_features = normal({k: v.to(device) for k, v in _null(clip_vision, faces).items()})
    unet = private_unet(model, device, _DTYPES[config.precision])
    unload_models()
    sites = cross_attention_sites(unet)
    if config.gradient_checkpointing:
        checkpoint_transformers(unet)
    run = torch.compile(unet) if config.compile else unet
    replace = {(*s.block, s.index): TrainingAttention(i) for i, s in enumerate(sites)}
    sigmas = model.get_model_object("model_sampling").sigmas
    before = getattr(comfy.model_management, "in_training", None)

    def denoise(noisy, timesteps, text, layers, probe: dict | None = None) -> Tensor:
        options = {
            "patches_replace": {"attn2": replace},
            "optimized_attention_override": _sdpa,
            LAYERS_KEY: list(layers),
        } | ({} if probe is None else {PROBE_KEY: probe})
        extra = {"y": text["y"].to(unet.dtype)} if "y" in text else {}
        return run(
            noisy.to(unet.dtype),
            timesteps.float(),
            context=text["context"].to(unet.dtype),
            transformer_options=options,
            **extra,
        )

    def attention_ratio(noisy, timesteps, text, layers) -> Tensor:
        probe: dict[int, Tensor] = {}
        denoise(noisy, timesteps, text, layers, probe)
        return torch.stack([probe[i].float() for i in range(len(sites))])

    try:
        if before is not None:
            comfy.model_management.in_training = True
        yield Backbone(
            denoise=denoise,
            encode_text=text_encoder(model, clip, device, size),
            text_weights=lambda: text_weights(unet, sites),
            attention_ratio=attention_ratio,
            alphas_cumprod=(1 / (1 + sigmas.detach().clone().double() ** 2)).float().to(device),
            prediction=prediction,
            null_features=null_features,
            device=device,
        )
    finally:
        if before is not None:
            comfy.model_management.in_training = before
        comfy.model_management.soft_empty_cache()


def unload_models() -> None:
    """Leave the device to the private UNet; ComfyUI loads a model again where it is used."""
    with LOADING:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def private_unet(
    model: comfy.model_patcher.ModelPatcher, device: torch.device, dtype: torch.dtype
) -> UNetModel:
    """A frozen copy of the UNet, with the model's LoRAs merged, that autograd can work with.

    Tensors that nodes make are inference tensors, which cannot take part in a backward pass.
    """
    unet = _loaded_copy(model) if _has_source(model) else _rebuilt(model, device)
    unet.to(device=device, dtype=dtype).requires_grad_(False)
    unet.dtype = dtype
    return unet.train(False)


def _has_source(model: comfy.model_patcher.ModelPatcher) -> bool:
    """False for a model built by hand whose weights live in memory that ComfyUI may take back."""
    dynamic = getattr(model, "is_dynamic", bool)()
    return not dynamic or getattr(model, "cached_patcher_init", None) is not None


def _loaded_copy(model: comfy.model_patcher.ModelPatcher) -> UNetModel:
    if "disable_dynamic" in inspect.signature(model.clone).parameters:
        model = model.clone(disable_dynamic=True)
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return copy.deepcopy(model.get_model_object("diffusion_model"))


def _rebuilt(model: comfy.model_patcher.ModelPatcher, device: torch.device) -> UNetModel:
    """From the model's config and its weights, one by one."""
    unload_models()
    config = model.model.model_config.unet_config
    unet = UNetModel(**config, device="cpu", operations=comfy.ops.disable_weight_init)
    names = [f"diffusion_model.{name}" for name in unet.state_dict()]
    weights = (model.patch_weight_to_device(name, device, return_weight=True) for name in names)
    unet.load_state_dict(dict(zip(unet.state_dict(), weights, strict=True)))
    return unet


def checkpoint_transformers(unet: nn.Module) -> None:
    """Recompute spatial transformers in the backward pass.

    Each gets its own copy of transformer_options: by the time of the recomputation the shared one
    names the last block, and the wrong layer's patch would be looked up.
    """

    def wrapped(forward: Callable) -> Callable:
        def run(x, context=None, transformer_options=None):
            options = dict(transformer_options or {})
            return checkpoint(
                forward, x, context, options, use_reentrant=False, preserve_rng_state=False
            )

        return run

    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.forward = wrapped(module.forward)


def text_weights(unet: UNetModel, sites: list[Site]) -> list[tuple[Tensor, Tensor]]:
    """W_k, W_v of every site, float32."""
    blocks = {"input": unet.input_blocks, "output": unet.output_blocks}
    weights = []
    for site in sites:
        name, number = site.block
        block = unet.middle_block if name == "middle" else blocks[name][number]
        transformer = next(m for m in block if isinstance(m, SpatialTransformer))
        attention = transformer.transformer_blocks[site.index].attn2
        weights.append((attention.to_k.weight.float(), attention.to_v.weight.float()))
    return weights


def text_encoder(model: Any, clip: Any, device: torch.device, size: int) -> Callable:
    """Captions -> {"context", "y"}; the latest captions are remembered.

    It is called by the thread that prepares batches, and by validation.
    """
    known: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def encode_one(caption: str) -> dict[str, Tensor]:
        with torch.inference_mode():
            context, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
            text = {"context": context[:, :77]}  # rows of a batch must be of one length
            if model.model.adm_channels:
                text["y"] = model.model.encode_adm(
                    pooled_output=pooled,
                    device=device,
                    **{"width": size, "height": size, "target_width": size, "target_height": size},
                )
        return normal(text)

    def encode_known(caption: str) -> dict[str, Tensor]:
        text = known.pop(caption, None) or encode_one(caption)
        known[caption] = text
        if len(known) * sum(x.nbytes for x in text.values()) > _CAPTION_BYTES:
            known.popitem(last=False)
        return text

    def encode_all(captions: Sequence[str]) -> dict[str, Tensor]:
        with LOADING:
            encoded = [encode_known(caption) for caption in captions]
        text = {name: torch.cat([each[name] for each in encoded]) for name in encoded[0]}
        if device.type == "cuda":
            text = {name: pinned(x) for name, x in text.items()}  # else copying waits for the GPU
        return {name: x.to(device, non_blocking=True) for name, x in text.items()}

    return encode_all


def picture_encoder(
    model: Any, vae: Any, clip_vision: Any, fit: str, faces: FaceAnalyser | None = None
) -> Callable:
    """Pictures uint8 [b, H, W, 3] -> latents in the model's scale, and the image features; face
    embeddings where they are asked for by name."""

    def encode_pictures(
        pictures: Tensor, names: Sequence[str] = (LATENTS, *FEATURES)
    ) -> dict[str, Tensor]:
        found = {}
        if FACE in names:
            found[FACE] = embed_pictures(faces, pictures)
        with LOADING, torch.inference_mode():
            pixels = pictures.float() / 255
            if LATENTS in names:
                found[LATENTS] = model.model.process_latent_in(vae.encode(pixels))
            if wanted := [name for name in FEATURES if name in names]:
                images = {"pictures": pixels}
                found |= encode(clip_vision, images, fit, wanted, show_progress=False)
        return normal(found)

    return encode_pictures


def feature_widths(clip_vision: Any, faces: FaceAnalyser | None = None) -> dict[str, int]:
    """Widths of the encoders' features, by name."""
    return {name: x.shape[-1] for name, x in _null(clip_vision, faces).items()}


def fingerprint(*models: nn.Module) -> str:
    """Digest of models: names, shapes and first values of all their tensors."""
    digest = hashlib.sha256()
    for module in models:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + fingerprint_tensor(tensor))
    return digest.hexdigest()[:16]


def fingerprint_tensor(tensor: Tensor) -> bytes:
    """Its shape and first values, rounded: ComfyUI holds a file's weights in various precisions."""
    values = tensor.flatten()[:16].to("cpu", torch.float32).bfloat16()
    return f"{tuple(tensor.shape)}".encode() + values.view(torch.int16).numpy().tobytes()


def normal(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that autograd may save."""
    with torch.inference_mode(False):
        return {name: tensor.clone() for name, tensor in tensors.items()}


def _null(clip_vision: Any, faces: FaceAnalyser | None) -> dict[str, Tensor]:
    with torch.inference_mode():
        null = encode_null(clip_vision, FEATURES)
        return null if faces is None else null | {FACE: torch.zeros(1, EMBEDDING)}


def _sdpa(_: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask=None, **kwargs) -> Tensor:
    """PyTorch's own attention, which has a backward pass on every device."""
    plain = mask is None and not kwargs.get("skip_reshape")
    if plain and q.device.type == "cpu" and q.shape[1] * k.shape[1] <= _SMALL:
        return attend_by_products(q, k, v, heads)
    return attention_pytorch(q, k, v, heads, mask, **kwargs)
