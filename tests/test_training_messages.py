"""What training tells its user: where a run stands, what was wrong, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageColor
from safetensors import safe_open

from multi_ipadapter.figures.line_chart import line_chart, round_ticks
from multi_ipadapter.files.folder import Skipped
from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.nodes.host.folders import find_dataset
from multi_ipadapter.nodes.steering.load import FOLDER
from multi_ipadapter.nodes.training.dataset import ReferenceDataset
from multi_ipadapter.nodes.training.headless import train_files
from multi_ipadapter.nodes.training.progress import TrainingBar
from multi_ipadapter.pictures.inspection import inspect_dataset
from multi_ipadapter.pictures.open import open_dataset
from multi_ipadapter.runs.processes import OneProcess
from multi_ipadapter.runs.state import checkpoints
from multi_ipadapter.training.command import read_arguments, run_job
from multi_ipadapter.training.loop import Report
from multi_ipadapter.training.run import where_it_begins

from .builders import assert_says, make_adapter, refusal
from .people import jpeg, picture, settings_with, write_people
from .test_resume import run_in
from .test_training_cli import config, error_of, finish, start  # noqa: F401
from .training_node import train

ROOT = Path(__file__).parents[1]


@pytest.fixture
def said(caplog):
    """The log since the last call."""
    caplog.set_level(logging.INFO, "MultiIPAdapter")

    def messages() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return messages


# ---- where a run stands ------------------------------------------------------------------------


def test_a_run_says_where_it_begins():
    assert where_it_begins(0, 9) == "new run of 9 steps"
    assert where_it_begins(3, 9) == "resumed from step 3 of 9"
    assert_says(where_it_begins(9, 9), "finished already, at step 9", "raise steps")


@pytest.mark.slow
def test_the_node_logs_where_it_begins_and_every_validation(base, models, dataset, said):
    text = settings_with(validate_every=2, previews=0)
    for steps in (2, 4):
        train(models, dataset, settings=text, steps=steps)
    first, *lines = [x for x in said() if not x.startswith("step ")]
    assert first == "new run of 2 steps"
    begins = [line.split("  ")[0] for line in lines]
    wanted = ["validation at 0", "validation at 2", "resumed from step 2 of 4", "validation at 4"]
    assert begins == wanted
    assert_says(lines[0], "matched", "none - matched", "shuffled - matched")
    train(models, dataset, settings=text, steps=4)
    assert "finished already, at step 4; raise steps to go on" in said()


def test_a_warm_up_longer_than_the_run_is_told(base, models, dataset, said):
    wanted = "Got warmup = 500 in a run of 2 steps: the learning rate stays below"
    for warmup in (2, 500):
        text = settings_with(validate_every=0, previews=0, warmup=warmup)
        train(models, dataset, settings=text, steps=2, name=f"warm{warmup}")
        assert any(line.startswith(wanted) for line in said()) == (warmup == 500)


@pytest.mark.process
def test_the_command_line_says_where_it_begins_and_ends(config, tmp_path, capsys):  # noqa: F811
    arguments = ["--config", str(config), f"output={tmp_path / 'run'}", "steps=1"]
    code, out, err = finish(start(*arguments))
    assert code == 0 and "new run of 1 steps" in out, err
    assert "Missing VAE keys" not in err
    assert run(arguments, should_stop=False)
    assert "finished already, at step 1; raise steps" in capsys.readouterr().out


def run(arguments, should_stop):
    """As the command does, without another Python; whether it came to the last step."""
    job, resume = read_arguments(arguments)
    return run_job(job, resume, train_files, OneProcess(), lambda: should_stop)


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_run_stopped_before_its_first_step_names_no_file(
    config,  # noqa: F811
    tmp_path,
    capsys,
    cache,
):
    """As if Ctrl-C had come while the models were loaded."""
    output = tmp_path / "run"
    arguments = ["--config", str(config), f"output={output}", f"cache={cache}", "steps=2"]
    assert not run(arguments, should_stop=True)
    out = capsys.readouterr().out
    assert_says(out, "stopped before the first step", "the same command goes on")
    assert "adapter.safetensors" not in out and not (output / "adapter.safetensors").exists()


def test_the_remaining_time_is_told_once_it_is_known(caplog):
    caplog.set_level(logging.INFO, "MultiIPAdapter")
    bar = TrainingBar(40)
    for step in (10, 20):
        bar.step(Report(step, 0.25, 1e-4, 1.0, 8.0, 0.0, (0.25,)))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "step 10 of 40, loss 0.2500, 8.0 samples/s"
    assert second == "step 20 of 40, loss 0.2500, 8.0 samples/s, 0:00:00 left"


# ---- what a run keeps about itself -------------------------------------------------------------


def test_config_json_tells_the_whole_job(base, models, dataset, config, tmp_path):  # noqa: F811
    train(models, dataset, steps=1)
    kept = json.loads((base / "output/training/run/config.json").read_text())
    assert kept["dataset"] == str(base / "input/people")
    assert (kept["size"], kept["fit"], kept["held_out"], kept["steps"]) == (64, "crop", 0.3, 1)
    assert "kind" not in kept, "a dataset that comes by a wire has its own"

    output = tmp_path / "run of the command line"
    assert run(["--config", str(config), f"output={output}", "steps=1"], should_stop=False)
    kept = json.loads((output / "config.json").read_text())
    assert (kept["checkpoint"], kept["kind"], kept["split"]) == ("demo", "auto", "train")
    assert kept["dataset"] == str(config.parent / "people")


def test_a_file_to_start_from_keeps_its_projection_and_that_is_said(base, models, dataset, said):
    save_adapter(make_adapter(models[0]).adapter, base / "models" / FOLDER / "start.safetensors")
    text = settings_with(projection="resampler", num_tokens=None)
    adapter = train(models, dataset, settings=text, start_from="start.safetensors", steps=1).args[0]
    assert_says("\n".join(said()), "projection = resampler has no effect", "linear")
    kept = json.loads((base / "output/training/run/config.json").read_text())
    assert (kept["projection"], kept["num_tokens"]) == ("linear", 4)
    with safe_open(base / "output/training/run/adapter.safetensors", "pt") as file:
        written = json.loads(file.metadata()["multi_ipadapter"])["training"]["settings"]
    assert written["projection"] == adapter.config.training["settings"]["projection"] == "linear"


# ---- bad settings ------------------------------------------------------------------------------


def test_a_misspelt_setting_gets_a_proposal_that_would_be_taken(base, models, dataset, capsys):
    message = refusal(train, models, dataset, settings="warmpu = 3")
    assert_says(message, "unknown settings warmpu", "did you mean warmup?")
    message = refusal(train, models, dataset, settings="zzzz = 3")
    known = message.partition("known are ")[2].rstrip(".").split(", ")
    assert "warmup" in known and not {"checkpoint", "steps", "dataset"} & set(known)
    for name in known:
        value = "x" if name != "fit" else "bogus"
        again = refusal(train, models, dataset, settings=f"{name} = {value}")
        assert "in settings;" not in again, name


def test_settings_do_not_say_again_what_an_input_says(base, models, dataset):
    message = refusal(train, models, dataset, settings="steps = 3")
    assert_says(message, "Got steps in settings", "inputs", "Remove the line")


def test_a_word_needs_no_quotes_in_the_node(base, models, dataset):
    text = settings_with(projection=None) + "projection = linear\n"
    adapter = train(models, dataset, settings=text, steps=1).args[0]
    assert adapter.config.projection.kind == "linear"


def test_a_setting_given_twice_on_the_command_line(config, capsys):  # noqa: F811
    message = error_of(capsys, "--config", config, "steps=3", "steps=4")
    assert "The setting steps is given twice" in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config", "nope.toml"], ["--config nope.toml cannot be read", "run.toml"]),
        (["--config", "."], ["--config . cannot be read", "Expected a text file"]),
        (["--config", "people/p00/0.png"], ["0.png cannot be read: it is no text"]),
        (["output=/proc/x"], ["output folder /proc/x cannot be made", "setting output"]),
        (["output=people"], ["output folder people", "lies in dataset", "setting output"]),
        (["output=people/run"], ["output folder people/run", "lies in dataset"]),
        (["output=c/run", "cache_folder=c"], ["output folder c/run", "lies in cache_folder"]),
        (["start_from=people"], ["There is no file people", "setting start_from"]),
        (["dataset=people/p00"], ["No identity with two pictures"]),
    ],
)
def test_paths_that_cannot_be_used(tmp_path, monkeypatch, capsys, arguments, parts):
    write_people(tmp_path / "people", identities=2)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    usual = ["checkpoint=demo", "dataset=people", "output=run"]
    names = {x.partition("=")[0] for x in arguments}
    usual = [x for x in usual if x.partition("=")[0] not in names]
    assert_says(error_of(capsys, *arguments, *usual), *parts)
    assert sorted(tmp_path.rglob("*")) == before


# ---- damaged states ----------------------------------------------------------------------------


@torch.inference_mode(False)
def test_a_state_that_was_cut_off_is_no_download(tmp_path, said):
    run_in(tmp_path).go()
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    said()
    assert run_in(tmp_path).trainer.resume()
    assert said() == [f"{newest.name} is damaged or was cut off. It is passed over."]
    for path in checkpoints(tmp_path):
        path.write_bytes(b"no tensors")
    message = refusal(run_in(tmp_path).go)
    assert_says(message, "No state can be read", newest.name, "delete them to begin anew")
    assert "download" not in message


# ---- datasets ----------------------------------------------------------------------------------


def test_why_a_dataset_is_refused(base, tmp_path_factory):
    outside = write_people(tmp_path_factory.mktemp("outside") / "people", 2, 2)
    (base / "input/link").symlink_to(outside)
    reasons = {
        "nobody": "is not there",
        "link": "leads elsewhere through a link",
        str(outside): "is a full path",
        "../output": "leads out of the folder",
        "../nothing": "leads out of the folder",
        "": "names the whole folder",
    }
    for name, reason in reasons.items():
        assert_says(refusal(find_dataset, name), f"Got the dataset {name!r}, which {reason};")


def test_the_folder_of_a_manifest_leads_to_the_manifest(tmp_path):
    root = tmp_path / "people"
    root.mkdir()
    for i in range(2):
        picture(i).save(root / f"{i}.png")
    entries = [{"image": f"{i}.png", "identity": "a"} for i in range(2)]
    (root / "list.json").write_text(json.dumps(entries))
    assert_says(refusal(open_dataset, root), "No identity with two", "people/list.json")
    assert_says(refusal(open_dataset, root, "manifest"), "the folder people as manifest", "file")
    assert len(open_dataset(root / "list.json")) == 2


def test_celebas_pictures_lead_to_the_folder_above(tmp_path):
    root = tmp_path / "celeba" / "img_align_celeba"
    root.mkdir(parents=True)
    (root / "000001.jpg").write_bytes(jpeg(0))
    assert_says(refusal(open_dataset, root), "For CelebA give the folder above, celeba")


def test_the_report_counts_captions_and_masks_and_names_once(tmp_path):
    for i in range(4):
        picture(i).save(tmp_path / f"{i}.png")
    entries = [{"image": f"{i}.png", "identity": "ab"[i // 2]} for i in range(4)]
    entries[0] |= {"mask": "1.png", "caption": "outdoors"}
    (tmp_path / "m.json").write_text(json.dumps(entries))
    index = open_dataset(tmp_path / "m.json")
    reasons = [Skipped("x.png", "x.png: not a picture."), Skipped("y.png", "is empty.")]
    text = str(inspect_dataset(dataclasses.replace(index, skipped=reasons))[0])
    assert "left out: 2 (x.png: not a picture; y.png: is empty)" in text
    assert "1 of 4 entries have a caption, 1 have a mask." in text
    assert "identities by their number of pictures: 2 with 2 to 4" in text


def test_the_report_of_the_node_says_what_the_cache_is_for(base):
    report = ReferenceDataset.execute("people").args[1]
    assert_says(report, "cache about", "SD1.5 at 512 pixels, CLIP-ViT-H hidden states")
    assert "all 32 pictures have a caption." in report


# ---- the chart ---------------------------------------------------------------------------------


def test_the_curves_have_the_colours_of_the_live_chart():
    styles = (ROOT / "js" / "widgets.js").read_text(encoding="utf-8")
    light = styles[: styles.index(".dark-theme")]
    of_names = dict(re.findall(r"--mip-(\w+): (#[0-9a-f]{6})", light))
    drawn = (ROOT / "js" / "line_chart.js").read_text(encoding="utf-8")
    for name in ("matched", "none", "shuffled"):
        (colour,) = re.findall(rf'{name}: .*colour: "--mip-(\w+)"', drawn)
        chart = line_chart("Training", [(f"validation, {name}", [(0, 1), (9, 2)])])
        assert ImageColor.getrgb(of_names[colour]) in {c for _, c in chart.getcolors(1 << 20)}


def test_the_axes_have_round_numbers():
    assert round_ticks(0.9198, 1.3) == [1.0, 1.1, 1.2, 1.3]
    assert round_ticks(0, 6000) == [0, 2000, 4000, 6000]
    assert round_ticks(-0.02, 0.021) == [-0.02, -0.01, 0.0, 0.01, 0.02]


def test_the_legend_covers_no_curve():
    """A flat curve at the top of the axes shows its colour all the way."""
    names = ("loss", "loss, smoothed", "matched", "none", "shuffled")
    curves = [(name, [(0, i), (100, i)]) for i, name in enumerate(names)]
    pixels = np.asarray(line_chart("Training", curves)).astype(int)
    highest = (np.abs(pixels - [0xA0, 0x24, 0xB8]).sum(-1) < 30)[:, :-230].any(1).argmax()
    legend = (pixels[:, -160:-30].sum(-1) < 300).any(1).nonzero()[0]  # its words
    assert highest > legend[legend < 200].max()
