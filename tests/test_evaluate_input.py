"""`evaluate` on pictures and requests that are wrong, or that mean little: errors and warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from multi_ipadapter.evaluation import extract
from multi_ipadapter.evaluation.generated import (
    Entry,
    GeneratedSet,
    generated_from_batches,
    read_generated,
)
from multi_ipadapter.evaluation.metrics import kernels, manifold
from multi_ipadapter.evaluation.metrics import rows as features
from multi_ipadapter.evaluation.plan import METRICS
from multi_ipadapter.evaluation.report import write_json
from multi_ipadapter.evaluation.run import evaluate
from multi_ipadapter.evaluation.store import FeatureStore
from multi_ipadapter.pictures.sources import FolderSource, ListSource, TensorSource

from .evaluation_world import (
    Network,
    ask,
    batch,
    drawn,
    networks,
    value,
    write_pictures,
)
from .reports import read_report

# ---- bad input ---------------------------------------------------------------------------------


def refused(match, metrics, generated, real=None, of=None, **options):
    of = of or networks()
    with pytest.raises(ValueError, match=match):
        evaluate(ask(metrics, generated, real, **options), of)


def test_a_request_that_makes_no_sense_is_refused():
    generated, real = generated_from_batches(batch(3)), TensorSource(batch(3, 1))
    refused("Got the metrics fit; expected some of fid, ", ["fit"], generated)
    refused("Got the metrics none; expected some of", [], generated)
    refused("Got mixed_sizes 'crop'; expected one of", ["is"], generated, mixed_sizes="crop")
    refused("Got batch_size 0; expected 1", ["is"], generated, batch_size=0)
    refused("Got seed -1; expected 0 to", ["is"], generated, seed=-1)
    refused("Got seed 4294967296; expected", ["is"], generated, seed=2**32)
    refused("Got fid_minimum 1; expected 2", ["is"], generated, fid_minimum=1)
    for confidence in (0, 1, 95, float("nan")):
        refused("Got confidence .*; expected", ["is"], generated, confidence=confidence)
    refused("fid needs real pictures, and none are given", ["fid"], generated)
    refused("kid needs real pictures", ["kid"], generated, statistics="real.npz")
    refused("image_alignment needs the reference pictures", ["image_alignment"], generated)
    refused("lpips needs a target", ["lpips"], generated)
    refused(
        "lpips_diversity needs two pictures of the same",
        ["lpips_diversity"],
        generated_from_batches(batch(3), identities=list("abc")),
    )
    refused("clip_score needs prompts, and no picture has one", ["clip_score"], generated)
    refused("real.npz does not exist", ["fid"], generated, statistics="real.npz")
    refused("Statistics can be saved only with real", ["is"], generated, save_statistics="x.npz")
    refused("fid needs a network for inception", ["fid"], generated, real, {"clip": 1})
    refused(
        "copy_paste needs a network for face or clip or dino",
        ["copy_paste"],
        generated,
        real,
        {"inception": 1},
    )
    prompted = generated_from_batches(batch(3), prompts="a person")
    refused(
        "text_alignment reads prompts, which tiny cannot",
        ["text_alignment"],
        prompted,
        of={"clip": Network(image=4)},
    )


def test_fewer_than_two_pictures():
    one, two = TensorSource(batch(1)), TensorSource(batch(2, 1))
    refused(
        "Got 1 usable generated pictures for fid; expected at least 2",
        ["fid"],
        generated_from_batches(batch(1)),
        two,
    )
    refused(
        "Got 1 usable real pictures for fid; expected at least 2",
        ["fid"],
        generated_from_batches(batch(2)),
        one,
    )
    report = evaluate(ask(["dino"], generated_from_batches(batch(1), batch(2, 1))), networks())
    assert value(report, "dino").n == 1 and value(report, "dino").low is None


def test_unreadable_pictures_are_listed_and_none_left_is_an_error(tmp_path):
    made = write_pictures(tmp_path / "made", 5)
    real = FolderSource(write_pictures(tmp_path / "real", 4, seed=1))
    (made / "001.png").write_bytes(b"")
    (made / "003.png").write_text("text")
    report = evaluate(ask(["kid"], read_generated(made), real), networks())
    (use,) = [use for use in report.sources if use.role == "generated"]
    assert use.n == report.points[0].n == value(report, "kid").n == 3
    assert [name for name, _ in use.skipped] == ["001.png", "003.png"]
    assert all(reason.startswith("not a picture") for _, reason in use.skipped)
    assert any(
        text.startswith("generated: not all could be used. Left out: 2 (001.png: not a picture")
        for text in report.warnings
    )
    for name in ("000", "002", "004"):
        (made / f"{name}.png").write_bytes(b"")
    refused(
        "Got 0 usable generated pictures for kid.*Left out: 5 .000.png: not a picture",
        ["kid"],
        read_generated(made),
        real,
    )


def test_unreadable_pictures_are_listed_where_only_pairs_are_compared(tmp_path):
    made = write_pictures(tmp_path / "made", 4)
    (made / "001.png").write_bytes(b"")
    report = evaluate(ask(["lpips_diversity"], read_generated(made)), networks())
    assert report.sources[0].n == 3 and report.sources[0].skipped[0][0] == "001.png"
    assert value(report, "lpips_diversity").detail["pairs"] == 3


@pytest.mark.parametrize("name", ["!.png", "z.png"], ids=["first", "last"])
def test_a_picture_too_small_for_lpips_is_listed(tmp_path, name):
    made = write_pictures(tmp_path / "made", 4, size=(40, 40))
    Image.fromarray(drawn(9, (30, 40))).save(made / name)
    of = networks()
    of["lpips"].smallest = 31
    report = evaluate(ask(["lpips_diversity"], read_generated(made)), of)
    ((skipped, reason),) = report.sources[0].skipped
    assert skipped == name and reason.startswith("is 30x40; LPIPS")
    assert value(report, "lpips_diversity").detail["pairs"] == 6 and report.sources[0].n == 4


def test_features_of_a_set_stay_on_disk(monkeypatch):
    """50,000 pictures of both sets must fit into 2 GB."""
    generated, real = generated_from_batches(batch(80)), TensorSource(batch(90, 1))
    metrics = ["fid", "kid", "cmmd", "precision", "recall"]
    expected = evaluate(ask(metrics, generated, real), networks())
    read, rows = [], FeatureStore.rows

    def recorded(self, output, places):
        read.append(len(places))
        return rows(self, output, places)

    monkeypatch.setattr(FeatureStore, "rows", recorded)
    monkeypatch.delattr(extract.Extracted, "features")  # all at once
    for module, name, size in (
        (manifold, "_ROWS", 16),
        (manifold, "_COLUMNS", 16),
        (kernels, "_BLOCK", 16),
        (kernels, "SUBSET_SIZE", 16),
        (extract, "_READ", 16),
        (features, "_CHECKED", 16),
    ):
        monkeypatch.setattr(module, name, size)
    report = evaluate(ask(metrics, generated, real), networks())
    assert max(read) == 16
    for metric in ("fid", "cmmd", "precision", "recall"):
        assert value(report, metric).value == pytest.approx(value(expected, metric).value, abs=1e-6)


def test_mixed_sizes_are_resized_and_said_or_skipped_and_listed(tmp_path):
    made = write_pictures(tmp_path / "made", 4)
    write_pictures(made / "wide", 2, seed=1, size=(40, 20))
    real = FolderSource(write_pictures(tmp_path / "real", 4, seed=2))
    report = evaluate(ask(["kid"], read_generated(made), real), networks())
    assert report.sources[0].n == 6 and report.sources[0].sizes == {"24x20": 4, "40x20": 2}
    assert any("2 are not 24x20 and were resized" in text for text in report.warnings)
    report = evaluate(ask(["kid"], read_generated(made), real, mixed_sizes="skip"), networks())
    assert report.sources[0].n == 4 and report.sources[0].sizes == {"24x20": 4}
    assert report.sources[0].skipped[0] == ["wide/000.png", "is 40x20; most pictures are 24x20"]
    alone = evaluate(ask(["kid"], _only(made), real), networks())
    assert value(report, "kid").value == pytest.approx(value(alone, "kid").value, abs=1e-7)


def _only(folder):
    paths = sorted(folder.glob("*.png"))
    return GeneratedSet(ListSource(paths), [Entry()] * len(paths))


def test_features_that_are_not_finite_are_refused():
    of = networks()
    of["inception"]._matrices["pool"][3, 3] = torch.nan
    refused(
        "tiny gives pool that are not finite numbers for image 0",
        ["fid"],
        generated_from_batches(batch(3)),
        TensorSource(batch(3, 1)),
        of,
    )


# ---- warnings ----------------------------------------------------------------------------------


def test_warnings_on_too_few_pictures():
    made, real = generated_from_batches(batch(6)), TensorSource(batch(30, 1))
    of = networks()
    report = evaluate(ask(["fid", "is", "fid_infinity"], made, real, splits=5), of)
    text = "\n".join(report.warnings)
    assert "FID: 6 generated, 30 real pictures are fewer than the 7 that 6 features need" in text
    assert "below 10,000 the value is not comparable with papers" in text
    assert "Inception Score: 5 splits of 6 pictures; a split of 1 cannot score above 1" in text
    assert "FID-infinity is not given: fewer than 5,000 pictures" in text
    assert value(report, "fid").value is not None
    enough = generated_from_batches(batch(7))
    report = evaluate(ask(["fid"], enough, real), networks())
    assert not any("rank-deficient" in text for text in report.warnings)


def test_a_small_kid_has_no_spread_and_a_warning():
    real = TensorSource(batch(60, 1))
    small = evaluate(ask(["kid"], generated_from_batches(batch(6)), real), networks())
    assert any(text.startswith("KID of 6 generated, 60 real") for text in small.warnings)
    equal = evaluate(ask(["kid"], generated_from_batches(batch(60)), real), networks())
    assert value(equal, "kid").detail["std"] is None
    assert not any(text.startswith("KID of") for text in equal.warnings)


def test_no_fid_below_the_minimum():
    made, real = generated_from_batches(batch(49)), TensorSource(batch(60, 1))
    request = replace(ask(["fid", "kid"], made, real), fid_minimum=50)
    report = evaluate(request, networks())
    assert value(report, "fid").value is None and value(report, "kid").value is not None
    assert "fewer than 50 pictures (49 generated, 60 real)" in value(report, "fid").detail["reason"]
    assert any(text.startswith("FID is not given") for text in report.warnings)
    more = replace(request, generated=generated_from_batches(batch(50)))
    assert value(evaluate(more, networks()), "fid").value is not None


def test_more_splits_than_pictures_give_no_inception_score():
    report = evaluate(ask(["is"], generated_from_batches(batch(6)), splits=10), networks())
    assert value(report, "is").value is None
    assert value(report, "is").detail["reason"] == "6 pictures cannot fill 10 splits"


def test_warning_on_mixed_jpeg_and_png(tmp_path):
    made = write_pictures(tmp_path / "made", 3)
    real = write_pictures(tmp_path / "real", 3, seed=1, suffix=".jpg")
    report = evaluate(ask(["kid"], read_generated(made), FolderSource(real)), networks())
    assert any(
        "Mixed file formats (generated: 3 PNG; real: 3 JPEG)" in text for text in report.warnings
    )
    write_pictures(tmp_path / "same", 3, seed=1)
    same = FolderSource(tmp_path / "same")
    report = evaluate(ask(["kid"], read_generated(made), same), networks())
    assert not any("Mixed file formats" in text for text in report.warnings)


@pytest.mark.parametrize("known", ["clip-tiny", f"{1:064x}"])
def test_warning_where_the_scoring_encoder_conditioned_the_pictures(known):
    generated = generated_from_batches(batch(3), batch(2, 1))
    generated.conditioning = (known,)
    report = evaluate(ask(["image_alignment", "dino"], generated), networks())
    warned = [text for text in report.warnings if "the encoder that conditioned" in text]
    assert len(warned) == 1 and warned[0].startswith("image_alignment is scored by clip-tiny")


def test_warning_on_points_of_different_size():
    conditions = [{"weight": 0}] * 2 + [{"weight": 1}] * 3
    generated = generated_from_batches(batch(5), conditions=conditions)
    report = evaluate(ask(["kid"], generated, TensorSource(batch(4, 1))), networks())
    assert any("different numbers of pictures (2 to 3)" in text for text in report.warnings)


def test_every_metric_can_be_asked_for_at_once_and_survives_json(tmp_path):
    generated = generated_from_batches(batch(6), batch(3, 1), batch(6, 2), "a person", "anna")
    report = evaluate(ask(METRICS, generated, TensorSource(batch(8, 3))), networks())
    assert report.points[0].values.keys() == METRICS.keys()
    missing = {m for m, v in report.points[0].values.items() if v.value is None}
    assert missing == {"fid_infinity"}
    write_json(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").to_dict() == report.to_dict()
