"""Node: pictures -> the word for what they show, for the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor
from torch.nn import functional as F

from ..evaluation.loading import CLIPS
from .metric_networks import metric_networks, pixels_of
from .progress_text import show_text
from .sockets import CATEGORY

WORDS = "girl, man, boy, woman, baby, person"
TEMPLATE = "a photo of a {}"
_BATCH = 16


class WordScore(NamedTuple):
    """A word and the mean cosine of the pictures to its sentence."""

    word: str
    similarity: float


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
        sentences = sentences_of(words, template)
        pixels = pixels_of(images)
        with metric_networks(["text_alignment"], clip=clip) as (networks, device):
            network = networks["clip"]
            texts = network.text(list(sentences.values())).cpu()
            parts = [network(part.to(device))["image"].cpu() for part in pixels.split(_BATCH)]
        ranked = rank_words(list(sentences), torch.cat(parts), texts)
        scores = "\n".join(f"{score.word}: {score.similarity:.4f}" for score in ranked)
        show_text(cls, scores)
        return io.NodeOutput(ranked[0].word, scores)


def sentences_of(words: str, template: str) -> dict[str, str]:
    """Sentence of each word, in the order of the list.

    Raises:
        ValueError: no word, or a template without a place for it.
    """
    listed = [" ".join(word.split()) for word in words.replace("\n", ",").split(",")]
    listed = [word for word in listed if word]
    if not listed:
        raise ValueError(f"Got no words; expected a list such as '{WORDS}'.")
    if template.count("{}") != 1:
        raise ValueError(
            f"Got the template {template!r}; expected a sentence with one {{}} where the word "
            f"goes, such as '{TEMPLATE}'."
        )
    return {word: template.replace("{}", word) for word in listed}


def rank_words(words: Sequence[str], images: Tensor, texts: Tensor) -> list[WordScore]:
    """Words by the mean cosine of the images [N, D] to their texts [W, D], best first."""
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    means = similarity.double().mean(0).tolist()
    ranked = sorted(zip(words, means, strict=True), key=lambda pair: -pair[1])
    return [WordScore(*pair) for pair in ranked]
