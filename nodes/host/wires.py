"""Types of the wires between this pack's nodes."""

from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io

MAX_SLOTS = 64  # of a growing input

MultiIPAdapterSocket = io.Custom("MULTI_IPADAPTER")
ReferenceEmbedsSocket = io.Custom("REFERENCE_EMBEDS")
ReferenceDatasetSocket = io.Custom("REFERENCE_DATASET")
EvaluationReportSocket = io.Custom("EVALUATION_REPORT")
FaceAnalysisSocket = io.Custom("MULTI_IPADAPTER_FACES")

CATEGORY = "multi-ipadapter"
JOIN_PICTURES = "For more pictures put several into a batch: each input may hold one."


def refuse_unknown(inputs: Mapping[str, Any], first: str, most: int, advice: str) -> None:
    """ComfyUI passes links on to a node even under names that it does not have.

    Args:
        inputs: what came under other names than the node's.
        first: of the inputs that grow, such as "images.image_0".
        most: number of these.
        advice: what to do when they are not enough.

    Raises:
        ValueError: there are such inputs.
    """
    if inputs:
        names = ", ".join(sorted(inputs)[:3])
        raise ValueError(
            f"Got the unknown input {names}; expected names from {first} to "
            f"{first.removesuffix('0')}{most - 1}. {advice}"
        )
