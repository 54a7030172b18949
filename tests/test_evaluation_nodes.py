"""The evaluation nodes on drawn pictures, with networks of generated weights."""

from __future__ import annotations

import asyncio
import json

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from multi_ipadapter.evaluation.networks.inception import InceptionModule
from multi_ipadapter.evaluation.ranking import rank
from multi_ipadapter.nodes import MultiIPAdapterExtension
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_adapter
from multi_ipadapter.nodes.evaluation.evaluate import EvaluatePictures
from multi_ipadapter.nodes.evaluation.metric_networks import CONNECTED, CoreClipVision
from multi_ipadapter.nodes.evaluation.rank import RankPictures, select_latents
from multi_ipadapter.nodes.evaluation.report import ReportFigures
from multi_ipadapter.nodes.evaluation.score import ScorePairs
from multi_ipadapter.nodes.evaluation.sweep import SweepMultiIPAdapter

from .evaluation_world import drawn, write_pictures
from .network_files import randomise
from .reports import read_report
from .test_transformer_networks import clip_config

SWEEP = {"identities": 2, "width": 64, "height": 64, "steps": 1, "cfg": 1.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of networks under the names that the catalogue expects."""
    folder = tmp_path_factory.mktemp("metrics")
    torch.save(
        randomise(InceptionModule()).state_dict(),
        folder / "pt_inception-2015-12-05-6726825d.pth",
    )
    randomise(CLIPModel(clip_config())).save_pretrained(folder / "clip-vit-base-patch32")
    return folder


@pytest.fixture
def metrics(base, weights):
    """ComfyUI's folders, with the networks."""
    folder_paths.add_model_folder_path("metrics", str(weights))
    return base


@pytest.fixture(scope="module")
def adapter(sd15):
    return build_adapter(DemoConfig(), sd15, seed=4)


def batch(count, seed=0, size=(48, 40)):
    """IMAGE of drawn pictures."""
    return torch.from_numpy(np.stack([drawn(seed + i, size) for i in range(count)])).float() / 255


def write(folder, images):
    """As ComfyUI's Save Image does."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        pixels = np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def values(report):
    (point,) = report.points
    return {name: value.value for name, value in point.values.items()}


def test_all_nodes_are_listed_and_have_a_schema(base):
    nodes = asyncio.run(MultiIPAdapterExtension().get_node_list())
    ids = {node.GET_SCHEMA().node_id for node in nodes}
    wanted = ("Evaluate", "Score", "Rank", "Sweep", "Report")
    assert {f"MultiIPAdapter_{name}" for name in wanted} <= ids


# ---- evaluate ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_and_the_same_batch_have_equal_scores(metrics):
    images, real = batch(6), batch(7, 100)
    write(metrics / "output" / "made", images)
    write(metrics / "input" / "truth", real)
    write(metrics / "input" / "anna", batch(2, 50))
    asked = {"metrics": "kid, is, image_alignment, text_alignment", "prompt": "a cat", "splits": 2}
    by_folder = EvaluatePictures.execute("made", "truth", "anna", name="by folder", **asked).args
    by_batch = EvaluatePictures.execute(
        generated_images=images,
        real_images=real,
        reference_images=batch(2, 50),
        name="by batch",
        **asked,
    ).args
    assert values(by_folder[0]) == values(by_batch[0])
    assert len(values(by_folder[0])) == 4 and None not in values(by_folder[0]).values()
    written = read_report(metrics / "output" / "evaluation" / "by folder.json")
    assert values(written) == values(by_folder[0])
    assert (metrics / "output" / "evaluation" / "by folder.csv").is_file()
    assert not (metrics / "output" / "evaluation" / "by folder.features").exists()
    assert "kid" in by_folder[1] and by_folder[2].shape[-1] == 3


def test_the_front_end_gets_the_values_and_the_figures(metrics):
    write_pictures(metrics / "output" / "made", 4)
    evaluated = EvaluatePictures.execute("made", metrics="is", splits=2)
    report = evaluated.args[0]
    ((row,),) = evaluated.ui["report"]
    assert row["metric"] == "is" and row["n"] == 4
    assert row["value"] == report.points[0].values["is"].value
    assert evaluated.ui["warnings"] == report.warnings and report.warnings
    assert evaluated.ui["figures"] == ["table"] and len(evaluated.ui["images"]) == 1
    shown = ReportFigures.execute({"report_0": report}, "shown", pictures="made").ui
    files = (metrics / "output" / "evaluation" / "figures" / "shown").glob("*.png")
    assert sorted(shown["figures"]) == sorted(path.stem for path in files)
    assert shown["report"] == [[row]] and len(shown["images"]) == len(shown["figures"])


@pytest.mark.slow
def test_statistics_stand_for_the_real_pictures(metrics):
    write(metrics / "output" / "made", batch(50))
    write(metrics / "input" / "truth", batch(50, 10))  # 40 of both: the network sees them once
    first = EvaluatePictures.execute(
        "made", "truth", metrics="fid", name="first", save_statistics=True
    ).args[0]
    second = EvaluatePictures.execute(
        "made", metrics="fid", name="second", statistics="first.npz"
    ).args[0]
    assert values(first)["fid"] == pytest.approx(values(second)["fid"], rel=1e-6)
    assert values(first)["fid"] > 0.01
    with pytest.raises(ValueError, match="clean"):
        EvaluatePictures.execute("made", metrics="fid", statistics="first.npz", resize="clean")


def test_a_connected_encoder_scores_and_is_found_out(metrics, clip_vision):
    images, references = batch(3), batch(2, 50)
    report = EvaluatePictures.execute(
        generated_images=images,
        reference_images=references,
        metrics="image_alignment",
        clip=CONNECTED,
        clip_vision=clip_vision,
    ).args[0]
    found = clip_vision.encode_image(torch.cat([images, references]))["image_embeds"].double()
    unit = found / found.norm(dim=1, keepdim=True)
    assert values(report)["image_alignment"] == pytest.approx(
        (unit[:3] @ unit[3:].T).mean().item(),
        abs=2e-3,  # the pictures are quantised
    )
    assert report.networks[0].weights == CoreClipVision(clip_vision).weights
    with pytest.raises(ValueError, match="no text"):
        EvaluatePictures.execute(
            generated_images=images,
            prompt="a",
            metrics="text_alignment",
            clip=CONNECTED,
            clip_vision=clip_vision,
        )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "none of generated"),
        ({"generated": "nowhere"}, "folder below"),
        ({"generated": "../.."}, "folder below"),
        ({"generated": "/"}, "folder below"),
        ({"generated": "made", "name": "../x"}, "plain file name"),
        ({"generated": "made", "metrics": "fidd"}, "fidd"),
        ({"generated": "made", "metrics": "fid"}, "real"),
        ({"generated": "made", "metrics": "dino", "references": "made"}, "dino-vits16"),
        ({"generated": "empty", "metrics": "is"}, "no picture"),
        ({"generated": "made", "metrics": "image_alignment", "clip": CONNECTED}, "no connected"),
    ],
)
def test_bad_input(metrics, inputs, message):
    write(metrics / "output" / "made", batch(2))
    (metrics / "output" / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EvaluatePictures.execute(**inputs)
    assert not (metrics / "x.json").exists()


# ---- score and rank ----------------------------------------------------------------------------


def test_pairs(metrics, clip_vision):
    images = batch(3)
    mean, scores, text = ScorePairs.execute(
        images, images, "clip", clip_vision=clip_vision, clip=CONNECTED
    ).args
    assert scores == pytest.approx([1, 1, 1], abs=1e-5) and mean == pytest.approx(1, abs=1e-5)
    against_one = ScorePairs.execute(images, images[1:2], "clip").args[1]
    assert against_one[1] == pytest.approx(1, abs=1e-5) and max(against_one[::2]) < 0.9999
    with pytest.raises(ValueError, match="as many"):
        ScorePairs.execute(images, images[:2], "clip")


def test_the_best_are_those_most_like_the_references(metrics, clip_vision):
    images = batch(4)
    latents = {
        "samples": torch.arange(4).view(4, 1, 1, 1).float(),
        "noise_mask": torch.arange(4).view(4, 1, 1),
        "batch_index": [5, 6, 7, 8],
    }
    kept, latent, indices, scores, strip = RankPictures.execute(
        images,
        "image_alignment",
        keep=2,
        references=images[2:3],
        latents=latents,
        clip_vision=clip_vision,
        clip=CONNECTED,
    ).args
    assert indices[0] == 2 and scores[0] == pytest.approx(1, abs=1e-5) and scores[1] < scores[0]
    assert torch.equal(kept, images[indices])
    assert latent["samples"].flatten().tolist() == indices
    assert latent["noise_mask"].flatten().tolist() == indices
    assert latent["batch_index"] == [5 + i for i in indices]
    assert strip.ndim == 4
    in_order = RankPictures.execute(
        images,
        "image_alignment",
        keep=4,
        order="as they came",
        references=images[2:3],
        clip_vision=clip_vision,
        clip=CONNECTED,
    ).args
    assert in_order[2] == [0, 1, 2, 3] and in_order[1] is None


def test_ranking():
    assert rank([1.0, None, 3.0, 1.0], lower_is_better=False) == [2, 0, 3]
    assert rank([1.0, None, 3.0, 1.0], lower_is_better=True) == [0, 3, 2]
    with pytest.raises(ValueError, match="None of the 2"):
        rank([None, None], lower_is_better=False)
    assert select_latents(None, [0]) is None
    with pytest.raises(ValueError, match="2 latents for 3 images"):
        RankPictures.execute(batch(3), "clip_score", latents={"samples": torch.zeros(2, 4, 1, 1)})


# ---- sweep and report --------------------------------------------------------------------------


def sweep(models, adapter, dataset, **changes):
    model, clip, vae, clip_vision = models
    options = SWEEP | {"weights": "0, 1", "references": "1, 2", "prompts": "a man\na cat"} | changes
    return SweepMultiIPAdapter.execute(
        model, clip, vae, adapter, clip_vision, dataset, **({"name": "s"} | options)
    ).args


def test_a_sweep_is_drawn_evaluated_and_shown(metrics, models, adapter, dataset):
    folder, sheet = sweep(models, adapter, dataset)
    home = metrics / "output" / "evaluation" / "s"
    lines = [json.loads(x) for x in (home / "manifest.jsonl").read_text().splitlines()]
    assert folder == "evaluation/s" and len(lines) == 2 * 2 * 2 * 2
    assert all((home / line["image"]).is_file() for line in lines)
    assert all(len(line["given"]) == line["conditions"]["references"] for line in lines)
    assert all(len(line["references"]) == 2 for line in lines)
    pixels = {(x["identity"], x["prompt"], *x["conditions"].values()): x["image"] for x in lines}

    def read(*key):
        return (home / pixels[key]).read_bytes()

    person = lines[0]["identity"]
    assert read(person, "a man", 0.0, 1) == read(person, "a man", 0.0, 2)
    assert read(person, "a man", 1.0, 1) != read(person, "a man", 1.0, 2)
    assert read(person, "a man", 1.0, 1) != read(person, "a man", 0.0, 1)
    assert read(person, "a man", 0.0, 1) != read(person, "a cat", 0.0, 1)
    report = EvaluatePictures.execute(
        folder, metrics="image_alignment, text_alignment", name="swept"
    ).args[0]
    points = {(p.conditions["weight"], p.conditions["references"]): p.n for p in report.points}
    assert points == {(w, n): 4 for n in (1, 2) for w in (0.0, 1.0)}
    without = [p.values for p in report.points if not p.conditions["weight"]]
    one, two = (v["image_alignment"].value for v in without)
    assert one == two  # equal pictures, whatever their number of references
    figures, text = ReportFigures.execute({"report_0": report}, "shown", pictures=folder).args
    names = {
        p.stem for p in (metrics / "output" / "evaluation" / "figures" / "shown").glob("*.png")
    }
    assert names >= {"table", "image_alignment_against_weight", "text_alignment_against_references"}
    assert names >= {"alignment", "sheet", "best"} and len(figures) == len(names)
    assert "image_alignment" in text


def test_a_sweep_goes_on_and_keeps_to_its_settings(metrics, models, adapter, dataset):
    sweep(models, adapter, dataset)
    home = metrics / "output" / "evaluation" / "s" / "pictures"
    first, *rest = sorted(home.rglob("*.png"))
    content = first.read_bytes()
    first.unlink()
    times = [p.stat().st_mtime_ns for p in rest]
    sweep(models, adapter, dataset)
    assert first.read_bytes() == content
    assert [p.stat().st_mtime_ns for p in rest] == times
    sweep(models, adapter, dataset, weights="0, 0.5, 1")  # more of the same is no other sweep
    with pytest.raises(ValueError, match=r"other settings \(steps\)"):
        sweep(models, adapter, dataset, steps=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "a"}, "weights 'a'"),
        ({"weights": "9"}, "from -1 to 5"),
        ({"references": "0"}, "references '0'"),
        ({"references": "5"}, "5 references; the largest identity of the dataset has 4"),
        ({"name": "a/b"}, "plain file name"),
    ],
)
def test_bad_sweeps(metrics, models, adapter, dataset, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(models, adapter, dataset, **changes)


@pytest.mark.slow
def test_reports_side_by_side(metrics):
    write_pictures(metrics / "output" / "a", 4)
    write_pictures(metrics / "output" / "b", 6, 3)
    reports = {
        f"report_{i}": EvaluatePictures.execute(name, metrics="is", splits=2).args[0]
        for i, name in enumerate("ab")
    }
    _, text = ReportFigures.execute(reports, "two", labels="first, second").args
    assert "first" in text and "4" in text and "6" in text
    with pytest.raises(ValueError, match="1 labels for 2 reports"):
        ReportFigures.execute(reports, "two", labels="first")
    with pytest.raises(ValueError, match="connect at least one"):
        ReportFigures.execute({}, "two")
