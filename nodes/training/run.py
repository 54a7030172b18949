"""A training job with ComfyUI's models: cache, backbone, run; what the node and the CLI share."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from PIL import Image
from torch import Tensor

from ...faces.analysis import FaceAnalyser
from ...files.atomic import atomically
from ...models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from ...models.projection import FACE
from ...models.references import ReferenceEmbeds
from ...pictures.decode import BadPictureError, decode
from ...pictures.index import PictureIndex
from ...pictures.load import load_picture
from ...pictures.pixels import to_floats
from ...runs.processes import OneProcess
from ...runs.state import check_other_run, disk_errors
from ...training.batch import PictureSource, UnreadableError
from ...training.checks import check_settings, tell_doubts, tell_skipped
from ...training.config import MAY_CHANGE
from ...training.encoding import Encoders
from ...training.initial import plan_adapter
from ...training.job import DataConfig, Job
from ...training.run import MadeFrom, Result, Run, Watcher, split
from ...training.source import Folders, open_source
from ...training.validation import Case, ValidationReport
from ..binding.backbone import training_backbone
from ..binding.encoders import feature_widths, picture_encoder
from ..host.fingerprints import fingerprint
from ..host.memory import unload_models
from ..steering.face_features import check_recogniser
from ..unet.kind import check_model
from ..unet.sites import cross_attention_sites
from .checks import tell_long_captions
from .preview import Preview, PreviewCase
from .run_fingerprint import run_fingerprint


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
    job: Job,
    folders: Folders,
    watcher: Watcher,
    resume: bool = True,
    processes: OneProcess | None = None,
) -> Outcome | None:
    """Cache, train, validate and draw previews; None when stopped while caching.

    Args:
        index: the whole dataset; `job.data.held_out` of its identities are for validation only.

    Raises:
        ValueError: something cannot be trained; told before anything is encoded.
    """
    processes = processes or OneProcess()
    prediction = check_model(models.model)
    check_settings(job.run, folders.run, resume, processes)
    adapter, encoders = _adapter_and_encoders(models, job)
    facts = run_fingerprint(models.model, models.clip, encoders, index, job, prediction)
    check_other_run(folders.run, facts | {"config": job.run.to_dict()}, MAY_CHANGE)
    tell = processes.rank == 0
    if tell:
        tell_skipped(index.skipped)
        tell_doubts(index, job, adapter)
        tell_long_captions(models.clip, index)

    names = adapter.projection.inputs
    source = open_source(
        index, encoders, names, job.data, folders, watcher.on_cache, watcher.should_stop
    )
    if source is None:
        return None
    told = len(source.skipped)
    if tell:
        tell_skipped(source.skipped)
    training, held_out = split(source, job.held_out, job.run.seed)
    made_from = MadeFrom(training, held_out, encoders, facts, _described(index, job))
    try:
        return _train(models, job, folders.run, made_from, watcher, resume, processes)
    finally:
        if tell:
            tell_skipped(source.skipped[told:])  # found while training without a cache


def _adapter_and_encoders(models: Models, job: Job) -> tuple[MultiIPAdapterConfig, Encoders]:
    """The sizes of the adapter that will be trained, and what reads its pictures."""
    widths = feature_widths(models.clip_vision, models.faces)
    adapter = plan_adapter(job.run, *_layers(models.model), widths)
    weights = fingerprint(models.vae.first_stage_model, models.clip_vision.model)
    recogniser = ""
    if FACE in adapter.projection.inputs:
        assert models.faces is not None  # else `plan_adapter` has refused
        check_recogniser(models.faces)
        recogniser = models.faces.recogniser
    encode = picture_encoder(
        models.model, models.vae, models.clip_vision, job.data.fit, models.faces
    )
    return adapter, Encoders(encode, weights, widths, recogniser)


def _described(index: PictureIndex, job: Job) -> dict[str, Any]:
    """For config.json; a dataset that comes by a wire has its kind and split from elsewhere."""
    settings = job.files | dataclasses.asdict(job.data)
    if not job.data.dataset:
        settings = {k: v for k, v in settings.items() if k not in ("kind", "split")}
        settings["dataset"] = str(index.root)
    return settings


def _layers(model: Any) -> tuple[list[int], int]:
    """Widths of the model's cross-attention layers, and of its text."""
    sites = cross_attention_sites(model.get_model_object("diffusion_model"))
    return [site.inner_dim for site in sites], sites[0].context_dim


def _train(
    models: Models,
    job: Job,
    folder: Path,
    made_from: MadeFrom[PictureSource],
    watcher: Watcher,
    resume: bool,
    processes: OneProcess,
) -> Outcome:
    sheets: list[Image.Image] = []
    with (
        torch.inference_mode(False),
        training_backbone(
            models.model, models.clip, models.clip_vision, job.run, job.data.size, models.faces
        ) as backbone,
    ):
        run = Run(folder, job.run, backbone, made_from, processes)
        preview = _preview(models, run, made_from.held_out, job)

        def on_validation(report: ValidationReport, adapter: MultiIPAdapter) -> None:
            watcher.on_validation(report, adapter)
            if preview is not None:
                sheet = preview.sheet(run.result_adapter())
                unload_models()
                _keep_sheet(sheet, folder / f"preview-{report.step:08}.png")
                sheets[:] = [sheet]
                watcher.on_preview(sheet)

        result = run.go(dataclasses.replace(watcher, on_validation=on_validation), resume)
    return Outcome(result, sheets[0] if sheets else _last_sheet(folder))


def _keep_sheet(sheet: Image.Image, path: Path) -> None:
    with disk_errors(path), atomically(path) as temporary:
        sheet.save(temporary, "PNG")


def _last_sheet(folder: Path) -> Image.Image | None:
    """The newest whole preview of a run that was resumed."""
    for path in sorted(folder.glob("preview-*.png"), reverse=True):
        with suppress(OSError, BadPictureError), path.open("rb") as file:
            return decode(file, path.name)[0]
    return None


def _preview(models: Models, run: Run, held_out: PictureSource | None, job: Job) -> Preview | None:
    """Preview of the first validation cases whose pictures can be read; None if there is none."""
    if run.validator is None or held_out is None:
        return None
    cases: list[PreviewCase] = []
    for case in run.validator.cases:
        if len(cases) == job.data.previews:
            break
        with suppress(BadPictureError, UnreadableError):
            cases.append(_preview_case(held_out, case, run, job.data))
    if not cases:
        return None
    return Preview(models.model, models.clip, models.vae, cases, job.run.seed)


def _preview_case(held_out: PictureSource, case: Case, run: Run, data: DataConfig) -> PreviewCase:
    names = run.trainer.adapter.config.projection.inputs
    null = run.trainer.backbone.null_features
    home = comfy.model_management.intermediate_device()

    def load(number: int) -> Tensor:
        return to_floats(load_picture(held_out.index, number, data.size, data.fit)[0])

    references = torch.stack([load(number) for number in case.references])
    features = held_out.fetch(case.references, names)
    embeds = ReferenceEmbeds(
        {name: x.float().to(home) for name, x in features.items()},
        {name: null[name].to(home) for name in names},
        torch.ones(len(case.references)),
    )
    return PreviewCase(references, embeds, load(case.target), held_out.caption(case.target))
