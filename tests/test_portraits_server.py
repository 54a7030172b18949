"""The portrait workflows through a real ComfyUI server: messy folders to the best pictures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy.t2i_adapter.adapter import Adapter
from comfy.taesd.taesd import TAESD
from PIL import Image
from safetensors.torch import save_file
from spandrel import ModelLoader

from multi_ipadapter.demo.prompt import node
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig

from .face_graphs import write_pack
from .graphs import with_inputs
from .network_files import randomise
from .test_faces_prepare import FRONT, LARGE, OTHER, SHAPES, THIRD, embeddings, messy, scene

PROMPTS = Path(__file__).parents[1] / "workflows" / "api"
# Outputs of the tiny models that stand for the first output of these.
STAND_INS = {"CheckpointLoaderSimple": 0, "CLIPVisionLoader": 3, "MultiIPAdapter_Load": 4}
LATENT = {"width": 64, "height": 80, "batch_size": 4}


@pytest.fixture(scope="module")
def world(server):
    """The server with a face pack, folders of people, and small files under the published names.

    Returns:
        The upscaler as spandrel reads it.
    """
    models, pictures = server.base / "models", server.base / "input"
    pack = write_pack(models / "insightface" / "models" / "buffalo_l", SHAPES, embeddings())
    for name, image in messy().items():
        _save(image, pictures / "person" / f"{name}.png")
    (pictures / "person" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for name, first in (("left_person", 0), ("right_person", OTHER), ("another", THIRD)):
        for i, shape in enumerate((FRONT, LARGE, FRONT)):
            _save(scene(first + i, (64, 64, shape, first + i)), pictures / name / f"{i}.png")
    _write_pose_models(models)
    yield _write_upscaler(models / "upscale_models" / "RealESRGAN_x2plus.pth")
    shutil.rmtree(pack)


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _write_upscaler(path: Path):
    """Real-ESRGAN's layout for twice the size, with 8 channels and one block."""
    width, growth = 8, 32
    into = {"conv_first": (3 * 4, width), "conv_last": (width, 3)}
    into |= {f"conv_{name}": (width, width) for name in ("body", "up1", "up2", "hr")}
    for block in (1, 2, 3):
        for i in range(5):
            name = f"body.0.rdb{block}.conv{i + 1}"
            into[name] = (width + i * growth, growth if i < 4 else width)
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (source, target) in into.items():
        weight = torch.randn(target, source, 3, 3, generator=random)
        tensors[f"{name}.weight"] = weight / (9 * source) ** 0.5
        tensors[f"{name}.bias"] = torch.zeros(target)
    tensors["conv_last.bias"] += 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params_ema": tensors}, path)
    model = ModelLoader().load_from_file(path)
    assert (model.architecture.id, model.scale) == ("ESRGAN", 2)
    return model


def _write_pose_models(models: Path) -> None:
    """A control network with the tiny UNet's channels, and an autoencoder, as core knows them."""
    torch.manual_seed(1)
    width = DemoConfig().unet["model_channels"]
    channels = [width, 2 * width, 4 * width, 4 * width]
    control = Adapter(channels=channels, nums_rb=2, cin=3 * 64, ksize=1, sk=True, use_conv=False)
    (models / "controlnet").mkdir(parents=True, exist_ok=True)
    path = models / "controlnet" / "control_v11p_sd15_openpose_fp16.safetensors"
    save_file(randomise(control).state_dict(), path)
    (models / "vae").mkdir(parents=True, exist_ok=True)
    vae = randomise(TAESD(latent_channels=DemoConfig().channels)).state_dict()
    path = models / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors"
    save_file({k: torch.as_tensor(v) for k, v in vae.items()}, path)


def shipped(name: str, **latent) -> dict:
    """An example prompt as it is, but with tiny models, few steps and small pictures."""
    prompt = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
    place = {
        key: STAND_INS[x["class_type"]] for key, x in prompt.items() if x["class_type"] in STAND_INS
    }
    assert len(place) == len(STAND_INS)
    changes = {"EmptyLatentImage": LATENT | latent, "KSampler": {"steps": 2}}
    graph = {"demo": node("TinyModels")}
    for key, x in prompt.items():
        if key not in place:
            inputs = {
                name: ["demo", place[value[0]] + value[1]]
                if isinstance(value, list) and value[0] in place
                else value
                for name, value in x["inputs"].items()
            }
            graph[key] = node(x["class_type"], **(inputs | changes.get(x["class_type"], {})))
    return graph


def only(graph: dict, kind: str, **inputs) -> str:
    """The key of the only node of this kind with these inputs."""
    (key,) = [
        key
        for key, x in graph.items()
        if x["class_type"] == kind and inputs.items() <= x["inputs"].items()
    ]
    return key


def pixels(server, outputs: dict, key: str) -> list[np.ndarray]:
    """Pictures that a node has saved, [H, W, 3]."""
    files = server.client.pictures({key: outputs[key]})
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.float32) for file in files]


def save(source: list, prefix: str) -> dict:
    return node("SaveImage", images=source, filename_prefix=prefix)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Largest, in grey levels."""
    return float(np.abs(first - second).max())


def test_a_messy_folder_becomes_a_ranked_sheet_and_the_best_enlarged(server, world):
    graph = shipped("portrait")
    prepare, rank = only(graph, "MultiIPAdapter_PrepareFaces"), only(graph, "MultiIPAdapter_Rank")
    best = only(graph, "SaveImage", filename_prefix="portrait/best")
    sheet = only(graph, "SaveImage", filename_prefix="portrait/ranked")
    graph["report"] = node("PreviewAny", source=[prepare, 4])
    graph["drawn"] = save(graph[rank]["inputs"]["images"], "drawn")
    graph["kept"] = save([rank, 0], "kept")
    outputs = server.client.run(graph)

    (report,) = outputs["report"]["text"]
    assert report.startswith("4 of 9 pictures kept.")
    for line in (
        "copy.png: left out, near-duplicate of large.png",
        "empty.png: left out, no face found",
        "stranger.png: left out, another person",
        "torn.jpg: left out, cannot be read",
    ):
        assert line in report
    drawn, kept = pixels(server, outputs, "drawn"), pixels(server, outputs, "kept")
    assert (len(drawn), len(kept)) == (4, graph[rank]["inputs"]["keep"])
    places = [[i for i, x in enumerate(drawn) if np.array_equal(x, one)] for one in kept]
    assert all(len(place) == 1 for place in places) and places[0] != places[1]
    enlarged = pixels(server, outputs, best)
    assert [x.shape for x in enlarged] == [(2 * h, 2 * w, 3) for h, w, _ in (x.shape for x in kept)]
    for small, large in zip(kept, enlarged, strict=True):
        given = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
        wanted = world(given)[0].clamp(0, 1).permute(1, 2, 0) * 255
        assert wanted.std() > 5 and difference(large, wanted.numpy()) < 3
    (ranked,) = pixels(server, outputs, sheet)
    assert ranked.shape[1] > ranked.shape[0] and ranked.std() > 10


def test_two_people_each_have_a_half_of_the_picture(server, world):
    graph = shipped("two_people", width=96, height=64, batch_size=1)
    drawn = only(graph, "SaveImage")
    masks = {}
    for side in ("left", "right"):
        faces = only(graph, "MultiIPAdapter_PrepareFaces", folder=f"{side}_person")
        (embeds,) = [
            key
            for key, x in graph.items()
            if x["inputs"].get("reference_images.reference_image_0") == [faces, 0]
        ]
        apply = only(graph, "MultiIPAdapter_Apply", references=[embeds, 0])
        masks[side] = (faces, graph[apply]["inputs"]["mask"])
    for side, (_, mask) in masks.items():
        graph[f"{side}_mask"] = node("MaskToImage", mask=mask)
        graph[side] = save([f"{side}_mask", 0], side)
    outputs = server.client.run(graph)
    (both,) = pixels(server, outputs, drawn)
    left, right = (pixels(server, outputs, side)[0] for side in masks)
    middle = left.shape[1] // 2
    assert (left[:, :middle] == 255).all() and not left[:, middle:].any()
    assert np.array_equal(right, 255 - left)
    for faces, _ in masks.values():
        other = with_inputs(graph, faces, folder="another")
        assert difference(pixels(server, server.client.run(other), drawn)[0], both) > 5


def test_a_pose_picture_and_another_vae_act(server, world):
    graph = shipped("portrait_pose", batch_size=2)
    decode, pose = only(graph, "VAEDecode"), only(graph, "LoadImage")
    graph["drawn"] = save([decode, 0], "posed")
    _save(messy()["large"], server.base / "input" / "another_pose.png")
    outputs = server.client.run(graph)
    best = only(graph, "SaveImage", filename_prefix="portrait_pose/best")
    first = pixels(server, outputs, "drawn")
    assert [x.shape[:2] for x in pixels(server, outputs, best)] == [(160, 128)] * 2
    posed = with_inputs(graph, pose, image="another_pose.png")
    assert difference(first[0], pixels(server, server.client.run(posed), "drawn")[0]) > 5
    own = with_inputs(graph, decode, vae=["demo", 2])
    assert difference(first[0], pixels(server, server.client.run(own), "drawn")[0]) > 5
