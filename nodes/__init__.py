"""The ComfyUI side of the pack: its list of nodes, and what ComfyUI asks when it loads them."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.v0_0_2 import ComfyExtension, io

from ..files.names import SUFFIX
from .demo.models import DemoModels
from .demo.references import DemoReferences
from .evaluation.class_word import ClassWord
from .evaluation.evaluate import EvaluatePictures
from .evaluation.rank import RankPictures
from .evaluation.report import ReportFigures
from .evaluation.score import ScorePairs
from .evaluation.sweep import SweepMultiIPAdapter
from .faces.analysis import LoadFaceAnalysis
from .faces.prepare import PrepareFaces
from .host import folders
from .steering import reference_files
from .steering.apply import ApplyMultiIPAdapter
from .steering.encode import EncodeReferenceImages
from .steering.load import FOLDER, LoadMultiIPAdapter
from .steering.reference_files import LoadReferences, SaveReferences
from .training.dataset import ReferenceDataset
from .training.routes import add_routes
from .training.train import SaveMultiIPAdapter, TrainMultiIPAdapter


class MultiIPAdapterExtension(ComfyExtension):
    """What ComfyUI asks for the pack's folders, nodes and addresses."""

    async def on_load(self) -> None:
        """Register the folders before any schema lists their files."""
        add_routes()
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
        metrics = os.path.join(folder_paths.models_dir, folders.METRICS)
        _register(folders.METRICS, metrics, folder_paths.supported_pt_extensions)
        for path in (str(folders.evaluation_directory()), metrics):
            _register(folders.STATISTICS, path, {folders.STATISTICS_SUFFIX})

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The pack's nodes, in the order of their use."""
        return [
            LoadMultiIPAdapter,
            EncodeReferenceImages,
            ApplyMultiIPAdapter,
            SaveReferences,
            LoadReferences,
            LoadFaceAnalysis,
            PrepareFaces,
            ReferenceDataset,
            TrainMultiIPAdapter,
            SaveMultiIPAdapter,
            SweepMultiIPAdapter,
            EvaluatePictures,
            ReportFigures,
            ScorePairs,
            RankPictures,
            ClassWord,
            DemoModels,
            DemoReferences,
        ]


def _register(name: str, path: str, extensions: set[str]) -> None:
    """Add a model folder beside those that others have registered under the name."""
    folder_paths.add_model_folder_path(name, path)
    if not folder_paths.folder_names_and_paths[name][1]:
        # An empty set, as add_model_folder_path leaves it, would list files of every kind.
        folder_paths.folder_names_and_paths[name][1].update(extensions)
