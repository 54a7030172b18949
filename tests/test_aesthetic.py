"""Aesthetic scores are those of LAION's layers on unit features."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from multi_ipadapter.evaluation.networks.aesthetic import load_aesthetic

from .network_files import randomise, sha256


def second_version() -> nn.Module:
    """The published layers: no activations; the dropouts take numbers 1, 3 and 5."""
    widths = (768, 1024, 128, 64, 16, 1)
    linear = [nn.Linear(i, o) for i, o in zip(widths, widths[1:], strict=False)]
    dropouts = [nn.Dropout(0.2), nn.Dropout(0.2), nn.Dropout(0.1)]
    a, b, c, d, e = linear
    layers = nn.Sequential(a, dropouts[0], b, dropouts[1], c, dropouts[2], d, e)
    return nn.ModuleDict({"layers": layers})


@pytest.mark.parametrize(
    ("name", "module", "width"),
    [
        ("aesthetic-v1", nn.Linear(768, 1), 768),
        ("aesthetic-v1", nn.Linear(512, 1), 512),
        ("aesthetic-v2", second_version(), 768),
    ],
)
def test_scores_are_those_of_the_layers(name, module, width, tmp_path):
    path = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save(randomise(module).state_dict(), path)
    network = load_aesthetic(path)
    features = 9 * torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    layers = module["layers"] if isinstance(module, nn.ModuleDict) else module
    expected = layers(features / features.norm(dim=1, keepdim=True))[:, 0]
    assert (network.name, network.width, network.weights) == (name, width, sha256(path))
    scores = network.score(features)
    assert scores.dtype == torch.float32 and scores.shape == (5,)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.allclose(network.score(3 * features), scores, atol=1e-5)


def test_features_of_another_clip_are_refused(tmp_path):
    torch.save(nn.Linear(768, 1).state_dict(), tmp_path / "a.pth")
    network = load_aesthetic(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"shape \[2, 512\]; .*\[B, 768\] \(CLIP ViT-L/14\)"):
        network.score(torch.zeros(2, 512))


def test_the_variant_with_activations_is_refused(tmp_path):
    """Its layers are numbered 0, 3, 6, 9, 11; without the activations its scores are wrong."""
    tensors = {
        f"layers.{n}.{kind}": torch.zeros(1)
        for n in (0, 3, 6, 9, 11)
        for kind in ("weight", "bias")
    }
    save_file(tensors, tmp_path / "relu.safetensors")
    with pytest.raises(ValueError, match="relu.safetensors is not a linear aesthetic predictor"):
        load_aesthetic(tmp_path / "relu.safetensors")


def test_layers_that_do_not_follow_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2, 768), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"\[\[2, 768\]\], which do not lead to one score"):
        load_aesthetic(tmp_path / "a.safetensors")
