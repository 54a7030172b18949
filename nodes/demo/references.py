"""Node: references of a person of the demo world that no model has seen."""

from __future__ import annotations

import torch
from comfy_api.v0_0_2 import io

from ...demo_world import world
from ...demo_world.people import WANTED, portrait
from ..host.images import to_image
from ..host.wires import CATEGORY


class DemoReferences(io.ComfyNode):
    """Draw a held-out person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_DemoReferences",
            display_name="Demo References (Multi-IPAdapter)",
            category=CATEGORY,
            description="Draws portraits of a person whom the demo models have never seen. Every "
            "picture hides a part: a cap hides the hair, sunglasses the eyes. The caption "
            "describes one more view of the same person, and the truth shows it.",
            search_aliases=["demo portraits", "example references"],
            inputs=[
                io.Int.Input(
                    "identity",
                    default=0,
                    min=0,
                    max=len(world.HELD_OUT) - 1,
                    control_after_generate=False,
                    tooltip="Number of the person; each number is a different person.",
                ),
                io.Int.Input(
                    "count", default=4, min=1, max=WANTED, tooltip="Number of reference pictures."
                ),
                io.Int.Input(
                    "wanted_view",
                    default=0,
                    min=0,
                    max=99,
                    optional=True,
                    tooltip="Which further view the caption describes and the truth shows.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="references", tooltip="For 'Encode Reference Images', one batch."
                ),
                io.Image.Output(
                    display_name="truth", tooltip="The view of the caption, as it should be."
                ),
                io.String.Output(
                    display_name="caption", tooltip="Prompt: describes the view, not the person."
                ),
            ],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, identity: int, count: int, wanted_view: int = 0) -> io.NodeOutput:
        truth = portrait(identity, WANTED + wanted_view)
        references = [to_image(portrait(identity, k).picture) for k in range(count)]
        return io.NodeOutput(torch.cat(references), to_image(truth.picture), truth.caption)
