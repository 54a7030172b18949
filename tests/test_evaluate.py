"""`evaluate`: every metric equals its pure function, and every point its own pictures."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from multi_ipadapter.evaluation import alignment, extract, features, kernels, manifold
from multi_ipadapter.evaluation.frechet import frechet_distance_from_features
from multi_ipadapter.evaluation.inception_score import inception_score
from multi_ipadapter.evaluation.kernels import cmmd, kid
from multi_ipadapter.evaluation.manifest import (
    Entry,
    GeneratedSet,
    generated_from_batches,
    read_generated,
)
from multi_ipadapter.evaluation.manifold import precision_recall
from multi_ipadapter.evaluation.pictures import FolderSource, ListSource, TensorSource
from multi_ipadapter.evaluation.report import EvaluationReport
from multi_ipadapter.evaluation.run import METRICS, PER_IMAGE, Interrupted, Request, evaluate
from multi_ipadapter.evaluation.store import FeatureStore

from .evaluation_world import Network, drawn, networks, write_pictures


def batch(count, seed=0, dark=()):
    """IMAGE [count, 20, 24, 3]."""
    pictures = [torch.from_numpy(drawn(seed * 1000 + i, dark=i in dark)) for i in range(count)]
    return (torch.stack(pictures).float() + 0.5) / 255


def pixels(images):
    source = TensorSource(images)
    return torch.stack([source.load(i).pixels for i in range(len(source))])


def ask(metrics, generated, real=None, **options):
    options = {"fid_minimum": 2, "splits": 2, "batch_size": 4} | options
    return Request(metrics, generated, real, **options)


def value(report, metric, point=0):
    return report.points[point].values[metric]


def test_metrics_of_sets_are_the_pure_functions():
    made, real = batch(11, 1), batch(9, 2)
    metrics = ("fid", "kid", "is", "cmmd", "precision", "recall")
    of = networks()
    report = evaluate(ask(metrics, generated_from_batches(made), TensorSource(real)), of)
    x, y = (networks()["inception"](pixels(images)) for images in (made, real))
    a, b = (networks()["clip"](pixels(images))["image"] for images in (made, real))
    assert report.points[0].n == 11 and list(report.points[0].values) == list(metrics)
    expected = {
        "fid": frechet_distance_from_features(x["pool"], y["pool"]),
        "kid": kid(x["pool"], y["pool"]).mean,
        "is": inception_score(x["logits"], 2).mean,
        "cmmd": cmmd(a, b),
        "precision": precision_recall(x["pool"], y["pool"]).precision,
        "recall": precision_recall(x["pool"], y["pool"]).recall,
    }
    for metric, number in expected.items():
        assert value(report, metric).value == pytest.approx(number, rel=1e-5), metric
        assert value(report, metric).n == 11
    assert value(report, "kid").detail["std"] == pytest.approx(kid(x["pool"], y["pool"]).std)
    assert value(report, "cmmd").detail["paper"] == pytest.approx(cmmd(a, b, True), rel=1e-5)
    assert of["inception"].seen == 20 and of["clip"].seen == 20, "each picture once"


def test_metrics_of_pictures_are_the_pure_functions(tmp_path):
    """Two identities with their own references, one picture without a face, targets."""
    lines = []
    for number, identity in enumerate("aabb"):
        write_pictures(tmp_path / "made" / identity, 2, seed=number)
    for seed, identity in enumerate("ab", 20):
        write_pictures(tmp_path / "made" / f"ref_{identity}", 3, seed=seed)
    Image.fromarray(drawn(3, dark=True)).save(tmp_path / "made" / "b" / "001.png")
    for identity, name in itertools.product("ab", ("000", "001")):
        lines.append(
            {
                "image": f"{identity}/{name}.png",
                "identity": identity,
                "prompt": f"a photo of * at the {'sea' if name == '000' else 'bar'}",
                "references": [f"ref_{identity}/{i:03}.png" for i in (0, 1)],
                "target": f"ref_{identity}/002.png",
            }
        )
    (tmp_path / "made" / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    generated = read_generated(tmp_path / "made")
    of = networks()
    report = evaluate(ask(PER_IMAGE, generated), of)

    def seen(source):
        return torch.stack([source.load(i).pixels for i in range(len(source))])

    made, given, wanted = map(seen, (generated.pictures, generated.references, generated.targets))
    fresh = networks()
    clip, dino, face = fresh["clip"], fresh["dino"], fresh["face"]
    rows = {"a": ([0, 1], [0, 1], 0), "b": ([2, 3], [2, 3], 1)}
    expected = {metric: {} for metric in PER_IMAGE}
    prompts = [entry.prompt for entry in generated.entries]
    for metric, network in (("image_alignment", clip), ("dino", dino)):
        name = next(iter(network.outputs))
        x, y = network(made)[name], network(given)[name]
        for numbers, references, _ in rows.values():
            result = alignment.image_alignment(x[numbers], y[references])
            expected[metric] |= dict(zip(numbers, result.tolist(), strict=True))
    images = clip(made)["image"]
    stripped = clip.text([prompt.replace("*", "") for prompt in prompts])
    expected["text_alignment"] = dict(enumerate(alignment.text_alignment(images, stripped)))
    expected["clip_score"] = dict(enumerate(alignment.clip_score(images, clip.text(prompts))))
    expected["aesthetic"] = dict(enumerate(F.normalize(images, dim=1).sum(1)))
    x, y, z = (face(p)["embedding"] for p in (made, given, wanted))
    for numbers, references, target in rows.values():
        numbers = [n for n in numbers if n != 3]  # the dark one
        result = alignment.image_alignment(x[numbers], y[references])
        expected["identity"] |= dict(zip(numbers, result.tolist(), strict=True))
        result = alignment.copy_paste(x[numbers], y[references], z[[target]])
        expected["copy_paste"] |= dict(zip(numbers, result.tolist(), strict=True))
        for n in (0, 1) if target == 0 else (2, 3):
            difference = (made[n].float() - wanted[target].float()).abs().mean() / 255
            expected["lpips"][n] = float(difference)
    for number, row in enumerate(report.per_image):
        assert row["image"] == lines[number]["image"] and row["prompt"] == prompts[number]
        for metric in PER_IMAGE:
            number_of = expected[metric].get(number)
            wanted_value = None if number_of is None else pytest.approx(float(number_of), rel=1e-4)
            assert row["values"][metric] == wanted_value, (metric, number)
    identity = value(report, "identity")
    assert identity.n == 3 and identity.detail["detection_rate"] == 0.75
    mean = sum(expected["identity"].values()) / 3
    assert identity.value == pytest.approx(mean, rel=1e-5) and identity.low <= mean <= identity.high
    assert value(report, "copy_paste").detail["definition"].startswith("angles")
    assert any("identity: 1 of 4 pictures have no face" in text for text in report.warnings)
    assert value(report, "clip_score").detail["resampled"] == "identities and prompts"
    assert {use.role: use.n for use in report.sources} == {
        "generated": 4,
        "references": 4,
        "targets": 2,
    }


def test_without_targets_copying_is_measured_by_the_margin():
    generated = generated_from_batches(batch(3), batch(4, 1))
    of = networks() | {"face": None}
    report = evaluate(ask(["copy_paste"], generated), of)
    x, y = (networks()["clip"](pixels(b))["image"] for b in (batch(3), batch(4, 1)))
    expected = alignment.nearest_reference_margin(x, y).mean().item()
    assert value(report, "copy_paste").value == pytest.approx(expected, rel=1e-5)
    assert value(report, "copy_paste").detail["definition"] == "margin"


def test_a_target_without_a_face_takes_its_picture_out_of_the_copy_paste_score():
    targets = batch(3, 2, dark=(1,))
    generated = generated_from_batches(batch(3), batch(2, 1), targets)
    report = evaluate(ask(["copy_paste"], generated), networks())
    scores = [row["values"]["copy_paste"] for row in report.per_image]
    assert [score is None for score in scores] == [False, True, False]
    assert value(report, "copy_paste").detail["definition"].startswith("angles")


def test_diversity_compares_pictures_of_one_identity_and_prompt_only():
    images = batch(6, 5)
    generated = generated_from_batches(
        images, identities=list("aabbbb"), prompts=["p"] * 5 + ["q"], conditions={"weight": 1}
    )
    of = networks()
    report = evaluate(ask(["lpips_diversity"], generated), of)
    x = pixels(images).float() / 255
    pairs = [(0, 1), (2, 3), (2, 4), (3, 4)]
    expected = sum((x[a] - x[b]).abs().mean().item() for a, b in pairs) / 4
    found = value(report, "lpips_diversity")
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.detail["pairs"] == of["lpips"].seen == 4
    assert found.low <= found.value <= found.high


def test_points_are_groups_of_conditions_in_their_order():
    images, real = batch(12, 3), TensorSource(batch(8, 4))
    conditions = [{"weight": w, "references": n} for w in (1.2, 0.0, 0.6) for n in (1, 2)] * 2
    generated = generated_from_batches(images, batch(2, 9), conditions=conditions)
    asked = {"metrics": ["kid", "image_alignment"], "real": real, "batch_size": 1}
    report = evaluate(ask(generated=generated, **asked), networks())
    assert [p.conditions for p in report.points] == [
        {"weight": w, "references": n} for n in (1, 2) for w in (0.0, 0.6, 1.2)
    ]
    for point in report.points:
        numbers = [i for i, c in enumerate(conditions) if c == point.conditions]
        alone = generated_from_batches(images[numbers], batch(2, 9))
        single = evaluate(ask(generated=alone, **asked), networks())
        for metric in ("kid", "image_alignment"):
            assert point.values[metric].value == pytest.approx(
                value(single, metric).value, rel=1e-9
            )
    assert [row["conditions"] for row in report.per_image] == conditions


def test_a_point_of_one_picture_has_no_value_of_a_set():
    generated = generated_from_batches(
        batch(3), conditions=[{"weight": 0}, {"weight": 0}, {"weight": 1}]
    )
    report = evaluate(ask(["kid"], generated, TensorSource(batch(4, 1))), networks())
    assert value(report, "kid", 0).value is not None
    assert value(report, "kid", 1).value is None
    assert "a set needs two" in value(report, "kid", 1).detail["reason"]


def test_a_second_encoder_serves_where_it_is_given():
    generated, real = generated_from_batches(batch(4)), TensorSource(batch(5, 1))
    other = Network("clip-vit-l-14-336", 11, image=8)
    of = networks() | {"cmmd_clip": other}
    report = evaluate(ask(["cmmd"], generated, real), of)
    assert other.seen == 9 and of["clip"].seen == 0
    assert [(use.role, use.name) for use in report.networks] == [("cmmd_clip", other.name)]
    assert not any("published values" in text for text in report.warnings)


# ---- statistics files --------------------------------------------------------------------------


def test_statistics_stand_for_the_real_pictures(tmp_path):
    generated, real = generated_from_batches(batch(9)), TensorSource(batch(12, 1))
    path = tmp_path / "real.npz"
    first = evaluate(ask(["fid"], generated, real, save_statistics=path), networks())
    of = networks()
    second = evaluate(ask(["fid"], generated, statistics=path), of)
    assert value(second, "fid").value == pytest.approx(value(first, "fid").value, rel=1e-9)
    assert of["inception"].seen == 9
    assert second.settings["statistics"] == "real.npz"


def test_statistics_of_another_extractor_are_refused_before_any_work(tmp_path):
    generated, real = generated_from_batches(batch(9)), TensorSource(batch(12, 1))
    path = tmp_path / "real.npz"
    evaluate(ask(["fid"], generated, real, save_statistics=path), networks())
    for change in ({"resize": "clean"}, {"weights": "b" * 64}, {"name": "other"}):
        of = networks()
        vars(of["inception"]).update(change)
        with pytest.raises(
            ValueError, match=f"real.npz was computed with .*{[*change.values()][0]}"
        ):
            evaluate(ask(["fid"], generated, statistics=path), of)
        assert of["inception"].calls == 0


def test_statistics_of_another_width_are_refused_before_any_work(tmp_path):
    path = tmp_path / "public.npz"  # as public tools write them: they do not say what they are of
    np.savez(path, mu=np.zeros(5), sigma=np.eye(5))
    of = networks()
    with pytest.raises(ValueError, match="public.npz holds statistics of 5 values .* tiny gives 6"):
        evaluate(ask(["fid"], generated_from_batches(batch(9)), statistics=path), of)
    assert of["inception"].calls == 0


# ---- stopped and resumed -----------------------------------------------------------------------


def test_a_stopped_evaluation_goes_on_with_equal_numbers(tmp_path):
    generated, real = generated_from_batches(batch(11, 1)), TensorSource(batch(9, 2))
    request = ask(["fid", "kid", "is"], generated, real)
    first, second = networks(), networks()
    steps = []

    def on_step(*step):
        steps.append(step)

    with pytest.raises(Interrupted, match="Stopped after 15 of 20 pictures") as caught:
        evaluate(
            request,
            first,
            store=tmp_path,
            on_step=on_step,
            cancelled=lambda: first["inception"].seen >= 15,
        )
    assert (caught.value.done, caught.value.total) == (15, 20)
    assert steps[0] == (4, 20, "tiny: generated") and steps[-1] == (15, 20, "tiny: real")
    resumed = evaluate(request, second, store=tmp_path)
    assert second["inception"].seen == 5
    assert resumed.to_dict() == evaluate(request, networks()).to_dict()
    third = networks()
    assert evaluate(request, third, store=tmp_path).to_dict() == resumed.to_dict()
    assert third["inception"].seen == 0


def test_an_exception_of_cancelled_comes_through_and_loses_nothing(tmp_path):
    class Cancelled(Exception):
        pass

    def cancelled():
        if first["inception"].seen >= 8:
            raise Cancelled

    request = ask(["fid"], generated_from_batches(batch(11, 1)), TensorSource(batch(9, 2)))
    first, second = networks(), networks()
    with pytest.raises(Cancelled):
        evaluate(request, first, store=tmp_path, cancelled=cancelled)
    evaluate(request, second, store=tmp_path)
    assert (first["inception"].seen, second["inception"].seen) == (8, 12)


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


def test_every_metric_can_be_asked_for_at_once_and_survives_json():
    generated = generated_from_batches(batch(6), batch(3, 1), batch(6, 2), "a person", "anna")
    report = evaluate(ask(METRICS, generated, TensorSource(batch(8, 3))), networks())
    assert report.points[0].values.keys() == METRICS.keys()
    missing = {m for m, v in report.points[0].values.items() if v.value is None}
    assert missing == {"fid_infinity"}
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert EvaluationReport.from_dict(json.loads(text)).to_dict() == report.to_dict()
