"""torch.compile of the UNet, by the mechanism of core's node, never runs a stale graph.

That node drops all guards on `transformer_options`, where the patches are, and all compiled models
share the graphs of one UNet class. So every case here runs after others, in one process.
"""

from __future__ import annotations

import comfy.ldm.modules.attention as core_attention
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from torch._dynamo.utils import counters

from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_unet

from .builders import apply, encode, make_adapter, make_images, sample
from .oracle import difference

pytestmark = pytest.mark.slow

CLOSE = 1e-5
SMALL = {
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 64,
}


@pytest.fixture
def small(monkeypatch):
    """A UNet of two cross-attention layers, without graphs of earlier tests.

    With PyTorch's attention, as on a GPU: the one for CPUs asks for the free memory in every layer,
    by which it breaks the graph by itself.
    """
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(core_attention, name, core_attention.attention_pytorch)
    torch._dynamo.reset()
    counters.clear()
    yield build_unet(DemoConfig(unet=SMALL), seed=0)
    torch._dynamo.reset()


@pytest.fixture
def adapter(small):
    return make_adapter(small)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


def compiled(model, backend="eager"):
    """What core's node does, with a backend that needs no compiler, and no graph break allowed."""
    clone = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=clone, backend=backend, options=options, fullgraph=True)
    return clone


def graphs():
    return counters["stats"].get("unique_graphs", 0)


def assert_equals_eager(model, prompts, compiled_model=None, **options):
    eager = sample(model, *prompts, **options)
    fast = sample(compiled_model or compiled(model), *prompts, **options)
    assert difference(fast, eager) <= CLOSE * float(eager.abs().max())


def test_every_change_reaches_a_compiled_unet(small, adapter, references, clip_vision, prompts):
    """Weight and window without another compilation; structure and shapes with one."""
    assert_equals_eager(small, prompts)
    assert_equals_eager(apply(small, adapter, references), prompts)
    made = graphs()

    for change in (
        {"weight": 0.4},
        {"weight": -1.0},
        {"start_percent": 0.3},
        {"end_percent": 0.3},
        {"start_percent": 0.2, "end_percent": 0.3},
        {"weight": 0.7, "end_percent": 0.3},
    ):
        assert_equals_eager(apply(small, adapter, references, **change), prompts)
        assert graphs() == made, f"{change} compiled the UNet again"
    others = encode(adapter, clip_vision, make_images(3, seed=60))
    assert_equals_eager(apply(small, adapter, others), prompts)
    assert graphs() == made, "other pictures compiled the UNet again"

    assert_equals_eager(apply(small, adapter, references, weight=0.0), prompts)
    five = encode(adapter, clip_vision, make_images(5))
    assert_equals_eager(apply(small, adapter, five), prompts)
    assert_equals_eager(apply(small, adapter, references), prompts)
    assert_equals_eager(small, prompts)


def test_aggregations_masks_and_reference_weights_reach_a_compiled_unet(
    small, adapter, references, clip_vision, prompts
):
    assert_equals_eager(apply(small, adapter, references), prompts)
    assert_equals_eager(apply(small, adapter, references, aggregation="mean"), prompts)
    uneven = encode(adapter, clip_vision, make_images(3), "1, 2, 3")
    assert_equals_eager(apply(small, adapter, uneven), prompts)
    assert_equals_eager(
        apply(small, adapter, encode(adapter, clip_vision, make_images(3), "3, 2, 1")), prompts
    )
    for seed in (1, 2):
        mask = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(seed))
        assert_equals_eager(apply(small, adapter, references, mask=mask), prompts)


def test_a_second_adapter_and_other_layers_reach_a_compiled_unet(
    small, adapter, references, prompts
):
    one = apply(small, adapter, references, weight=0.5)
    assert_equals_eager(one, prompts)
    assert_equals_eager(apply(one, adapter, references, weight=0.3), prompts)
    for layers in ("0: 1", "1: 1"):
        chosen = apply(small, adapter, references, layers="custom", layer_weights=layers)
        assert_equals_eager(chosen, prompts)


def test_applying_to_a_model_that_is_compiled_already(small, adapter, references, prompts):
    """The node for compiling may stand before ours, and the same graph serves all steps."""
    base = compiled(small)
    plain = sample(small, *prompts)
    assert difference(sample(base, *prompts), plain) <= CLOSE * float(plain.abs().max())
    for weight in (1.0, 0.3):
        eager = apply(small, adapter, references, weight=weight)
        assert_equals_eager(eager, prompts, apply(base, adapter, references, weight=weight))


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_unet_that_was_replaced_by_a_compiled_one(
    small, adapter, references, prompts, ours_first
):
    """Other packs compile by an object patch."""

    def compile_by_patch(model):
        clone = model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        unet = clone.get_model_object("diffusion_model")
        compiled_unet = torch.compile(unet, backend="eager", options=options, fullgraph=True)
        clone.add_object_patch("diffusion_model", compiled_unet)
        return clone

    sample(compile_by_patch(small), *prompts)
    eager = apply(small, adapter, references)
    if ours_first:
        fast = compile_by_patch(eager)
    else:
        fast = apply(compile_by_patch(small), adapter, references)
    assert_equals_eager(eager, prompts, fast)


def test_batch_sizes_and_guidance_of_a_compiled_unet(small, adapter, references, prompts):
    patched = apply(small, adapter, references)
    fast = compiled(patched)
    for options in ({}, {"cfg": 1.0, "batch": 3}):
        assert_equals_eager(patched, prompts, fast, **options)


def test_aot_autograd_takes_the_patched_unet(small, adapter, references, prompts):
    """The stage of real backends that refuses what cannot be made functional."""
    patched = apply(small, adapter, references)
    assert_equals_eager(patched, prompts, compiled(patched, "aot_eager"))
