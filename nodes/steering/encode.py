"""Node: adapter, what reads pictures for it, and pictures -> REFERENCE_EMBEDS."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ...faces.analysis import FaceAnalyser
from ...pictures.fit import FITS
from ..host.progress import show_text
from ..host.wires import (
    CATEGORY,
    JOIN_PICTURES,
    MAX_SLOTS,
    FaceAnalysisSocket,
    MultiIPAdapterSocket,
    ReferenceEmbedsSocket,
    refuse_unknown,
)
from .encoding import encode_references
from .face_features import FACE_EMBEDDINGS
from .key_values import LoadedAdapter
from .reference_thumbnails import thumbnails


class EncodeReferenceImages(io.ComfyNode):
    """Encode the pictures of one person or thing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = io.Autogrow.TemplatePrefix(
            io.Image.Input("reference_image", tooltip="A picture, or a batch of pictures."),
            prefix="reference_image_",
            min=0,  # none connected: our own message says what to do
            max=MAX_SLOTS,
        )
        return io.Schema(
            node_id="MultiIPAdapter_EncodeReferences",
            display_name="Encode Reference Images",
            category=CATEGORY,
            description="Encodes 1 to 64 inputs with pictures of one person, pet or thing. Sizes "
            "may differ, and every input may hold a batch.",
            search_aliases=[
                "ipadapter encoder",
                "reference images",
                "faceid",
                "identity",
                "personalize",
            ],
            inputs=[
                MultiIPAdapterSocket.Input(
                    "adapter",
                    tooltip="From 'Load Multi-IPAdapter'; says what is read from the pictures.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that the adapter needs. FaceID and portrait "
                    "adapters that read nothing but face embeddings need none.",
                ),
                io.Autogrow.Input(
                    "reference_images",
                    template=images,
                    tooltip="Pictures of one person, pet or thing. Connect one, and the next input "
                    "appears; each may hold a batch.",
                ),
                io.String.Input(
                    "reference_weights",
                    default="",
                    optional=True,
                    tooltip="One positive number per picture, separated by commas; empty: all "
                    "alike. Only their ratio matters.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    optional=True,
                    tooltip="How a picture becomes square: cut the middle out, add borders, or "
                    "change its proportions. Adapters that read faces cut them out themselves.",
                ),
                FaceAnalysisSocket.Input(
                    "face_analysis",
                    optional=True,
                    tooltip="For FaceID, portrait and InstantID adapters, which read one face of "
                    "every picture: the one in the middle of a square picture, else the largest. "
                    "Others ignore it.",
                ),
                io.Combo.Input(
                    "face_embeddings",
                    options=list(FACE_EMBEDDINGS),
                    default="each",
                    optional=True,
                    tooltip="For these adapters. each: every picture is a reference of its own. "
                    "mean: all faces are averaged into one. quality-weighted mean: the same, "
                    "weighted by size, sharpness, pose and the detector's score.",
                ),
            ],
            outputs=[
                ReferenceEmbedsSocket.Output(
                    display_name="references",
                    tooltip="For 'Apply Multi-IPAdapter' or 'Save References'.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        adapter: LoadedAdapter,
        clip_vision=None,
        *,
        reference_images: io.Autogrow.Type,
        reference_weights: str = "",
        fit: str = "crop",
        face_analysis: FaceAnalyser | None = None,
        face_embeddings: str = "each",
        **unknown,
    ) -> io.NodeOutput:
        refuse_unknown(unknown, "reference_images.reference_image_0", MAX_SLOTS, JOIN_PICTURES)
        references, told = encode_references(
            adapter,
            reference_images,
            clip_vision,
            face_analysis,
            reference_weights,
            fit,
            face_embeddings,
        )
        if told:
            show_text(cls, told)
        return io.NodeOutput(references, ui=thumbnails(reference_images))
