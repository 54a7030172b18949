"""Nodes: a dataset and models -> a trained adapter -> a file in models/ipadapter."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from comfy_api.v0_0_2 import io, ui

from ...faces.analysis import FaceAnalyser
from ...files.names import free_path, plain_name
from ...models.aggregation import AGGREGATIONS
from ...models.checkpoint import save_adapter
from ...pictures.index import PictureIndex
from ...runs.metrics import curves
from ...training.job import FILES, Job, parse_settings, read_job
from ...training.source import Folders
from ..host.folders import caches_folder, runs_folder
from ..host.images import to_image
from ..host.wires import (
    CATEGORY,
    FaceAnalysisSocket,
    MultiIPAdapterSocket,
    ReferenceDatasetSocket,
)
from ..steering.key_values import LoadedAdapter
from ..steering.load import FOLDER
from .events import TrainingEvents
from .progress import TrainingBar, draw_chart
from .run import Models, Outcome, train_adapter

# Settings of the command line for which a graph has nodes and wires, and folders of its own.
_ELSEWHERE = (*FILES, "dataset", "kind", "split", "cache_folder")

# How often a run of this name was stopped early: ComfyUI must not serve its part of a result when
# the same graph is run again to finish it.
_stopped: Counter[str] = Counter()


class TrainMultiIPAdapter(io.ComfyNode):
    """Train an adapter on several pictures of each identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Train",
            display_name="Train Multi-IPAdapter",
            category=CATEGORY,
            description="Each step drops one picture of an identity and learns to restore it from "
            "the text and a varying number of the others. Cancelling keeps what was learned; a "
            "run of the same name continues where it stopped.",
            search_aliases=[
                "ipadapter training",
                "train ip-adapter",
                "fine-tune",
                "personalize",
                "faceid training",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Checkpoint that the adapter is for, SD1.x, SD2.x or SDXL; it stays as "
                    "it is.",
                ),
                io.Clip.Input("clip", tooltip="Text encoder of the checkpoint; reads captions."),
                io.Vae.Input("vae", tooltip="Checkpoint's VAE; turns the pictures into latents."),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="Image encoder that reads the references; the trained adapter "
                    "works with this one only.",
                ),
                ReferenceDatasetSocket.Input("dataset", tooltip="From 'Reference Dataset'."),
                io.String.Input(
                    "name",
                    default="adapter",
                    tooltip="Folder of the run, below output/training. A run of this name is "
                    "resumed.",
                ),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=10_000_000,
                    optional=True,
                    tooltip="Total number of optimizer steps.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="Pictures that a step restores, each with its own references.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-8,
                    max=1.0,
                    step=1e-6,
                    round=1e-8,
                    optional=True,
                    tooltip="Highest learning rate.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    optional=True,
                    tooltip="Side of the training pictures in pixels.",
                ),
                io.Int.Input(
                    "max_references",
                    default=8,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="Each training sample gets from 1 to this many of the identity's other "
                    "pictures.",
                ),
                io.Combo.Input(
                    "aggregation",
                    options=list(AGGREGATIONS),
                    default="learned",
                    optional=True,
                    tooltip="How the references are joined.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["bf16", "fp16", "fp32"],
                    default="bf16",
                    optional=True,
                    tooltip="Precision of the frozen model and the activations.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Seed of all random choices: targets, references, noise, dropout.",
                ),
                io.Combo.Input(
                    "start_from",
                    options=["none", *folder_paths.get_filename_list(FOLDER)],
                    default="none",
                    optional=True,
                    tooltip="Adapter file to go on from; none: the model's own weights.",
                ),
                io.String.Input(
                    "settings",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Further settings, one 'name = value' on each line; see "
                    "docs/training.md.",
                ),
                FaceAnalysisSocket.Input(
                    "face_analysis",
                    optional=True,
                    tooltip="For 'projection = faceid' in the settings: the adapter learns from "
                    "face embeddings, and pictures without a face are left out.",
                ),
            ],
            outputs=[
                MultiIPAdapterSocket.Output(
                    display_name="adapter",
                    tooltip="For 'Save Multi-IPAdapter', or straight to 'Apply Multi-IPAdapter'.",
                ),
                io.LossMap.Output(
                    display_name="loss_map", tooltip="For ComfyUI's 'Plot Loss Graph'."
                ),
                io.Image.Output(
                    display_name="chart", tooltip="Training and validation loss against steps."
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="Held-out identities, drawn without and with references.",
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", start_from: str = "none", **_) -> str:
        """ComfyUI trains again after a run was stopped, and when the file to start from changed."""
        path = folder_paths.get_full_path(FOLDER, start_from)
        return f"{_stopped[name]} {os.stat(path).st_mtime_ns if path else ''}"

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        clip_vision,
        dataset,
        name: str,
        steps: int = 2000,
        batch_size: int = 8,
        learning_rate: float = 1e-4,
        size: int = 512,
        max_references: int = 8,
        aggregation: str = "learned",
        precision: str = "bf16",
        seed: int = 0,
        start_from: str = "none",
        settings: str = "",
        face_analysis: FaceAnalyser | None = None,
    ) -> io.NodeOutput:
        inputs: dict[str, Any] = {"steps": steps, "batch_size": batch_size}
        inputs |= {"learning_rate": learning_rate}
        inputs |= {"size": size, "max_references": max_references, "aggregation": aggregation}
        inputs |= {"precision": precision, "seed": seed, "start_from": _path_of(start_from)}
        models = Models(model, clip, vae, clip_vision, face_analysis)
        node = cls.hidden.unique_id if cls.hidden else None
        outcome = train(models, dataset, name, _job(inputs, settings), node)
        chart = to_image(draw_chart(outcome.result))
        return io.NodeOutput(
            LoadedAdapter(outcome.result.adapter, name),
            {"loss": [loss for _, loss in curves(outcome.result.metrics)["loss"]]},
            chart,
            to_image(outcome.preview) if outcome.preview else chart,
            ui=ui.PreviewImage(chart, cls=cls),
        )


class SaveMultiIPAdapter(io.ComfyNode):
    """Keep a trained adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Save",
            display_name="Save Multi-IPAdapter",
            category=CATEGORY,
            description="Writes an adapter to models/ipadapter. With one slot it loads as a plain "
            "IP-Adapter elsewhere.",
            search_aliases=["save ipadapter", "save ip-adapter", "export adapter"],
            inputs=[
                MultiIPAdapterSocket.Input("adapter", tooltip="From 'Train Multi-IPAdapter'."),
                io.String.Input("name", default="adapter", tooltip="File name without folder."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of this name; otherwise a number is added.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="ipadapter_file", tooltip="Name of the file that was written."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, adapter: LoadedAdapter, name: str, overwrite: bool = False) -> io.NodeOutput:
        folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
        path = free_path(folder, plain_name(name), overwrite)
        save_adapter(adapter.adapter, path)
        return io.NodeOutput(path.name, ui={"text": [path.name]})


def train(models: Models, dataset: PictureIndex, name: str, job: Job, node: str | None) -> Outcome:
    """Train, or go on with the run of this name; ComfyUI's front ends are told how it goes.

    Args:
        node: id of the node in the running graph.

    Raises:
        InterruptProcessingException: cancelled before the first step.
    """
    run = plain_name(name)
    with TrainingEvents(run, node, job.run.steps) as events:
        watcher = TrainingBar(job.run.steps, events).watcher()
        outcome = train_adapter(
            models, dataset, job, Folders(runs_folder() / run, caches_folder()), watcher
        )
        events.finished = outcome is not None and outcome.result.finished
    if not events.finished:
        _stopped[name] += 1
    comfy.model_management.interrupt_current_processing(False)
    if outcome is None or not outcome.result.step:
        raise comfy.model_management.InterruptProcessingException()
    return outcome


def _path_of(start_from: str) -> str:
    return "" if start_from == "none" else folder_paths.get_full_path_or_raise(FOLDER, start_from)


def _job(inputs: dict[str, Any], settings: str) -> Job:
    """Settings from a prompt must not name files, nor say again what an input says."""
    taken, values = (*inputs, *_ELSEWHERE), parse_settings(settings)
    if named := sorted(set(taken) & set(values)):
        raise ValueError(
            f"Got {', '.join(named)} in settings; this is set by the nodes' inputs. Remove the "
            "line there."
        )
    return read_job(inputs | values, taken)
