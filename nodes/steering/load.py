"""Node: adapter file -> MULTI_IPADAPTER."""

from __future__ import annotations

import os

import comfy.ops
import folder_paths
from comfy_api.v0_0_2 import io

from ...models.checkpoint import load_adapter
from ..host.wires import CATEGORY, MultiIPAdapterSocket
from .key_values import LoadedAdapter

FOLDER = "ipadapter"


class LoadMultiIPAdapter(io.ComfyNode):
    """Load an adapter from models/ipadapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Load",
            display_name="Load Multi-IPAdapter",
            category=CATEGORY,
            description="Loads an IP-Adapter file of any public family, or one trained here.",
            search_aliases=["ipadapter", "ip-adapter", "load ip adapter", "faceid", "instantid"],
            inputs=[
                io.Combo.Input(
                    "ipadapter_file",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File in models/ipadapter (.safetensors or .bin).",
                ),
                io.Combo.Input(
                    "faceid_plus",
                    options=["auto", "v1", "v2"],
                    default="auto",
                    optional=True,
                    tooltip="Version of a FaceID-Plus file, which cannot be seen from its tensors; "
                    "auto looks for 'plusv2' in the file name. Other files ignore it.",
                ),
            ],
            outputs=[
                MultiIPAdapterSocket.Output(
                    display_name="adapter",
                    tooltip="For 'Encode Reference Images' and 'Apply Multi-IPAdapter'.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ipadapter_file: str, faceid_plus: str = "auto") -> str:
        """ComfyUI reads a file again when it was written again."""
        path = folder_paths.get_full_path(FOLDER, ipadapter_file)
        return f"{os.stat(path).st_mtime_ns} {faceid_plus}" if path else "missing"

    @classmethod
    def execute(cls, ipadapter_file: str, faceid_plus: str = "auto") -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, ipadapter_file)
        adapter = load_adapter(path, comfy.ops.manual_cast, faceid_plus)
        return io.NodeOutput(LoadedAdapter(adapter, ipadapter_file))
