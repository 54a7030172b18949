"""What saved workflows, API prompts and other packs rely on: ids, inputs, defaults, caching."""

from __future__ import annotations

import builtins
import gc
import inspect
import json
import os
import random
import weakref

import folder_paths
import pytest
import torch
from comfy import model_management
from comfy_api.latest._io import WidgetInput
from comfy_api.v0_0_2 import io

from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.models.references import save_references
from multi_ipadapter.nodes.steering.load import LoadMultiIPAdapter
from multi_ipadapter.nodes.steering.reference_files import LoadReferences

from . import contracts
from .builders import PLUS, apply, encode, make_adapter, make_images, patches_of, sample
from .contracts import load_pack
from .oracle import difference

FROZEN = json.loads(contracts.FROZEN.read_text(encoding="utf-8"))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's table of folders, to be changed at will; output goes to a folder of the test."""
    table = dict(folder_paths.folder_names_and_paths)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return table


@pytest.fixture
def nodes(folders):
    """The pack's node classes by id, as ComfyUI gets them."""
    return {node.GET_SCHEMA().node_id: node for node in load_pack()}


def inputs_of(node):
    return {x.id: x for x in node.GET_SCHEMA().inputs}


def parameters_of(node):
    return inspect.signature(node.execute).parameters


@pytest.fixture(params=list(FROZEN))
def node(request, nodes):
    return nodes[request.param]


# ---- names, inputs, outputs ------------------------------------------------------------------


def test_the_ids_are_frozen(nodes):
    assert set(nodes) == set(FROZEN)
    assert all(name.startswith("MultiIPAdapter_") for name in nodes)


@pytest.mark.parametrize("group", ["required", "optional", "outputs"])
def test_inputs_and_outputs_are_frozen(node, group):
    """Values and links are saved by position, and choices by their text; API prompts name all."""
    frozen, found = FROZEN[node.GET_SCHEMA().node_id][group], contracts.contract(node)[group]
    assert list(found.items()) == list(frozen.items()), "see contracts.py"


def test_schema_and_execute_agree(nodes):
    for node in nodes.values():
        inputs, parameters = inputs_of(node), parameters_of(node)
        parameters = {k: p for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        assert list(inputs) == list(parameters), node
        for name, x in inputs.items():
            default = parameters[name].default
            assert (default is not inspect.Parameter.empty) == x.optional, name
            if x.optional:
                assert default == getattr(x, "default", None), name
                assert isinstance(default, type(getattr(x, "default", None))), name


def test_every_choice_has_a_default_that_exists(nodes):
    for node in nodes.values():
        for x in inputs_of(node).values():
            if isinstance(x, io.Combo.Input) and x.optional:
                assert x.default in x.options


def test_everything_is_explained(nodes):
    """Every widget, and every socket that may stay empty."""
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert len(schema.description) > 30 and schema.category == "multi-ipadapter"
        assert schema.display_name
        for x in schema.inputs:
            if x.optional or isinstance(x, WidgetInput):
                assert len(x.tooltip or "") > 10, x.id
    names = [node.GET_SCHEMA().display_name for node in nodes.values()]
    assert len(set(names)) == len(names)


def test_the_server_can_list_every_node(nodes):
    for node in nodes.values():
        json.dumps(node.GET_NODE_INFO_V1())


def test_schemas_open_no_file_and_build_no_module(nodes, monkeypatch):
    """ComfyUI asks for them many times per prompt."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a schema must be cheap")

    for node in nodes.values():
        node.GET_SCHEMA()  # lists of files are remembered by ComfyUI
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    monkeypatch.setattr(torch, "tensor", refuse)
    for node in nodes.values():
        node.GET_SCHEMA()
        node.INPUT_TYPES()


# ---- folders -----------------------------------------------------------------------------------


def test_folders_are_registered(folders, tmp_path):
    folders.pop("ipadapter", None)
    load_pack()
    paths, extensions = folders["ipadapter"]
    assert paths == [str(tmp_path / "models" / "ipadapter")]
    assert {".safetensors", ".bin"} <= extensions
    assert folders["ipadapter_references"] == (
        [str(tmp_path / "output" / "references")],
        {".safetensors"},
    )


def test_a_registration_that_exists_is_kept(folders, tmp_path):
    """From extra_model_paths.yaml, or of another pack."""
    folders["ipadapter"] = (["/elsewhere"], {".safetensors", ".special"})
    load_pack()
    load_pack()
    paths, extensions = folders["ipadapter"]
    assert paths == ["/elsewhere", str(tmp_path / "models" / "ipadapter")]
    assert extensions == {".safetensors", ".special"}


def test_the_table_of_extensions_of_core_is_not_shared(folders):
    folders.pop("ipadapter", None)
    load_pack()
    folders["ipadapter"][1].add(".other")
    assert ".other" not in folder_paths.supported_pt_extensions


def test_a_file_that_was_written_again_is_read_again(folders, sd15, clip_vision, tmp_path):
    """ComfyUI runs a node again when its fingerprint has changed."""
    load_pack()
    path = tmp_path / "output" / "references" / "anna.safetensors"
    adapter = make_adapter(sd15)
    save_references(encode(adapter, clip_vision, make_images(1)), path)
    first = LoadReferences.fingerprint_inputs("anna.safetensors")
    assert LoadReferences.fingerprint_inputs("anna.safetensors") == first
    save_references(encode(adapter, clip_vision, make_images(2)), path)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1000))
    assert LoadReferences.fingerprint_inputs("anna.safetensors") != first
    assert LoadReferences.fingerprint_inputs("missing.safetensors") != first


# ---- what is computed again --------------------------------------------------------------------


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    return request.getfixturevalue(request.param)


class Counter:
    """Forward passes of the adapter's projection and of its first layer's W'_k."""

    def __init__(self, loaded):
        network = loaded.adapter
        self.calls = 0
        self.handles = [
            module.register_forward_hook(self._count)
            for module in (network.image_proj, network.ip_adapter["1"].to_k_ip)
        ]

    def _count(self, *_):
        self.calls += 1


def tensors_of(model):
    """Data addresses of G and U in every layer."""
    patches = patches_of(model).items()
    return {name: patch.parts[0].key_values.keys.data_ptr() for name, patch in patches}


def test_only_new_keys_and_values_run_the_adapter(model, clip_vision, prompts):
    adapter = make_adapter(model, PLUS)
    references = encode(adapter, clip_vision, make_images(3))
    counter = Counter(adapter)
    first = apply(model, adapter, references)
    assert counter.calls == 4, "references and null image, through projection and layer"

    for change in (
        {"weight": 0.3},
        {"weight": 0.0},
        {"start_percent": 0.2, "end_percent": 0.7},
        {"mask": torch.ones(1, 8, 8)},
        {"aggregation": "concat"},
    ):
        again = apply(model, adapter, references, **change)
        assert tensors_of(again) == tensors_of(first), change
    apply(model, adapter, references, layers="custom", layer_weights="3: 1")
    sample(apply(model, adapter, references, weight=0.5), *prompts, steps=2)
    assert counter.calls == 4, "neither a setting nor a step may run the adapter"

    apply(model, adapter, references, aggregation="mean")
    assert counter.calls == 8
    apply(model, adapter, encode(adapter, clip_vision, make_images(3)), aggregation="mean")
    assert counter.calls == 12, "encoded again: they may be others"


def test_a_new_weight_gives_a_new_picture(sd15, clip_vision, prompts):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(3))
    results = [
        sample(apply(sd15, adapter, references, weight=w), *prompts, steps=1) for w in (0.2, 0.4)
    ]
    assert difference(*results) > 1e-2


def test_keys_and_values_go_when_the_references_go(sd15, clip_vision):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(1))
    patched = apply(sd15, adapter, references)
    key = weakref.ref(patches_of(patched)["middle", 0].parts[0].key_values.keys)
    assert key() is not None
    del patched, references
    gc.collect()
    assert key() is None


def test_nodes_leave_the_random_generators_alone(folders, sd15, clip_vision, tmp_path):
    """A sampler beside them must draw the same noise as without."""
    load_pack()
    path = tmp_path / "models" / "ipadapter" / "some.safetensors"
    save_adapter(make_adapter(sd15, PLUS).adapter, path)
    torch.manual_seed(123)
    random.seed(123)
    states = torch.get_rng_state(), random.getstate()
    (adapter,) = LoadMultiIPAdapter.execute(path.name).args
    apply(sd15, adapter, encode(adapter, clip_vision, make_images(2)))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_the_adapter_is_in_comfyuis_memory_management(sd15, clip_vision):
    adapter = make_adapter(sd15)
    apply(sd15, adapter, encode(adapter, clip_vision, make_images(1)))
    managed = [loaded.model for loaded in model_management.current_loaded_models]
    assert adapter.patcher in managed and adapter.patcher.model is adapter.adapter
