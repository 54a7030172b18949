"""Node: a dataset and prompts -> pictures at every weight and number of references, in a folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.samplers
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ...evaluation.encoders import vision_fingerprint
from ...evaluation.sweep import choose_cases, parse_numbers, shots
from ...evaluation.sweep_folder import Sweep
from ...models.aggregation import AGGREGATIONS
from ...pictures.fit import FITS
from ...pictures.index import PictureIndex
from ..host.drawing import Drawing
from ..host.fingerprints import fingerprint, patched_fingerprint
from ..host.folders import evaluation_directory
from ..host.images import to_image
from ..host.memory import unload_models
from ..host.progress import Progress, cancelled
from ..host.wires import CATEGORY, MAX_SLOTS, MultiIPAdapterSocket, ReferenceDatasetSocket
from ..steering.key_values import LoadedAdapter
from ..steering.vision import check_encoder
from .sweep_run import Checkpoint, Given, SweepDrawer


class SweepMultiIPAdapter(io.ComfyNode):
    """Draw what an evaluation needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Sweep",
            display_name="Sweep Multi-IPAdapter",
            category=CATEGORY,
            description="Draws identities of a dataset with every prompt, weight and number of "
            "references, always from the same noise, into a folder below output/evaluation. "
            "Connect the folder to 'Evaluate Pictures' to get each metric against weight and "
            "number. A sweep of the same name continues where it stopped.",
            search_aliases=[
                "xy plot",
                "grid",
                "lambda",
                "parameter sweep",
                "ipadapter evaluation",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Checkpoint to draw with, without the adapter."),
                io.Clip.Input("clip", tooltip="Text encoder of the checkpoint."),
                io.Vae.Input("vae", tooltip="Decoder of the checkpoint."),
                MultiIPAdapterSocket.Input("adapter", tooltip="The adapter to be measured."),
                io.ClipVision.Input("clip_vision", tooltip="The encoder that the adapter needs."),
                ReferenceDatasetSocket.Input(
                    "dataset",
                    tooltip="Identities that the adapter was not trained on; each with more "
                    "pictures than the largest number of references.",
                ),
                io.String.Input(
                    "name", default="sweep", tooltip="Folder of the sweep in output/evaluation."
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="One prompt on each line; empty: the caption of the identity's target.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Negative prompt of all pictures.",
                ),
                io.String.Input(
                    "weights",
                    default="0, 0.4, 0.8, 1.2",
                    optional=True,
                    tooltip="Values of lambda, separated by commas.",
                ),
                io.String.Input(
                    "references",
                    default="1, 2, 4",
                    optional=True,
                    tooltip="Numbers of references, separated by commas. An identity with more "
                    "pictures keeps one as target.",
                ),
                io.Int.Input(
                    "identities",
                    default=4,
                    min=1,
                    max=100_000,
                    optional=True,
                    tooltip="How many identities of the dataset to draw; the seed chooses among "
                    "those with enough pictures.",
                ),
                io.Int.Input(
                    "per_prompt",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="Pictures of each combination; their seeds count up from `seed`.",
                ),
                io.Combo.Input(
                    "aggregation",
                    options=["auto", *AGGREGATIONS],
                    default="auto",
                    optional=True,
                    tooltip="How references are joined, as in 'Apply Multi-IPAdapter'.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    optional=True,
                    tooltip="How a reference becomes square: crop the middle, pad, or squash.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    optional=True,
                    tooltip="Width of the drawn pictures, in pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    optional=True,
                    tooltip="Height of the drawn pictures, in pixels.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Seed of the first picture of each combination, and of the choice of "
                    "identities.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="Sampling steps of a picture.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="Classifier-free guidance, as in KSampler.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    optional=True,
                    tooltip="As in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    optional=True,
                    tooltip="As in KSampler.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="folder",
                    tooltip="For generated of 'Evaluate Pictures' and pictures of "
                    "'Evaluation Report'.",
                ),
                io.Image.Output(display_name="sheet", tooltip="The pictures as a table."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        adapter: LoadedAdapter,
        clip_vision,
        dataset: PictureIndex,
        name: str,
        prompts: str = "",
        negative: str = "",
        weights: str = "0, 0.4, 0.8, 1.2",
        references: str = "1, 2, 4",
        identities: int = 4,
        per_prompt: int = 1,
        aggregation: str = "auto",
        fit: str = "crop",
        width: int = 512,
        height: int = 512,
        seed: int = 0,
        steps: int = 20,
        cfg: float = 7.0,
        sampler_name: str = "euler",
        scheduler: str = "normal",
    ) -> io.NodeOutput:
        given = Given(adapter, clip_vision, aggregation, fit)
        how = Drawing(width, height, steps, cfg, sampler_name, scheduler)
        drawer = SweepDrawer(Checkpoint(model, clip, vae), given, negative, how)
        grid = Grid(prompts, weights, references, identities, per_prompt, seed)
        folder, picture = draw_sweep(name, dataset, grid, drawer)
        sheet = to_image(picture)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() | {"figures": ["sheet"]}
        return io.NodeOutput(f"evaluation/{folder.name}", sheet, ui=shown)


@dataclass(frozen=True)
class Grid:
    """What to draw: inputs of the node."""

    prompts: str
    weights: str
    references: str
    identities: int
    per_prompt: int
    seed: int


def draw_sweep(
    name: str, dataset: PictureIndex, grid: Grid, drawer: SweepDrawer
) -> tuple[Path, Image.Image]:
    """Draw what is not there yet; returns the folder, and its pictures as a table.

    Raises:
        ValueError: bad input, or the folder holds another sweep.
    """
    folder = evaluation_directory(name)
    check_encoder(drawer.given.clip_vision, drawer.given.loaded.config.projection)
    strengths = parse_numbers(grid.weights, "weights", -1.0, 5.0)
    counts = parse_numbers(grid.references, "references", 1, MAX_SLOTS, whole=True)
    lines = [line.strip() for line in grid.prompts.splitlines() if line.strip()]
    cases = choose_cases(dataset, grid.identities, counts[-1], grid.seed)
    encoder = vision_fingerprint(drawer.given.clip_vision.model.state_dict())
    sweep = Sweep(folder, dataset, cases, lines, encoder)
    sweep.begin(_settings(sweep, drawer))
    seeds = range(grid.seed, grid.seed + grid.per_prompt)
    plan = list(shots(len(cases), max(1, len(lines)), strengths, counts, seeds))
    try:
        sweep.run(plan, drawer, Progress(), cancelled)
    finally:
        sweep.write_manifest(plan)  # of a stopped sweep too
    return folder, sweep.sheet(plan)


def _settings(sweep: Sweep, drawer: SweepDrawer) -> dict[str, Any]:
    """What all pictures of a folder have in common."""
    given = drawer.given
    return dataclasses.asdict(drawer.how) | {
        "prompts": sweep.prompts,
        "negative": drawer.negative,
        "cases": [dataclasses.asdict(case) for case in sweep.cases],
        "aggregation": given.aggregation,
        "fit": given.fit,
        "dataset": sweep.index.digest(),
        "adapter": fingerprint(given.loaded.adapter),
        "model": checkpoint_fingerprint(drawer.checkpoint),
        "encoder": sweep.encoder,
    }


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Digest of the checkpoint with its LoRAs, merged into its weights while it is loaded."""
    model, clip = checkpoint.model, checkpoint.clip
    unload_models()
    parts = (
        patched_fingerprint(model, model.get_model_object("diffusion_model")),
        patched_fingerprint(clip.patcher, clip.cond_stage_model),
        str(clip.layer_idx),
        fingerprint(checkpoint.vae.first_stage_model),
    )
    return " ".join(parts)
