"""The backbone of each family and prediction computes what core's sampler does, and trains."""

from __future__ import annotations

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from torch._dynamo.utils import counters

from multi_ipadapter.diffusion.objective import Noise, add_noise, prediction_target
from multi_ipadapter.nodes.binding.backbone import training_backbone
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_unet
from multi_ipadapter.training.initial import initial_adapter
from multi_ipadapter.training.loop import Trainer

from .builders import SDXL_LAYOUT, sample
from .oracle import difference
from .training_world import WIDTHS, World, settings

CLOSE = 1e-4
SIZE = 128  # pixels: latents of 16 x 16, as `sample` draws them
SHORT = {"channel_mult": [1, 2], "num_res_blocks": [1, 1], "transformer_depth": [1, 1]}
SHORT |= {"transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1}
POOLED_TEXT, SIZES = 64, 6 * 256  # width of the pooled text; micro-conditioning


def build(family: str, prediction: str):
    """A small UNet of SD1.x, or of SDXL with its micro-conditioning."""
    if family == "sd15":
        model = build_unet(DemoConfig(unet=DemoConfig().unet | SHORT), seed=0)
    else:
        layout = SDXL_LAYOUT | SHORT
        layout |= {"adm_in_channels": POOLED_TEXT + SIZES, "num_classes": "sequential"}
        model = build_unet(DemoConfig(unet=layout), 0, comfy.supported_models.SDXL)
    name = {"epsilon": "eps"}.get(prediction, prediction)
    return ModelSamplingDiscrete().patch(model, name, False)[0]


def sampled_calls(model, prompts):
    """Arguments and output of the UNet in a step of core's sampler, and the denoised latents."""
    calls, denoised = [], []

    def record(_module, args, kwargs, out):
        x, t = (a.clone() for a in args[:2])
        y = kwargs.get("y")
        calls.append((x, t, None if y is None else y.clone(), out.clone()))

    handle = model.model.diffusion_model.register_forward_hook(record, with_kwargs=True)
    try:
        sample(model, *prompts, steps=2, cfg=1.0, callback=lambda i, x0, x, n: denoised.append(x0))
    finally:
        handle.remove()
    return calls, denoised


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_training_sees_the_model_as_the_sampler_does(
    clip, clip_vision, prompts, family, prediction
):
    model = build(family, prediction)
    calls, denoised = sampled_calls(model, prompts)
    x, t, y, out = calls[1]
    assert (y is None) == (family == "sd15")
    with (
        torch.inference_mode(False),
        training_backbone(model, clip, clip_vision, settings(), SIZE) as backbone,
    ):
        assert backbone.prediction == prediction
        text = backbone.encode_text(["a portrait of a person"] * len(x))
        if y is not None:
            assert difference(text["y"], y) < CLOSE
        assert difference(backbone.denoise(x.clone(), t.clone(), text, []), out) < CLOSE

        # The loss of what the sampler takes for the picture, as if it were the truth, is zero.
        times, truth = (
            t.long().clone(),
            denoised[1].clone(),
        )
        alpha = backbone.alphas_cumprod[times].view(-1, 1, 1, 1)
        noise = Noise((x - alpha.sqrt() * truth) / (1 - alpha).sqrt(), times)
        assert difference(add_noise(truth, noise, backbone.alphas_cumprod), x) < CLOSE
        target = prediction_target(prediction, truth, noise, backbone.alphas_cumprod)
        assert difference(target, out) < 10 * CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_compiled_unet_trains_the_same(clip, clip_vision, monkeypatch, family, checkpointing):
    """Traced by dynamo; its code runs as it is, since not every machine has a compiler."""
    model, compile = build(family, "epsilon"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda unet: compile(unet, backend="eager"))
    losses = {}
    for compiled in (False, True):
        torch._dynamo.reset()
        counters.clear()
        config = settings(steps=3, compile=compiled, gradient_checkpointing=checkpointing)
        with (
            torch.inference_mode(False),
            training_backbone(model, clip, clip_vision, config, SIZE) as backbone,
        ):
            adapter = initial_adapter(config, backbone.text_weights(), WIDTHS)
            reports = []
            trainer = Trainer(adapter, backbone, World(), config)
            assert trainer.train(reports.append)
        losses[compiled] = [loss for report in reports for loss in report.losses]
        graphs = counters["stats"].get("unique_graphs", 0)
        assert (graphs > 0) == compiled
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    torch._dynamo.reset()
