"""Metrics that give each generated picture a value: alignment, identity, LPIPS, aesthetics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import caveats
from .material import Material, Scores
from .metrics.alignment import (
    clip_score,
    copy_paste,
    identity_similarity,
    image_alignment,
    nearest_reference_margin,
    text_alignment,
)
from .plan import GENERATED, REFERENCES, STAND_INS, TARGET_PAIRS, TARGETS, target_pairs

_BLOCK = 1024  # pictures compared with texts, or scored, at a time


class PictureScores:
    """Values of all usable pictures."""

    def __init__(self, material: Material):
        self._material = material
        self._entries = material.entries
        self._numbers = material.usable[GENERATED]
        self._details: dict[str, dict] = {}
        self._faces: dict[int, bool] = {}

    def compute(self, metric: str) -> Scores:
        """Value of a metric for every picture; None where it has none."""
        self._details[metric] = {}
        scores = dict.fromkeys(self._numbers) | getattr(self, f"_{metric}")()
        missing = sum(value is None for value in scores.values())
        self._warn(caveats.few(metric, missing, len(scores), _WHAT.get(metric, "value")))
        return scores

    def detail(self, metric: str, numbers: Sequence[int]) -> dict:
        """What else a point tells about a metric."""
        detail = dict(self._details[metric])
        if metric == "identity":
            detail["detection_rate"] = sum(self._faces[n] for n in numbers) / len(numbers)
        return detail

    def _image_alignment(self) -> Scores:
        return self._similarity("image_alignment", "clip")

    def _dino(self) -> Scores:
        return self._similarity("dino", "dino")

    def _similarity(self, metric: str, role: str) -> Scores:
        self._material.check_encoder(metric, role)
        self._warn_of_stand_ins()
        scores: Scores = {}
        for numbers, references in self._by_references():
            given = self._features(role, REFERENCES, references)
            values = image_alignment(self._features(role, GENERATED, numbers), given)
            scores |= _pairs(numbers, values)
        return scores

    def _text_alignment(self) -> Scores:
        # Textual Inversion's code leaves its placeholder out of the prompt.
        return self._text("text_alignment", text_alignment, lambda text: text.replace("*", ""))

    def _clip_score(self) -> Scores:
        return self._text("clip_score", clip_score, str)

    def _text(self, metric: str, compare: Callable, wording: Callable[[str], str]) -> Scores:
        self._material.check_encoder(metric, "clip")
        with_prompt = [n for n in self._numbers if wording(self._entries[n].prompt).strip()]
        if not with_prompt:
            return {}
        prompts = {wording(self._entries[n].prompt): None for n in with_prompt}
        rows = {text: row for row, text in enumerate(prompts)}
        texts = self._material.network("clip").text(list(prompts)).float().cpu()
        scores: Scores = {}
        for numbers in _blocks(with_prompt):
            images = self._features("clip", GENERATED, numbers)
            of = [rows[wording(self._entries[n].prompt)] for n in numbers]
            scores |= _pairs(numbers, compare(images, texts[of]))
        return scores

    def _lpips(self) -> Scores:
        extracted = self._material.extracted("lpips", TARGET_PAIRS)
        pairs = target_pairs(self._entries)
        distances = extracted.features("distance", extracted.numbers).flatten().tolist()
        scores = {pairs[i][0]: d for i, d in zip(extracted.numbers, distances, strict=True)}
        return {number: scores[number] for number in self._numbers if number in scores}

    def _identity(self) -> Scores:
        self._material.check_encoder("identity", "face")
        self._warn_of_stand_ins()
        self._details["identity"] = {"recogniser": self._material.network("face").name}
        found = self._found(GENERATED, self._numbers)
        self._faces = dict(zip(self._numbers, found.tolist(), strict=True))
        scores: Scores = {}
        faceless = 0
        for numbers, references in self._by_references():
            seen = self._with_face(REFERENCES, references)
            faceless += len(references) - len(seen)
            if not seen:
                continue
            marks = torch.tensor([self._faces[n] for n in numbers])
            result = identity_similarity(
                self._features("face", GENERATED, numbers),
                marks,
                self._features("face", REFERENCES, seen),
            )
            scores |= _pairs(numbers, result.per_image)
        if faceless:
            self._details["identity"]["references_without_face"] = faceless
        return scores

    def _copy_paste(self) -> Scores:
        """WithAnyone's metric where every picture has a target, else the margin, never mixed."""
        self._material.check_encoder("copy_paste", "copy_paste")
        network = self._material.network("copy_paste")
        targets = set(self._with_face(TARGETS, self._material.usable.get(TARGETS, ())))
        held_out = all(self._entries[n].target is not None for n in self._numbers)
        self._details["copy_paste"] = {
            "definition": "angles to target and nearest reference" if held_out else "margin",
            "features": network.name,
        }
        scores: Scores = {}
        for numbers, references in self._by_references(self._given):
            numbers = self._with_face(GENERATED, numbers)
            references = self._with_face(REFERENCES, references)
            if held_out:
                numbers = [n for n in numbers if self._entries[n].target in targets]
            if not numbers or len(references) < (1 if held_out else 2):
                continue
            drawn = self._features("copy_paste", GENERATED, numbers)
            given = self._features("copy_paste", REFERENCES, references)
            if held_out:
                known = {n: t for n in numbers if (t := self._entries[n].target) is not None}
                of = self._features("copy_paste", TARGETS, [known[n] for n in numbers])
                values = copy_paste(drawn, given, of)
            else:
                values = nearest_reference_margin(drawn, given)
            scores |= _pairs(numbers, values)
        return scores

    def _aesthetic(self) -> Scores:
        self._material.check_encoder("aesthetic", "aesthetic_clip")
        head = self._material.networks["aesthetic"]
        self._details["aesthetic"] = {"head": head.name}
        scores: Scores = {}
        for numbers in _blocks(self._numbers):
            values = head.score(self._features("aesthetic_clip", GENERATED, numbers))
            scores |= _pairs(numbers, values)
        return scores

    def _references(self, number: int) -> tuple[int, ...] | None:
        return self._entries[number].references

    def _given(self, number: int) -> tuple[int, ...] | None:
        """What the adapter was shown, which it may have copied."""
        entry = self._entries[number]
        return entry.references if entry.given is None else entry.given

    def _by_references(
        self, references_of: Callable[[int], tuple[int, ...] | None] | None = None
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Pictures that share their references, and these; those without any are left out."""
        references_of = references_of or self._references
        everything = list(self._material.usable[REFERENCES])
        usable = set(everything)
        groups: dict[tuple[int, ...] | None, list[int]] = {}
        for number in self._numbers:
            groups.setdefault(references_of(number), []).append(number)
        for references, numbers in groups.items():
            chosen = everything if references is None else [r for r in references if r in usable]
            if chosen:
                self._material.check()
                yield numbers, chosen

    def _features(self, role: str, source: str, numbers: Sequence[int]) -> Tensor:
        """The network's features proper; a face recogniser has a mark beside them."""
        network = self._material.network(role)
        output = next(name for name in network.outputs if name != "found")
        return self._material.extracted(role, source).features(output, numbers)

    def _found(self, source: str, numbers: Sequence[int]) -> Tensor:
        marks = self._material.extracted("face", source).features("found", numbers)
        return marks.flatten() > 0.5

    def _with_face(self, source: str, numbers: Sequence[int]) -> list[int]:
        """Those with a face, where the network looks for faces."""
        if self._material.networks.get("face") is None or not numbers:
            return list(numbers)
        found = self._found(source, numbers).tolist()
        return [n for n, face in zip(numbers, found, strict=True) if face]

    def _warn_of_stand_ins(self) -> None:
        request = self._material.request
        if request.generated.references is None:
            self._warn(caveats.stand_ins([m for m in request.metrics if m in STAND_INS]))

    def _warn(self, warnings: Sequence[str]) -> None:
        self._material.warnings.extend(warnings)


_WHAT = {
    "image_alignment": "references",
    "dino": "references",
    "text_alignment": "prompt",
    "clip_score": "prompt",
    "identity": "face, or no references with one",
    "lpips": "target",
    "copy_paste": "face, target or references to compare with",
}


def _pairs(numbers: Sequence[int], values: Tensor) -> Scores:
    """By picture; None for NaN, which marks a picture without a face."""
    listed = values.flatten().tolist()
    return {n: v if v == v else None for n, v in zip(numbers, listed, strict=True)}


def _blocks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _BLOCK] for start in range(0, len(numbers), _BLOCK))
