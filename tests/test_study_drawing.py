"""The study's sampler draws what the nodes and KSampler draw."""

from __future__ import annotations

import pytest
import torch

import nodes as core
from multi_ipadapter.demo.prompt import STEPS
from multi_ipadapter.demo.study import measure as run
from multi_ipadapter.demo.study.cells import BASE, DESCRIBED, MAIN, Cell, without
from multi_ipadapter.demo.study.people import held_out
from multi_ipadapter.demo_world.world import WEIGHTS_FOLDER
from multi_ipadapter.models.checkpoint import load_adapter
from multi_ipadapter.nodes.demo import bundle as demo_bundle
from multi_ipadapter.nodes.steering.apply import ApplyMultiIPAdapter
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages as Encode
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter

pytestmark = pytest.mark.slow

FILE = WEIGHTS_FOLDER / "adapter.safetensors"
PEOPLE, N = 2, 3
CFG = 5.0
CELLS = [Cell(*MAIN, N, 1.0), Cell(*MAIN, N, 0.5), without(BASE), without(DESCRIBED)]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return held_out(tmp_path_factory.mktemp("pictures"), PEOPLE, 0)


def by_the_nodes(cell, people, row, text):
    """The latent of one picture, as a graph draws it, from noise of the row's seed."""
    model, clip = demo_bundle.trained_unet(), demo_bundle.trained_clip()
    if cell.references:
        adapter = LoadedAdapter(load_adapter(FILE), FILE.name)
        given = people.references[row // people.pictures.views, : cell.references]
        pixels = torch.from_numpy(people.pictures.pixels[given.numpy()]) / 255
        pictures = {f"reference_image_{k}": x[None] for k, x in enumerate(pixels)}
        vision = demo_bundle.trained_clip_vision()
        embeds = Encode.execute(adapter, vision, reference_images=pictures).args[0]
        model = ApplyMultiIPAdapter.execute(model, adapter, embeds, weight=cell.weight).args[0]
    side = people.pictures.pixels.shape[1]
    (positive,), (negative,) = (core.CLIPTextEncode().encode(clip, t) for t in (text, ""))
    (empty,) = core.EmptyLatentImage().generate(side, side)
    sampler = (row, STEPS, CFG, "dpmpp_2m", "normal")
    (latent,) = core.KSampler().sample(model, *sampler, positive, negative, empty)
    return latent["samples"]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.adapter} {cell.weight}")
def test_rows_drawn_together_are_those_of_the_graph(people, cell):
    wanted = people.prompts[:, 0]
    with run.studio(people, CFG) as (studio, _, _):
        adapter = load_adapter(FILE) if cell.references else None
        with torch.inference_mode():
            drawn = studio._sampled(cell, adapter, wanted)
        drawn = studio.model.model.process_latent_out(drawn)
        texts = studio.described if cell.adapter == DESCRIBED else people.pictures.captions
    for latent, row in zip(drawn, wanted.tolist(), strict=True):
        graph = by_the_nodes(cell, people, row, texts[row])
        assert graph.std() > 0.1
        assert (latent - graph[0]).abs().max() < 1e-3 * graph.abs().max()
