"""What the schemas tell the front end about each node, for tests of help and translations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import folder_paths
import pytest

from multi_ipadapter.nodes import MultiIPAdapterExtension

AUTOGROW = "COMFY_AUTOGROW_V3"


class Slot(NamedTuple):
    """An input or output.

    Attributes:
        options: what the schema says of it besides: default, bounds, choices.
        first: name of the first socket of an input that grows, else empty.
    """

    name: str
    type: str
    tooltip: str
    required: bool = True
    options: Mapping[str, Any] = MappingProxyType({})
    first: str = ""


class Documented(NamedTuple):
    """A node as it is explained to the user."""

    name: str
    description: str
    aliases: tuple[str, ...]
    category: str
    inputs: dict[str, Slot]
    outputs: list[Slot]


def documented_nodes() -> dict[str, Documented]:
    """All nodes of the pack by id, in their order; ComfyUI's table of folders stays as it was."""
    with pytest.MonkeyPatch.context() as patch:
        table = dict(folder_paths.folder_names_and_paths)
        patch.setattr(folder_paths, "folder_names_and_paths", table)
        extension = MultiIPAdapterExtension()
        asyncio.run(extension.on_load())
        nodes = asyncio.run(extension.get_node_list())
        return {node.GET_SCHEMA().node_id: _documented(node.GET_NODE_INFO_V1()) for node in nodes}


def _documented(info: dict[str, Any]) -> Documented:
    inputs = [
        _input(name, *spec, required=group == "required")
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    ]
    outputs = zip(info["output_name"], info["output"], info["output_tooltips"], strict=True)
    return Documented(
        info["display_name"],
        info["description"],
        tuple(info["search_aliases"] or ()),
        info["category"],
        {slot.name: slot for slot in inputs},
        [Slot(name, kind, tooltip or "") for name, kind, tooltip in outputs],
    )


def _input(name: str, kind: str, options: dict[str, Any], *, required: bool) -> Slot:
    first = f"{name}.{options['template']['prefix']}0" if kind == AUTOGROW else ""
    return Slot(name, kind, options.get("tooltip") or "", required, options, first)
