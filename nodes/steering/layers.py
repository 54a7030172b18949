"""Which cross-attention layers take part, and how strongly: presets and written lists."""

from __future__ import annotations

import math

from ..unet.sites import Site

# Spatial transformers (counted as the UNet runs them) and their share of the weight.
# SDXL: InstantStyle, arXiv 2404.02733, section 3.3. SD1.x has no published table of its own: its
# deepest input blocks place things, the shallow ones and the output blocks render them.
_SDXL = {"style": {6: 1.0}, "composition": {3: 1.0}}
_SD1 = {
    "style": {i: 1.0 for i in (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)},
    "composition": {4: 0.25, 5: 1.0},
}

PRESETS = ("all", "style", "composition", "style and composition", "custom")


def layer_shares(preset: str, written: str, sites: list[Site]) -> list[float]:
    """Share of the weight for every site, in the sites' order.

    Args:
        preset: one of `PRESETS`.
        written: for "custom", entries "layer: share" separated by commas; a layer is the number
            of a spatial transformer ("6") or a block ("output_1", "middle_0"). Others get 0.

    Raises:
        ValueError: an unknown preset or layer, or an entry that cannot be read.
    """
    if preset == "all":
        return [1.0] * len(sites)
    if preset == "custom":
        return _custom(written, sites)
    count = 1 + max(site.transformer_index for site in sites)
    table = {11: _SDXL, 16: _SD1}.get(count)
    if table is None:
        raise ValueError(
            f"The layer preset '{preset}' is known for SD1.x and SDXL; this model has {count} "
            "spatial transformers. Use 'all', or 'custom' with a list of layers."
        )
    chosen: dict[int, float] = {}
    for name in preset.split(" and "):
        if name not in table:
            raise ValueError(f"Got layers = '{preset}'; expected one of {', '.join(PRESETS)}.")
        chosen |= table[name]
    return [chosen.get(site.transformer_index, 0.0) for site in sites]


def _custom(written: str, sites: list[Site]) -> list[float]:
    names = {str(s.transformer_index) for s in sites} | {_block_name(s) for s in sites}
    shares: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in written.replace("\n", ",").split(","))):
        layer, _, share = (part.strip() for part in entry.partition(":"))
        try:
            shares[layer] = _finite(share)
        except ValueError as error:
            raise ValueError(
                f"Got the layer entry '{entry}'; expected 'layer: share', such as '6: 1.0' or "
                "'middle_0: 0.5'."
            ) from error
        if layer not in names:
            known = ", ".join(sorted(names, key=lambda n: (not n.isdigit(), len(n), n)))
            raise ValueError(f"Got the layer '{layer}'; this model has {known}.")
    if not shares:
        raise ValueError(
            "Got an empty list of layers; expected entries such as '6: 1.0, middle_0: 0.5' in "
            "layer_weights, or another preset in layers."
        )
    return [shares.get(_block_name(s), shares.get(str(s.transformer_index), 0.0)) for s in sites]


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _block_name(site: Site) -> str:
    return f"{site.block[0]}_{site.block[1]}"
