"""Image projections agree with diffusers' own modules on the same raw `image_proj` weights."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin

from multi_ipadapter.models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from multi_ipadapter.models.checkpoint import build_adapter, detect_config
from multi_ipadapter.models.projection import ProjectionConfig, build_projection

from .families import SMALL_CONTEXT, SMALL_KINDS, filled, plus, small_file

BATCH, REFERENCES, SEQUENCE = 2, 3, 7
TOKENS = {
    "linear": 4,
    "resampler": 5,
    "resampler_face": 5,
    "full_face": SEQUENCE,
    "faceid": 3,
    "faceid_plus": 4,
}


def oracle(kind: str, seed: int = 0):
    """The module that diffusers' loader makes from the same file."""
    raw = {
        name.removeprefix("image_proj."): tensor
        for name, tensor in small_file(kind, seed).items()
        if name.startswith("image_proj.")
    }
    convert = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    return convert(raw, low_cpu_mem_usage=False).eval()


def load(kind: str, shortcut: bool = False) -> MultiIPAdapter:
    tensors = small_file(kind)
    return build_adapter(detect_config(tensors, shortcut), tensors)


def features(kind: str, *leading: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    width = {"linear": 48, "resampler_face": 512, "faceid": 32, "faceid_plus": 32}.get(kind, 40)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*leading, *shape, generator=generator)

    return {
        "image_embeds": draw(width),
        "face_embeds": draw(width),
        "penultimate_hidden_states": draw(SEQUENCE, 40),
    }


@pytest.mark.parametrize("kind", ["linear", "resampler", "full_face", "faceid"])
def test_equals_diffusers(kind):
    ours, theirs = load(kind), oracle(kind)
    given = features(kind, BATCH, REFERENCES)
    tokens = ours.project(given)
    (name,) = ours.config.projection.inputs
    read = given[name] / (given[name].norm(dim=-1, keepdim=True) if kind == "faceid" else 1)
    expected = theirs(read.flatten(0, 1)).unflatten(0, (BATCH, REFERENCES))
    assert tokens.shape == (BATCH, REFERENCES, TOKENS[kind], SMALL_CONTEXT)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


def test_resampler_over_face_embeddings_equals_diffusers():
    ours, theirs = load("resampler_face"), oracle("resampler_face")
    given = features("resampler_face", BATCH, REFERENCES)
    tokens = ours.project(given)
    expected = theirs(given["face_embeds"].flatten(0, 1).unsqueeze(1))  # a sequence of one
    torch.testing.assert_close(tokens.flatten(0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shortcut", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_faceid_plus_equals_diffusers(shortcut, scale):
    ours, theirs = load("faceid_plus", shortcut), oracle("faceid_plus")
    given = features("faceid_plus", BATCH)
    theirs.shortcut, theirs.shortcut_scale = shortcut, scale
    theirs.clip_embeds = given["penultimate_hidden_states"].unsqueeze(1)  # [B, 1, S, D]
    expected = theirs(given["face_embeds"])
    tokens = ours.image_proj(given["face_embeds"], given["penultimate_hidden_states"], scale=scale)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


def test_faceid_plus_versions_differ():
    given = features("faceid_plus", BATCH, REFERENCES)
    v1, v2 = (load("faceid_plus", shortcut).project(given) for shortcut in (False, True))
    assert (v1 - v2).abs().max() > 0.1


def test_equals_diffusers_at_the_public_size():
    """Plus for SD1.5: 12 heads of 64 over 257 hidden states of ViT-H."""
    raw = filled(plus(768, 1280, dim=768, heads=12))
    theirs = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers(
        dict(raw), low_cpu_mem_usage=False
    )
    config = ProjectionConfig("resampler", 16, 768, input_dim=1280, hidden_dim=768)
    with torch.device("meta"):
        ours = build_projection(config)
    ours.load_state_dict(raw, assign=True)
    hidden = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(hidden), theirs(hidden), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_each_reference_is_projected_by_itself(kind):
    adapter = load(kind)
    given = features(kind, BATCH, REFERENCES)
    together = adapter.project(given)
    alone = adapter.project({name: value[1:, 2:] for name, value in given.items()})
    torch.testing.assert_close(together[1:, 2:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_a_fresh_projection_makes_finite_different_tokens(kind):
    """Training starts from here, when there is no file to start from."""
    config = MultiIPAdapterConfig(detect_config(small_file(kind)).projection, (16,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = MultiIPAdapter(config).project(features(kind, BATCH, REFERENCES))
    assert torch.isfinite(tokens).all()
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 1e-3
    assert (tokens[0, 0, 0] - tokens[0, 0, 1]).abs().max() > 1e-3
