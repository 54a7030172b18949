"""Choosing among generated pictures by several metrics, and the word for what they show."""

from __future__ import annotations

import shutil

import folder_paths
import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F
from transformers import CLIPModel

from multi_ipadapter.evaluation.class_words import rank_words, sentences_of
from multi_ipadapter.evaluation.loading import NetworkChoice
from multi_ipadapter.evaluation.networks.aesthetic import load_aesthetic
from multi_ipadapter.evaluation.networks.clip import load_clip
from multi_ipadapter.evaluation.networks.dino import load_dino
from multi_ipadapter.evaluation.networks.lpips import load_lpips
from multi_ipadapter.evaluation.ranking import mixed, parse_mix, scores_of
from multi_ipadapter.nodes.evaluation import rank as rank_node
from multi_ipadapter.nodes.evaluation.class_word import ClassWord
from multi_ipadapter.nodes.evaluation.evaluate import EvaluatePictures
from multi_ipadapter.nodes.evaluation.metric_networks import metric_networks
from multi_ipadapter.nodes.evaluation.rank import RankPictures
from multi_ipadapter.nodes.evaluation.score import ScorePairs
from multi_ipadapter.nodes.host.images import pixels_of

from .face_graphs import paint, write_pack
from .network_files import randomise
from .test_evaluation_nodes import batch
from .test_faces_prepare import FRONT, LARGE, OTHER, SHAPES, embeddings, scene
from .test_lpips import HEADS
from .test_transformer_networks import clip_config, dino_model


@pytest.fixture
def metrics(base, tmp_path):
    """ComfyUI's folders, with a CLIP of generated weights."""
    randomise(CLIPModel(clip_config())).save_pretrained(tmp_path / "clip-vit-base-patch32")
    folder_paths.add_model_folder_path("metrics", str(tmp_path))
    return base


# ---- a mix of metrics --------------------------------------------------------------------------


def test_a_mix_counts_each_metric_in_its_own_spread():
    found = {"identity": [0.1, 0.2, 0.3], "aesthetic": [600.0, 500.0, 400.0]}
    equal = mixed(found, {"identity": 1.0, "aesthetic": 1.0})
    assert equal == pytest.approx([0, 0, 0], abs=1e-9)
    by_identity = mixed(found, {"identity": 2.0, "aesthetic": 1.0})
    assert by_identity[2] > by_identity[1] > by_identity[0]
    assert by_identity[2] == pytest.approx((2 - 1) / 3 * 1.5**0.5)


def test_in_a_mix_a_distance_counts_downwards_and_a_constant_not_at_all():
    assert mixed({"lpips": [0.1, 0.9]}, {"lpips": 1.0}) == pytest.approx([1, -1])
    found = {"lpips": [0.1, 0.9], "dino": [0.5, 0.5]}
    assert mixed(found, {"lpips": 1.0, "dino": 1.0}) == pytest.approx([0.5, -0.5])


def test_what_hardly_differs_counts_hardly_in_a_mix():
    found = {"identity": [0.80001, 0.8], "aesthetic": [3.0, 7.0]}
    scores = mixed(found, {"identity": 5.0, "aesthetic": 1.0})
    assert scores[1] > scores[0]
    assert mixed({"dino": [0.0, 0.0]}, {"dino": 1.0}) == [0, 0]


def test_without_a_face_a_picture_is_left_out_of_a_mix():
    found = {"identity": [0.1, None, 0.3], "dino": [0.1, 0.9, 0.2]}
    scores = mixed(found, {"identity": 1.0, "dino": 1.0})
    assert scores[1] is None and scores[2] > scores[0]


@pytest.mark.parametrize(
    "text", ["identity 1, dino 0.5", "identity: 1\ndino: 0.5", " identity:1 ,, dino: .5,"]
)
def test_weights_of_a_mix_are_read(text):
    assert parse_mix(text) == {"identity": 1.0, "dino": 0.5}


@pytest.mark.parametrize("text", ["", "beauty: 1", "dino", "dino: 0", "dino: -1", "dino: inf"])
def test_wrong_weights_of_a_mix_are_refused(text):
    with pytest.raises(ValueError, match="weights"):
        parse_mix(text)


def test_lpips_without_targets_is_the_mean_distance_to_the_references():
    references = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)

    def measured(metrics, targets):
        if targets is None:
            return [[7.0, 8.0, 9.0] for _ in metrics]
        assert metrics == ["lpips"] and len(targets) == 3
        return [[i + float(targets[i, 0, 0, 0]) for i in range(3)]]

    found = scores_of(["lpips", "dino"], measured, references, None, 3)
    assert found == {"dino": [7.0, 8.0, 9.0], "lpips": [0.5, 1.5, 2.5]}

    def partly(metrics, targets):  # pairs that cannot be compared have none
        first = float(targets[0, 0, 0, 0]) == 0
        return [[0.4 if first else None, 0.2 if first else 0.6, None]]

    found = scores_of(["lpips"], partly, references, None, 3)
    assert found == {"lpips": [0.4, pytest.approx(0.4), None]}
    assert scores_of(["lpips"], measured, references, references[:1].expand(3, -1, -1, -1), 3) == {
        "lpips": [0.0, 1.0, 2.0]
    }


@pytest.mark.slow
def test_a_mix_ranks_pictures_and_takes_their_latents_along(metrics):
    images = batch(5)
    latents = {"samples": torch.arange(5).view(5, 1, 1, 1).float(), "batch_index": [9, 8, 7, 6, 5]}
    inputs = {"references": images[3:4], "prompt": "a cat", "latents": latents, "keep": 2}
    mix = "image_alignment: 1, text_alignment: 0.001"
    kept, latent, indices, scores, _ = RankPictures.execute(
        images, "mix", weights=mix, **inputs
    ).args
    assert indices[0] == 3 and scores[0] > scores[1]
    assert torch.equal(kept, images[indices])
    assert latent["samples"].flatten().tolist() == indices
    assert latent["batch_index"] == [9 - i for i in indices]
    other = RankPictures.execute(
        images, "mix", weights="image_alignment: 0.001, text_alignment: 1", **inputs
    ).args
    single = RankPictures.execute(images, "text_alignment", **inputs).args
    assert other[2] == single[2]


# ---- each metric on its network ----------------------------------------------------------------


@pytest.fixture(scope="module")
def every_network(tmp_path_factory):
    """Networks of generated weights, under the names that the catalogue expects."""
    folder = tmp_path_factory.mktemp("networks")
    vision = clip_config()
    randomise(CLIPModel(vision)).save_pretrained(folder / "clip-vit-base-patch32")
    predictor = torch.nn.Linear(vision.projection_dim, 1)
    torch.save(randomise(predictor).state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    dino_model("dino").save_pretrained(folder / "dino-vits16")
    with torch.device("meta"):
        layers = torchvision.models.alexnet(weights=None).features
    tensors = randomise(layers.to_empty(device="cpu")).state_dict()
    content = {f"features.{key}": value for key, value in tensors.items()}
    torch.save(content, folder / "alexnet-owt-7be5be79.pth")
    shutil.copy(HEADS / "alex.pth", folder / "lpips-alex.pth")
    return folder


@pytest.fixture
def networks(base, every_network):
    folder_paths.add_model_folder_path("metrics", str(every_network))
    return every_network


def ranked(images, metric, **inputs):
    """Indices, best first, and their scores."""
    return RankPictures.execute(images, metric, keep=len(images), **inputs).args[2:4]


def test_by_aesthetic_score(networks):
    images = batch(5)
    indices, scores = ranked(images, "aesthetic")
    clip, head = (
        load_clip(networks / "clip-vit-base-patch32"),
        load_aesthetic(networks / "sac+logos+ava1-l14-linearMSE.pth"),
    )
    wanted = head.score(clip(pixels_of(images))["image"])
    assert wanted.std() > 1e-3
    assert indices == wanted.argsort(descending=True).tolist()
    assert scores == pytest.approx(wanted[indices].tolist(), abs=1e-4)


def test_by_dino(networks):
    images, references = batch(5), batch(2, seed=9)
    indices, scores = ranked(images, "dino", references=references)
    network = load_dino(networks / "dino-vits16")
    a, b = (F.normalize(network(pixels_of(x))["cls"], dim=1) for x in (images, references))
    wanted = (a @ b.T).mean(1)
    assert wanted.std() > 1e-3
    assert indices == wanted.argsort(descending=True).tolist()
    assert scores == pytest.approx(wanted[indices].tolist(), abs=1e-4)


@pytest.mark.parametrize("given", ["references", "targets"])
def test_by_lpips_the_nearest_first(networks, given):
    images, others = batch(4, size=(64, 64)), batch(4, seed=7, size=(64, 64))
    network = load_lpips(networks / "alexnet-owt-7be5be79.pth", networks / "lpips-alex.pth")
    a, b = pixels_of(images), pixels_of(others)
    if given == "targets":
        wanted = network.distance(a, b)
    else:
        pairs = [network.distance(a, each[None].expand_as(a)) for each in b]
        wanted = torch.stack(pairs).mean(0)
    indices, scores = ranked(images, "lpips", **{given: others})
    assert wanted.std() > 1e-4
    assert indices == wanted.argsort().tolist()
    assert scores == pytest.approx(wanted[indices].tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_mix_of_all_three_networks(networks):
    images, references = batch(4, size=(64, 64)), batch(2, seed=7, size=(64, 64))
    inputs = {"references": references}
    alone = {name: ranked(images, name, **inputs) for name in ("aesthetic", "dino", "lpips")}
    found = {
        name: [scores[indices.index(i)] for i in range(4)]
        for name, (indices, scores) in alone.items()
    }
    shares = {"aesthetic": 1.0, "dino": 2.0, "lpips": 3.0}
    wanted = mixed(found, shares)
    text = ", ".join(f"{name}: {share}" for name, share in shares.items())
    indices, scores = ranked(images, "mix", weights=text, **inputs)
    assert scores == pytest.approx(sorted(wanted, reverse=True), abs=1e-3)
    assert indices == sorted(range(4), key=lambda i: -wanted[i])


@pytest.mark.parametrize("metric", ["lpips", "mix"])
def test_pictures_too_small_for_lpips_are_not_blamed_on_faces(networks, metric):
    tiny = batch(2, size=(16, 16))
    with pytest.raises(ValueError, match="LPIPS compares pictures of at least 31 pixels") as caught:
        RankPictures.execute(tiny, metric, references=tiny, weights="lpips: 1, dino: 1")
    assert "face" not in str(caught.value)


@pytest.mark.slow
def test_pictures_without_a_value_are_not_said_to_have_been_searched_for_faces(base):
    write_pack(base / "models" / "insightface" / "models" / "buffalo_l", SHAPES, embeddings())
    expected = "None of the 2 pictures can be scored: the metric has no value for any, as identity"
    inputs = {"references": _images(*_of_one_person(5)), "weights": "identity: 1"}
    for metric in ("identity", "mix"):
        with pytest.raises(ValueError, match=expected):
            RankPictures.execute(_images(scene(1), scene(2)), metric, **inputs)


def test_identity_reads_the_pack_that_the_face_nodes_read(base, monkeypatch):
    """In models/insightface, nothing in models/metrics; who has no face comes last and is told."""
    told = []
    monkeypatch.setattr(rank_node, "show_text", lambda cls, text: told.append(text))
    write_pack(base / "models" / "insightface" / "models" / "buffalo_l", SHAPES, embeddings())
    drawn = [scene(1, (64, 64, FRONT, OTHER)), scene(2), *_of_one_person(3, 4)]
    inputs = {"references": _images(*_of_one_person(5, 6)), "keep": 2}
    found = RankPictures.execute(_images(*drawn), "identity", **inputs).args
    kept, _, indices, scores, strip = found
    assert sorted(indices) == [2, 3] and min(scores) > 0.3
    assert told[0].splitlines()[-1] == "identity has no value for 1"
    assert strip.shape[2] > 4 * 192, "all four of them"
    assert torch.equal(kept, _images(*drawn)[indices])


@pytest.mark.slow
def test_identity_finds_close_ups_and_packs_wherever_the_face_nodes_do(base):
    """A nested antelopev2; a face that fills the picture, found at 128 pixels only."""
    names = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
    nested = base / "models" / "insightface" / "antelopev2" / "antelopev2"
    write_pack(nested, SHAPES, embeddings(), names)
    close = scene(1)
    paint(close, 32, 32, SHAPES[FRONT], FRONT, 1, zoom=5)
    close[160:320, np.arange(640) % 5 != 2, 0] = 0  # red for 128 pixels' eyes only
    drawn = [scene(2, (64, 64, FRONT, OTHER)), close]
    inputs = {"references": _images(*_of_one_person(5, 6)), "keep": 1}
    _, _, indices, scores, _ = RankPictures.execute(_images(*drawn), "identity", **inputs).args
    assert indices == [1] and scores[0] > 0.3
    pair = ScorePairs.execute(_images(close), _images(scene(3, (64, 64, FRONT, 1))), "identity")
    assert pair.args[0] == pytest.approx(1, abs=1e-5)
    generated, references = _images(close), _images(scene(3, (64, 64, FRONT, 1)))
    report = EvaluatePictures.execute(
        metrics="identity", generated_images=generated, reference_images=references
    ).args[0]
    assert report.points[0].values["identity"].value == pytest.approx(1, abs=1e-5)


def test_the_references_face_is_the_one_that_encode_reads(base):
    """In the middle of a square picture, as Prepare Faces cuts it out; a neighbour is larger."""
    write_pack(base / "models" / "insightface" / "models" / "buffalo_l", SHAPES, embeddings())
    drawn = _images(
        scene(1, (64, 64, FRONT, OTHER)), scene(2, (256, 256, FRONT, 7), (32, 32, LARGE, OTHER))
    )
    references = _images(scene(3, (256, 256, FRONT, 8), (32, 32, LARGE, OTHER + 1)))
    indices, scores = ranked(drawn, "identity", references=references)
    assert indices == [1, 0] and scores[0] > 0.3 > scores[1]


def _of_one_person(*seeds: int) -> list[np.ndarray]:
    return [scene(seed, (64, 64, FRONT, seed)) for seed in seeds]


def _images(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255


# ---- the word ----------------------------------------------------------------------------------


def test_the_word_is_the_one_with_the_highest_mean_cosine(metrics):
    images, words = batch(3), "girl, man, person"
    word, text = ClassWord.execute(images, words).args
    with metric_networks(["text_alignment"], NetworkChoice()) as (networks, _):
        network = networks["clip"]
        sentences = [f"a photo of a {w}" for w in ("girl", "man", "person")]
        cosines = F.normalize(network(pixels_of(images))["image"], dim=1) @ (
            F.normalize(network.text(sentences), dim=1).T
        )
    means = cosines.mean(0)
    assert word == ("girl", "man", "person")[int(means.argmax())]
    first = text.splitlines()[0].split(": ")
    assert first[0] == word and float(first[1]) == pytest.approx(means.max().item(), abs=1e-4)
    assert len(text.splitlines()) == 3


def test_words_are_ranked_by_their_mean_over_all_pictures():
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    ranked = rank_words(["a", "b"], images, torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert [x.word for x in ranked] == ["b", "a"]
    assert [x.similarity for x in ranked] == pytest.approx([2 / 3, 1 / 3])


def test_sentences_and_what_is_wrong_with_them():
    assert sentences_of(" cat ,\n big  dog,", "my {}!") == {
        "cat": "my cat!",
        "big dog": "my big dog!",
    }
    with pytest.raises(ValueError, match="no words"):
        sentences_of(" , ", "a {}")
    for template in ("a photo", "{} and {}"):
        with pytest.raises(ValueError, match="template"):
            sentences_of("cat", template)
