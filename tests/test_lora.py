"""The LoRA of a FaceID file changes a model's weights as diffusers does, and nothing else."""

from __future__ import annotations

import comfy.model_management
import comfy.ops
import comfy.utils
import pytest
import torch
from safetensors.torch import load_file, save_file

from multi_ipadapter.models.checkpoint import load_adapter, save_adapter
from multi_ipadapter.models.references import ReferenceEmbeds
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter
from multi_ipadapter.nodes.unet.lora import weight_names
from multi_ipadapter.nodes.unet.private import private_unet

from .builders import apply, assert_says, refusal, sample, state_of
from .diffusers_models import CONTEXT, image_layers, lora_changes, lora_layers, sd15_pair, sdxl_pair
from .families import faceid, filled, small_file
from .families import refusal as refused_file
from .oracle import difference

TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=[sd15_pair, sdxl_pair], ids=["sd15", "sdxl"])
def pair(request):
    """A UNet of diffusers, a MODEL with its weights, cross-attention layers."""
    return request.param()


@pytest.fixture(scope="module")
def sd15():
    """SD1.5 alone, for what does not depend on the layout."""
    return sd15_pair()


def write(path, unet, seed=0, lora=True):
    """A FaceID file for `unet`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = faceid(CONTEXT, id_dim=512)
    tensors = {f"image_proj.{k}": v for k, v in filled(shapes, seed).items()}
    tensors |= image_layers(unet, generator)
    save_file(tensors | (lora_layers(unet, generator) if lora else {}), path)
    return path


def loaded(path) -> LoadedAdapter:
    return LoadedAdapter(load_adapter(path, comfy.ops.manual_cast), path.name)


def faces(count=1, seed=0) -> ReferenceEmbeds:
    generator = torch.Generator().manual_seed(seed)
    embeds = 20 * torch.randn(count, 512, generator=generator)
    return ReferenceEmbeds(
        {"face_embeds": embeds}, {"face_embeds": torch.zeros(1, 512)}, torch.ones(count)
    )


def patched_weights(model) -> dict[str, torch.Tensor]:
    """All weights of the UNet as they are while the MODEL is in use; a copy."""
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    unet = model.model.diffusion_model
    return {name: x.clone() for name, x in unet.state_dict().items()}


def by_comfy_names(model, changes):
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {names[key]: change for key, change in changes.items()}


def assert_changed(model, patched, changes):
    """Exactly these weights are other ones, by these differences."""
    before, after = patched_weights(model), patched_weights(patched)
    assert before.keys() == after.keys() and changes.keys() <= before.keys()
    for name, weight in before.items():
        if name in changes:
            assert difference(after[name], weight + changes[name]) <= TOLERANCE, name
            assert difference(after[name], weight) > 1000 * TOLERANCE, name
        else:
            assert torch.equal(after[name], weight), name


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_the_weights_are_those_of_diffusers(pair, strength, tmp_path):
    unet, model, layers = pair
    path = write(tmp_path / "faceid.safetensors", unet)
    changes = by_comfy_names(model, lora_changes(unet, path))
    assert len(changes) == layers * 2 * 4
    patched = apply(model, loaded(path), faces(), lora_weight=strength)
    assert_changed(model, patched, {name: strength * x for name, x in changes.items()})


def test_the_default_is_the_full_lora(sd15, tmp_path):
    unet, model, _ = sd15
    path = write(tmp_path / "faceid.safetensors", unet)
    changes = by_comfy_names(model, lora_changes(unet, path))
    assert_changed(model, apply(model, loaded(path), faces()), changes)


def test_every_name_is_a_weight_of_the_model(pair):
    _, model, layers = pair
    names = weight_names(model.model.diffusion_model)
    assert len(names) == len(set(names.values())) == layers * 8
    assert set(names.values()) <= set(model.model.state_dict())


@pytest.mark.parametrize("options", [{"lora_weight": 0.0}, {"weight": 0.0}], ids=str)
def test_nothing_is_added_at_zero(sd15, prompts, options, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "faceid.safetensors", unet))
    patched = apply(model, adapter, faces(), **options)
    assert not patched.patches and patched.patches_uuid == model.patches_uuid
    if options == {"weight": 0.0}:
        assert torch.equal(sample(patched, *prompts), sample(model, *prompts))


def test_files_without_a_lora_ignore_the_weight(sd15, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "portrait.safetensors", unet, lora=False))
    assert not adapter.adapter.lora
    assert not apply(model, adapter, faces(), lora_weight=1.5).patches


def test_the_model_that_comes_in_stays_as_it_is(sd15, prompts, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "faceid.safetensors", unet))
    plain, before = sample(model, *prompts), state_of(model)
    uuid = model.patches_uuid
    patched = apply(model, adapter, faces())
    different = sample(patched, *prompts)
    assert state_of(model) == before and model.patches_uuid == uuid
    assert torch.equal(sample(model, *prompts), plain), "the weights come back"
    assert torch.equal(sample(patched, *prompts), different), "a second run gives the same"
    assert difference(plain, different) > 1e-2


def test_the_lora_acts_beside_the_image_attention(sd15, prompts, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "faceid.safetensors", unet))
    pictures = [sample(apply(model, adapter, faces(), lora_weight=w), *prompts) for w in (0, 1)]
    assert difference(*pictures) > 1e-2


def test_two_adapters_add_up(sd15, tmp_path):
    unet, model, _ = sd15
    paths = [write(tmp_path / f"{i}.safetensors", unet, seed=i) for i in range(2)]
    patched = apply(model, loaded(paths[0]), faces())
    between = state_of(patched)
    both = apply(patched, loaded(paths[1]), faces(), lora_weight=0.5)
    assert state_of(patched) == between
    first, second = (by_comfy_names(model, lora_changes(unet, path)) for path in paths)
    assert_changed(model, both, {name: first[name] + 0.5 * second[name] for name in first})


@pytest.mark.parametrize("strengths", [(0.6, 0.6), (0.3, 0.6), (0.6, 0.3), (-0.6, 0.3)], ids=str)
def test_one_file_for_two_people_adds_its_lora_once(sd15, strengths, tmp_path):
    """At the larger weight, whichever node comes first; another file's adds up."""
    unet, model, _ = sd15
    paths = [write(tmp_path / f"{i}.safetensors", unet, seed=i) for i in range(2)]
    adapter, other = map(loaded, paths)
    again = loaded(paths[0])  # by another Load node
    changes, others = (by_comfy_names(model, lora_changes(unet, path)) for path in paths)
    patched = apply(model, adapter, faces(), lora_weight=strengths[0])
    patched = apply(patched, other, faces())
    between, name = state_of(patched), patched.patches_uuid
    both = apply(patched, again, faces(seed=1), lora_weight=strengths[1])
    assert state_of(patched) == between and patched.patches_uuid == name
    strength = max(strengths, key=abs)
    assert_changed(model, both, {name: strength * x + others[name] for name, x in changes.items()})
    assert (both.patches_uuid == name) == (strength == strengths[0])


def test_layers_that_are_all_0_add_no_lora(sd15, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "faceid.safetensors", unet))
    none = apply(model, adapter, faces(), layers="custom", layer_weights="6: 0")
    some = apply(model, adapter, faces(), layers="custom", layer_weights="6: 0.1")
    assert not none.patches and some.patches


def test_the_same_patches_have_the_same_name(sd15, tmp_path):
    """ComfyUI patches all weights again for a new one; a new lambda must not cause that."""
    unet, model, _ = sd15
    adapter, other = (loaded(write(tmp_path / f"{i}.safetensors", unet, i)) for i in range(2))

    def name(adapter, on=model, **options):
        return apply(on, adapter, faces(), **options).patches_uuid

    assert name(adapter, weight=0.5) == name(adapter, weight=0.9) != model.patches_uuid
    chained = apply(model, other, faces())
    names = [name(adapter), name(adapter, lora_weight=0.5), name(other), name(adapter, chained)]
    assert len(set(names)) == 4


@torch.inference_mode(False)
def test_the_private_copy_for_training_has_it_merged(sd15, tmp_path):
    unet, model, _ = sd15
    path = write(tmp_path / "faceid.safetensors", unet)
    changes = by_comfy_names(model, lora_changes(unet, path))
    with torch.inference_mode():
        patched = apply(model, loaded(path), faces())
        before = patched_weights(model)
    private = private_unet(patched, torch.device("cpu"), torch.float32)
    for name, weight in private.state_dict().items():
        assert difference(weight, before[name] + changes.get(name, 0)) <= TOLERANCE, name


# ---- files -----------------------------------------------------------------------------------


def test_half_precision_files_are_added_in_full_precision(sd15, tmp_path):
    unet, model, _ = sd15
    path = write(tmp_path / "faceid.safetensors", unet)
    save_file({k: v.half() for k, v in load_file(path).items()}, path)
    as_float = tmp_path / "float.safetensors"
    save_file({k: v.float() for k, v in load_file(path).items()}, as_float)
    changes = by_comfy_names(model, lora_changes(unet, as_float))
    assert_changed(model, apply(model, loaded(path), faces()), changes)


def test_pickled_files_and_saved_ones_keep_it(sd15, tmp_path):
    unet, _, layers = sd15
    path = write(tmp_path / "faceid.safetensors", unet)
    tensors = load_file(path)
    groups = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    torch.save(groups, tmp_path / "faceid.bin")
    adapter = load_adapter(tmp_path / "faceid.bin")
    assert len(adapter.lora) == layers * 2 * 4
    save_adapter(adapter, tmp_path / "mine.safetensors")
    saved = load_file(tmp_path / "mine.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)


def test_raw_training_dumps_keep_it(sd15, tmp_path):
    """As the training script leaves them: under the names of the UNet's processors only."""
    unet, _, layers = sd15
    tensors = load_file(write(tmp_path / "faceid.safetensors", unet))
    processors = list(unet.attn_processors)
    dump = {}
    for key, tensor in tensors.items():
        kind, number, end = key.split(".", 2)
        plain = kind == "image_proj"
        dump[
            f"image_proj_model.{number}.{end}" if plain else f"unet.{processors[int(number)]}.{end}"
        ] = tensor
    torch.save(dump, tmp_path / "pytorch_model.bin")
    adapter = load_adapter(tmp_path / "pytorch_model.bin")
    assert len(adapter.lora) == layers * 2 * 4
    save_adapter(adapter, tmp_path / "mine.safetensors")
    saved = load_file(tmp_path / "mine.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("names", "change", "says"),
    [
        (["1.to_q_lora.down"], None, ("has only its down half", "download it again")),
        (["1.to_q_lora.up"], None, ("has only its up half", "download it again")),
        (["6.to_q_lora.down", "6.to_q_lora.up"], None, ("is no LoRA tensor", "of 3 layers")),
        (["1.to_x_lora.down", "1.to_x_lora.up"], None, ("is no LoRA tensor",)),
        (["1.to_q_lora.down", "1.to_q_lora.up"], (3, 16), ("(3, 16)", "expected numbers")),
        (["1.to_q_lora.down", "1.to_q_lora.up"], (2, 2, 2), ("(2, 2, 2)", "expected numbers")),
    ],
)
def test_a_damaged_lora_is_refused(names, change, says, tmp_path):
    shape = change or (4, 4)
    added = {f"ip_adapter.{name}.weight": torch.zeros(shape) for name in names}
    save_file(small_file("faceid") | added, tmp_path / "a.safetensors")
    message = refused_file(tmp_path / "a.safetensors")
    assert_says(message, "ip_adapter.", *says)


def test_a_lora_of_another_width_is_refused_before_anything_is_patched(sd15, tmp_path):
    unet, model, _ = sd15
    path = write(tmp_path / "faceid.safetensors", unet)
    wrong = {"ip_adapter.0.to_q_lora.up.weight": torch.zeros(33, 4)}
    save_file(load_file(path) | wrong, path)
    adapter, before = loaded(path), state_of(model)
    message = refusal(apply, model, adapter, faces())
    assert_says(message, "(33, 32)", "attn1.to_q.weight", "(32, 32)", "lora_weight = 0")
    assert state_of(model) == before


@pytest.mark.parametrize("name", ["lora_weight", "faceid_v2_weight"])
def test_weights_that_are_no_numbers(sd15, name, tmp_path):
    unet, model, _ = sd15
    adapter = loaded(write(tmp_path / "faceid.safetensors", unet))
    message = refusal(apply, model, adapter, faces(), **{name: float("nan")})
    assert_says(message, f"Got {name} nan", "expected a number")
