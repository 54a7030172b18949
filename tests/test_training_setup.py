"""What training looks at before anything is encoded: the model, the settings, whose run it is."""

from __future__ import annotations

import logging
import os
import sys

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from PIL import Image

from multi_ipadapter.files.folder import Skipped
from multi_ipadapter.models.checkpoint import encoder_name, save_adapter
from multi_ipadapter.nodes.binding.backbone import training_backbone
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_clip, build_unet, build_vae
from multi_ipadapter.nodes.steering.load import FOLDER
from multi_ipadapter.nodes.training.dataset import ReferenceDataset
from multi_ipadapter.nodes.training.run_fingerprint import run_fingerprint
from multi_ipadapter.nodes.unet.kind import check_model
from multi_ipadapter.nodes.unet.private import private_unet
from multi_ipadapter.runs.processes import OneProcess
from multi_ipadapter.runs.streams import SPLIT, numbers
from multi_ipadapter.training.checks import check_settings, tell_skipped
from multi_ipadapter.training.job import DataConfig, Job

from .builders import assert_says, make_adapter, refusal
from .people import damage, settings_with
from .training_node import train
from .training_world import ENCODERS, settings

QUERY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def with_sampling(model, kind, zsnr=False):
    return ModelSamplingDiscrete().patch(model, kind, zsnr)[0]


def with_lora(model, strength=1.0, seed=0):
    """A clone with one difference of weights, as core's LoRA loader adds them."""
    clone = model.clone()
    shape = model.model.state_dict()[QUERY].shape
    patch = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert clone.add_patches({QUERY: ("diff", (patch,))}, strength) == [QUERY]
    return clone


def caches(base):
    """Folders of feature caches."""
    return sorted(path.name for path in (base / "output").glob("**/cache.json"))


def nothing_was_encoded(base):
    return not list((base / "output").rglob("*.safetensors"))


def warnings(caplog) -> str:
    """What was logged as a warning since the last call."""
    text = "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    caplog.clear()
    return text


# ---- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "wanted"), [("eps", "epsilon"), ("v_prediction", "v_prediction")])
def test_a_node_that_changes_the_prediction_is_heard(sd15, clip, clip_vision, kind, wanted):
    model = with_sampling(sd15, kind, zsnr=True)
    with (
        torch.inference_mode(False),
        training_backbone(model, clip, clip_vision, settings(), 64) as backbone,
    ):
        assert backbone.prediction == wanted
        assert backbone.alphas_cumprod[-1] < 1e-6, "zero terminal SNR"
    assert check_model(sd15) == "v_prediction", "the demo's own"


@pytest.mark.parametrize("kind", ["lcm", "x0", "edm"])
def test_other_samplings_are_refused(base, models, dataset, kind):
    if kind == "edm":
        (model,) = ModelSamplingContinuousEDM().patch(models[0], "v_prediction", 120.0, 0.002)
    else:
        model = with_sampling(models[0], kind)
    message = refusal(train, (model, *models[1:]), dataset)
    assert_says(message, "sampling is", "epsilon or v prediction", "Remove the node")
    assert nothing_was_encoded(base)


def test_a_unet_for_inpainting_is_refused(base, models, dataset):
    wide = build_unet(DemoConfig(unet=DemoConfig().unet | {"in_channels": 9}), seed=0)
    message = refusal(train, (wide, *models[1:]), dataset)
    assert_says(message, "9 input channels", "expected 4", "plain checkpoint")
    assert nothing_was_encoded(base)


class Dynamic(comfy.model_patcher.ModelPatcher):
    """Where weights live in memory that ComfyUI may take back: what its class says on a GPU."""

    def is_dynamic(self):
        return True


def test_a_model_without_a_file_is_copied_where_memory_is_dynamic(sd15):
    cpu = torch.device("cpu")
    patched = with_lora(sd15)
    dynamic = Dynamic(sd15.model, sd15.load_device, sd15.offload_device)
    dynamic.patches = dict(patched.patches)
    with torch.inference_mode(False):
        wanted = private_unet(patched, cpu, torch.float32).state_dict()
        plain = private_unet(sd15, cpu, torch.float32).state_dict()
        copied = private_unet(dynamic, cpu, torch.float32)
    found = copied.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert [k for k in wanted if not torch.equal(plain[k], wanted[k])] == [QUERY.partition(".")[2]]
    assert not any(p.requires_grad or p.is_inference() for p in copied.parameters())
    shared = {p.data_ptr() for p in sd15.model.parameters()}
    assert not shared & {p.data_ptr() for p in copied.parameters()}


# ---- whose run it is ---------------------------------------------------------------------------


def _change(name, base, models):
    """Models and a dataset of which one thing has changed since the run began."""
    model, clip, vae, clip_vision = models
    if name == "model":
        model = build_unet(DemoConfig(), seed=77)
    elif name == "lora":
        model = with_lora(model)
    elif name == "prediction":
        model = with_sampling(model, "eps")
    elif name == "text_encoder":
        clip = build_clip(DemoConfig(), seed=88)
    elif name == "layer":
        clip = clip.clone()
        clip.clip_layer(-2)
    elif name == "captions":
        (base / "input/people/p00/0.txt").write_text("something else")
    dataset = ReferenceDataset.execute("people").args[0]
    return (model, clip, vae, clip_vision), dataset


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model", "another model, or other LoRAs"),
        ("lora", "another model, or other LoRAs"),
        ("prediction", "prediction: 'v_prediction' there, 'epsilon' now"),
        ("text_encoder", "another text encoder"),
        ("layer", "another text encoder, or another of its layers"),
        ("captions", "the captions have changed"),
    ],
)
def test_another_model_or_other_captions_are_another_run(base, models, dataset, change, named):
    train(models, dataset, steps=1)
    message = refusal(train, *_change(change, base, models), steps=2)
    assert_says(message, f"another run ({named}", "same settings", "another name", "start_from")
    assert ";" not in message, "nothing else is blamed"


def test_loras_are_told_apart_whether_loaded_or_not(sd15, clip, dataset):
    def fingerprint(model):
        job = Job(DataConfig("people", size=64), settings())
        return run_fingerprint(model, clip, ENCODERS, dataset, job, "epsilon")["model"]

    one = fingerprint(with_lora(sd15))
    assert one == fingerprint(with_lora(sd15)), "the same LoRA, loaded again"
    others = (sd15, with_lora(sd15, 0.5), with_lora(sd15, seed=9))
    assert len({one, *map(fingerprint, others)}) == 4
    loaded = with_lora(sd15)
    comfy.model_management.load_models_gpu([loaded])
    assert fingerprint(loaded) == one, "though its weights were merged"


def test_another_run_is_refused_before_its_cache_is_built(base, models, dataset):
    train(models, dataset, steps=1)
    made = caches(base)
    assert_says(refusal(train, models, dataset, size=72), "size: 64 there, 72 now")
    others = (*models[:2], build_vae(DemoConfig(), seed=77), models[3])
    assert_says(refusal(train, others, dataset), "another run (another VAE or image encoder)")
    with pytest.raises(ValueError, match="run holds a run already. Resume it"):
        check_settings(settings(), base / "output/training/run", False, OneProcess())
    assert caches(base) == made


# ---- settings ----------------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused_first(base, models, dataset, monkeypatch):
    heads = settings_with(aggregator_heads=7)
    message = refusal(train, models, dataset, settings=heads)
    assert_says(message, "aggregator_heads = 7", "divides", "32, 64, 128")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    message = refusal(train, models, dataset, settings=settings_with(optimizer="adamw8bit"))
    assert_says(message, "adamw8bit", "pip install bitsandbytes", "adamw")
    three = OneProcess()
    three.count = 3
    message = refusal(check_settings, settings(batch_size=4), base, True, three)
    assert_says(message, "batch_size 4 for 3 processes", "multiple")
    assert nothing_was_encoded(base)


def test_a_file_with_more_slots_is_refused(base, models, dataset):
    start = make_adapter(models[0], slots=3)
    save_adapter(start.adapter, base / "models" / FOLDER / "slots.safetensors")
    message = refusal(train, models, dataset, start_from="slots.safetensors")
    assert_says(message, "has 3 slots", "slots = 1", "Set slots = 3")
    assert nothing_was_encoded(base)
    more = {"settings": settings_with(slots=4), "max_references": 4, "steps": 1}
    adapter = train(models, dataset, start_from="slots.safetensors", **more).args[0]
    assert adapter.config.slots == 4


def test_a_score_that_starts_anew_is_told(base, models, dataset, caplog):
    start = make_adapter(models[0], aggregation="learned", aggregator_heads=2)
    save_adapter(start.adapter, base / "models" / FOLDER / "two.safetensors")
    for heads, told in ((2, False), (1, True)):
        text = settings_with(projection=None, aggregator_heads=heads)
        train(models, dataset, f"heads{heads}", text, start_from="two.safetensors", steps=1)
        assert ("2 head groups, this run has 1" in warnings(caplog)) == told


def test_settings_without_effect_are_told(base, models, dataset, caplog):
    text = settings_with(masked_loss=0.5, int8=True, num_tokens=None)
    adapter = train(models, dataset, settings=text, steps=1).args[0]
    said = warnings(caplog)
    assert_says(said, "masked_loss has no effect", "int8 has no effect")
    assert "Only this pack" not in said
    train(models, dataset, "more", settings=settings_with(num_tokens=16), steps=1)
    said = warnings(caplog)
    assert_says(said, "Only this pack", "num_tokens = 16 (public files: 4)")
    assert "no effect" not in said
    assert adapter.config.image_encoder == encoder_name("pooled", 48)


def test_long_captions_are_counted(base, models, caplog):
    people = base / "input/people"
    (people / "p00/0.txt").write_text("word " * 70)
    (people / "p00/1.txt").write_text("word " * 80)
    (people / "p01/0.txt").write_text("\u9f98" * 30, encoding="utf-8")  # 3 tokens each
    dataset = ReferenceDataset.execute("people").args[0]
    train(models, dataset, steps=1)
    assert_says(warnings(caplog), "2 of 32 captions", "longer than 75 tokens", "cut off")


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_bad_pictures_are_named(base, models, dataset, caplog, cache):
    damage(base / "input/people", "p00/1.png", "p03/0.png")
    text = settings_with(cache=cache, held_out=0)
    train(models, dataset, settings=text, steps=16)  # every picture is a target once
    said = warnings(caplog)
    assert_says(said, "Left out of the dataset: 2", "  p0", "  p0")
    assert said.count("p00/1.png: ") == said.count("p03/0.png: ") == 1


def test_only_some_of_many_bad_pictures_are_named(caplog):
    tell_skipped([Skipped(f"{i}.png", "empty") for i in range(25)])
    lines = warnings(caplog).splitlines()
    assert lines[0] == "Left out of the dataset: 25" and lines[-2:] == ["  19.png: empty", "  ..."]
    tell_skipped([])
    assert not warnings(caplog)


# ---- held-out identities and previews ----------------------------------------------------------


@pytest.mark.slow
def test_without_validation_nobody_is_withheld(base, models, dataset):
    """`held_out` of the settings is 0.3."""
    runs = {
        "never": settings_with(validate_every=0),
        "none": settings_with(validate_every=100, held_out=0),
        "some": settings_with(validate_every=100, previews=0),
    }
    losses = {
        name: train(models, dataset, name, text, steps=4).args[1]["loss"]
        for name, text in runs.items()
    }
    assert losses["never"] == losses["none"]
    assert losses["never"] != losses["some"]


@pytest.mark.slow
def test_previews_take_another_case_for_a_bad_picture(base, models, dataset):
    text = settings_with(cache=False, validate_every=4, previews=1)
    _, held_out = dataset.split(2, numbers(0, SPLIT))  # 0.3 of 8, and the seed
    people = base / "input/people"
    (people / held_out.name(1)).write_bytes(b"damaged" * 200)
    sheet = train(models, dataset, settings=text, steps=1).args[3]
    assert sheet.shape[1] == 6 + 192 + 22 + 6, "a sheet of one row"
    assert len(list((base / "output/training/run").glob("preview-*.png"))) == 1


@pytest.mark.slow
def test_a_preview_is_written_whole_or_not_at_all(base, models, dataset, monkeypatch):
    text = settings_with(validate_every=2, previews=1)
    run = base / "output/training/run"
    first = train(models, dataset, settings=text, steps=2).args[3]
    newest = sorted(run.glob("preview-*.png"))[-1]
    save = Image.Image.save

    def full(image, path, *args, **kwargs):
        save(image, path, *args, **kwargs)
        os.truncate(path, 500)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        message = refusal(train, models, dataset, settings=text, steps=4, kind=OSError)
    assert_says(message, "preview-00000004.png could not be written", "No space left")
    assert sorted(run.glob("preview-*"))[-1] == newest

    older = sorted(run.glob("preview-*.png"))[0]
    newest.write_bytes(newest.read_bytes()[:500])  # as an older version may have left it
    sheet = train(models, dataset, settings=text, steps=3).args[3]
    assert sheet.shape == first.shape and not torch.equal(sheet, first)
    assert older.is_file()


# ---- the cache that runs share -----------------------------------------------------------------


def test_runs_share_what_was_encoded(base, models, dataset):
    shared = base / "output/training_cache"
    train(models, dataset, "one", steps=1)
    (folder,) = shared.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(models, dataset, "two", steps=1, batch_size=1)
    assert [f.name for f in shared.iterdir()] == [folder.name]
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not list((base / "output/training").rglob("cache*"))

    picture = base / "input/people/p00/0.png"
    Image.open(picture).rotate(180).save(picture)
    others = (*models[:2], build_vae(DemoConfig(), seed=77), models[3])
    train(models, ReferenceDataset.execute("people").args[0], "changed", steps=1)
    train(models, dataset, "size", steps=1, size=72)
    train(others, dataset, "encoder", steps=1)
    train(models, dataset, "hidden", settings_with(projection="resampler"), steps=1)
    assert len(list(shared.iterdir())) == 5
