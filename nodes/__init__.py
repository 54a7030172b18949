"""The ComfyUI side of the pack: the only folder that imports ComfyUI."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.v0_0_2 import ComfyExtension, io

from . import reference_files
from .apply import ApplyMultiIPAdapter
from .dataset import ReferenceDataset
from .demo import DemoModels
from .encode import EncodeReferenceImages
from .load import FOLDER, LoadMultiIPAdapter
from .names import SUFFIX
from .reference_files import LoadReferences, SaveReferences
from .train import SaveMultiIPAdapter, TrainMultiIPAdapter


class MultiIPAdapterExtension(ComfyExtension):
    """What ComfyUI asks for the pack's folders and nodes."""

    async def on_load(self) -> None:
        """Register the folders before any schema lists their files."""
        _register(
            FOLDER,
            os.path.join(folder_paths.models_dir, FOLDER),
            folder_paths.supported_pt_extensions,
        )
        _register(
            reference_files.FOLDER,
            str(reference_files.references_directory()),
            {SUFFIX},
        )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The pack's nodes, in the order of their use."""
        return [
            LoadMultiIPAdapter,
            EncodeReferenceImages,
            ApplyMultiIPAdapter,
            SaveReferences,
            LoadReferences,
            ReferenceDataset,
            TrainMultiIPAdapter,
            SaveMultiIPAdapter,
            DemoModels,
        ]


def _register(name: str, path: str, extensions: set[str]) -> None:
    """Add a model folder beside those that others have registered under the name."""
    folder_paths.add_model_folder_path(name, path)
    if not folder_paths.folder_names_and_paths[name][1]:
        # An empty set, as add_model_folder_path leaves it, would list files of every kind.
        folder_paths.folder_names_and_paths[name][1].update(extensions)
