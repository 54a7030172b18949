"""Nodes: an identity as a file, REFERENCE_EMBEDS -> file -> REFERENCE_EMBEDS."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ...files.names import free_path, plain_name
from ...models.references import ReferenceEmbeds, load_references, save_references
from ..host.wires import CATEGORY, ReferenceEmbedsSocket

FOLDER = "ipadapter_references"


def references_directory() -> Path:
    """Where identities are written: output/references."""
    return Path(folder_paths.get_output_directory()) / "references"


def target_path(name: str, overwrite: bool) -> Path:
    """File for an identity of this name; a free one if it exists and must not be replaced.

    Raises:
        ValueError: the name is more than a plain file name.
    """
    return free_path(references_directory(), plain_name(name), overwrite)


class SaveReferences(io.ComfyNode):
    """Keep an encoded identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_SaveReferences",
            display_name="Save References",
            category=CATEGORY,
            description="Writes encoded references to output/references, to be used again "
            "without the pictures.",
            search_aliases=["save identity", "save ipadapter embeds", "reference file"],
            inputs=[
                ReferenceEmbedsSocket.Input(
                    "references", tooltip="From 'Encode Reference Images'."
                ),
                io.String.Input("name", default="identity", tooltip="File name without folder."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of this name; otherwise a number is added.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="references_file", tooltip="Name of the file that was written."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, references: ReferenceEmbeds, name: str, overwrite: bool = False
    ) -> io.NodeOutput:
        path = target_path(name, overwrite)
        save_references(references, path)
        return io.NodeOutput(path.name, ui={"text": [path.name]})


class LoadReferences(io.ComfyNode):
    """Use a kept identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_LoadReferences",
            display_name="Load References",
            category=CATEGORY,
            description="Reads references that 'Save References' wrote.",
            search_aliases=["load identity", "load ipadapter embeds", "reference file"],
            inputs=[
                io.Combo.Input(
                    "references_file",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File in output/references.",
                )
            ],
            outputs=[
                ReferenceEmbedsSocket.Output(
                    display_name="references",
                    tooltip="For 'Apply Multi-IPAdapter', with an adapter of the same encoder.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, references_file: str) -> str:
        """ComfyUI reads a file again when it was written again."""
        path = folder_paths.get_full_path(FOLDER, references_file)
        return f"{os.stat(path).st_mtime_ns}" if path else "missing"

    @classmethod
    def execute(cls, references_file: str) -> io.NodeOutput:
        return io.NodeOutput(
            load_references(folder_paths.get_full_path_or_raise(FOLDER, references_file))
        )
