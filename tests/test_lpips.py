"""LPIPS gives torchmetrics' distances with the same backbone and the authors' own heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchmetrics
import torchvision
from torchmetrics.functional.image.lpips import _LPIPS

from multi_ipadapter.evaluation.networks.lpips import load_lpips

from .network_files import pictures, randomise, sha256

# The published heads; they come with torchmetrics.
HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"
BACKBONES = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}
EVERY_KIND = pytest.mark.parametrize("kind", BACKBONES)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """torchvision's files, with one tensor of the classifier that LPIPS does not need."""
    folder, paths = tmp_path_factory.mktemp("backbones"), {}
    for kind, build in BACKBONES.items():
        with torch.device("meta"):
            layers = build(weights=None).features
        tensors = randomise(layers.to_empty(device="cpu")).state_dict()
        content = {f"features.{key}": value for key, value in tensors.items()}
        paths[kind] = folder / f"{kind}.pth"
        torch.save(content | {"classifier.6.bias": torch.zeros(1000)}, paths[kind])
    return paths


@pytest.fixture(scope="module")
def networks(backbones):
    return {kind: load_lpips(path, HEADS / f"{kind}.pth") for kind, path in backbones.items()}


def oracle(kind: str, backbone: Path) -> _LPIPS:
    """torchmetrics' network, its heads from its wheel, its backbone from our file."""
    network = _LPIPS(pretrained=True, net=kind, pnet_rand=True)
    tensors = torch.load(backbone, weights_only=True)
    keys = network.net.state_dict()
    # slice2.5.weight is torchvision's features.5.weight
    network.net.load_state_dict({k: tensors["features." + k.partition(".")[2]] for k in keys})
    return network


@EVERY_KIND
@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_distances_are_torchmetrics(kind, size, networks, backbones):
    a, b = pictures(3, *size, seed=1), pictures(3, *size, seed=2)
    expected = oracle(kind, backbones[kind])(a / 255, b / 255, normalize=True).flatten()
    got = networks[kind].distance(a, b)
    assert got.shape == (3,) and got.dtype == torch.float32
    assert expected.min() > 0.01
    assert (got - expected).abs().max() <= 1e-5


@EVERY_KIND
def test_a_picture_has_no_distance_to_itself(kind, networks):
    a = pictures(2, 48, 48)
    assert torch.equal(networks[kind].distance(a, a), torch.zeros(2))


@EVERY_KIND
def test_features_serve_for_many_pairs(kind, networks):
    pixels = pictures(3, 56, 72)
    features = networks[kind].features(pixels)
    assert len(features) == 5
    first = tuple(layer[:1] for layer in features)
    expected = torch.cat([networks[kind].distance(pixels[:1], row[None]) for row in pixels])
    assert torch.allclose(networks[kind].between(first, features), expected, atol=1e-6)


@EVERY_KIND
def test_the_network_says_what_its_distances_depend_on(kind, networks, backbones):
    network = networks[kind]
    assert network.name == f"lpips-{kind}" and network.resize == "none"
    assert network.weights == f"{sha256(backbones[kind])}+{sha256(HEADS / f'{kind}.pth')}"


def test_pictures_of_different_sizes_are_refused(networks):
    network = networks["alex"]
    with pytest.raises(ValueError, match=r"Got pictures of \[64, 64\] and \[64, 80\]"):
        network.distance(pictures(1, 64, 64), pictures(1, 64, 80))
    features = [network.features(pictures(1, 64, width)) for width in (64, 128)]
    with pytest.raises(ValueError, match="Bring them to one size first"):
        network.between(*features)


@EVERY_KIND
def test_the_smallest_pictures_work_and_smaller_ones_are_refused(kind, networks):
    network = networks[kind]
    least = network.smallest
    assert network.distance(*(pictures(1, least, least, seed=s) for s in (1, 2))).isfinite().all()
    with pytest.raises(ValueError, match=f"{least - 1} x {least} pixels; .* at least {least}"):
        network.features(pictures(1, least, least - 1))


def test_heads_of_the_other_backbone_are_refused(backbones):
    with pytest.raises(ValueError, match=r"alex.pth does not fit the backbone, vgg: lin1"):
        load_lpips(backbones["vgg"], HEADS / "alex.pth")
    with pytest.raises(ValueError, match="squeeze.pth is not the LPIPS heads of alex"):
        load_lpips(backbones["alex"], HEADS / "squeeze.pth")


def test_heads_in_place_of_the_backbone_are_refused():
    with pytest.raises(ValueError, match="vgg.pth is not torchvision's VGG16 or AlexNet"):
        load_lpips(HEADS / "vgg.pth", HEADS / "vgg.pth")
