"""The training nodes in process: what they return, keep, refuse, and leave as it was."""

from __future__ import annotations

import json
import logging
import shutil

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from multi_ipadapter.models.adapter import MultiIPAdapter
from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.nodes.binding.encoders import picture_encoder
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_clip_vision, build_unet
from multi_ipadapter.nodes.host.folders import find_dataset
from multi_ipadapter.nodes.steering.load import FOLDER, LoadMultiIPAdapter
from multi_ipadapter.nodes.training.dataset import ReferenceDataset
from multi_ipadapter.nodes.training.headless import load_models
from multi_ipadapter.nodes.training.progress import TrainingBar
from multi_ipadapter.nodes.training.train import SaveMultiIPAdapter, TrainMultiIPAdapter
from multi_ipadapter.training.batch import LATENTS, MASK
from multi_ipadapter.training.online import OnlineSource

from .builders import apply, assert_says, encode, make_adapter, make_images, refusal, sample
from .people import settings_with, write_people
from .training_node import train, weights

WATCHED = settings_with(validate_every=3, previews=1)


@pytest.fixture
def hook():
    """What ComfyUI hears of progress: (value, total, preview); to be given a function."""

    def listen(function):
        comfy.utils.set_progress_bar_global_hook(
            lambda value, total, preview, node_id=None: function(value, total, preview)
        )

    yield listen
    comfy.utils.set_progress_bar_global_hook(None)
    comfy.model_management.interrupt_current_processing(False)


@pytest.fixture
def cancel_at():
    """Makes ComfyUI's cancel button pressed when the log tells of a step."""
    log = logging.getLogger("MultiIPAdapter")
    level, handlers = log.level, []

    def at(step):
        def press(record):
            if record.getMessage().startswith(f"step {step} of"):
                log.removeFilter(press)  # once
                comfy.model_management.interrupt_current_processing(True)
            return False

        log.addFilter(press)
        handlers.append(press)
        log.setLevel(logging.INFO)

    yield at
    for press in handlers:
        log.removeFilter(press)
    log.setLevel(level)
    comfy.model_management.interrupt_current_processing(False)


# ---- the way from a folder to a file -----------------------------------------------------------


@pytest.mark.slow
def test_a_folder_becomes_an_adapter_that_steers_and_a_file(base, models, dataset, prompts):
    settings = settings_with(validate_every=3, previews=0)
    adapter, losses, chart, preview = train(models, dataset, settings=settings).args
    assert len(losses["loss"]) == 6 and np.isfinite(losses["loss"]).all()
    assert chart.shape == (1, 480, 960, 3) and torch.equal(preview, chart)
    assert 0 <= chart.min() < 0.5 and chart.max() <= 1, "lines on white"

    model, _, _, clip_vision = models
    references = encode(adapter, clip_vision, make_images(3))
    with_adapter = sample(apply(model, adapter, references), *prompts)
    assert (with_adapter - sample(model, *prompts)).abs().max() > 1e-2

    name = SaveMultiIPAdapter.execute(adapter, "mine").args[0]
    assert name == "mine.safetensors"
    (loaded,) = LoadMultiIPAdapter.execute(name).args
    again = sample(apply(model, loaded, encode(loaded, clip_vision, make_images(3))), *prompts)
    assert torch.equal(with_adapter, again)
    assert loaded.config.training["steps"] == 6
    assert SaveMultiIPAdapter.execute(adapter, "mine").args[0] == "mine_02.safetensors"
    assert SaveMultiIPAdapter.execute(adapter, "mine", overwrite=True).args[0] == name


def test_the_file_has_the_keys_of_a_plain_ip_adapter(base, models, dataset):
    adapter = train(models, dataset, steps=1).args[0]
    SaveMultiIPAdapter.execute(adapter, "plain")
    with safe_open(base / "models" / FOLDER / "plain.safetensors", "pt") as file:
        keys, config = set(file.keys()), json.loads(file.metadata()["multi_ipadapter"])
    layers = {f"ip_adapter.{n}.{p}.weight" for n in range(1, 32, 2) for p in ("to_k_ip", "to_v_ip")}
    projection = {f"image_proj.{part}" for part in ("proj.weight", "proj.bias")}
    projection |= {f"image_proj.{part}" for part in ("norm.weight", "norm.bias")}
    assert {key for key in keys if not key.startswith("aggregator.")} == layers | projection
    assert str(base) not in json.dumps(config), "no paths of this machine"


def test_training_changes_the_adapter_and_nothing_that_came_in(base, models, dataset):
    model, clip, vae, clip_vision = models
    parts = [model.model, clip.cond_stage_model, vae.first_stage_model, clip_vision.model]
    before = [{k: v.clone() for k, v in p.state_dict().items()} for p in parts]
    flags = [[p.requires_grad for p in part.parameters()] for part in parts]
    options = dict(model.model_options["transformer_options"])
    first = weights(train(models, dataset, "one", steps=1).args[0])
    later = weights(train(models, dataset, "six").args[0])
    assert all((first[k] - later[k]).abs().max() > 0 for k in first if "to_k_ip" in k)
    for part, old in zip(parts, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in part.state_dict().items())
    assert flags == [[p.requires_grad for p in part.parameters()] for part in parts]
    assert model.model_options["transformer_options"] == options
    assert comfy.model_management.in_training is False
    assert torch.is_inference_mode_enabled()


def test_start_from_a_file(base, models, dataset):
    start = make_adapter(models[0])
    save_adapter(start.adapter, base / "models" / FOLDER / "start.safetensors")
    settings = settings_with(projection=None)  # the file decides
    options = {"start_from": "start.safetensors", "learning_rate": 1e-8, "steps": 1}
    adapter = train(models, dataset, settings=settings, **options).args[0]
    found = weights(adapter)
    for name, value in start.adapter.state_dict().items():
        assert torch.allclose(found[name], value, atol=1e-6), name


@pytest.mark.slow
def test_previews_are_drawn_with_fixed_seeds(base, models, dataset, hook):
    previews = []
    hook(lambda value, total, preview: previews.append((value, preview)) if preview else None)
    *_, chart, sheet = train(models, dataset, settings=WATCHED).args
    assert previews == []  # the chart reads the files; with the progress they would show twice
    folder = base / "output/training/run"
    paths = sorted(folder.glob("preview-*.png"))
    sheets = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert chart.shape == (1, 480, 960, 3)
    assert np.array_equal(np.asarray(sheet[0] * 255).round(), sheets[-1])
    side = 192 + 6  # a picture and its border
    # 3 references, the target, without, 1 and 2 references
    columns = [[s[:side, x * side : (x + 1) * side] for x in range(7)] for s in sheets]
    for before, after in zip(columns, columns[1:], strict=False):
        assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == (
            [True] * 5 + [False] * 2
        )
    files = sorted(p.name for p in (base / "output/training/run").glob("preview-*.png"))
    assert files == [f"preview-{step:08}.png" for step in (0, 3, 6)]


# ---- cancel and resume -------------------------------------------------------------------------


def test_cancel_returns_what_there_is_and_the_same_name_goes_on(base, models, dataset, cancel_at):
    before = TrainMultiIPAdapter.fingerprint_inputs(name="run")
    cancel_at(3)
    adapter, losses, *_ = train(models, dataset).args
    assert len(losses["loss"]) == 3
    assert adapter.config.training["steps"] == 3
    assert not comfy.model_management.processing_interrupted(), "the nodes after it must run"
    stopped = TrainMultiIPAdapter.fingerprint_inputs(name="run")
    assert stopped != before, "ComfyUI must not serve the part as the whole"

    whole = train(models, dataset).args
    assert len(whole[1]["loss"]) == 6 and whole[1]["loss"][:3] == losses["loss"]
    assert TrainMultiIPAdapter.fingerprint_inputs(name="run") == stopped, "now it may be cached"
    unbroken = train(models, dataset, "other").args
    assert unbroken[1]["loss"] == pytest.approx(whole[1]["loss"], abs=1e-6)
    for name, value in weights(unbroken[0]).items():
        assert torch.allclose(value, weights(whole[0])[name], atol=1e-6), name


def test_cancel_while_encoding_goes_on_later(base, models, dataset, hook):
    seen = []

    def stop_in_cache(value, total, preview):
        seen.append((value, total))
        comfy.model_management.interrupt_current_processing(True)

    hook(stop_in_cache)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(models, dataset)
    assert seen[0][1] == len(dataset)
    assert not comfy.model_management.processing_interrupted()
    hook(lambda *_: None)
    assert len(train(models, dataset).args[1]["loss"]) == 6


@pytest.mark.slow
def test_cancel_before_the_first_step_returns_nothing(base, models, dataset, monkeypatch):
    """The preview of step 0 can take a while."""
    preview = TrainingBar.preview

    def cancel(bar, sheet):
        preview(bar, sheet)
        comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(TrainingBar, "preview", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(models, dataset, settings=WATCHED)
    assert not comfy.model_management.processing_interrupted()
    assert not (base / "output/training/run/adapter.safetensors").exists()


def test_more_steps_go_on_in_the_same_run(base, models, dataset):
    first = train(models, dataset, steps=4).args[1]["loss"]
    longer = train(models, dataset, steps=6).args[1]["loss"]
    assert longer[:4] == first and len(longer) == 6


def test_other_settings_in_the_same_run_are_refused_by_name(base, models, dataset):
    train(models, dataset, steps=2)
    message = refusal(train, models, dataset, steps=3, aggregation="mean")
    assert_says(message, "run/", "another run", "aggregation: 'learned' there, 'mean' now")
    assert_says(message, "same settings", "new folder")
    assert "batch_size" not in message, "only what differs"
    assert_says(refusal(train, models, dataset, size=72), "another run", "size: 64 there, 72 now")


# ---- without a cache, without validation -------------------------------------------------------


def test_training_without_a_cache_gives_the_same(base, models, dataset):
    cached = train(models, dataset, "cached", steps=3).args[1]["loss"]
    online = train(models, dataset, "online", settings_with(cache=False), steps=3).args[1]["loss"]
    assert online == pytest.approx(cached, abs=2e-3), "but for the cache's half precision"
    assert len(list((base / "output/training_cache").iterdir())) == 1, "of the first run only"


class Passes:
    """Counts forward passes of the image encoder and of the VAE's encoder."""

    def __init__(self, vae, clip_vision):
        self.vae = self.vision = 0
        parts = {"vae": vae.first_stage_model.encoder, "vision": clip_vision.model.vision_model}
        self.handles = [
            part.register_forward_hook(lambda *_, name=name: self._count(name))
            for name, part in parts.items()
        ]

    def _count(self, name):
        setattr(self, name, getattr(self, name) + 1)


def test_online_encoding_runs_only_what_is_asked_for(models, dataset):
    model, _, vae, clip_vision = models
    source = OnlineSource(dataset, picture_encoder(model, vae, clip_vision, "crop"), 64)
    passes = Passes(vae, clip_vision)
    source.fetch([0, 1], ["image_embeds"])
    assert (passes.vae, passes.vision) == (0, 1)
    assert set(source.fetch([2], [LATENTS, MASK])) == {LATENTS, MASK}
    assert (passes.vae, passes.vision) == (1, 1)
    for handle in passes.handles:
        handle.remove()


def test_few_identities_train_without_validation(base, models):
    for path in sorted((base / "input/people").iterdir())[2:]:
        shutil.rmtree(path)
    dataset = ReferenceDataset.execute("people").args[0]
    adapter = train(models, dataset, settings=WATCHED, steps=2).args[0]
    assert isinstance(adapter.adapter, MultiIPAdapter)
    assert not list((base / "output/training/run").glob("preview-*"))


# ---- the dataset node --------------------------------------------------------------------------


def test_dataset_reports_what_is_there(base):
    (base / "input/people/p00/0.png").write_bytes(b"no picture, but of some length" * 50)
    lonely = base / "input/people/lonely"
    lonely.mkdir()
    shutil.copy(base / "input/people/p01/0.png", lonely / "0.png")
    index, report = ReferenceDataset.execute("people", inspect=True).args
    assert "33 pictures of 9 identities" in report
    assert "lonely" in report and "p00/0.png" in report
    assert len(index) == 32, "the damaged one is left out"


def test_dataset_is_looked_at_again_when_files_change(base):
    before = ReferenceDataset.fingerprint_inputs(dataset="people")
    assert ReferenceDataset.fingerprint_inputs(dataset="people") == before
    shutil.copytree(base / "input/people/p00", base / "input/people/p99")
    assert ReferenceDataset.fingerprint_inputs(dataset="people") != before


def test_datasets_lie_below_the_allowed_folders(base, tmp_path_factory):
    outside = write_people(tmp_path_factory.mktemp("outside") / "people", 2, 2)
    (base / "input/link").symlink_to(outside)
    names = [
        "",
        ".",
        "..",
        "../output",
        "missing",
        str(outside),
        "link",
        "link/p00",
        "people/../..",
    ]
    for name in names:
        message = refusal(find_dataset, name)
        assert_says(message, f"Got the dataset {name!r}", "below input", "one folder for each")
    assert find_dataset("people") == base / "input/people"
    assert find_dataset("people/../people/p00") == base / "input/people/p00"
    folder_paths.add_model_folder_path("datasets", str(outside.parent))
    assert find_dataset("people/p00").is_relative_to(base), "the input folder comes first"
    shutil.rmtree(base / "input/people")
    assert find_dataset("people") == outside
    assert find_dataset("link") == outside


# ---- bad input: before anything is encoded -----------------------------------------------------


def test_no_identity_with_two_pictures(base):
    for path in (base / "input/people").glob("*/[1-9].png"):
        path.unlink()
    assert_says(refusal(ReferenceDataset.execute, "people"), "No identity with two pictures")
    for path in (base / "input/people").glob("*/0.png"):
        shutil.copy(path, path.with_name("1.png"))
        path.write_bytes(b"damaged" * 200)
    message = refusal(ReferenceDataset.execute, "people", inspect=True)
    assert_says(message, "No identity with two pictures", "two or more")


def nothing_was_encoded(base):
    return not list((base / "output").rglob("*.safetensors"))


def test_a_model_of_another_kind(base, models, dataset):
    other = models[0].clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    message = refusal(train, (other, *models[1:]), dataset)
    assert_says(message, "Got a", "SD1.x", "SDXL")
    assert nothing_was_encoded(base)


def test_an_adapter_for_another_base_or_encoder(base, models, sdxl, dataset):
    adapters = base / "models" / FOLDER
    save_adapter(make_adapter(sdxl).adapter, adapters / "xl.safetensors")
    message = refusal(train, models, dataset, start_from="xl.safetensors")
    assert_says(message, "to start from is for", "the model is", "Choose a file")
    save_adapter(make_adapter(models[0]).adapter, adapters / "sd.safetensors")
    wide = DemoConfig(vision=DemoConfig().vision | {"projection_dim": 40})
    others = (*models[:3], build_clip_vision(wide, seed=3))
    message = refusal(train, others, dataset, start_from="sd.safetensors")
    assert_says(message, "width 48", "gives 40", "Use")
    assert nothing_was_encoded(base)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("no_such = 1", ["unknown settings no_such", "known are"]),
        ("warmup", ["Line 1 of the settings", "'name = value'"]),
        ("warmup = 2.5", ["warmup = 2.5", "type int"]),
        ('schedule = "linear"', ["schedule", "cosine, constant"]),
        ('start_from = "/etc/passwd"', ["start_from in settings", "inputs"]),
        ('cache_folder = "/tmp"', ["cache_folder in settings", "inputs"]),
        ('output = "/tmp"', ["output in settings", "inputs"]),
        ("previews = -1", ["previews = -1", "0 or more"]),
        ("held_out = 1", ["held_out = 1", "below 1"]),
        ("held_out = -0.1", ["held_out = -0.1", "at least 0"]),
        ('fit = "bogus"', ["fit = 'bogus'", "crop, pad, squash"]),
    ],
)
def test_bad_settings(base, models, dataset, settings, parts):
    assert_says(refusal(train, models, dataset, settings=settings), *parts)
    assert nothing_was_encoded(base)


@pytest.mark.parametrize("name", ["../escaped", "a/b", "..", "", "a\\b", "/tmp/x"])
def test_names_stay_in_their_folder(base, models, dataset, name):
    assert_says(refusal(train, models, dataset, name), f"Got the name {name!r}", "plain file name")
    adapter = make_adapter(models[0])
    assert_says(refusal(SaveMultiIPAdapter.execute, adapter, name), f"Got the name {name!r}")
    assert not (base / "output/training").exists() and not list((base / "models").rglob("*.*"))


def test_headless_models_that_do_not_exist(tmp_path):
    files = {"checkpoint": str(tmp_path / "no.safetensors"), "clip_vision": "", "output": "x"}
    assert_says(refusal(load_models, files), "There is no file", "no.safetensors", "checkpoint")
    (tmp_path / "no.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    assert_says(refusal(load_models, files), "no.safetensors is not a checkpoint")


def test_demo_models_headless():
    models = load_models({"checkpoint": "demo", "output": "x"})
    assert build_unet(DemoConfig(), 0).model.model_type == models.model.model.model_type
