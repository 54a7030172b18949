"""What saved graphs and API prompts hold of a node; `node_contracts.json` is the frozen state.

After adding a node, an input or a choice: `python -m multi_ipadapter.tests.contracts`, with
COMFYUI_PATH set, writes the file again. In its diff nothing may go, move or change but a bound that
widens; what comes into "required" of a node that is there already breaks its saved graphs.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from multi_ipadapter.runs.comfyui import prepare_comfyui

FROZEN = Path(__file__).with_name("node_contracts.json")
# Their choices are a user's files, or lists that ComfyUI keeps.
OPEN = ("ipadapter_file", "references_file", "start_from", "statistics")
OPEN += ("sampler_name", "scheduler")
_LOOKS = ("tooltip", "step", "round", "multiline")  # an input is the same with another one

Contract = dict[str, dict[str, Any]]


def contract(node: type) -> Contract:
    """Inputs, as ComfyUI groups them, and outputs of a node: what each one is by its name."""
    info = node.GET_NODE_INFO_V1()
    inputs = {
        group: {name: _input(name, *spec) for name, spec in info["input"].get(group, {}).items()}
        for group in ("required", "optional")
    }
    outputs = zip(info["output"], info["output_is_list"], strict=True)
    said = [f"list of {kind}" if several else kind for kind, several in outputs]
    return {**inputs, "outputs": dict(zip(info["output_name"], said, strict=True))}


def _input(name: str, kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Its type and options; a flag that is not set is as good as none."""
    kept = {key: value for key, value in options.items() if key not in _LOOKS}
    if name in OPEN:
        kept.pop("options", None)
    if "template" in kept:  # of an input that grows
        template = kept.pop("template")
        ((slot_kind, _),) = template["input"]["required"].values()
        kept |= {"of": slot_kind, **{key: template[key] for key in ("prefix", "min", "max")}}
    flags = {key for key, value in kept.items() if value is False and key != "default"}
    return {"type": kind, **{key: value for key, value in kept.items() if key not in flags}}


def written(value: Any, depth: int = 3, indent: str = "") -> str:
    """JSON with a line for whatever lies `depth` levels deep."""
    if depth == 0 or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + "  "
    entries = [
        f"{inner}{json.dumps(key)}: {written(entry, depth - 1, inner)}"
        for key, entry in value.items()
    ]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def load_pack() -> list[type]:
    """The node classes, as ComfyUI gets them."""
    from multi_ipadapter.nodes import MultiIPAdapterExtension  # once ComfyUI is on the path

    extension = MultiIPAdapterExtension()
    asyncio.run(extension.on_load())
    return asyncio.run(extension.get_node_list())


def main() -> None:
    """Freeze the nodes as they are."""
    prepare_comfyui()
    contracts = {node.GET_SCHEMA().node_id: contract(node) for node in load_pack()}
    FROZEN.write_text(written(contracts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
