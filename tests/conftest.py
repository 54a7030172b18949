"""ComfyUI on the CPU for every test, and the small models and datasets that they share."""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from multi_ipadapter.training.comfyui import put_on_path

COMFYUI_PATH = os.environ.get("COMFYUI_PATH", "")
if not COMFYUI_PATH:
    raise RuntimeError(
        "COMFYUI_PATH is not set. Run the tests with 'python dev.py test', or set it to a "
        "ComfyUI checkout."
    )
put_on_path(Path(COMFYUI_PATH))

from comfy.cli_args import args  # noqa: E402

args.cpu = True  # before anything of ComfyUI looks for a device

import folder_paths  # noqa: E402
import torch  # noqa: E402

from multi_ipadapter.demo.prompt import ADAPTER_FILE  # noqa: E402
from multi_ipadapter.demo.server import ComfyServer  # noqa: E402
from multi_ipadapter.demo.world import WEIGHTS_FOLDER  # noqa: E402
from multi_ipadapter.nodes import MultiIPAdapterExtension  # noqa: E402
from multi_ipadapter.nodes.dataset import ReferenceDataset  # noqa: E402
from multi_ipadapter.nodes.demo_bundle import ADAPTER  # noqa: E402
from multi_ipadapter.nodes.demo_models import (  # noqa: E402
    DemoConfig,
    build_clip,
    build_clip_vision,
    build_unet,
    build_vae,
)
from multi_ipadapter.nodes.load import FOLDER  # noqa: E402
from multi_ipadapter.training.dataset import open_dataset  # noqa: E402

# The models are so small that a second thread mostly waits; on a busy machine it waits for long.
torch.set_num_threads(1)

from .builders import SDXL_LAYOUT, Sdxl, condition  # noqa: E402
from .people import write_noise, write_people  # noqa: E402

# ComfyUI v0.18.2 has no MediaPipe detector; what is said there is tested with the nodes.
collect_ignore = [] if find_spec("comfy_extras.mediapipe") else ["test_faces_mediapipe.py"]
if os.name == "nt":
    collect_ignore.append("test_ci.py")  # it is about a script for bash


@pytest.fixture(autouse=True)
def _inference_mode():
    """ComfyUI runs nodes in inference mode; so do the tests, unless they switch it off."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def sd15():
    """A UNet of SD1.x's layout, 16 cross-attention layers."""
    return build_unet(DemoConfig(), seed=0)


@pytest.fixture(scope="session")
def sdxl():
    """A UNet of SDXL's layout, 70 cross-attention layers."""
    return build_unet(DemoConfig(unet=dict(SDXL_LAYOUT)), seed=0, base=Sdxl)


@pytest.fixture(scope="session")
def clip():
    """A text encoder whose context fits both UNets."""
    return build_clip(DemoConfig(), seed=1)


@pytest.fixture(scope="session")
def clip_vision():
    """An image encoder: hidden width 64, pooled width 48, 56 pixels."""
    return build_clip_vision(DemoConfig(), seed=3)


@pytest.fixture
def prompts(clip):
    """A positive and a negative conditioning."""
    return condition(clip, "a portrait of a person"), condition(clip, "blurry")


@pytest.fixture
def pictures(tmp_path):
    """A folder of identities; the third picture is damaged."""
    return write_noise(tmp_path / "pictures")


@pytest.fixture
def index(pictures):
    """What is in `pictures`."""
    return open_dataset(pictures)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """ComfyUI's folders below the test's own, with people to train on; the pack is registered."""
    table = dict(folder_paths.folder_names_and_paths)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    (tmp_path / "models" / FOLDER).mkdir(parents=True)
    table.pop(FOLDER, None)
    asyncio.run(MultiIPAdapterExtension().on_load())
    write_people(tmp_path / "input" / "people")
    return tmp_path


@pytest.fixture(scope="session")
def models(sd15, clip, clip_vision):
    """MODEL, CLIP, VAE and CLIP_VISION."""
    return sd15, clip, build_vae(DemoConfig(), seed=2), clip_vision


@pytest.fixture
def dataset(base):
    """The people, by the node."""
    return ReferenceDataset.execute("people").args[0]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI process with the pack, tiny models, and the demo's adapter as a file."""
    base = tmp_path_factory.mktemp("comfyui")
    adapters = base / "models" / "ipadapter"
    adapters.mkdir(parents=True)
    shutil.copyfile(WEIGHTS_FOLDER / ADAPTER, adapters / ADAPTER_FILE)
    (base / "custom_nodes").mkdir()
    shutil.copy(Path(__file__).with_name("tiny_models.py"), base / "custom_nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the same reason as above
        with ComfyServer(base, ["--cpu"]) as running:
            yield running
    assert not running.is_running()


@pytest.fixture(scope="session")
def object_info(server):
    """Schemas of all nodes, as the server tells them to its front end."""
    return server.client.get_json("/object_info")
