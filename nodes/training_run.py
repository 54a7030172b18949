"""A training job with ComfyUI's models: cache, backbone, run; what the node and the CLI share."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from PIL import Image
from torch import Tensor

from ..faces.analysis import FaceAnalyser
from ..models.adapter import MultiIPAdapterConfig
from ..models.files import atomically
from ..models.projection import FACE
from ..models.references import ReferenceEmbeds
from ..training.batch import LATENTS, FeatureSource, UnreadableError
from ..training.cache import FeatureCache, build_cache
from ..training.config import TrainingConfig
from ..training.images import BadPictureError, decode, load_picture
from ..training.initial import plan_adapter
from ..training.job import DataConfig
from ..training.online import OnlineSource
from ..training.processes import OneProcess
from ..training.records import PictureIndex
from ..training.run import Result, Run, Watcher
from ..training.state import check_other_run, disk_errors
from .face_features import check_recogniser
from .training_backbone import (
    feature_widths,
    fingerprint,
    picture_encoder,
    training_backbone,
    unload_models,
)
from .training_checks import check_model, check_settings, tell_doubts, tell_skipped
from .training_identity import run_identity
from .training_preview import Preview, PreviewCase
from .unet import cross_attention_sites

log = logging.getLogger("MultiIPAdapter")


@dataclass(frozen=True)
class Models:
    """What a checkpoint and an image encoder give; a face analyser for face embeddings."""

    model: Any
    clip: Any
    vae: Any
    clip_vision: Any
    faces: FaceAnalyser | None = None


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
    caches: Path | None = None,
    files: Mapping[str, str] | None = None,
) -> Outcome | None:
    """Cache, train, validate and draw previews; None when stopped while caching.

    Args:
        index: the whole dataset; `data.held_out` of its identities are for validation only.
        folder: of the run.
        caches: folder of the caches that runs share; None: `data.cache_folder`, or the run's own.
        files: paths of the models, for the run's config.json; None where they come by wires.

    Raises:
        ValueError: something cannot be trained; told before anything is encoded.
    """
    processes = processes or OneProcess()
    prediction = check_model(models.model)
    check_settings(config, folder, resume, processes)
    widths = feature_widths(models.clip_vision, models.faces)
    plan = plan_adapter(config, *_layers(models.model), widths)
    encoders = fingerprint(models.vae.first_stage_model, models.clip_vision.model)
    recogniser = ""
    if FACE in plan.projection.inputs:
        check_recogniser(models.faces)
        recogniser = models.faces.recogniser
    held_share = data.held_out if config.validate_every else 0.0
    identity = {"encoders": encoders} | run_identity(
        models.model, models.clip, index, data, held_share, prediction
    )
    if recogniser:
        identity["face recogniser"] = recogniser
    check_other_run(folder, identity | {"config": config.to_dict()})
    tell = processes.rank == 0
    if tell:
        tell_skipped(index.skipped)
        tell_doubts(models.clip, index, data, config, plan)

    source = _source(
        models, index, data, plan, encoders, recogniser, folder, caches, on_cache, watcher
    )
    if source is None:
        return None
    told = len(source.skipped)
    if tell:
        tell_skipped(source.skipped)
    training, held_out = _split(source, held_share, config.seed)
    sheets: list[Image.Image] = []
    with (
        torch.inference_mode(False),
        training_backbone(
            models.model, models.clip, models.clip_vision, config, data.size, models.faces
        ) as bound,
    ):
        job = _job(index, data, files)
        run = Run(
            folder,
            config,
            bound,
            training,
            held_out,
            widths,
            identity,
            processes,
            job,
            recogniser,
        )
        preview = _preview(models, held_out, run, data, config) if run.validator else None

        def on_validation(report, adapter) -> None:
            watcher.on_validation(report, adapter)
            if preview is not None:
                sheet = preview.sheet(run.result_adapter())
                unload_models()
                _keep_sheet(sheet, folder / f"preview-{report.step:08}.png")
                sheets[:] = [sheet]
                on_preview(sheet)

        try:
            result = run.go(dataclasses.replace(watcher, on_validation=on_validation), resume)
        finally:
            if tell:
                tell_skipped(source.skipped[told:])  # found while training without a cache
    return Outcome(result, sheets[0] if sheets else _last_sheet(folder))


def _job(index: PictureIndex, data: DataConfig, files: Mapping[str, str] | None) -> dict[str, Any]:
    """For config.json; a dataset that comes by a wire has its kind and split from elsewhere."""
    settings = dict(files or {}) | dataclasses.asdict(data)
    if not data.dataset:
        settings = {k: v for k, v in settings.items() if k not in ("kind", "split")}
        settings["dataset"] = str(index.root)
    return settings


def _layers(model: Any) -> tuple[list[int], int]:
    """Widths of the model's cross-attention layers, and of its text."""
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    return [site.inner_dim for site in sites], sites[0].context_dim


def _split(
    source: FeatureSource, held_out: float, seed: int
) -> tuple[FeatureSource, FeatureSource | None]:
    """For training, and for validation, which compares identities and so needs two of them."""
    if not held_out:
        return source, None
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


def _keep_sheet(sheet: Image.Image, path: Path) -> None:
    with disk_errors(path), atomically(path) as temporary:
        sheet.save(temporary, "PNG")


def _last_sheet(folder: Path) -> Image.Image | None:
    """The newest whole preview of a run that was resumed."""
    for path in sorted(folder.glob("preview-*.png"), reverse=True):
        with suppress(OSError, BadPictureError), path.open("rb") as file:
            return decode(file, path.name)[0]
    return None


def _source(
    models: Models,
    index: PictureIndex,
    data: DataConfig,
    plan: MultiIPAdapterConfig,
    encoders: str,
    recogniser: str,
    folder: Path,
    caches: Path | None,
    on_cache,
    watcher: Watcher,
) -> FeatureCache | OnlineSource | None:
    encode = picture_encoder(models.model, models.vae, models.clip_vision, data.fit, models.faces)
    if not data.cache:
        return OnlineSource(index, encode, data.size, data.fit)
    names = plan.projection.inputs
    where = Path(data.cache_folder or folder / "cache")
    if caches is not None:
        made_from = [index.digest(times=True), encoders, data.size, data.fit, data.int8, *names]
        made_from += [recogniser] if recogniser else []
        where = caches / hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    complete = build_cache(
        index,
        where,
        partial(encode, names=(LATENTS, *names)),
        encoders,
        data.size,
        data.fit,
        int8=data.int8,
        names=names,
        on_progress=on_cache,
        should_stop=watcher.should_stop,
        recogniser=recogniser,
    )
    if not complete:
        return None
    return FeatureCache(where, index, encoders, data.size, data.fit, recogniser)


def _preview(models: Models, held_out: FeatureSource, run: Run, data, config) -> Preview | None:
    """Preview of the first validation cases that can be read; None if there are none."""
    names = run.trainer.adapter.config.projection.inputs
    null = run.trainer.backbone.null_features
    home = comfy.model_management.intermediate_device()

    def load(number: int) -> Tensor:
        return load_picture(held_out.index, number, data.size, data.fit)[0].float() / 255

    def embeds(references: Sequence[int]) -> ReferenceEmbeds:
        return ReferenceEmbeds(
            {name: x.float().to(home) for name, x in held_out.fetch(references, names).items()},
            {name: null[name].to(home) for name in names},
            torch.ones(len(references)),
        )

    cases: list[PreviewCase] = []
    for case in run.validator.cases:
        if len(cases) == data.previews:
            break
        with suppress(BadPictureError, UnreadableError):
            cases.append(
                PreviewCase(
                    torch.stack([load(number) for number in case.references]),
                    embeds(case.references),
                    load(case.target),
                    held_out.caption(case.target),
                )
            )
    return Preview(models.model, models.clip, models.vae, cases, config.seed) if cases else None
