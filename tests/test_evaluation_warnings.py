"""Warnings of an evaluation: small sets, the conditioning encoder, stand-ins, pairs."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from multi_ipadapter.evaluation import caveats
from multi_ipadapter.evaluation.encoders import file_fingerprint, vision_fingerprint
from multi_ipadapter.evaluation.generated import generated_from_batches, read_generated
from multi_ipadapter.evaluation.loading import load_networks
from multi_ipadapter.evaluation.networks.clip import load_clip
from multi_ipadapter.evaluation.run import evaluate
from multi_ipadapter.pictures.sources import FolderSource, TensorSource

from .evaluation_world import networks, write_pictures
from .network_files import randomise
from .test_evaluate import ask, batch, value
from .test_transformer_networks import clip_config, saved


def warnings(metrics, generated, real=None, of=None, **options):
    return evaluate(ask(metrics, generated, real, **options), of or networks()).warnings


# ---- small sets --------------------------------------------------------------------------------


def test_one_warning_names_all_metrics_that_small_sets_make_incomparable():
    metrics = ["is", "kid", "precision", "recall"]
    found = warnings(metrics, generated_from_batches(batch(5)), TensorSource(batch(6, 1)))
    (text,) = [text for text in found if "not comparable with papers" in text]
    assert text.startswith("Inception Score, KID, precision, recall: 5 generated, 6 real pictures")
    assert not any("rank-deficient" in text for text in found), "of FID alone"
    (text,) = [text for text in found if "VGG-16" in text]
    assert text.startswith("Precision and recall are of tiny;")


def test_metrics_without_a_value_are_not_named():
    made, real = generated_from_batches(batch(5)), TensorSource(batch(6, 1))
    found = warnings(["fid", "fid_infinity", "is", "kid"], made, real, fid_minimum=50, splits=6)
    (text,) = [text for text in found if "not comparable with papers" in text]
    assert text.startswith("KID: 5 generated")


def test_large_sets_are_not_warned_of():
    many = caveats.COMPARABLE
    assert caveats.comparable(many, {"is": None, "fid": many}) == []
    (text,) = caveats.comparable(many, {"is": None, "kid": many - 1, "fid": None})
    assert text.startswith("KID: 10000 generated, 9999 real pictures")
    assert caveats.extrapolated(many) == caveats.extrapolated(None) == []
    assert "FID-infinity of 60 real pictures" in caveats.extrapolated(60)[0]


@pytest.mark.parametrize("asked", ["fid", "kid"])
def test_statistics_give_the_number_of_real_pictures(tmp_path, asked):
    made, real = generated_from_batches(batch(5)), TensorSource(batch(7, 1))
    path = tmp_path / "real.npz"
    warnings([asked], made, real, save_statistics=path)
    found = warnings(["fid"], made, statistics=path)
    assert any(text.startswith("FID: 5 generated, 7 real pictures; below") for text in found)


# ---- the encoder that conditioned the pictures -------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return randomise(CLIPModel(clip_config()))


def tower(model, dtype=torch.float32):
    """As encoders are published, and as ComfyUI's CLIP_VISION holds them."""
    kept = ("vision_model.", "visual_projection.")
    return {
        k: v.to(dtype) if v.is_floating_point() else v
        for k, v in model.state_dict().items()
        if k.startswith(kept)
    }


def test_copies_of_one_encoder_have_one_fingerprint(model, tmp_path):
    folder = saved(model, tmp_path / "whole")
    whole = file_fingerprint(folder / "model.safetensors")
    for name, dtype in (("same", torch.float32), ("half", torch.float16)):
        save_file(tower(model, dtype), tmp_path / f"{name}.safetensors")
        assert file_fingerprint(tmp_path / f"{name}.safetensors") == whole
    more = tower(model) | {"vision_model.embeddings.position_ids": torch.arange(50)}
    assert vision_fingerprint(more) == whole == load_clip(folder).encoder
    bare = {k.removeprefix("vision_model."): v for k, v in tower(model).items()}
    assert vision_fingerprint(bare) == whole


def test_other_encoders_have_another(model):
    other = tower(model)
    other["vision_model.post_layernorm.weight"] = other["vision_model.post_layernorm.weight"] * 1.1
    assert vision_fingerprint(other) != vision_fingerprint(tower(model))
    swapped = tower(model)
    names = [f"vision_model.encoder.layers.{i}.mlp.fc1.weight" for i in (0, 1)]
    swapped[names[0]], swapped[names[1]] = swapped[names[1]], swapped[names[0]]
    assert vision_fingerprint(swapped) != vision_fingerprint(tower(model))


def test_a_file_without_tensors_has_none(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="empty.safetensors holds no tensors"):
        file_fingerprint(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("metric", ["image_alignment", "clip_score", "cmmd", "aesthetic"])
@pytest.mark.parametrize("known", [True, False])
def test_every_metric_of_clip_says_that_its_encoder_conditioned_the_pictures(metric, known):
    of = networks()
    of["clip"].encoder = "c" * 64
    generated = generated_from_batches(batch(3), batch(2, 1), prompts="a person")
    generated.conditioning = ("c" * 64 if known else "b" * 64,)
    found = warnings([metric], generated, TensorSource(batch(3, 1)), of)
    assert any("the encoder that conditioned" in text for text in found) is known


# ---- real pictures in the place of references --------------------------------------------------


def test_two_folders_are_enough_for_the_alignment_scores(tmp_path):
    made = read_generated(write_pictures(tmp_path / "made", 3))
    real = FolderSource(write_pictures(tmp_path / "real", 4, seed=1))
    metrics = ["image_alignment", "dino", "identity"]
    report = evaluate(ask(metrics, made, real), networks())
    made.references = real
    given = evaluate(ask(metrics, made), networks())
    for metric in metrics:
        assert value(report, metric).value == value(given, metric).value is not None
    said = "image_alignment, dino, identity: compared with the real pictures, as no references"
    assert sum(text.startswith(said) for text in report.warnings) == 1
    assert not any("compared with the real" in text for text in given.warnings)


def test_pictures_cannot_have_been_copied_from_the_real_ones():
    made, real = generated_from_batches(batch(3)), TensorSource(batch(3, 1))
    with pytest.raises(ValueError, match="copy_paste needs the reference pictures"):
        evaluate(ask(["copy_paste"], made, real), networks())
    with pytest.raises(ValueError, match="dino needs the reference pictures"):
        evaluate(ask(["dino"], made), networks())


# ---- pairs, and what was given -----------------------------------------------------------------


def test_pairs_of_one_identity_and_prompt_have_no_interval():
    report = evaluate(ask(["lpips_diversity"], generated_from_batches(batch(6))), networks())
    found = value(report, "lpips_diversity")
    assert found.value > 0 and found.low is found.high is None
    varied = generated_from_batches(batch(6), identities=list("aabbcc"))
    found = value(evaluate(ask(["lpips_diversity"], varied), networks()), "lpips_diversity")
    assert found.low <= found.value <= found.high
    assert found.detail["resampled"] == "identities"


def test_copying_is_looked_for_in_what_was_given_and_likeness_in_all_references():
    made, shown = batch(2), batch(4, 1)
    sets = {}
    for name, references, given in (
        ("both", (0, 1, 2, 3), (0, 1)),
        ("all", (0, 1, 2, 3), None),
        ("some", (0, 1), None),
    ):
        sets[name] = generated_from_batches(made, shown)
        sets[name].entries = [
            type(entry)(references=references, given=given) for entry in sets[name].entries
        ]
    found = {k: evaluate(ask(["dino", "copy_paste"], s), networks()) for k, s in sets.items()}
    assert value(found["both"], "dino") == value(found["all"], "dino")
    assert value(found["both"], "copy_paste") == value(found["some"], "copy_paste")
    assert value(found["both"], "copy_paste") != value(found["all"], "copy_paste")


def test_whole_numbers_and_fractions_of_one_weight_are_one_point():
    made = generated_from_batches(
        batch(4), conditions=[{"weight": 1}, {"weight": 1.0}, {"weight": 2}, {"weight": 2.0}]
    )
    report = evaluate(ask(["is"], made), networks())
    assert [point.n for point in report.points] == [2, 2]


def test_copy_paste_does_without_the_packages_of_faces(model, tmp_path, monkeypatch):
    for name in ("scrfd_10g_bnkps", "glintr100"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "insightface", None)  # what Python has for a missing one
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        tmp_path / "clip-vit-base-patch32.safetensors",
    )
    loaded = load_networks(["copy_paste"], [tmp_path])
    assert loaded.keys() == {"clip"}
