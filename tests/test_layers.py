"""Layer presets and written lists reach exactly the spatial transformers that they name."""

from __future__ import annotations

import pytest

from multi_ipadapter.nodes.steering.layers import PRESETS, layer_shares
from multi_ipadapter.nodes.unet.sites import cross_attention_sites

from .builders import apply, encode, make_adapter, make_images, patches_of
from .oracle import SD1_LAYERS, SDXL_LAYERS

# Spatial transformers in the order in which the UNet runs them, as other packs count them.
SD1_TRANSFORMERS = [
    *(("input", i) for i in (1, 2, 4, 5, 7, 8)),
    ("middle", 0),
    *(("output", i) for i in range(3, 12)),
]
SDXL_TRANSFORMERS = [
    *(("input", i) for i in (4, 5, 7, 8)),
    ("middle", 0),
    *(("output", i) for i in range(6)),
]
LAYERS = {"sd15": SD1_LAYERS, "sdxl": SDXL_LAYERS}
TRANSFORMERS = {"sd15": SD1_TRANSFORMERS, "sdxl": SDXL_TRANSFORMERS}


def sites_of(model):
    return cross_attention_sites(model.model.diffusion_model)


def scales(model, clip_vision, **options):
    """Lambda in every layer, by (block, id, index), of what the node patched."""
    adapter = make_adapter(model)
    references = encode(adapter, clip_vision, make_images(1))
    patched = apply(model, adapter, references, **options)
    patches = patches_of(patched)
    return {
        (*name, 0)[:3]: pytest.approx(float(patch.parts[0].scale))
        for name, patch in patches.items()
    }


def wanted(layout, shares):
    """The same from {(block, id): scale}."""
    return {name: shares[name[:2]] for name in LAYERS[layout] if name[:2] in shares}


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_the_sites_are_in_the_order_of_the_files(layout, request):
    sites = sites_of(request.getfixturevalue(layout))
    assert tuple((*site.block, site.index) for site in sites) == LAYERS[layout]
    places = [TRANSFORMERS[layout].index(site.block) for site in sites]
    assert [site.transformer_index for site in sites] == places
    assert {site.context_dim for site in sites} == {64}


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_all_layers_have_the_weight(layout, request, clip_vision):
    found = scales(request.getfixturevalue(layout), clip_vision, weight=0.8)
    assert found == dict.fromkeys(LAYERS[layout], 0.8)


@pytest.mark.parametrize(
    ("layout", "preset", "shares"),
    [
        ("sdxl", "style", {("output", 1): 0.8}),
        ("sdxl", "composition", {("input", 8): 0.8}),
        ("sdxl", "style and composition", {("output", 1): 0.8, ("input", 8): 0.8}),
        (
            "sd15",
            "style",
            dict.fromkeys(
                [("input", i) for i in (1, 2, 4, 5)] + [("output", i) for i in range(5, 12)], 0.8
            ),
        ),
        ("sd15", "composition", {("input", 7): 0.2, ("input", 8): 0.8}),
        (
            "sd15",
            "style and composition",
            dict.fromkeys(
                [("input", i) for i in (1, 2, 4, 5, 8)] + [("output", i) for i in range(5, 12)],
                0.8,
            )
            | {("input", 7): 0.2},
        ),
    ],
)
def test_presets(layout, preset, shares, request, clip_vision):
    """SDXL: InstantStyle's up_blocks.0.attentions.1 and down_blocks.2.attentions.1."""
    found = scales(request.getfixturevalue(layout), clip_vision, layers=preset, weight=0.8)
    assert found == wanted(layout, shares)


@pytest.mark.parametrize(
    ("layout", "text", "shares"),
    [
        ("sd15", "6: 0.5", {("middle", 0): 0.5}),
        ("sd15", "middle_0:0.5", {("middle", 0): 0.5}),
        ("sdxl", "4: 0.5", {("middle", 0): 0.5}),
        ("sdxl", "3:1, 6: 0.25", {("input", 8): 1.0, ("output", 1): 0.25}),
        ("sdxl", "output_5: -1,\n 0 : 2.0,", {("output", 5): -1.0, ("input", 4): 2.0}),
        ("sd15", "0: 0, 15: 1", {("output", 11): 1.0}),
        ("sd15", "6: 0.5, 6: 0.7", {("middle", 0): 0.7}),
    ],
)
def test_written_lists(layout, text, shares, request, clip_vision):
    model = request.getfixturevalue(layout)
    found = scales(model, clip_vision, layers="custom", layer_weights=text)
    assert found == wanted(layout, shares)


def test_every_transformer_has_a_number_and_a_name(sd15):
    sites = sites_of(sd15)
    for number, (block, place) in enumerate(SD1_TRANSFORMERS):
        by_number = layer_shares("custom", f"{number}: 1", sites)
        by_name = layer_shares("custom", f"{block}_{place}: 1", sites)
        assert by_number == by_name and sum(by_number) == 1


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "empty list"),
        (" , ,", "empty list"),
        ("16: 1", "'16'"),
        ("middle_1: 1", "'middle_1'"),
        ("6", "'6'"),
        ("6: strong", "'6: strong'"),
        ("6: nan", "'6: nan'"),
        ("6: inf", "'6: inf'"),
        ("6 = 1", "'6 = 1'"),
        ("6: 1: 2", "'6: 1: 2'"),
        (": 1", "''"),
    ],
)
def test_lists_that_cannot_be_used(sd15, text, got):
    with pytest.raises(ValueError) as error:
        layer_shares("custom", text, sites_of(sd15))
    message = str(error.value)
    assert got in message
    assert "6: 1.0" in message or "middle_0" in message, "an example or the layers that there are"


@pytest.mark.parametrize("preset", ["style", "composition", "style and composition"])
def test_a_preset_for_an_unknown_layout(sd15, preset):
    with pytest.raises(ValueError, match="Use 'all', or 'custom'"):
        layer_shares(preset, "", sites_of(sd15)[:6])


@pytest.mark.parametrize("preset", ["", "Style", "style and", "and", "composition and pose"])
def test_an_unknown_preset(sd15, preset):
    with pytest.raises(ValueError) as error:
        layer_shares(preset, "", sites_of(sd15))
    assert all(name in str(error.value) for name in PRESETS)


@pytest.mark.parametrize(("layers", "told"), [("style", True), ("custom", False)])
def test_a_written_list_that_does_not_act_is_told(sd15, clip_vision, caplog, layers, told):
    scales(sd15, clip_vision, layers=layers, layer_weights="6: 1")
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = ["layer_weights acts with layers = custom only; got layers = style."]
    assert [text for text in texts if "layer_weights" in text] == expected * told
