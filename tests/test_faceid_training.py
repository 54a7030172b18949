"""Training with face embeddings as the condition: by the node and from the command line."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.models.projection import ProjectionConfig
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.nodes.steering.load import FOLDER, LoadMultiIPAdapter
from multi_ipadapter.nodes.training.dataset import ReferenceDataset
from multi_ipadapter.nodes.training.headless import load_models, train_job
from multi_ipadapter.nodes.training.train import SaveMultiIPAdapter
from multi_ipadapter.pictures.decode import UnusablePicturesError
from multi_ipadapter.pictures.open import open_dataset
from multi_ipadapter.runs.processes import OneProcess
from multi_ipadapter.training.command import read_arguments
from multi_ipadapter.training.encoding import encode_pictures
from multi_ipadapter.training.run import Watcher

from .builders import apply, assert_says, make_adapter, refusal, sample
from .face_blocks import BlockAnalyser, block_picture, block_pictures
from .face_graphs import paint, shape, write_pack
from .oracle import difference
from .people import SIZE, encode, settings_with, write_people
from .training_node import train, weights

pytestmark = pytest.mark.slow

SETTINGS = settings_with(projection="faceid", num_tokens=None, previews=0)
IDENTITIES, PICTURES = 6, 3
FACELESS = "p01/1.png"


class Counting(BlockAnalyser):
    """Notes how many pictures it has embedded."""

    embedded = 0

    def embed(self, picture, face):
        self.embedded += 1
        return super().embed(picture, face)


@pytest.fixture
def faces(base):
    """People with faces, but for one picture; by the dataset node."""
    for i in range(IDENTITIES):
        folder = base / "input" / "faces" / f"p{i:02}"
        folder.mkdir(parents=True)
        for j in range(PICTURES):
            name = f"{folder.name}/{j}.png"
            faces = [] if name == FACELESS else [(i, 40 + 4 * j)]
            pixels = block_picture(*faces, size=(64, 64), seed=10 * i + j)[0] * 255
            Image.fromarray(pixels.round().byte().numpy()).save(folder / f"{j}.png")
            (folder / f"{j}.txt").write_text(f"a portrait, view {j}")
    return ReferenceDataset.execute("faces").args[0]


def warnings(caplog) -> str:
    text = "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    caplog.clear()
    return text


def references(adapter, clip_vision, *people):
    return EncodeReferenceImages.execute(
        adapter,
        clip_vision,
        reference_images=block_pictures(*people),
        face_analysis=BlockAnalyser(),
    ).args[0]


def cached(base) -> dict[str, torch.Tensor]:
    """All tensors of the only cache."""
    (shard,) = (base / "output" / "training_cache").glob("*/shard-*.safetensors")
    return load_file(shard)


def test_an_adapter_learns_from_faces_and_comes_back(base, models, faces, prompts):
    options = {"settings": SETTINGS, "face_analysis": BlockAnalyser()}
    adapter, losses, *_ = train(models, faces, **options).args
    assert len(losses["loss"]) == 6 and np.isfinite(losses["loss"]).all()
    projection = adapter.config.projection
    assert (projection.kind, projection.num_tokens, projection.id_dim) == ("faceid", 4, 512)
    assert (adapter.config.recogniser, adapter.config.image_encoder) == ("w600k_r50", "")

    model, _, _, clip_vision = models
    steered = sample(apply(model, adapter, references(adapter, clip_vision, 1, 2)), *prompts)
    assert difference(steered, sample(model, *prompts)) > 1e-2
    name = SaveMultiIPAdapter.execute(adapter, "mine").args[0]
    loaded = LoadMultiIPAdapter.execute(name).args[0]
    assert loaded.config == adapter.config
    again = sample(apply(model, loaded, references(loaded, clip_vision, 1, 2)), *prompts)
    assert torch.equal(steered, again)
    other = sample(apply(model, loaded, references(loaded, clip_vision, 3)), *prompts)
    assert difference(steered, other) > 1e-4


def test_it_learns(base, models, faces):
    """The projection gets gradients: every part of it moves, and from run to run alike."""
    options = {"settings": SETTINGS, "face_analysis": BlockAnalyser()}
    first = weights(train(models, faces, "one", steps=1, **options).args[0])
    later = weights(train(models, faces, "six", **options).args[0])
    again = weights(train(models, faces, "again", **options).args[0])
    moved = {name for name in first if (first[name] - later[name]).abs().max() > 0}
    assert {name for name in first if name.startswith("image_proj.")} <= moved
    assert all(torch.equal(later[name], again[name]) for name in later)


def test_pictures_without_a_face_are_left_out_by_name(base, models, faces, caplog):
    train(models, faces, settings=SETTINGS, face_analysis=BlockAnalyser(), steps=1)
    told = warnings(caplog)
    assert_says(told, "Left out of the dataset: 1", f"{FACELESS}: no face was found")


def test_faces_are_embedded_once(base, models, faces):
    analyser = Counting()
    train(models, faces, "one", settings=SETTINGS, face_analysis=analyser, steps=1)
    found = cached(base)
    assert {name for name in found if "." not in name} >= {"latents", "face_embeds"}
    assert not any("penultimate" in name or "image_embeds" in name for name in found)
    assert found["face_embeds"].shape == (IDENTITIES * PICTURES, 512)
    lengths = found["face_embeds"].float().norm(dim=1)
    assert sorted(lengths.round().tolist()) == [0] + [20] * (IDENTITIES * PICTURES - 1)
    count, analyser.embedded = analyser.embedded, 0
    assert count >= IDENTITIES * PICTURES - 1
    train(models, faces, "two", settings=SETTINGS, face_analysis=analyser, steps=1)
    assert analyser.embedded == 0


def test_another_recogniser_has_another_cache_and_no_part_in_the_run(base, models, faces):
    options = {"settings": SETTINGS, "steps": 1}
    train(models, faces, face_analysis=BlockAnalyser(), **options)
    other = BlockAnalyser("glintr100")
    message = refusal(train, models, faces, face_analysis=other, **options)
    wanted = "another run (face recogniser: 'w600k_r50' there, 'glintr100' now)"
    assert_says(message, wanted, "give this run another name")
    train(models, faces, "other", face_analysis=other, **options)
    assert len(list((base / "output" / "training_cache").iterdir())) == 2


def test_without_a_cache(base, models, faces, caplog):
    settings = settings_with(projection="faceid", cache=False, num_tokens=None)
    # The sixth step is the first that reads that picture as a reference.
    options = {"settings": settings, "face_analysis": BlockAnalyser(), "steps": 6}
    adapter = train(models, faces, **options).args[0]
    assert adapter.config.projection.kind == "faceid"
    assert f"{FACELESS}: no face was found" in warnings(caplog)


def test_with_validation_and_previews(base, models, faces):
    settings = settings_with(
        projection="faceid", validate_every=1, validation_identities=2, previews=1
    )
    train(models, faces, settings=settings, face_analysis=BlockAnalyser(), steps=1)
    assert list((base / "output" / "training" / "run").glob("preview-*.png"))


def test_the_kinds_of_others_are_not_disturbed(base, models, dataset):
    """An analyser that is connected for nothing changes nothing."""
    plain = weights(train(models, dataset, "one", steps=2).args[0])
    analyser = BlockAnalyser()
    with_it = weights(train(models, dataset, "two", face_analysis=analyser, steps=2).args[0])
    assert all(torch.equal(plain[name], with_it[name]) for name in plain)


def test_starting_from_a_face_file(base, models, faces, caplog):
    """Portrait-unnorm too; a LoRA in the file is told of."""
    kinds = {
        "faceid": ProjectionConfig("faceid", 4, 64, id_dim=512, hidden_dim=32),
        "unnorm": ProjectionConfig(
            "resampler", 4, 64, input_dim=512, hidden_dim=64, depth=1, heads=1, face_input=True
        ),
    }
    for name, projection in kinds.items():
        start = make_adapter(models[0], projection)
        path = base / "models" / FOLDER / f"{name}.safetensors"
        save_adapter(start.adapter, path)
        lora = {"ip_adapter.0.to_q_lora.down.weight": torch.zeros(2, 32)}
        lora["ip_adapter.0.to_q_lora.up.weight"] = torch.zeros(32, 2)
        if name == "faceid":
            save_file(start.adapter.state_dict() | lora, path)
        adapter = train(
            models,
            faces,
            name,
            settings=settings_with(projection=None, num_tokens=None),
            start_from=path.name,
            face_analysis=BlockAnalyser(),
            learning_rate=1e-8,
            steps=1,
        ).args[0]
        assert adapter.config.projection == projection
        found = weights(adapter)
        for key, value in start.adapter.state_dict().items():
            assert torch.allclose(found[key], value, atol=1e-6), key
        assert ("The LoRA of the file" in warnings(caplog)) == (name == "faceid")
        assert not adapter.adapter.lora


def test_what_cannot_be_trained(base, models, faces):
    message = refusal(train, models, faces, settings=SETTINGS)
    assert_says(message, "projection = faceid", "Connect face_analysis", "face_pack")
    blind = BlockAnalyser("")
    message = refusal(train, models, faces, settings=SETTINGS, face_analysis=blind)
    assert_says(message, "has no recogniser", "buffalo_l")
    faceid = ProjectionConfig("faceid", 4, 64, id_dim=512, hidden_dim=32)
    plus = ProjectionConfig(
        "faceid_plus", 4, 64, input_dim=64, id_dim=512, hidden_dim=32, depth=2, heads=1
    )
    for name, projection in {"id": faceid, "plus": plus}.items():
        path = base / "models" / FOLDER / f"{name}.safetensors"
        save_adapter(make_adapter(models[0], projection).adapter, path)
    message = refusal(train, models, faces, start_from="id.safetensors")
    assert_says(message, "reads face embeddings", "Connect face_analysis")
    analyser = BlockAnalyser()
    message = refusal(train, models, faces, start_from="plus.safetensors", face_analysis=analyser)
    assert_says(message, "FaceID-Plus, which is not trained here", "Choose")
    settings = SETTINGS + 'face_pack = "/somewhere"\n'
    message = refusal(train, models, faces, settings=settings, face_analysis=analyser)
    assert_says(message, "Got face_pack in settings", "Remove the line")


def test_no_face_in_any_picture(base, models, faces):
    pixels = (block_picture(size=(64, 64))[0] * 255).round().byte().numpy()
    for path in (base / "input" / "faces").glob("*/*.png"):
        Image.fromarray(pixels).save(path)
    message = refusal(train, models, faces, settings=SETTINGS, face_analysis=BlockAnalyser())
    assert_says(message, "No picture of", "can be read", "p00/0.png: no face was found")


def test_unusable_pictures_leave_the_others_of_their_batch(tmp_path):
    index = open_dataset(write_people(tmp_path / "people", identities=2, pictures=3))
    seen = []

    def picky(pictures):
        seen.append(len(pictures))
        if len(seen) == 1:
            raise UnusablePicturesError({1: "one.", 3: "three."})
        return encode(pictures)

    numbers = list(range(6))
    first, second = encode_pictures(index, numbers, picky, SIZE, "crop", 4)
    assert seen == [4, 2, 2] and first.numbers == [0, 2] and second.numbers == [4, 5]
    assert dict(first.bad) == {1: "p00/1.png: one.", 3: "p01/0.png: three."}
    whole = next(encode_pictures(index, [0, 2], encode, SIZE, "crop", 4))
    assert all(torch.equal(first.features[k], whole.features[k]) for k in whole.features)


# ---- the command line ------------------------------------------------------------------------

SIDE = 160  # pixels: a quarter of what the detector sees
KNOWN = (20 * np.random.default_rng(2).standard_normal((IDENTITIES, 512))).astype(np.float32)


@pytest.fixture
def pack(tmp_path):
    """A pack of insightface's layout whose embeddings are known."""
    return write_pack(tmp_path / "packs" / "buffalo_l", [shape(scale=4)], KNOWN)


@pytest.fixture
def painted(tmp_path):
    """People whose faces the pack finds, but for one picture."""
    for i in range(IDENTITIES):
        (tmp_path / "painted" / f"p{i:02}").mkdir(parents=True)
        for j in range(PICTURES):
            pixels = np.full((SIDE, SIDE, 3), (0, 8, 60 + 40 * j), np.uint8)
            if f"p{i:02}/{j}.png" != FACELESS:
                paint(pixels, 96, 64 + 32 * j, shape(scale=4), 0, i, SIDE / 640)
            Image.fromarray(pixels).save(tmp_path / "painted" / f"p{i:02}" / f"{j}.png")
            (tmp_path / "painted" / f"p{i:02}" / f"{j}.txt").write_text("a portrait")
    return tmp_path / "painted"


def test_the_command_line_with_insightface(tmp_path, pack, painted, caplog, capsys):
    config = tmp_path / "run.toml"
    config.write_text(
        settings_with(
            projection="faceid",
            num_tokens=None,
            checkpoint="demo",
            face_pack=str(pack),
            dataset=str(painted),
            output=str(tmp_path / "out"),
            steps=2,
            batch_size=2,
            size=SIDE,
            precision="fp32",
        )
    )
    job, resume = read_arguments(["--config", str(config)])
    models = load_models(job.files)
    assert models.faces.recogniser == "w600k_r50"
    result = train_job(models, job, resume, Watcher(), OneProcess())
    assert result.finished
    assert result.adapter.config.recogniser == "w600k_r50"
    assert_says(warnings(caplog), "Left out", f"{FACELESS}: no face was found")
    assert "face embeddings" in capsys.readouterr().out
    (shard,) = (tmp_path / "out" / "cache").glob("shard-*.safetensors")
    known = torch.from_numpy(KNOWN).repeat_interleave(PICTURES, 0)
    known[1 * PICTURES + 1] = 0  # nothing of the picture without a face
    assert difference(load_file(shard)["face_embeds"], known) < 0.05


def test_a_pack_that_is_not_there(tmp_path):
    message = refusal(
        load_models, {"checkpoint": "demo", "face_pack": str(tmp_path / "no")}, kind=OSError
    )
    assert "does not hold" in message
