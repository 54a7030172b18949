"""The LoRA of a FaceID file becomes weight patches of a MODEL, by ComfyUI's own machinery."""

from __future__ import annotations

import uuid

import comfy.lora
import comfy.model_patcher
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ...models.lora import Lora

_PREFIX = "diffusion_model."
_ADDED = "multi_ipadapter_lora"  # attachment: strength by id of what was added
_PARTS = ("input_blocks", "output_blocks", "middle_block")  # the files' order


def add_lora(
    model: comfy.model_patcher.ModelPatcher, lora: Lora, strength: float, lora_id: uuid.UUID
) -> None:
    """Patch `model`, which must be a clone of the caller's own: W + strength up @ down.

    A LoRA that is there already (two people, one file) is not added again: its larger strength
    counts.

    Args:
        lora_id: of `lora`, so that the same patches on the same model are known as such, and a
            new lambda does not make ComfyUI patch all weights again.

    Raises:
        ValueError: a matrix of the LoRA does not fit its place.
    """
    added = model.attachments.get(_ADDED, {})
    there = added.get(lora_id, 0.0)
    if not lora or abs(strength) <= abs(there):
        return
    places = weight_names(model.model.diffusion_model)
    shapes = {name: tuple(x.shape) for name, x in model.model.state_dict().items()}
    for place, (up, down) in lora.items():
        found, expected = (up.shape[0], down.shape[1]), shapes[places[place]]
        if found != expected:
            raise ValueError(
                f"The adapter's LoRA has a matrix {found} for {places[place]}, which is "
                f"{expected}. Load a checkpoint of the adapter's family, or set lora_weight = 0."
            )
    tensors = {}
    for (number, name), (up, down) in lora.items():
        tensors[f"{number}.{name}.lora_up.weight"] = up
        tensors[f"{number}.{name}.lora_down.weight"] = down
    wanted = {f"{number}.{name}": places[number, name] for number, name in lora}
    before = model.patches_uuid
    model.add_patches(comfy.lora.load_lora(tensors, wanted), strength - there)
    model.patches_uuid = uuid.uuid5(before, f"{lora_id} {strength!r}")
    model.attachments[_ADDED] = added | {lora_id: strength}  # clones share the other one


def weight_names(unet: UNetModel) -> dict[tuple[int, str], str]:
    """Names in a MODEL's state dict of the weights that a LoRA can change, by its numbering."""
    blocks = [
        f"{_PREFIX}{part}.{name}"
        for part in _PARTS
        for name, module in (getattr(unet, part) or nn.Identity()).named_modules()
        if isinstance(module, BasicTransformerBlock)
    ]
    ends = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
    return {
        (2 * layer + which, name): f"{block}.attn{1 + which}.{end}.weight"
        for layer, block in enumerate(blocks)
        for which in (0, 1)
        for name, end in ends.items()
    }
