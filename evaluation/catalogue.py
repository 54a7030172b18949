"""What feature networks there are, how their files are called, and where they are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class MissingWeightsError(FileNotFoundError):
    """A feature network's file is not there; says what it is called and where to get it."""

    def __init__(self, entry: Entry, folders: Sequence[Path]):
        self.name = entry.name
        places = " or ".join(str(folder) for folder in folders) or "the folder models/metrics"
        super().__init__(
            f"The weights of {entry.name} are missing: there is no {' or '.join(entry.files)}. "
            f"They are published at {entry.published} (licence: {entry.licence}). Put the file "
            f"into {places}."
        )


@dataclass(frozen=True)
class Entry:
    """One weights file."""

    name: str
    files: tuple[str, ...]
    """Paths below the folder, in the order in which they are looked for."""
    published: str
    licence: str


def _transformers(name: str, *more: str, published: str, licence: str) -> tuple:
    files = (f"{name}.safetensors", f"{name}/model.safetensors", f"{name}/pytorch_model.bin")
    return (*files, *more), published, licence


def _clip(name: str) -> tuple:
    published = f"OpenAI's page openai/{name} on Hugging Face (the whole model)"
    return _transformers(name, published=published, licence="MIT")


def _dino(name: str, original: str, repository: str) -> tuple:
    published = f"github.com/facebookresearch/{repository} (README, {original})"
    return _transformers(name, original, published=published, licence="Apache-2.0")


def _lpips(kind: str) -> tuple:
    published = f"github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1/{kind}.pth)"
    name = f"lpips-{kind}"
    return (f"{name}.safetensors", f"{name}.pth"), published, "BSD-2-Clause"


def _torchvision(stem: str, digits: str) -> tuple:
    file = f"{stem}-{digits}.pth"
    published = f"github.com/pytorch/vision (the page of {stem} in its documentation links {file})"
    return (f"{stem}.safetensors", file), published, "BSD-3-Clause"


_INSIGHTFACE = "github.com/deepinsight/insightface (model_zoo, package buffalo_l)"
_RESEARCH = "non-commercial research only"

ENTRIES = {
    name: Entry(name, *rest)
    for name, rest in {
        "fid-inception": (
            (
                "fid-inception.safetensors",
                "pt_inception-2015-12-05-6726825d.pth",
                "weights-inception-2015-12-05-6726825d.pth",
            ),
            "github.com/mseitzer/pytorch-fid (releases, fid_weights) and "
            "github.com/toshas/torch-fidelity (releases, v0.2.0)",
            "Apache-2.0",
        ),
        "clip-vit-b-32": _clip("clip-vit-base-patch32"),
        "clip-vit-l-14": _clip("clip-vit-large-patch14"),
        "clip-vit-l-14-336": _clip("clip-vit-large-patch14-336"),
        "dino-vits16": _dino("dino-vits16", "dino_deitsmall16_pretrain.pth", "dino"),
        "dinov2-vits14": _dino("dinov2-small", "dinov2_vits14_pretrain.pth", "dinov2"),
        "dinov2-vitb14": _dino("dinov2-base", "dinov2_vitb14_pretrain.pth", "dinov2"),
        "dinov2-vitl14": _dino("dinov2-large", "dinov2_vitl14_pretrain.pth", "dinov2"),
        "lpips-vgg": _torchvision("vgg16", "397923af"),
        "lpips-vgg-heads": _lpips("vgg"),
        "lpips-alex": _torchvision("alexnet", "owt-7be5be79"),
        "lpips-alex-heads": _lpips("alex"),
        "aesthetic": (
            ("aesthetic.safetensors", "sac+logos+ava1-l14-linearMSE.pth"),
            "github.com/christophschuhmann/improved-aesthetic-predictor",
            "Apache-2.0",
        ),
        "face-detector": (
            ("det_10g.onnx", "scrfd_10g_bnkps.onnx", "buffalo_l/det_10g.onnx"),
            _INSIGHTFACE,
            _RESEARCH,
        ),
        "face-recogniser": (
            ("w600k_r50.onnx", "glintr100.onnx", "buffalo_l/w600k_r50.onnx"),
            _INSIGHTFACE,
            _RESEARCH,
        ),
    }.items()
}


def find(name: str, folders: Sequence[str | Path]) -> Path:
    """The file of a network, a key of `ENTRIES`, in the first of the folders that has one.

    Raises:
        MissingWeightsError: none has.
        ValueError: no network of this name.
    """
    if name not in ENTRIES:
        raise ValueError(f"Got feature network {name!r}; expected one of {', '.join(ENTRIES)}.")
    paths = [Path(folder) for folder in folders]
    for folder in paths:
        for file in ENTRIES[name].files:
            if (folder / file).is_file():
                return folder / file
    raise MissingWeightsError(ENTRIES[name], paths)
