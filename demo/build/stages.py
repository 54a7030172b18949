"""The stages, in order; each reads what the earlier ones wrote into the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...models.files import write_safetensors
from ...nodes import demo_bundle
from ...nodes import demo_models as models
from ..scorer import Scorer
from ..world import WEIGHTS_FOLDER
from . import adapters, autoencoder, judging, text, unet, vision
from .initial import initialise
from .pictures import Pictures, descriptions, drawn

IDENTITIES, VIEWS = 5_000, 8
VISION_FIRST, VISION_IDENTITIES, VISION_VIEWS = 10_000, 16_000, 3
SCORER_FIRST, SCORER_IDENTITIES, SCORER_VIEWS = 50_000, 6_000, 4


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def training_pictures(folder: Path) -> Pictures:
    """What all models but the encoder of pictures and the scorer are trained on."""
    return drawn(folder / "pictures", "training", 0, IDENTITIES, VIEWS)


def save(model: nn.Module, path: Path) -> None:
    """Write a trained model."""
    write_safetensors(path, {k: v.cpu().contiguous() for k, v in model.state_dict().items()}, {})


def load(model: nn.Module, path: Path) -> nn.Module:
    """Read it back."""
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def trained(
    folder: Path, name: str, model: nn.Module, train: Callable[[Path], None] | None = None
) -> nn.Module:
    """The model of a finished stage; with `train`, trained and written when it is not finished."""
    path = folder / f"{name}.safetensors"
    if train is not None and not path.is_file():
        train(folder / "state" / f"{name}.safetensors")
        save(model, path)
    return load(model, path)


def vae(folder: Path) -> nn.Module:
    """The trained autoencoder."""
    return trained(folder, "vae", models.build_vae(models.WORLD, 0).first_stage_model)


def clip(folder: Path) -> Any:
    """ComfyUI's CLIP around the trained text encoder."""
    wrapped = models.build_clip(models.WORLD, 0)
    trained(folder, "text", text_model(wrapped))
    return wrapped


def text_model(wrapped: Any) -> nn.Module:
    """The transformer within ComfyUI's CLIP."""
    return wrapped.cond_stage_model.clip_l.transformer


def tokens(wrapped: Any, captions: Sequence[str]) -> Tensor:
    """Token numbers int64 [n, 77]."""
    rows = [wrapped.tokenize(caption)["l"][0] for caption in captions]
    return torch.tensor([[token for token, _weight in row] for row in rows])


def pictures_stage(folder: Path) -> None:
    """Draw the training pictures."""
    training_pictures(folder)


def autoencoder_stage(folder: Path) -> None:
    """Train the VAE."""
    model = models.build_vae(models.WORLD, 0).first_stage_model
    initialise(model, 1, zero=("conv2.weight", "proj_out.weight"))
    pictures = training_pictures(folder)
    trained(folder, "vae", model, lambda state: autoencoder.train(model, pictures, state, device()))


def vision_stage(folder: Path) -> None:
    """Train the image encoder on people of its own."""
    model = models.build_clip_vision(models.WORLD, 0).model
    initialise(model, 3)
    contrast = vision.Contrast(model, models.WORLD.vision["projection_dim"])
    pictures = drawn(folder / "pictures", "vision", VISION_FIRST, VISION_IDENTITIES, VISION_VIEWS)
    trained(
        folder, "vision", model, lambda state: vision.train(contrast, pictures, state, device())
    )


def text_stage(folder: Path) -> None:
    """Train the text encoder."""
    wrapped = models.build_clip(models.WORLD, 0)
    model = text_model(wrapped)
    initialise(model, 2)
    head = text.FactHead(model, models.WORLD.text["hidden_size"])
    trained(
        folder,
        "text",
        model,
        lambda state: text.train(
            head, lambda said: tokens(wrapped, said), lambda t: model(t)[3], state, device()
        ),
    )


def scorer_stage(folder: Path) -> None:
    """Train the scorer on people of its own."""
    model = Scorer()
    pictures = drawn(folder / "pictures", "scorer", SCORER_FIRST, SCORER_IDENTITIES, SCORER_VIEWS)
    trained(folder, "scorer", model, lambda state: judging.train(model, pictures, state, device()))


@torch.no_grad()
def latents_stage(folder: Path) -> None:
    """Encode all training pictures once, and two texts for each."""
    if (folder / "latents.safetensors").is_file():
        return
    pictures, autoencoder_ = training_pictures(folder), vae(folder).to(device())
    latents = []
    with torch.autocast(device().type, torch.bfloat16):
        for rows in torch.arange(len(pictures)).split(64):
            x = pictures.batch(rows).to(device()) * 2 - 1
            latents.append(autoencoder_.encode(x).half().cpu())
    write_safetensors(folder / "latents.safetensors", {"latents": torch.cat(latents)}, {})


@torch.no_grad()
def texts_stage(folder: Path) -> None:
    """Encode two texts for each picture once: its caption, and one that tells of the person too."""
    if (folder / "texts.safetensors").is_file():
        return
    pictures, wrapped = training_pictures(folder), clip(folder)
    encoder = text_model(wrapped).to(device())
    texts = {"plain": pictures.captions, "described": descriptions(pictures), "nothing": [""]}
    found = {}
    with torch.autocast(device().type, torch.bfloat16):
        for name, said in texts.items():
            parts = tokens(wrapped, said).split(64)
            features = [encoder(part.to(device()))[0].bfloat16().cpu() for part in parts]
            found[name] = torch.cat(features)
    write_safetensors(folder / "texts.safetensors", found, {})


def unet_stage(folder: Path) -> None:
    """Train the base UNet."""
    patcher = models.build_unet(models.WORLD, 0)
    model = patcher.model.diffusion_model
    initialise(model, 5, zero=("out_layers.3.weight", "proj_out.weight", "out.2.weight"))
    sigmas = patcher.get_model_object("model_sampling").sigmas.double()
    trained(
        folder,
        "unet",
        model,
        lambda state: unet.train(
            model,
            load_file(folder / "latents.safetensors")["latents"],
            load_file(folder / "texts.safetensors"),
            (1 / (1 + sigmas**2)).float(),
            state,
            device(),
        ),
    )


def bundle_stage(folder: Path) -> None:
    """Write what comes with the pack, in half precision; the adapters are trained on it."""
    wrapped = clip(folder)
    pictures = training_pictures(folder)
    words = tokens(wrapped, [*pictures.captions, *descriptions(pictures), ""])
    parts = {
        "unet": models.build_unet(models.WORLD, 0).model.diffusion_model,
        "vae": models.build_vae(models.WORLD, 0).first_stage_model,
        "vision": models.build_clip_vision(models.WORLD, 0).model,
        "scorer": Scorer(),
    }
    packed = {name: demo_bundle.packed(trained(folder, name, m)) for name, m in parts.items()}
    packed["text"] = demo_bundle.packed(text_model(wrapped), words.unique())
    for name, tensors in packed.items():
        write_safetensors(WEIGHTS_FOLDER / f"{name}.safetensors", tensors, {})


def adapters_stage(folder: Path) -> None:
    """Train the adapters of the study on the bundled models, which stay as they are."""
    dataset = folder / "people"
    adapters.write_dataset(training_pictures(folder), dataset)
    for name in adapters.VARIANTS:
        adapters.train(name, dataset, folder / "adapters")


def bundled_adapter_stage(folder: Path) -> None:
    """The first adapter comes with the pack."""
    name = next(iter(adapters.VARIANTS))
    shutil.copyfile(
        folder / "adapters" / f"{name}.safetensors", WEIGHTS_FOLDER / demo_bundle.ADAPTER
    )


STAGES: dict[str, Callable[[Path], None]] = {
    "pictures": pictures_stage,
    "autoencoder": autoencoder_stage,
    "text": text_stage,
    "vision": vision_stage,
    "scorer": scorer_stage,
    "latents": latents_stage,
    "texts": texts_stage,
    "unet": unet_stage,
    "bundle": bundle_stage,
    "adapters": adapters_stage,
    "bundled-adapter": bundled_adapter_stage,
}
