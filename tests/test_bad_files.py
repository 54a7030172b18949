"""Bad files and file names: a message that helps, no code run, nothing written elsewhere."""

from __future__ import annotations

import os
import pickle

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.models.references import ReferenceEmbeds
from multi_ipadapter.nodes.steering.load import LoadMultiIPAdapter
from multi_ipadapter.nodes.steering.reference_files import LoadReferences, SaveReferences

from .builders import (
    PLUS,
    apply,
    assert_says,
    encode,
    make_adapter,
    make_images,
    refusal,
)


@pytest.fixture
def adapter(sd15):
    return make_adapter(sd15)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """models/ipadapter and output/references of a ComfyUI of its own, with files beside them."""
    adapters, output = tmp_path / "models" / "ipadapter", tmp_path / "output"
    adapters.mkdir(parents=True)
    (output / "references").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    extensions = set(folder_paths.supported_pt_extensions)
    table = folder_paths.folder_names_and_paths
    monkeypatch.setitem(table, "ipadapter", ([str(adapters)], extensions))
    places = [str(output / "references")]
    monkeypatch.setitem(table, "ipadapter_references", (places, {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


class RunsCode:
    """What unpickling of this would do is make a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_file_that_would_run_code(folders):
    path = folders / "models" / "ipadapter" / "evil.bin"
    marker = folders / "it ran"
    tensors = {"image_proj": {"proj.weight": torch.ones(2, 2)}, "ip_adapter": RunsCode(marker)}
    torch.save(tensors, path)
    message = refusal(LoadMultiIPAdapter.execute, path.name)
    assert_says(message, "evil.bin", "could run code", "was not opened", "safetensors")
    path.write_bytes(pickle.dumps(RunsCode(marker), protocol=2))
    assert "evil.bin" in refusal(LoadMultiIPAdapter.execute, path.name)
    assert not marker.exists()


def test_a_truncated_file(folders, adapter):
    path = folders / "models" / "ipadapter" / "cut.safetensors"
    save_adapter(adapter.adapter, path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        path.write_bytes(whole[:length])
        message = refusal(LoadMultiIPAdapter.execute, path.name)
        assert_says(message, "cut.safetensors", f"{length} bytes", "download it again")
    path.write_bytes(whole)
    assert LoadMultiIPAdapter.execute(path.name).args[0].config == adapter.config


def test_a_file_that_is_no_adapter(folders):
    path = folders / "models" / "ipadapter" / "other.safetensors"
    save_file({"some.weight": torch.ones(2)}, path)
    message = refusal(LoadMultiIPAdapter.execute, path.name)
    assert_says(
        message, "other.safetensors", "expected tensors named image_proj", "got some.weight"
    )
    assert "Choose another file" in message
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, path)
    assert "a checkpoint" in refusal(LoadMultiIPAdapter.execute, path.name)
    path.with_suffix(".bin").write_text("<html>404</html>")
    assert_says(refusal(LoadMultiIPAdapter.execute, "other.bin"), "other.bin", "16 bytes")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "../../secret.safetensors",
        "/etc/passwd",
        "ipadapter/../../secret.safetensors",
        "missing.safetensors",
        "",
    ],
)
def test_names_of_files_outside_the_folder(folders, adapter, name):
    """Core maps them into the folder, where there is no such file."""
    save_adapter(adapter.adapter, folders / "secret.safetensors")
    save_adapter(adapter.adapter, folders / "models" / "secret.safetensors")
    for node in (LoadMultiIPAdapter, LoadReferences):
        with pytest.raises((FileNotFoundError, ValueError)):
            node.execute(name)


@pytest.mark.parametrize(
    "name",
    [
        "../anna",
        "..",
        "/tmp/anna",
        "family/anna",
        "family\\anna",
        "C:anna",
        "~",
        "",
        " ",
        ".anna",
        "anna ",
        "anna\n",
        "anna\0",
        "a" * 300,
        ".safetensors",
    ],
)
def test_names_with_path_parts_are_not_written(folders, references, name):
    before = sorted(folders.rglob("*"))
    message = refusal(SaveReferences.execute, references, name)
    assert_says(message, "Got the name", "expected a plain file name", "without a folder", "'anna'")
    assert sorted(folders.rglob("*")) == before


def test_references_that_are_none(folders):
    folder = folders / "output" / "references"
    save_file({"some.weight": torch.ones(2)}, folder / "other.safetensors")
    message = refusal(LoadReferences.execute, "other.safetensors")
    assert_says(message, "other.safetensors", "no encoded references", "expected a file that")
    (folder / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    message = refusal(LoadReferences.execute, "cut.safetensors")
    assert_says(message, "cut.safetensors", "4 bytes", "not a complete safetensors file")


def test_saved_references_of_one_encoder_and_an_adapter_for_another(
    folders, sd15, adapter, references
):
    SaveReferences.execute(references, "anna")
    (kept,) = LoadReferences.execute("anna.safetensors").args
    assert isinstance(kept, ReferenceEmbeds)
    message = refusal(apply, sd15, make_adapter(sd15, PLUS), kept)
    assert_says(message, "penultimate_hidden_states", "hold none", "Encode the images again")
