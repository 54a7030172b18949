"""What belongs to generated pictures: from a manifest, from folders, from batches."""

from __future__ import annotations

import json
import os

import pytest
import torch

from multi_ipadapter.evaluation.generated import generated_from_batches, read_generated

from .evaluation_world import write_pictures


def names(source):
    return [source.name(i) for i in range(len(source))]


def write_manifest(folder, *entries):
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def test_sub_folders_are_identities_with_references_of_the_same_name(tmp_path):
    made, given = tmp_path / "made", tmp_path / "given"
    for identity in ("anna", "bert", "carl"):
        write_pictures(made / identity, 2)
    for identity in ("bert", "anna"):
        write_pictures(given / identity, 2)
    (made / "anna" / "001.txt").write_text("anna in\n  the snow")
    out = read_generated(made, given, "a portrait")
    assert [e.identity for e in out.entries] == ["anna", "anna", "bert", "bert", "carl", "carl"]
    assert [e.prompt for e in out.entries[:3]] == ["a portrait", "anna in the snow", "a portrait"]
    chosen = [[out.references.name(r) for r in e.references] for e in out.entries]
    assert chosen[0] == ["anna/000.png", "anna/001.png"]
    assert chosen[2] == ["bert/000.png", "bert/001.png"] and chosen[4] == []
    assert len(out.notes) == 1 and "Identities without references: 1 (carl)" in out.notes[0]


def test_references_in_no_sub_folder_serve_all(tmp_path):
    made, given = tmp_path / "made", write_pictures(tmp_path / "given", 3)
    write_pictures(made / "anna", 1)
    write_pictures(made, 1)
    out = read_generated(made, given)
    assert [e.references for e in out.entries] == [(0, 1, 2)] * 2 and not out.notes


def test_pictures_without_an_identity_meet_all_references_and_this_is_said(tmp_path):
    made, given = write_pictures(tmp_path / "made", 2), tmp_path / "given"
    write_pictures(given / "anna", 1)
    write_pictures(given / "bert", 1)
    out = read_generated(made, given)
    assert [e.references for e in out.entries] == [None, None]
    assert "Pictures in no identity's folder: 2" in out.notes[0]


def test_lines_without_references_are_told(tmp_path):
    write_pictures(tmp_path / "made", 2)
    write_pictures(tmp_path / "refs", 1)
    lines = [{"image": "made/000.png", "references": ["refs/000.png"]}, {"image": "made/001.png"}]
    write_manifest(tmp_path, *lines)
    (note,) = read_generated(tmp_path).notes
    assert note.startswith("Lines of manifest.jsonl without references: 1;")
    write_manifest(tmp_path, lines[0])
    assert read_generated(tmp_path).notes == []


def test_a_manifest_names_everything(tmp_path):
    write_pictures(tmp_path / "pictures", 2)
    write_pictures(tmp_path / "references", 3)
    entry = {
        "image": "pictures/001.png",
        "identity": "anna",
        "prompt": "a portrait",
        "references": ["references/002.png", "references/000.png"],
        "given": ["references/000.png"],
        "target": "references/001.png",
        "conditions": {"weight": 0.6, "references": 2, "sampler": "euler"},
        "encoder": "abc",
    }
    write_manifest(tmp_path, entry, {"image": "pictures/000.png"})
    out = read_generated(tmp_path, prompt="else")
    assert names(out.pictures) == ["pictures/001.png", "pictures/000.png"]
    first, second = out.entries
    assert (first.identity, first.prompt) == ("anna", "a portrait")
    assert [out.references.name(r) for r in first.references] == entry["references"]
    assert [out.references.name(r) for r in first.given] == entry["given"]
    assert second.given is None
    assert out.targets.name(first.target) == "references/001.png"
    assert first.conditions == entry["conditions"] and out.conditioning == ("abc",)
    assert (second.identity, second.prompt, second.target) == ("", "else", None)
    assert out.pictures.load(0).pixels.shape == (3, 20, 24)


def test_a_manifest_without_references_takes_those_of_the_identitys_folder(tmp_path):
    made, given = write_pictures(tmp_path / "made", 2), tmp_path / "given"
    write_pictures(given / "anna", 2)
    write_pictures(given / "bert", 2)
    write_manifest(
        made,
        {"image": "000.png", "identity": "bert"},
        {"image": "001.png", "identity": "bert", "references": ["anna/001.png"]},
    )
    out = read_generated(made, given)
    chosen = [[out.references.name(r) for r in e.references] for e in out.entries]
    assert chosen == [["bert/000.png", "bert/001.png"], ["anna/001.png"]]
    assert out.references.load(out.entries[1].references[0]).pixels.shape == (3, 20, 24)


BAD_LINES = {
    "[1]": "is no object with an image",
    "{not json": "not valid JSON",
    '{"image": "../outside/000.png"}': "leads out of the dataset folder",
    '{"image": "/etc/passwd"}': "leads out of the dataset folder",
    '{"image": "linked.png"}': "is a link that leads out",
    '{"image": "none.png"}': "missing",
    '{"identity": "a"}': "no path",
    '{"image": "000.png", "prompt": 3}': "prompt is no text",
    '{"image": "000.png", "references": "000.png"}': "references is no list",
    '{"image": "000.png", "references": ["../outside/000.png"]}': "leads out",
    '{"image": "000.png", "target": "none.png"}': "none.png: missing",
    '{"image": "000.png", "conditions": {"weight": NaN}}': "no finite number",
    '{"image": "000.png", "conditions": [1]}': "conditions is no object",
    '{"image": "000.png", "conditions": {"weight": 1' + "0" * 400 + "}}": "no finite number",
    '{"image": "000.png", "given": "000.png"}': "given is no list",
}


def test_bad_lines_are_left_out_and_listed(tmp_path):
    made, outside = tmp_path / "made", write_pictures(tmp_path / "outside", 1)
    write_pictures(made, 1)
    os.symlink(outside / "000.png", made / "linked.png")
    write_manifest(made, *BAD_LINES, {"image": "000.png"})
    out = read_generated(made)
    assert names(out.pictures) == ["000.png"]
    for number, (skipped, reason) in enumerate(
        zip(out.skipped, BAD_LINES.values(), strict=True), start=1
    ):
        assert skipped.path == f"manifest.jsonl, line {number}"
        assert reason in skipped.reason, skipped
    write_manifest(made, *BAD_LINES)
    with pytest.raises(ValueError, match="names no usable picture. Left out: 15 .*Expected lines"):
        read_generated(made)


def test_a_misspelt_key_is_refused_with_its_line_and_the_known_ones(tmp_path):
    write_pictures(tmp_path, 2)
    write_manifest(tmp_path, {"image": "000.png"}, "", {"image": "001.png", "promt": "a portrait"})
    with pytest.raises(
        ValueError, match=r"Misspelt key 'promt' in manifest\.jsonl, line 3; expected 'prompt'"
    ) as caught:
        read_generated(tmp_path)
    for key in ("image", "identity", "prompt", "references", "given", "target", "conditions"):
        assert f"{key}, " in str(caught.value)


def test_keys_of_the_users_own_are_ignored(tmp_path):
    write_pictures(tmp_path, 1)
    write_manifest(tmp_path, {"image": "000.png", "prompt": "a cat", "seed": 7, "sampler": "ddim"})
    assert [entry.prompt for entry in read_generated(tmp_path).entries] == ["a cat"]


def test_batches_with_one_or_many_prompts():
    images = torch.zeros(2, 8, 8, 3)
    out = generated_from_batches(
        [images, images], images, torch.zeros(4, 8, 8, 3), "a portrait", list("aabb"), {"weight": 1}
    )
    assert [e.identity for e in out.entries] == list("aabb")
    assert {e.prompt for e in out.entries} == {"a portrait"}
    assert [e.target for e in out.entries] == [0, 1, 2, 3]
    assert out.entries[3].conditions == {"weight": 1} and out.entries[0].references is None
    with pytest.raises(ValueError, match="Got 3 prompts for 2 pictures; expected 1 or 2"):
        generated_from_batches(images, prompts=["a", "b", "c"])
    with pytest.raises(ValueError, match="Got 1 targets for 2 pictures"):
        generated_from_batches(images, targets=images[:1])
