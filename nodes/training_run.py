"""A training job with ComfyUI's models: cache, backbone, run; what the node and the CLI share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from PIL import Image

from ..models.projection import HIDDEN, POOLED
from ..models.references import ReferenceEmbeds
from ..training.batch import FeatureSource
from ..training.cache import FeatureCache, build_cache
from ..training.config import TrainingConfig
from ..training.images import load_picture
from ..training.initial import initial_adapter
from ..training.job import DataConfig
from ..training.online import OnlineSource
from ..training.processes import OneProcess
from ..training.records import PictureIndex
from ..training.run import Result, Run, Watcher
from .training_backbone import (
    check_model,
    feature_widths,
    fingerprint,
    picture_encoder,
    training_backbone,
)
from .training_preview import Preview, PreviewCase
from .unet import cross_attention_sites

log = logging.getLogger("MultiIPAdapter")


@dataclass(frozen=True)
class Models:
    """What a checkpoint and an image encoder give."""

    model: Any
    clip: Any
    vae: Any
    clip_vision: Any


@dataclass(frozen=True)
class Outcome:
    """A run's result and its last preview sheet."""

    result: Result
    preview: Image.Image | None


def train_adapter(
    models: Models,
    index: PictureIndex,
    data: DataConfig,
    config: TrainingConfig,
    folder: Path,
    watcher: Watcher,
    resume: bool = True,
    on_cache: Callable[[int, int], None] | None = None,
    on_preview: Callable[[Image.Image], None] = lambda sheet: None,
    processes: OneProcess | None = None,
) -> Outcome | None:
    """Cache, train, validate and draw previews; None when stopped while caching.

    Args:
        index: the whole dataset; `data.held_out` of its identities are for validation only.
        folder: of the run.
    """
    check_model(models.model)
    widths = feature_widths(models.clip_vision)
    names = features_to_read(models.model, config, widths)
    encode = picture_encoder(models.model, models.vae, models.clip_vision, data.fit)
    encoders = fingerprint(models.vae.first_stage_model, models.clip_vision.model)
    source = _source(index, data, encode, encoders, folder, names, on_cache, watcher)
    if source is None:
        return None
    training, held_out = _split(source, data.held_out, config.seed)
    identity = {"data": index.digest(), "held_out": data.held_out, "encoders": encoders}
    identity |= {"size": data.size, "fit": data.fit}
    sheets: list[Image.Image] = []
    with (
        torch.inference_mode(False),
        training_backbone(
            models.model, models.clip, models.clip_vision, config, data.size
        ) as bound,
    ):
        run = Run(folder, config, bound, training, held_out, widths, identity, processes)
        preview = _preview(models, held_out, run, data, config) if run.validator else None

        def on_validation(report, adapter) -> None:
            watcher.on_validation(report, adapter)
            if preview is not None:
                sheet = preview.sheet(run.result_adapter())
                sheet.save(folder / f"preview-{report.step:08}.png")
                sheets[:] = [sheet]
                on_preview(sheet)

        result = run.go(
            Watcher(watcher.on_step, on_validation, watcher.should_stop, watcher.stops), resume
        )
    return Outcome(result, sheets[0] if sheets else _last_sheet(folder))


def features_to_read(model: Any, config: TrainingConfig, widths: Mapping[str, int]) -> list[str]:
    """Names of the image features that the adapter will read; looked at before anything is encoded.

    Raises:
        ValueError: the file to start from was made for another model or encoder.
    """
    if not config.start_from:
        return [POOLED if config.projection == "linear" else HIDDEN]
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    shapes = [torch.empty(s.inner_dim, s.context_dim, device="meta") for s in sites]
    adapter = initial_adapter(config, [(shape, shape) for shape in shapes], dict(widths))
    return list(adapter.config.projection.inputs)


def _split(
    source: FeatureSource, held_out: float, seed: int
) -> tuple[FeatureSource, FeatureSource | None]:
    """For training, and for validation, which compares identities and so needs two of them."""
    usable = int((source.index.counts() >= 2).sum())
    count = max(2, round(held_out * usable))
    if usable - count < 2:
        log.warning(
            "Got %d identities with two or more pictures; all are used for training, and none is "
            "left to validate with.",
            usable,
        )
        return source, None
    training, validation = source.index.split(count, seed)
    return source.of(training), source.of(validation)


def _last_sheet(folder: Path) -> Image.Image | None:
    """The newest preview of a run that was resumed."""
    paths = sorted(folder.glob("preview-*.png"))
    if not paths:
        return None
    with Image.open(paths[-1]) as sheet:
        return sheet.convert("RGB")


def _source(
    index: PictureIndex,
    data: DataConfig,
    encode,
    encoders: str,
    folder: Path,
    names: Sequence[str],
    on_cache,
    watcher: Watcher,
) -> FeatureCache | OnlineSource | None:
    if not data.cache:
        return OnlineSource(index, encode, data.size, data.fit)
    where = Path(data.cache_folder or folder / "cache")
    complete = build_cache(
        index,
        where,
        encode,
        encoders,
        data.size,
        data.fit,
        int8=data.int8,
        names=names,
        on_progress=on_cache,
        should_stop=watcher.should_stop,
    )
    return FeatureCache(where, index, encoders, data.size, data.fit) if complete else None


def _preview(models: Models, held_out: FeatureSource, run: Run, data, config) -> Preview | None:
    if not data.previews:
        return None
    names = run.trainer.adapter.config.projection.inputs
    null = run.trainer.backbone.null_features
    home = comfy.model_management.intermediate_device()
    cases = []
    for case in run.validator.cases[: data.previews]:
        pictures = [
            load_picture(held_out.index, number, data.size, data.fit)[0].float() / 255
            for number in (case.target, *case.references)
        ]
        features = held_out.fetch(case.references, names)
        embeds = ReferenceEmbeds(
            {name: x.float().to(home) for name, x in features.items()},
            {name: null[name].to(home) for name in names},
            torch.ones(len(case.references)),
        )
        cases.append(
            PreviewCase(
                torch.stack(pictures[1:]), embeds, pictures[0], held_out.caption(case.target)
            )
        )
    return Preview(models.model, models.clip, models.vae, cases, config.seed)
