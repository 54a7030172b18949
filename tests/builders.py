"""Small adapters, references and sampling runs for the tests."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch

from multi_ipadapter.models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from multi_ipadapter.models.projection import ProjectionConfig
from multi_ipadapter.nodes.demo.tiny_models import randomise
from multi_ipadapter.nodes.steering.apply import ApplyMultiIPAdapter
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter
from multi_ipadapter.nodes.unet.sites import cross_attention_sites

SDXL_LAYOUT = {
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 64,
}


class Sdxl(comfy.supported_models.SD15):
    """SDXL's block layout without its micro-conditioning."""


LINEAR = ProjectionConfig("linear", 4, 64, input_dim=48)
PLUS = ProjectionConfig("resampler", 8, 64, input_dim=64, hidden_dim=64, depth=2, heads=1)


def make_adapter(model, projection: ProjectionConfig = LINEAR, seed: int = 5, **config):
    """An adapter with random weights that fits the model."""
    sites = cross_attention_sites(model.model.diffusion_model)
    sizes = MultiIPAdapterConfig(projection, tuple(s.inner_dim for s in sites), **config)
    adapter = MultiIPAdapter(sizes).requires_grad_(False)
    randomise(adapter, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter.named_parameters():
        if name.endswith("bias"):  # with zeros the null image would add nothing
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return LoadedAdapter(adapter.eval(), "test adapter")


def make_images(count: int, seed: int = 0, size: tuple[int, int] = (64, 80)):
    """Pictures under the names of the Autogrow slots."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"reference_image_{i}": torch.rand(1, *size, 3, generator=generator) for i in range(count)
    }


def encode(adapter, clip_vision, images, weights: str = "", fit: str = "crop"):
    """REFERENCE_EMBEDS by the node."""
    return EncodeReferenceImages.execute(
        adapter, clip_vision, reference_images=images, reference_weights=weights, fit=fit
    ).args[0]


def apply(model, adapter, references, **options):
    """A patched MODEL by the node."""
    return ApplyMultiIPAdapter.execute(model, adapter, references, **options).args[0]


def condition(clip, text: str):
    """CONDITIONING by core's encoder."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(
    model, positive, negative, *, steps=2, cfg=7.0, batch=2, size=(16, 16), seed=1, callback=None
):
    """Latents [batch, 4, *size] by core's sampler (Euler)."""
    latent = torch.zeros(batch, 4, *size)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        "euler",
        "normal",
        positive,
        negative,
        latent,
        seed=seed,
        disable_pbar=True,
        callback=callback,
    )


def patches_of(model):
    """What replaces the text attention of each layer."""
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def state_of(model):
    """Everything of a MODEL that applying could change: containers copied, objects by identity."""
    return {
        "model_options": _skeleton(model.model_options),
        "wrappers": _skeleton(model.wrappers),
        "callbacks": _skeleton(model.callbacks),
        "patches": dict(model.patches),
        "object_patches": dict(model.object_patches),
        "attachments": dict(model.attachments),
        "parts": {k: [id(p) for p in parts] for k, parts in _parts(model).items()},
    }


def _skeleton(value):
    if isinstance(value, dict):
        return {key: _skeleton(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_skeleton(x) for x in value]
    return value if isinstance(value, int | float | str | None) else id(value)


def _parts(model):
    return {name: getattr(patch, "parts", []) for name, patch in patches_of(model).items()}


def refusal(function, *args, kind=ValueError, **kwargs):
    """The message of the error, which must be one that a user can act on."""
    with pytest.raises(kind) as error:
        function(*args, **kwargs)
    message = str(error.value)
    assert len(message) > 30 and "Traceback" not in message
    return message


def assert_says(message, *parts):
    """All of these, in this order: got, expected, what to do."""
    place = 0
    for part in parts:
        found = message.find(part, place)
        assert found >= 0, f"'{part}' is missing after character {place} of: {message}"
        place = found + len(part)
