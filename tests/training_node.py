"""The training node with settings so small that a run takes a second."""

from __future__ import annotations

import torch

from multi_ipadapter.nodes.training.train import TrainMultiIPAdapter

from .people import SMALL, settings_with

SETTINGS = settings_with()


def train(models, dataset, name="run", settings=SETTINGS, **options):
    """The node's output."""
    return TrainMultiIPAdapter.execute(
        *models, dataset, name, settings=settings, **(SMALL | {"steps": 6} | options)
    )


def weights(loaded) -> dict[str, torch.Tensor]:
    """A copy of an adapter's tensors."""
    return {k: v.clone() for k, v in loaded.adapter.state_dict().items()}
