"""How the demo world's models are trained: the loop, the losses, ComfyUI under autograd."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from multi_ipadapter.demo.build import autoencoder, fit, judging, vision
from multi_ipadapter.demo.build.differentiable import clip_layers
from multi_ipadapter.demo.build.initial import initialise
from multi_ipadapter.demo.build.pictures import drawn
from multi_ipadapter.demo.scorer import Scorer, judge
from multi_ipadapter.demo_world import world
from multi_ipadapter.nodes.demo import bundle as demo_bundle
from multi_ipadapter.nodes.demo import tiny_models as demo_models

RECIPE = fit.Recipe(steps=12, batch_size=4, learning_rate=0.05, warmup=2, ema=0.5)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _with_gradients(_inference_mode):
    with torch.inference_mode(False):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("drawn"), "few", 0, 6, 4, size=64)


class Stopped(Exception):
    """What a killed run looks like from inside."""


def line_loss(model: nn.Module, stop: int = -1):
    def loss(step: int, random: torch.Generator):
        if step == stop:
            raise Stopped
        x = torch.randn(RECIPE.batch_size, 3, generator=random)
        return (model(x).float() - x.sum(1, keepdim=True)).square().mean(), "words"

    return loss


def line() -> nn.Module:
    model = nn.Linear(3, 1)
    initialise(model, 0)
    return model


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fit, "_CHECKPOINT_SECONDS", 0.0)
    whole, broken, resumed = line(), line(), line()
    fit.fit(whole, line_loss(whole), RECIPE, tmp_path / "whole.safetensors", CPU)
    state = tmp_path / "broken.safetensors"
    with pytest.raises(Stopped):
        fit.fit(broken, line_loss(broken, stop=7), RECIPE, state, CPU)
    fit.fit(resumed, line_loss(resumed), RECIPE, state, CPU)
    assert torch.equal(whole.weight, resumed.weight)
    assert not torch.equal(whole.weight, line().weight)


def test_the_loop_learns(tmp_path) -> None:
    model = line()
    recipe = dataclasses.replace(RECIPE, steps=200)
    fit.fit(model, line_loss(model), recipe, tmp_path / "state.safetensors", CPU)
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.1)
    assert not model.weight.requires_grad


def test_pictures_are_drawn_once_and_in_order(tmp_path, pictures) -> None:
    assert pictures.pixels.shape == (24, 64, 64, 3)
    row = 2 * pictures.views + 3
    expected = world.draw(world.identity(2), world.view(2, 3), 64)
    assert pictures.pixels[row].tobytes() == expected.tobytes()
    assert tuple(pictures.attributes[row]) == world.identity(2).values
    assert tuple(pictures.visible[row]) == world.visible(world.identity(2), world.view(2, 3))
    first = drawn(tmp_path, "few", 0, 1, 1, size=64).pixels.tobytes()
    modified = (tmp_path / "few.npy").stat().st_mtime_ns
    drawn(tmp_path, "few", 0, 1, 1, size=64)
    assert (tmp_path / "few.npy").stat().st_mtime_ns == modified
    other = drawn(tmp_path, "few", 5, 1, 1, size=64)
    assert other.pixels.tobytes() != first


def test_batches_are_contiguous(pictures) -> None:
    batch = pictures.batch(torch.tensor([3, 5]))
    assert batch.is_contiguous() and batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch[1].permute(1, 2, 0) * 255, torch.tensor(pictures.pixels[5]).float())


@pytest.mark.slow
def test_standardised_latents_decode_to_the_same_picture(pictures) -> None:
    config = dataclasses.replace(
        demo_models.WORLD, vae=demo_models.WORLD.vae | {"ch": 32, "ch_mult": [1, 1, 1]}
    )
    model = demo_models.build_vae(config, 0).first_stage_model
    initialise(model, 1)
    rows = torch.arange(len(pictures))
    x = pictures.batch(rows) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(x))
        autoencoder.standardise(model, pictures, CPU)
        latents = model.encode(x)
        after = model.decode(latents)
    assert latents.shape == (24, 32, 4, 4)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    assert torch.allclose(before, after, atol=1e-4)


def test_descriptions_say_only_what_is_shown(pictures) -> None:
    shown = vision.facts(pictures)
    hidden = (~torch.tensor(pictures.visible)).sum(1)
    words = len(world.ATTRIBUTES) + len(world.VIEW_FACTORS)
    assert torch.equal(shown.sum(1), words - hidden.float())


def test_clip_models_give_gradients_and_the_same_output(clip_vision) -> None:
    model, x = clip_vision.model, torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model(pixel_values=x)[2]
    weight = model.vision_model.encoder.layers[0].mlp.fc1.weight
    weight.requires_grad_(True)
    try:
        with clip_layers(model):
            found = model(pixel_values=x)[2]
            found.sum().backward()
        assert torch.allclose(found, expected, atol=1e-5)
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False).grad = None
    with torch.no_grad():
        assert torch.equal(model(pixel_values=x)[2], expected)


def test_roughened_pictures_stay_pictures(pictures) -> None:
    x = pictures.batch(torch.arange(24))
    rough = judging.roughened(x, torch.Generator().manual_seed(0))
    assert rough.min() >= 0 and rough.max() <= 1
    assert 0 < (rough - x).abs().mean() < 0.1


def test_the_scorer_does_not_depend_on_the_batch() -> None:
    scorer = Scorer().eval()
    pixels = torch.randint(0, 256, (5, 128, 128, 3), dtype=torch.uint8)
    whole, parts = judge(scorer, pixels), judge(scorer, pixels, batch=2)
    assert torch.allclose(whole.features, parts.features, atol=1e-5)
    assert [x.shape[1] for x in whole.attributes] == [len(v) for v in world.ATTRIBUTES.values()]
    assert torch.allclose(whole.identity.norm(dim=1), torch.ones(5), atol=1e-5)


def test_a_bundled_text_encoder_keeps_the_words_in_use(clip) -> None:
    model = clip.cond_stage_model.clip_l.transformer
    used = torch.tensor([5, 900, 49406, 49407])
    packed = demo_bundle.packed(model, used)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    state = demo_bundle.unpacked(packed, shapes)
    table = state["text_model.embeddings.token_embedding.weight"]
    original = model.state_dict()["text_model.embeddings.token_embedding.weight"]
    assert torch.equal(table[used], original[used].half().float())
    assert table[6].abs().sum() == 0
    assert state.keys() == shapes.keys()


def test_the_bundle_is_small_enough():
    sizes = [path.stat().st_size for path in world.WEIGHTS_FOLDER.glob("*.safetensors")]
    assert len(sizes) == 6 and sum(sizes) <= 40_000_000
