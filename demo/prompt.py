"""The demo's graph in ComfyUI's API format: what a headless user sends to /prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ADAPTER_FILE = "multi_ipadapter_demo.safetensors"
WEIGHT, STEPS, CFG = 1.5, 16, 3.0  # lambda and guidance that did best on 192 held-out people


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One entry of a prompt; a link is [node id, output number]."""
    return {"class_type": class_type, "inputs": inputs}


def demo_prompt(
    pictures: Sequence[str],
    weight: float,
    *,
    text: str = "a portrait of a person",
    size: int = 128,
    steps: int = STEPS,
    seed: int = 1,
) -> dict[str, dict[str, Any]]:
    """Load, encode, apply, sample, decode, save.

    Args:
        pictures: names in ComfyUI's input folder, one for each reference.
        weight: lambda.
        text: what to draw.
        size: side of the result in pixels.
    """
    prompt = {
        "models": node("MultiIPAdapter_Demo"),
        "adapter": node("MultiIPAdapter_Load", ipadapter_file=ADAPTER_FILE),
        "references": _references(len(pictures)),
        "steered": node(
            "MultiIPAdapter_Apply",
            model=["models", 0],
            adapter=["adapter", 0],
            references=["references", 0],
            weight=weight,
        ),
        "positive": node("CLIPTextEncode", clip=["models", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["models", 1], text=""),
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sample": _sampler(steps, seed),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["models", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="demo"),
    }
    loaded = {f"picture_{i}": node("LoadImage", image=name) for i, name in enumerate(pictures)}
    return prompt | loaded


def _references(count: int) -> dict[str, Any]:
    images = {f"reference_images.reference_image_{i}": [f"picture_{i}", 0] for i in range(count)}
    links = {"adapter": ["adapter", 0], "clip_vision": ["models", 3]}
    return node("MultiIPAdapter_EncodeReferences", **links, **images)


def _sampler(steps: int, seed: int) -> dict[str, Any]:
    return node(
        "KSampler",
        model=["steered", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=seed,
        steps=steps,
        cfg=CFG,
        sampler_name="dpmpp_2m",
        scheduler="normal",
        denoise=1.0,
    )
