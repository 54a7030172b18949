"""Evaluation in a real ComfyUI server through its API: sweep, evaluate, report; cancel, go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from multi_ipadapter.demo.client import PromptError
from multi_ipadapter.demo.prompt import node
from multi_ipadapter.evaluation.networks.inception import InceptionModule

from .evaluation_world import write_pictures
from .network_files import randomise
from .people import write_people
from .reports import read_report
from .test_transformer_networks import clip_config

METRICS = ("fid", "is", "kid", "image_alignment", "text_alignment")
PROMPT = "a person on the moon"
COUNT = 50  # the least for which there is an FID
SAME = 40  # real pictures that are also generated: the networks, of full size, see them once
SPLITS = 2


@pytest.fixture(scope="module")
def world(server):
    """The server with networks, people to sweep over, and pictures: folders and the same batches.

    Returns:
        Its base directory.
    """
    base = server.base
    metrics = base / "models" / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    torch.save(
        randomise(InceptionModule()).state_dict(),
        metrics / "pt_inception-2015-12-05-6726825d.pth",
    )
    randomise(CLIPModel(clip_config())).save_pretrained(metrics / "clip-vit-base-patch32")
    folders = {"output/made": (COUNT, 1), "input/real": (COUNT, 2), "input/shown": (3, 3)}
    for place, (count, seed) in folders.items():
        write_pictures(base / place, count, seed, size=(48, 40))
    for number in range(SAME):
        shutil.copy(base / f"output/made/{number:03}.png", base / "input/real")
    for place in folders:
        _as_batch(base / place, base / "input")
    write_people(base / "input" / "swept", 3, 3)
    return base


def _as_batch(folder, target):
    """An animated PNG of a folder's pictures, which Load Image reads as one batch."""
    first, *rest = [Image.open(path) for path in sorted(folder.glob("*.png"))]
    first.save(target / f"{folder.name}.png", save_all=True, append_images=rest)


def values(report):
    """Metric -> value of a report with one point."""
    (point,) = report.points
    return {name: value.value for name, value in point.values.items()}


def report_of(base, name):
    return read_report(base / "output" / "evaluation" / f"{name}.json")


def error_of(server, graph) -> str:
    with pytest.raises(PromptError) as caught:
        server.client.run(graph)
    return str(caught.value)


def evaluation(**inputs):
    return {"evaluate": node("MultiIPAdapter_Evaluate", **inputs)}


def sweep_graph(name, **inputs):
    """Demo models over a dataset's people, 12 pictures."""
    options = {"prompts": PROMPT, "weights": "0, 0.5, 1", "references": "1, 2", "identities": 2}
    options |= {"width": 64, "height": 64, "steps": 1, "cfg": 1.0}
    return {
        "models": node("MultiIPAdapter_Demo"),
        "dataset": node("MultiIPAdapter_Dataset", dataset="swept"),
        "sweep": node(
            "MultiIPAdapter_Sweep",
            model=["models", 0],
            clip=["models", 1],
            vae=["models", 2],
            clip_vision=["models", 3],
            adapter=["models", 4],
            dataset=["dataset", 0],
            name=name,
            **(options | inputs),
        ),
    }


def interrupted_at(server, graph, key, step):
    """Run a graph until a node has told that many steps, then press Cancel; the message."""

    def cancel(name, done, steps):
        if name == key and step <= done < steps:
            server.client.post_json("/interrupt")

    with pytest.raises(PromptError) as caught:
        server.client.run(graph, cancel)
    return str(caught.value)


# ---- the way through ---------------------------------------------------------------------------


def test_a_sweep_is_evaluated_and_reported(server, world):
    graph = sweep_graph("whole")
    graph |= evaluation(
        generated=["sweep", 0],
        metrics="image_alignment, text_alignment",
        clip="clip-vit-b-32",
        name="whole",
    )
    graph["report"] = node(
        "MultiIPAdapter_Report",
        **{"reports.report_0": ["evaluate", 0], "pictures": ["sweep", 0], "name": "whole_figures"},
    )
    graph["encoder"] = node(
        "MultiIPAdapter_Evaluate",
        generated=["sweep", 0],
        metrics="image_alignment",
        clip="connected clip_vision",
        clip_vision=["models", 3],
        name="encoder",
    )
    outputs = server.client.run(graph)
    home = world / "output" / "evaluation"
    (warning,) = report_of(world, "encoder").warnings
    assert "the encoder that conditioned the pictures" in warning
    lines = (home / "whole" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12 and all(
        (home / "whole" / json.loads(x)["image"]).is_file() for x in lines
    )
    points = {
        (p.conditions["weight"], p.conditions["references"]): p.n
        for p in report_of(world, "whole").points
    }
    assert points == {(w, n): 2 for w in (0.0, 0.5, 1.0) for n in (1, 2)}
    (rows,) = outputs["evaluate"]["report"]
    assert [(row["conditions"], row["metric"], row["value"]) for row in rows] == [
        (point.conditions, metric, value.value)
        for point in report_of(world, "whole").points
        for metric, value in point.values.items()
    ]
    figures = {path.name for path in (home / "figures" / "whole_figures").iterdir()}
    drawn = {f"{m}_against_{c}.png" for m in METRICS[3:] for c in ("weight", "references")}
    assert figures >= drawn | {"table.png", "alignment.png", "sheet.png", "best.png"}
    assert figures >= {"report.json", "report.csv", "report_images.csv"}
    for name in ("sweep", "evaluate"):
        assert len(server.client.pictures({name: outputs[name]})) == 1
    shown = server.client.pictures({"report": outputs["report"]})
    assert len(shown) == len([name for name in figures if name.endswith(".png")])


def test_folder_batch_and_command_line_agree(server, world):
    out = world / "command_line.json"
    with _command_line(world, out) as process:  # runs beside the server
        asked = {"metrics": ", ".join(METRICS), "prompt": PROMPT, "splits": SPLITS}
        by_folder = {"generated": "made", "real": "real", "references": "shown"}
        by_folder |= {"name": "by_folder", "save_statistics": True}
        server.client.run(evaluation(**by_folder, **asked))
        graph = {name: node("LoadImage", image=f"{name}.png") for name in ("made", "real", "shown")}
        sources = (("generated", "made"), ("real", "real"), ("reference", "shown"))
        by_batch = {f"{what}_images": [name, 0] for what, name in sources}
        server.client.run(graph | evaluation(**by_batch, name="by_batch", **asked))
        printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

    expected, *others = [
        read_report(out),
        report_of(world, "by_folder"),
        report_of(world, "by_batch"),
    ]
    assert set(values(expected)) == set(METRICS) and values(expected)["fid"] > 0.01
    for report in others:
        # Nearly equal sets: the FID is a small difference of numbers near 1.
        assert values(report) == pytest.approx(values(expected), rel=1e-9, abs=1e-8)
        for row, other in zip(expected.per_image, report.per_image, strict=True):
            assert row["values"] == pytest.approx(other["values"], rel=1e-9)
        assert report.networks == expected.networks
    assert str(others[0]).splitlines()[:6] == printed.splitlines()[:6], "the same in words"
    _statistics_can_be_chosen(server)


def _command_line(world, out):
    command = [sys.executable, "-m", "multi_ipadapter.evaluation"]
    command += [world / "output" / "made", world / "input" / "real", "--out", out]
    command += ["--references", world / "input" / "shown", "--prompt", PROMPT]
    command += ["--metrics", ",".join(METRICS), "--splits", SPLITS, "--device", "cpu"]
    command += ["--weights", world / "models" / "metrics"]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as the server
    )


def _statistics_can_be_chosen(server):
    """The file that was just saved is an option, and is not mixed with another resize."""
    graph = evaluation(generated="made", metrics="fid", statistics="by_folder.npz", resize="clean")
    message = error_of(server, graph)
    assert "by_folder.npz" in message and "torch-fidelity" in message and "clean" in message


def test_the_best_of_a_batch_and_pairs(server, world):
    graph = {name: node("LoadImage", image=f"{name}.png") for name in ("made", "shown")}
    graph["rank"] = node(
        "MultiIPAdapter_Rank",
        images=["made", 0],
        references=["shown", 0],
        metric="image_alignment",
        keep=2,
    )
    graph["keep"] = node("SaveImage", images=["rank", 0], filename_prefix="best")
    graph["one"] = node("ImageFromBatch", image=["shown", 0], batch_index=0, length=1)
    graph["score"] = node(
        "MultiIPAdapter_Score", images=["shown", 0], others=["one", 0], metric="clip"
    )
    outputs = server.client.run(graph)
    assert len(server.client.pictures({"keep": outputs["keep"]})) == 2
    (text,) = outputs["score"]["text"]
    assert "of 3 pairs" in text and "0: 1.0000" in text


# ---- cancel and go on --------------------------------------------------------------------------


def test_a_cancelled_sweep_keeps_its_pictures_and_goes_on(server, world):
    graph = sweep_graph("stopped", steps=3)
    assert "interrupted at MultiIPAdapter_Sweep" in interrupted_at(server, graph, "sweep", 3)
    home = world / "output" / "evaluation" / "stopped"
    there = {path: path.stat().st_mtime_ns for path in home.glob("pictures/*/*.png")}
    listed = (home / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert 3 <= len(there) < 12 and len(listed) == len(there)
    server.client.run(graph)
    after = {path: path.stat().st_mtime_ns for path in home.glob("pictures/*/*.png")}
    assert len(after) == 12 and there.items() <= after.items()
    assert len((home / "manifest.jsonl").read_text(encoding="utf-8").splitlines()) == 12


def test_a_cancelled_evaluation_keeps_its_features_and_goes_on(server, world):
    folder = write_pictures(world / "output" / "slow", 12, 4)
    graph = evaluation(generated="slow", metrics="is", splits=1, batch_size=1, name="slow")
    assert "interrupted at MultiIPAdapter_Evaluate" in interrupted_at(server, graph, "evaluate", 3)
    assert not (world / "output" / "evaluation" / "slow.json").exists()
    for number in range(3):  # who opened these again would skip them as damaged
        path = folder / f"{number:03}.png"
        state = path.stat()
        path.write_bytes(b"x" * state.st_size)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    server.client.run(graph)
    report = report_of(world, "slow")
    assert report.points[0].n == 12 and report.sources[0].skipped == []
    assert not (world / "output" / "evaluation" / "slow.features").exists()


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (
            {"metrics": "dino", "references": "shown"},
            ["dino-vits16.safetensors", "facebookresearch/dino", "Put the file into", "metrics"],
        ),
        ({"generated": "../.."}, ["'../..' for generated", "below ComfyUI's output or input"]),
        ({"generated": "/etc"}, ["'/etc' for generated", "below ComfyUI's output or input"]),
        ({"real": "../models", "metrics": "kid"}, ["'../models' for real"]),
        ({"generated": "nowhere"}, ["'nowhere' for generated"]),
        ({"generated": ""}, ["none of generated", "generated_images"]),
        ({"name": "../report"}, ["'../report'", "plain file name"]),
        ({"name": "a/b"}, ["'a/b'", "plain file name"]),
        ({"metrics": "fidd"}, ["fidd", "expected some of fid"]),
        ({"metrics": "fid"}, ["fid needs real pictures"]),
        ({"statistics": "../secret.npz"}, ["Value not in list"]),
        ({"splits": 0}, ["smaller than min"]),
    ],
)
def test_bad_evaluations(server, world, inputs, expected):
    before = sorted((world / "output").iterdir())
    message = error_of(server, evaluation(**({"generated": "made", "metrics": "is"} | inputs)))
    assert "MultiIPAdapter_Evaluate" in message
    for words in expected:
        assert words in message
    assert sorted((world / "output").iterdir()) == before


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"name": "../sweep"}, "plain file name"),
        ({"weights": "much"}, "Got weights 'much'"),
        ({"references": "9"}, "the largest identity of the dataset has 3 pictures"),
    ],
)
def test_bad_sweeps(server, world, inputs, expected):
    message = error_of(server, sweep_graph(**({"name": "bad"} | inputs)))
    assert "MultiIPAdapter_Sweep" in message and expected in message
    assert not (world / "output" / "evaluation" / "bad").exists()
