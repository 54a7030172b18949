"""Damaged and malicious files give a clear error and run nothing; writing is all or nothing."""

from __future__ import annotations

import errno
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from multi_ipadapter.files import tensors as files
from multi_ipadapter.models.checkpoint import load_adapter
from multi_ipadapter.models.references import load_references

from .families import assert_equal, filled, layers, linear, refusal

BOUNDED = settings(max_examples=120, deadline=None, derandomize=True, database=None)


def tensors() -> dict[str, torch.Tensor]:
    """A very small adapter, so that damage hits its structure and not only its numbers."""
    shapes = {f"image_proj.{k}": v for k, v in linear(8, 2).items()}
    return filled(shapes | {f"ip_adapter.{k}": v for k, v in layers((2, 2), 8).items()})


def pickled(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors(), buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "whole.safetensors": lambda: save(tensors()),
    "zip.bin": lambda: pickled(zipped=True),
    "older.bin": lambda: pickled(zipped=False),
}
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
EVERY_KIND = pytest.mark.parametrize("name", WHOLE)


@EVERY_KIND
def test_the_undamaged_files_load(name, tmp_path):
    (tmp_path / name).write_bytes(WHOLE[name]())
    assert_equal(load_adapter(tmp_path / name).state_dict(), tensors())


@EVERY_KIND
@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(name, part, tmp_path):
    whole = WHOLE[name]()
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    message = refusal(tmp_path / name)
    if name != "older.bin":  # cut off within a name, this one asks for something unknown
        assert "not a complete" in message and "download it again" in message


@pytest.mark.parametrize("missing", [1, 2, 8])
def test_the_last_bytes_of_a_safetensors_file_count(missing, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save(tensors())[:-missing])
    assert "not a complete safetensors file" in refusal(tmp_path / "a.safetensors")


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POINTER, ("is a Git LFS pointer", "git lfs pull", "download the file itself")),
        (b"<!DOCTYPE html><html>", ("is a web page, not the file", "log in", "Download it again")),
        (b"\xef\xbb\xbf\n <HTML lang=en>\0", ("is a web page, not the file",)),
        (b"<!-- x --><html>", ("is a web page, not the file",)),
        (b"Entry not found", ("is a text file that begins with 'Entry not found'", "Download it")),
        (b'{"error": "gated"}\n' + b" " * 600, ("is a text file", '\'{"error": "gated"}\'')),
        (b"x" + "é".encode() * 300, ("is a text file that begins with",)),
    ],
    ids=["LFS", "page", "page with a mark", "page with a comment", "answer", "JSON", "cut letter"],
)
def test_what_was_saved_in_place_of_the_file_is_named(content, says, suffix, tmp_path):
    path = tmp_path / f"adapter{suffix}"
    path.write_bytes(content)
    message = refusal(path)
    assert f"({len(content)} bytes)" in message and "cut off" not in message
    for part in says:
        assert part in message


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_tensors_is_no_text_wherever_it_is_cut_off(name, tmp_path):
    whole, path = WHOLE[name](), tmp_path / name
    for length in range(12):
        path.write_bytes(whole[:length])
        message = refusal(path)
        assert "text file" not in message and "web page" not in message


@BOUNDED
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".bin", ".safetensors", "", ".ckpt"]))
def test_any_bytes_are_refused(data, suffix, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(data)
    refusal(path)
    with pytest.raises(ValueError, match=path.name):
        load_references(path)


@BOUNDED
@given(
    name=st.sampled_from(list(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_any_damage_is_refused_or_harmless(name, changes, tmp_path_factory):
    data = bytearray(WHOLE[name]())
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        loaded = load_adapter(path).state_dict()
    except ValueError:
        refusal(path)
    else:  # a number or an unused byte was hit: the structure is what it was
        assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in tensors().items()}


class Payload:
    """Makes a folder when it is unpickled by a reader that runs what a file asks for."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def in_a_zip(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


WRITERS = {
    "zip": in_a_zip,
    "pickle 2": lambda content: pickle.dumps(content, 2),
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".BIN"])
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_in_a_file_is_run(writer, suffix, tmp_path):
    made = tmp_path / "made"
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(WRITERS[writer](tensors() | {"payload": Payload(made)}))
    refusal(path)
    with pytest.raises(ValueError, match="evil"):
        load_references(path)
    assert not made.exists()


def test_the_payload_works_where_pickles_are_trusted(tmp_path):
    """Or else the test above would prove nothing."""
    data = in_a_zip({"payload": Payload(tmp_path / "made")})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        pickle.loads(archive.read(content))
    assert (tmp_path / "made").is_dir()


def test_the_message_names_what_a_pickle_would_run(tmp_path):
    (tmp_path / "evil.bin").write_bytes(in_a_zip(Payload(tmp_path / "made")))
    message = refusal(tmp_path / "evil.bin")
    assert ".mkdir) and could run code when opened, so it was not opened" in message
    assert "weights_only" not in message  # advice of PyTorch's that would be bad advice here


@pytest.mark.parametrize("content", [[1, 2], "text", 3, torch.zeros(2)], ids=str)
def test_a_pickle_of_something_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.bin")
    assert f"holds a {type(content).__name__}; expected a dict" in refusal(tmp_path / "a.bin")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_pickle_with_the_other_suffix_is_refused(zipped, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(pickled(zipped))
    assert "Rename it to end in .bin" in refusal(tmp_path / "a.safetensors")


def test_a_safetensors_file_with_the_other_suffix_is_refused(tmp_path):
    save_file(tensors(), tmp_path / "a.bin")
    assert "Rename it to end in .safetensors" in refusal(tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors", "a\0b.bin"])
def test_no_such_file(name, tmp_path):
    (tmp_path / "folder.bin").mkdir()
    for path in (tmp_path / name, tmp_path / "folder.bin"):
        with pytest.raises(FileNotFoundError, match="There is no file.*Check the name") as caught:
            load_adapter(path)
        assert path.name in str(caught.value)


# Writing


def write(path: Path, value: float = 0.0) -> None:
    files.write_safetensors(path, {"a": torch.full((3,), value)}, {"key": "value"})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    write(path, 2.0)
    content, metadata = files.read_tensors(path)
    assert torch.equal(content["a"], torch.full((3,), 2.0)) and metadata == {"key": "value"}
    assert os.listdir(path.parent) == [path.name]


def test_tensors_that_share_memory_are_written(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    shared = {"a": weight, "b": weight, "c": weight.T, "d": weight[0]}
    files.write_safetensors(tmp_path / "a.safetensors", shared, {})
    assert_equal(files.read_tensors(tmp_path / "a.safetensors")[0], shared)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=str)
@pytest.mark.parametrize(
    "step", ["files.tensors.save_file", "files.atomic.os.fsync", "files.atomic.os.replace"]
)
def test_a_write_that_fails_leaves_the_old_file(step, error, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write(path, 1.0)

    def fail(*args):
        if step.endswith("save_file"):
            Path(args[1]).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(f"multi_ipadapter.{step}", fail)
    with pytest.raises(type(error)):
        write(path, 2.0)
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert torch.equal(files.read_tensors(path)[0]["a"], torch.ones(3))


def test_a_write_that_fails_leaves_nothing_where_nothing_was(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_file_that_the_disk_does_not_hold(tmp_path):
    """The limit of the system on a file's size stands for a full disk."""
    import resource  # not on Windows

    write(tmp_path / "a.safetensors", 1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            files.write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(50_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert torch.equal(files.read_tensors(tmp_path / "a.safetensors")[0]["a"], torch.ones(3))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_permissions_are_those_of_any_new_file(umask, tmp_path):
    """ComfyUI may run as another user than the training did."""
    before = os.umask(umask)
    try:
        write(tmp_path / "a.safetensors")
        write(tmp_path / "a.safetensors")  # over an old one
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["a.safetensors"] == modes["plain"]
