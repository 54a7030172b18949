"""`python -m multi_ipadapter.evaluation` as a process, with networks of generated weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPModel

from multi_ipadapter.evaluation.command import main
from multi_ipadapter.evaluation.generated import read_generated
from multi_ipadapter.evaluation.loading import load_networks
from multi_ipadapter.evaluation.networks.inception import InceptionModule
from multi_ipadapter.evaluation.request import Request
from multi_ipadapter.evaluation.run import evaluate
from multi_ipadapter.pictures.sources import FolderSource

from .conftest import COMFYUI_PATH
from .evaluation_world import write_pictures
from .network_files import Payload, randomise
from .reports import read_report
from .test_transformer_networks import clip_config

METRICS = ("fid", "is", "kid", "image_alignment", "text_alignment")
COMMAND = [sys.executable, "-m", "multi_ipadapter.evaluation"]
OPTIONS = ("--splits", 2, "--fid-minimum", 2)
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
LAUNCH += ["--main_process_port=0", "--num_machines=1", "--mixed_precision=no"]
LAUNCH += ["--dynamo_backend=no", "--num_cpu_threads_per_process=1", "-m"]
LAUNCH += ["multi_ipadapter.evaluation"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of pictures, and of weights under the names that the catalogue expects."""
    folder = tmp_path_factory.mktemp("evaluation")
    weights = folder / "metrics"
    weights.mkdir()
    torch.save(
        randomise(InceptionModule()).state_dict(),
        weights / "weights-inception-2015-12-05-6726825d.pth",
    )
    model = randomise(CLIPModel(clip_config()))
    model.save_pretrained(weights / "clip-vit-base-patch32")
    for seed, identity in enumerate(("anna", "bert")):
        write_pictures(folder / "made" / identity, 4, seed, size=(48, 40))
        write_pictures(folder / "references" / identity, 2, seed + 10, size=(48, 40))
    write_pictures(folder / "real", 9, 5, size=(48, 40))
    return folder


def start(world, *arguments, command=COMMAND):
    options = ["--weights", world / "metrics", "--device", "cpu", *OPTIONS]
    return subprocess.Popen(
        [*map(str, command), *map(str, [*arguments, *options])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def arguments(world, out, *more):
    asked = [world / "made", world / "real", "--metrics", ",".join(METRICS), "--prompt", "a person"]
    asked += ["--references", world / "references", "--batch-size", 4, "--out", out]
    return [*asked, "--save-statistics", out.with_suffix(".npz"), *more]


@pytest.fixture(scope="module")
def alone(world):
    """The report of one process, and what it printed."""
    out = world / "alone" / "report.json"
    code, printed, err = finish(start(world, *arguments(world, out, "--csv")))
    assert code == 0, err
    return out, printed, err


@pytest.mark.process
def test_the_report_is_evaluates(world, alone):
    out, printed, err = alone
    found = read_report(out)
    generated = read_generated(world / "made", world / "references", "a person")
    of = load_networks(
        METRICS, [world / "metrics"], tokenizer=f"{COMFYUI_PATH}/comfy/sd1_tokenizer"
    )
    options = {"batch_size": 4, "splits": 2, "fid_minimum": 2}
    expected = evaluate(Request(METRICS, generated, FolderSource(world / "real"), **options), of)
    assert found.points[0].values.keys() == set(METRICS)
    for metric, value in expected.points[0].values.items():
        assert value.value == pytest.approx(found.points[0].values[metric].value, rel=1e-9), metric
    assert found.to_dict()["networks"] == expected.to_dict()["networks"]
    assert found.warnings == expected.warnings
    assert [len(found.per_image), found.points[0].n] == [8, 8]
    assert "29/29 clip-vit-128-32: references" in err
    assert str(out) in printed and "fid" in printed and "warning: FID: 8 generated" in printed
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "report.csv",
        "report.json",
        "report.npz",
        "report_images.csv",
    ]


@pytest.mark.process
def test_two_processes_give_the_statistics_of_one(world, alone):
    out, folder = world / "two" / "report.json", world / "shared"
    asked = arguments(world, out, "--features", folder)
    code, printed, err = finish(start(world, *asked, command=LAUNCH))
    assert code == 0, err
    assert features_in(folder) == 29, "each picture was computed by one of them"
    assert printed.count(str(out)) == 1, "one process writes"
    with np.load(out.with_suffix(".npz")) as two, np.load(alone[0].with_suffix(".npz")) as one:
        for name in ("mu", "sigma"):
            scale = np.abs(one[name]).max()
            assert np.abs(two[name] - one[name]).max() <= 1e-12 * scale, name
        assert int(two["n"]) == int(one["n"]) == 9
    for metric, value in read_report(alone[0]).points[0].values.items():
        found = read_report(out).points[0].values[metric]
        assert found.value == pytest.approx(value.value, rel=1e-12, abs=1e-12), metric
    assert sorted(p.name for p in out.parent.iterdir()) == ["report.json", "report.npz"]


@pytest.mark.process
def test_a_stopped_run_keeps_its_features_and_goes_on(world, alone, tmp_path):
    out = tmp_path / "report.json"
    asked = arguments(world, out, "--batch-size", 1)
    kept = [0]
    for sent in (signal.SIGTERM, signal.SIGINT):
        process, steps = start(world, *asked), 0
        for line in process.stderr:
            steps += "/29 " in line
            if steps == len(kept) + 1:  # the first line may be about features that were kept
                process.send_signal(sent)
                break
        code, _, err = finish(process)
        assert code == 3, err
        assert "Stopped after" in err and "the same command goes on from there" in err
        assert "Traceback" not in err and not out.exists()
        kept.append(features_in(tmp_path))
    assert 0 < kept[1] < kept[2] < 29, kept
    assert call(world, *asked, *OPTIONS) == 0
    for metric, value in read_report(alone[0]).points[0].values.items():
        found = read_report(out).points[0].values[metric]
        assert found.value == pytest.approx(value.value, rel=1e-3, abs=1e-6), metric
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.npz"]


def features_in(folder):
    """Pictures whose features are on disk."""
    count = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += len(json.loads(file.metadata()["pictures"]))
    return count


@pytest.fixture(autouse=True)
def _signals():
    """What `main` does to them stays in its test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def call(world, *arguments):
    """In this process, which is faster."""
    given = ["--weights", world / "metrics", "--device", "cpu", *arguments]
    return main(list(map(str, given)))


def error_of(capsys, world, *arguments):
    assert call(world, *arguments, "--out", world / "bad" / "report.json") == 1
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith("evaluation: ")
    assert not (world / "bad" / "report.json").exists()
    return text


def test_help_explains_every_option_and_tells_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # so that no name is broken
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    told = {option.split()[0]: option for option in re.split(r" (?=--[a-z])", text)}
    defaults = {
        "--metrics": "fid,is,kid",
        "--out": "report.json",
        "--weights": "ComfyUI's models/metrics",
        "--clip": "clip-vit-b-32",
        "--batch-size": "32",
        "--device": "auto",
        "--mixed-sizes": "resize",
        "--splits": "10",
        "--fid-minimum": "50",
        "--seed": "0",
    }
    assert {name for name in defaults if f"(default: {defaults[name]})" not in told[name]} == set()
    assert {"--dino", "--lpips", "--resize"} <= {n for n, t in told.items() if "(default: " in t}


@pytest.mark.slow
def test_bad_input_ends_in_one_clear_line(world, capsys, tmp_path, monkeypatch):
    made, real, empty = world / "made", world / "real", tmp_path / "empty"
    empty.mkdir()
    one = write_pictures(tmp_path / "one", 1)
    bad = write_pictures(tmp_path / "bad", 3)
    for path in bad.iterdir():
        path.write_bytes(b"x")
    text = error_of(capsys, world, empty, real)
    assert "There is no picture in" in text and "empty" in text
    assert "There is no picture in" in error_of(capsys, world, made, empty)
    assert "There is no folder" in error_of(capsys, world, tmp_path / "none", real)
    assert "Got the metrics fit; expected" in error_of(capsys, world, made, "--metrics", "fit")
    assert "fid needs real pictures" in error_of(capsys, world, made)
    assert "Got 1 usable generated pictures" in error_of(capsys, world, one, real)
    assert "Left out: 3" in error_of(capsys, world, bad, real)
    text = error_of(capsys, world, made, real, "--metrics", "dino", "--references", real)
    assert "dino-vits16" in text and "facebookresearch" in text and "Put the file into" in text
    text = error_of(capsys, world, made, real, "--metrics", "text_alignment")
    assert "text_alignment needs prompts" in text
    text = error_of(capsys, world, made, real, "--device", "no-such-device")
    assert "--device no-such-device cannot be used" in text
    text = error_of(capsys, world, made, real, "--weights", tmp_path / "nowhere")
    assert "There is no folder" in text and "check --weights" in text


def test_a_weights_file_that_would_run_code_is_refused(world, capsys, tmp_path):
    weights, made = tmp_path / "metrics", tmp_path / "made"
    weights.mkdir()
    path = weights / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({"fc.weight": torch.zeros(1), "payload": Payload(made)}, path)
    text = error_of(capsys, world, world / "made", world / "real", "--weights", weights)
    assert "could run code" in text and not made.exists()


@pytest.mark.slow
def test_features_that_were_asked_for_stay_and_serve_other_metrics(world, tmp_path, capsys):
    out, folder = tmp_path / "report.json", tmp_path / "features"
    asked = [world / "made", world / "real", "--out", out, "--features", folder, "--splits", 2]
    assert call(world, *asked, "--metrics", "is") == 0
    assert features_in(folder) == 8
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert call(world, *asked, "--metrics", "is,kid") == 0
    assert features_in(folder) == 17, "those of the real pictures came to it"
    assert files.items() <= {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}.items()
    assert read_report(out).points[0].values.keys() == {"is", "kid"}
