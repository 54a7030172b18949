"""Node: pictures -> the word for what they show, for the prompt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...evaluation.class_words import TEMPLATE, WORDS, WordScore, rank_words, sentences_of
from ...evaluation.loading import CLIPS, NetworkChoice
from ..host.images import pixels_of
from ..host.progress import show_text
from ..host.wires import CATEGORY
from .metric_networks import metric_networks

_BATCH = 16


class ClassWord(io.ComfyNode):
    """Which word fits the pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_ClassWord",
            display_name="Class Word",
            category=CATEGORY,
            description="The word of a list that fits all the pictures best, by the mean cosine "
            "similarity of CLIP's picture and text embeddings. Put it into the prompt. CLIP is "
            "read from models/metrics; nothing is downloaded.",
            search_aliases=["class token", "gender word", "caption", "interrogate"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of one person, pet or thing."),
                io.String.Input(
                    "words", default=WORDS, tooltip="What to choose from, separated by commas."
                ),
                io.String.Input(
                    "template",
                    default=TEMPLATE,
                    optional=True,
                    tooltip="The sentence that is compared; {} is where the word goes.",
                ),
                io.Combo.Input(
                    "clip",
                    options=list(CLIPS),
                    default=next(iter(CLIPS)),
                    optional=True,
                    tooltip="Network in models/metrics.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="word", tooltip="The word that fits best, for the prompt."
                ),
                io.String.Output(
                    display_name="scores", tooltip="All words with their similarity, best first."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        words: str,
        template: str = TEMPLATE,
        clip: str = next(iter(CLIPS)),
    ) -> io.NodeOutput:
        ranked = ranked_words(images, sentences_of(words, template), clip)
        scores = "\n".join(f"{score.word}: {score.similarity:.4f}" for score in ranked)
        show_text(cls, scores)
        return io.NodeOutput(ranked[0].word, scores)


def ranked_words(images: Tensor, sentences: Mapping[str, str], clip: str) -> list[WordScore]:
    """The words of these sentences, best first, by a CLIP of models/metrics."""
    pixels = pixels_of(images)
    with metric_networks(["text_alignment"], NetworkChoice(clip)) as (networks, device):
        network = networks["clip"]
        texts = network.text(list(sentences.values())).cpu()
        parts = [network(part.to(device))["image"].cpu() for part in pixels.split(_BATCH)]
    return rank_words(list(sentences), torch.cat(parts), texts)
