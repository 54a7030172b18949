"""CLIP, DINO and DINOv2 give what transformers computes, from files in the published layouts."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from multi_ipadapter.evaluation.networks.clip import load_clip
from multi_ipadapter.evaluation.networks.dino import load_dino

from .conftest import COMFYUI_PATH
from .network_files import as_array, pictures, randomise, sha256

TOKENIZER = Path(COMFYUI_PATH) / "comfy" / "sd1_tokenizer"
VIT = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 128}
TEXTS = ["a photo of a person", "a photo of a person on the moon, " + "very " * 90 + "far away"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something wanted to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def clip_config(activation: str = "quick_gelu") -> CLIPConfig:
    vision = VIT | {"patch_size": 32, "intermediate_size": 256, "hidden_act": activation}
    text = {"num_hidden_layers": 2, "num_attention_heads": 1, "hidden_size": 64}
    text |= {"intermediate_size": 128, "hidden_act": activation}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)


def saved(model, folder: Path) -> Path:
    """Saved as published: model.safetensors and config.json."""
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_model():
    return randomise(CLIPModel(clip_config()))


@pytest.fixture(scope="module")
def clip_folder(clip_model, tmp_path_factory):
    return saved(clip_model, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(clip_folder):
    """From the one file, so that the sizes are read off the tensors."""
    alone = clip_folder / "alone"
    alone.mkdir()
    file = shutil.copy(clip_folder / "model.safetensors", alone / "clip.safetensors")
    return load_clip(file, TOKENIZER)


def images(pixels: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(as_array(row)) for row in pixels]


def pil_processor(name: str, **options):
    """transformers' image processor on PIL; version 5 has it under a name of its own."""
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind(**options)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def direct(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def clip_images(model, pixels: torch.Tensor) -> torch.Tensor:
    inputs = pil_processor("CLIPImageProcessor")(images(pixels), return_tensors="pt")
    return direct(model.get_image_features(**inputs))


def clip_texts(model, texts: list[str]) -> torch.Tensor:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(TOKENIZER)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    return direct(model.get_text_features(**inputs))


def test_clip_features_are_transformers(clip, clip_model):
    pixels = pictures(3, 224, 300)
    expected = clip_images(clip_model, pixels)
    got = clip(pixels)
    assert got.keys() == clip.outputs.keys() and got["image"].shape == (3, clip.outputs["image"])
    assert got["image"].dtype == torch.float32
    assert relative(got["image"], expected) <= 1e-5
    assert relative(clip.text(TEXTS), clip_texts(clip_model, TEXTS)) <= 1e-5


def test_alignment_scores_from_resized_pictures_are_transformers(clip, clip_model):
    def unit(features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(features, dim=1)

    pixels = pictures(4, 512, 640)
    ours, theirs = unit(clip(pixels)["image"]), unit(clip_images(clip_model, pixels))
    our_texts, their_texts = unit(clip.text(TEXTS)), unit(clip_texts(clip_model, TEXTS))
    assert (ours @ ours.T - theirs @ theirs.T).abs().max() <= 1e-5
    assert (ours @ our_texts.T - theirs @ their_texts.T).abs().max() <= 1e-5


def test_many_texts_give_what_they_give_alone(clip):
    texts = [f"a photo of {number} people" for number in range(300)]
    together = clip.text(texts)
    assert together.shape == (300, 48)
    alone = torch.cat([clip.text([texts[number]]) for number in (0, 255, 256, 299)])
    assert relative(together[[0, 255, 256, 299]], alone) <= 1e-5


def test_a_folder_with_a_config_gives_the_same(clip, clip_folder):
    network = load_clip(clip_folder)
    pixels = pictures(1, 64, 64)
    assert torch.equal(network(pixels)["image"], clip(pixels)["image"])
    assert clip.weights == sha256(clip_folder / "model.safetensors")
    assert network.weights == f"{clip.weights}+{sha256(clip_folder / 'config.json')}"
    assert clip.name == "clip-vit-128-32" and clip.resize == "clip-224"


def test_the_config_beside_the_file_decides_the_activation(clip, tmp_path):
    """Models of OpenCLIP have the shapes of OpenAI's and another activation."""
    model = randomise(CLIPModel(clip_config("gelu")))
    network = load_clip(saved(model, tmp_path))
    pixels = pictures(2, 224, 224)
    expected = clip_images(model, pixels)
    assert relative(network(pixels)["image"], expected) <= 1e-5
    assert relative(clip(pixels)["image"], expected) > 1e-3


def test_a_changed_config_makes_other_features(clip_folder, tmp_path):
    """Those in a store were computed with the old one."""
    shutil.copytree(clip_folder, tmp_path / "clip")
    before = load_clip(tmp_path / "clip").weights
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    assert load_clip(tmp_path / "clip").weights != before


def test_a_file_among_others_does_not_take_their_config(clip, clip_folder, tmp_path):
    shutil.copy(clip_folder / "model.safetensors", tmp_path / "clip-vit-base-patch32.safetensors")
    config = json.loads((clip_folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = load_clip(tmp_path / "clip-vit-base-patch32.safetensors")
    pixels = pictures(1, 64, 64)
    assert torch.equal(network(pixels)["image"], clip(pixels)["image"])
    assert network.weights == clip.weights


def test_a_config_of_another_model_is_not_followed(clip, clip_folder, tmp_path):
    shutil.copy(clip_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 5}))
    pixels = pictures(1, 64, 64)
    network = load_clip(tmp_path / "model.safetensors")
    assert torch.equal(network(pixels)["image"], clip(pixels)["image"])


def test_half_precision_files_run_in_float32(clip_folder, tmp_path):
    halves = {k: v.half() for k, v in load_file(clip_folder / "model.safetensors").items()}
    torch.save(halves, tmp_path / "pytorch_model.bin")
    config = json.loads((clip_folder / "config.json").read_text())
    config |= {"torch_dtype": "float16", "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = load_clip(tmp_path)
    assert {p.dtype for p in network.model.parameters()} == {torch.float32}
    assert network(pictures(1, 50, 50))["image"].dtype == torch.float32


@pytest.mark.parametrize("missing", ["text_projection.weight", "visual_projection.weight"])
def test_a_clip_model_without_a_projection_is_refused(missing, clip_folder, tmp_path):
    tensors = load_file(clip_folder / "model.safetensors")
    del tensors[missing]
    save_file(tensors, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="half.safetensors is not a whole CLIP model") as error:
        load_clip(tmp_path / "half.safetensors")
    assert missing in str(error.value)


def test_a_misshapen_tensor_is_named(clip_folder, tmp_path):
    tensors = load_file(clip_folder / "model.safetensors")
    tensors["text_projection.weight"] = torch.zeros(3, 3)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"text_projection.weight has shape \[3, 3\], expected \["):
        load_clip(tmp_path / "odd.safetensors")


def test_texts_need_a_tokenizer_that_fits(clip, clip_folder, tmp_path):
    with pytest.raises(ValueError, match="loaded without a tokenizer.*vocab.json and merges.txt"):
        load_clip(clip_folder).text(["a"])
    with pytest.raises(ValueError, match="lacks vocab.json and merges.txt"):
        load_clip(clip_folder, tmp_path)
    with pytest.raises(ValueError, match="Got no texts"):
        clip.text([])
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="knows 3 tokens and the CLIP model 49408"):
        load_clip(clip_folder, tmp_path)


@pytest.mark.parametrize("bar", [True, False])
def test_loading_leaves_transformers_messages_as_they_were(bar, clip_folder):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()

    def switch(verbosity: int, bar: bool) -> None:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if bar else logging.disable_progress_bar)()

    try:
        switch(logging.INFO, bar)
        load_clip(clip_folder)
        after = logging.get_verbosity(), logging.is_progress_bar_enabled()
    finally:
        switch(*before)
    assert after == (logging.INFO, bar)


def dino_model(family: str):
    if family == "dino":
        config = ViTConfig(**VIT, intermediate_size=512, patch_size=16)
        return randomise(ViTModel(config))
    config = Dinov2Config(**VIT, image_size=70, use_swiglu_ffn=family == "dinov2-gated")
    model = randomise(Dinov2Model(config))
    for name, value in model.named_parameters():
        if "lambda1" in name:
            value.data.normal_(1, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


FAMILIES = ("dino", "dinov2", "dinov2-gated")
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def dino_models():
    return {family: dino_model(family) for family in FAMILIES}


def dino_features(model, pixels: torch.Tensor) -> torch.Tensor:
    processor = pil_processor(
        "BitImageProcessor",
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    inputs = processor(images(pixels), return_tensors="pt")
    return model(**inputs).last_hidden_state[:, 0]


@EVERY_FAMILY
def test_dino_features_are_transformers(family, dino_models, tmp_path):
    model = dino_models[family]
    file = saved(model, tmp_path) / "model.safetensors"
    network = load_dino(file)
    pixels = pictures(3, 256, 300)
    got = network(pixels)
    assert got.keys() == network.outputs.keys() == {"cls"}
    assert got["cls"].shape == (3, 128) == (3, network.outputs["cls"])
    assert got["cls"].dtype == torch.float32
    assert relative(got["cls"], dino_features(model, pixels)) <= 1e-5
    assert network.weights == sha256(file) and network.resize == "dino-224"
    assert torch.equal(load_dino(tmp_path)(pixels)["cls"], got["cls"])


@EVERY_FAMILY
def test_dino_similarities_of_resized_pictures_are_transformers(family, dino_models, tmp_path):
    model = dino_models[family]
    network = load_dino(saved(model, tmp_path))
    pixels = pictures(4, 512, 400)

    def cosines(features: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.normalize(features, dim=1)
        return features @ features.T

    difference = cosines(network(pixels)["cls"]) - cosines(dino_features(model, pixels))
    assert difference.abs().max() <= 1e-5


ORIGINAL_NAMES = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm": "norm",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}


def original_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the authors publish them: other names, and query, key and value in one tensor."""
    result = {}
    for key, value in tensors.items():
        if key.startswith("pooler."):
            continue
        key = re.sub(r"^encoder\.layer\.", "blocks.", key)
        if ".attention.attention." in key:
            for kind in (k for k in ("weight", "bias") if key.endswith(f"query.{k}")):
                stem = key.replace("blocks.", "encoder.layer.").removesuffix(f"query.{kind}")
                parts = [tensors[f"{stem}{part}.{kind}"] for part in ("query", "key", "value")]
                name = key.replace(f"attention.attention.query.{kind}", f"attn.qkv.{kind}")
                result[name] = torch.cat(parts)
            continue
        for theirs, name in sorted(ORIGINAL_NAMES.items(), key=lambda item: -len(item[0])):
            replaced = re.sub(rf"(^|\.){re.escape(theirs)}($|\.)", rf"\g<1>{name}\g<2>", key)
            if replaced != key:
                key = replaced
                break
        result[key] = value
    return result


@EVERY_FAMILY
def test_the_authors_files_give_the_same_features(family, dino_models, tmp_path):
    folder = saved(dino_models[family], tmp_path)
    tensors = original_layout(load_file(folder / "model.safetensors"))
    expected = {"pos_embed", "cls_token", "norm.weight", "patch_embed.proj.bias"}
    expected |= {"blocks.1.attn.qkv.bias", "blocks.0.norm2.weight"}
    assert expected <= tensors.keys()
    torch.save(tensors, tmp_path / "original.pth")
    pixels = pictures(2, 100, 100)
    original = load_dino(tmp_path / "original.pth")
    assert torch.equal(original(pixels)["cls"], load_dino(folder)(pixels)["cls"])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dino-vits16", {"hidden_size": 384, "patch_size": 16}),
        ("dino-vitb8", {"hidden_size": 768, "patch_size": 8}),
        ("dinov2-vits14", {"hidden_size": 384, "patch_size": 14}),
    ],
)
def test_the_name_follows_from_the_shapes(name, config, tmp_path):
    config |= {"num_hidden_layers": 1, "num_attention_heads": config["hidden_size"] // 64}
    config["image_size"] = 4 * config["patch_size"]
    if name.startswith("dinov2"):
        model = Dinov2Model(Dinov2Config(**config))
    else:
        model = ViTModel(ViTConfig(**config, intermediate_size=4 * config["hidden_size"]))
    network = load_dino(saved(model, tmp_path))
    assert network.name == name
    assert network.model.config.num_attention_heads == config["num_attention_heads"]


def test_a_file_of_another_network_is_refused(clip_folder, dino_models, tmp_path):
    with pytest.raises(ValueError, match="is not a DINO or DINOv2 vision transformer"):
        load_dino(clip_folder)
    with pytest.raises(ValueError, match="is not a whole CLIP model"):
        load_clip(saved(dino_models["dino"], tmp_path) / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"embeddings.register_tokens": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="it has unknown 1 tensors .embeddings.register_tokens"):
        load_dino(tmp_path / "a.safetensors")


def test_an_empty_folder_is_refused(tmp_path):
    for load in (load_clip, load_dino):
        with pytest.raises(FileNotFoundError, match="holds no model.safetensors or pytorch_model"):
            load(tmp_path)
