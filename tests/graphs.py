"""Prompts for the tests that go through a server: branches that share their models, and files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from multi_ipadapter.demo.prompt import demo_prompt, node
from multi_ipadapter.demo_world.people import write_references
from multi_ipadapter.models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.models.projection import ProjectionConfig

SMALL = {"size": 64, "steps": 2}
_BRANCH = ("references", "steered", "sample", "decode", "save")


def prompt_for(pictures: Sequence[str], weight: float = 1.0, **settings) -> dict[str, Any]:
    """The demo's prompt, small enough to run in about a second."""
    return demo_prompt(pictures, weight, **(SMALL | settings))


def upload_portraits(client, folder: Path, count: int) -> list[str]:
    """Names of the uploaded pictures of so many people of the demo world."""
    paths = []
    for identity in range(count):
        paths += write_references(folder / str(identity), identity, 1)
        paths[-1] = paths[-1].rename(folder / f"person_{identity}.png")
    return [client.upload(path) for path in paths]


def branches(**prompts: dict[str, Any]) -> dict[str, Any]:
    """One graph of several prompts that have the same models and texts; pictures keep the names."""
    graph: dict[str, Any] = {}
    for name, prompt in prompts.items():
        own = {
            key: f"{name}_{key}" for key in prompt if key in _BRANCH or key.startswith("picture")
        }
        for key, entry in prompt.items():
            inputs = {
                k: [own.get(v[0], v[0]), v[1]] if isinstance(v, list) else v
                for k, v in entry["inputs"].items()
            }
            graph[own.get(key, key)] = node(entry["class_type"], **inputs)
    return graph


def with_inputs(prompt: dict[str, Any], key: str, **inputs: Any) -> dict[str, Any]:
    """The prompt with some inputs of one node changed; None removes one."""
    values = prompt[key]["inputs"] | inputs
    changed = node(prompt[key]["class_type"], **{k: v for k, v in values.items() if v is not None})
    return prompt | {key: changed}


def render(client, graph: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run a graph; pixels [H, W, 3] (int16, so that they can be subtracted) by branch."""
    outputs = client.run(graph)
    return {
        key.removesuffix("save").rstrip("_"): _pixels(client.pictures({key: output})[0])
        for key, output in outputs.items()
        if graph[key]["class_type"] == "SaveImage"
    }


def _pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(np.int16)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference of two pictures, of 255."""
    return int(np.abs(a - b).max())


def write_adapter_like(path, layers: int, context_dim: int, input_dim: int) -> None:
    """A base adapter with narrow layers of this family."""
    projection = ProjectionConfig("linear", 4, context_dim, input_dim=input_dim)
    save_adapter(MultiIPAdapter(MultiIPAdapterConfig(projection, (8,) * layers)), path)


class _Touch:
    """Unpickling this creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def write_pickle_with_code(path, marker, content: Mapping[str, Any]) -> None:
    """A `.bin` that would create the file `marker` when unpickled carelessly."""
    torch.save({**content, "extra": _Touch(marker)}, path)
