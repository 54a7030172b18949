"""The blueprint 'Multi-Image IP-Adapter', from the search to a picture, as a user takes it."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.demo.prompt import ADAPTER_FILE
from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_adapter

from .browser import front_end  # noqa: F401
from .graphs import difference, prompt_for, render, upload_portraits
from .test_browser_graph import search

NAME = "Multi-Image IP-Adapter"
ROOT = Path(__file__).parents[1]
TINY_FILE = "blueprint_tiny.safetensors"
BLOCK = "app.graph.nodes.find(node => node.isSubgraphNode?.())"
# Everything around the block, as in the prompt by hand. ComfyUI's loader reads no encoder as small
# as these models', so theirs takes its place in the block.
BUILD = """([type, pictures, file, [values, texts, latent]]) => {
    const block = BLOCK
    const make = (type, x, y, graph = app.graph) => {
        const node = LiteGraph.createNode(type)
        node.pos = [x, y]
        graph.add(node)
        return node
    }
    const set = (node, values) => {
        for (const [name, value] of Object.entries(values))
            node.widgets.find(widget => widget.name === name).value = value
        return node
    }
    block.pos = [420, 60]
    set(block, {ipadapter_file: file, weight: 0.6})
    const inside = block.subgraph
    const encode = inside.nodes.find(n => n.type === 'MultiIPAdapter_EncodeReferences')
    make(type, 0, 0, inside).connect(3, encode, 'clip_vision')

    const models = make(type, 60, 60)
    models.connect(0, block, 'model')
    pictures.forEach((name, i) => {
        const load = set(make('LoadImage', 60, 240 + 380 * i), {image: name})
        load.connect(0, block, `reference_image_${i}`)
    })
    const sampler = set(make('KSampler', 1200, 60), values)
    block.connect(0, sampler, 'model')
    for (const [i, name] of ['positive', 'negative'].entries()) {
        const text = set(make('CLIPTextEncode', 800, 60 + 240 * i), {text: texts[i]})
        models.connect(1, text, 'clip')
        text.connect(0, sampler, name)
    }
    set(make('EmptyLatentImage', 800, 560), latent).connect(0, sampler, 'latent_image')
    const decode = make('VAEDecode', 1500, 60)
    sampler.connect(0, decode, 'samples')
    models.connect(2, decode, 'vae')
    decode.connect(0, make('SaveImage', 1500, 200), 'images')
}""".replace("BLOCK", BLOCK)


@pytest.fixture(scope="module")
def adapter_files(server, sd15):
    """Names of the files that fit the demo's models and the tests' tiny ones."""
    tiny = build_adapter(DemoConfig(), sd15, 4)
    save_adapter(tiny.adapter, server.base / "models" / "ipadapter" / TINY_FILE)
    return {"MultiIPAdapter_Demo": ADAPTER_FILE, "TinyModels": TINY_FILE}


@pytest.fixture
def tab(adapter_files, front_end):  # noqa: F811
    """The tab with an empty canvas; nothing must go wrong in it during a test."""
    front_end.empty()
    front_end.errors.clear()
    yield front_end
    assert front_end.errors == []


def place(tab):
    """Take the blueprint out of the search."""
    search(tab, NAME).filter(has_text=NAME).first.click()
    tab.page.mouse.click(800, 500)  # newer front ends hang it on the pointer first
    tab.wait(f"() => Boolean({BLOCK})")


def newest_picture(client):
    """Pixels of the picture in the history's last entry."""
    *_, entry = client.get_json("/history").values()
    assert entry["status"]["status_str"] == "success"
    (picture,) = client.pictures(entry["outputs"])
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(np.int16)


def test_the_search_places_the_block(tab):
    place(tab)
    (path,) = (ROOT / "subgraphs").glob("*.json")
    (node,) = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert tab.run(f"() => {BLOCK}.title") == NAME
    slots = tab.run(f"() => {BLOCK}.inputs.map(input => input.name)")
    assert slots == [slot["name"] for slot in node["inputs"]]
    assert "face_analysis" in slots
    widgets = tab.run(f"() => {BLOCK}.widgets.map(widget => widget.name)")
    assert set(widgets) >= {slot["name"] for slot in node["inputs"] if "widget" in slot}


@pytest.mark.parametrize("models", ["MultiIPAdapter_Demo", "TinyModels"])
def test_the_block_steers_like_the_nodes_by_hand(tab, server, adapter_files, tmp_path, models):
    """With two of its four pictures, and neither a face analysis nor weights."""
    photos = upload_portraits(server.client, tmp_path, 2)
    by_hand = prompt_for(photos, weight=0.6)
    by_hand["models"]["class_type"] = models
    by_hand["adapter"]["inputs"]["ipadapter_file"] = adapter_files[models]
    without = copy.deepcopy(by_hand)
    without["steered"]["inputs"]["weight"] = 0.0
    expected, plain = (render(server.client, graph)[""] for graph in (by_hand, without))
    assert difference(expected, plain) > 0

    place(tab)
    sampler = {k: v for k, v in by_hand["sample"]["inputs"].items() if not isinstance(v, list)}
    texts = [by_hand[name]["inputs"]["text"] for name in ("positive", "negative")]
    values = [sampler, texts, by_hand["latent"]["inputs"]]
    tab.run(BUILD, [models, photos, adapter_files[models], values])
    prompt = tab.prompt()
    (inputs,) = (x["inputs"] for x in prompt.values() if "EncodeReferences" in x["class_type"])
    assert [name for name in inputs if name.startswith("reference_images.")] == [
        f"reference_images.reference_image_{i}" for i in range(2)
    ]
    tab.look_at("SaveImage")  # ComfyUI shows a picture where it is seen
    tab.press_run()
    tab.wait("() => app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.length")
    tab.run("async () => await app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    tab.page.wait_for_timeout(500)  # it moves there
    tab.shot(f"blueprint_{models}")
    assert difference(expected, newest_picture(server.client)) == 0
