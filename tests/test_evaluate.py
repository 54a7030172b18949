"""`evaluate`: every metric equals its pure function, and every point its own pictures."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from multi_ipadapter.evaluation.extract import Interrupted
from multi_ipadapter.evaluation.generated import (
    generated_from_batches,
    read_generated,
)
from multi_ipadapter.evaluation.metrics import alignment
from multi_ipadapter.evaluation.metrics.frechet import frechet_distance_from_features
from multi_ipadapter.evaluation.metrics.inception_score import inception_score
from multi_ipadapter.evaluation.metrics.kernels import cmmd, kid
from multi_ipadapter.evaluation.metrics.manifold import precision_recall
from multi_ipadapter.evaluation.plan import PER_IMAGE
from multi_ipadapter.evaluation.run import evaluate
from multi_ipadapter.pictures.sources import TensorSource

from .evaluation_world import (
    Network,
    ask,
    batch,
    drawn,
    networks,
    pixels,
    value,
    write_pictures,
)


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
