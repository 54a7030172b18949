"""What a UNet call should give, without the code of `nodes/`: records and a plain IP-Adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from multi_ipadapter.models.references import ReferenceEmbeds

from .builders import sample

# The cross-attention layers as ComfyUI names them, in the order of the adapter files.
SD1_LAYERS = (
    *(("input", i, 0) for i in (1, 2, 4, 5, 7, 8)),
    *(("output", i, 0) for i in range(3, 12)),
    ("middle", 0, 0),
)
SDXL_LAYERS = (
    *(("input", block, i) for block in (4, 5) for i in range(2)),
    *(("input", block, i) for block in (7, 8) for i in range(10)),
    *(("output", block, i) for block in (0, 1, 2) for i in range(10)),
    *(("output", block, i) for block in (3, 4, 5) for i in range(2)),
    *(("middle", 0, i) for i in range(10)),
)


class Call(NamedTuple):
    """One call of a diffusion model: x [B, 4, H, W], t [B], context [B, L, C] -> out."""

    x: Tensor
    t: Tensor
    context: Tensor
    options: dict
    out: Tensor


@contextmanager
def recorded(model) -> Iterator[list[Call]]:
    """Every call of the model's UNet inside the block."""
    calls: list[Call] = []

    def record(_module, args, kwargs, out) -> None:
        options = dict(kwargs["transformer_options"])
        calls.append(Call(args[0].clone(), args[1], kwargs["context"], options, out.clone()))

    handle = model.model.diffusion_model.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Multi-head attention as the papers write it: [B, L, D], [B, M, D], [B, M, D] -> [B, L, D]."""

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    logits = split(q) @ split(k).transpose(-1, -2) / (q.shape[-1] // heads) ** 0.5
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    return (logits.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)


def expected(
    model,
    call: Call,
    adapter,
    references: ReferenceEmbeds,
    sees: Sequence[bool],
    weight: float = 1.0,
    method: str = "concat",
    region: Callable[[tuple[int, int]], Tensor] | None = None,
    also: Callable | None = None,
) -> Tensor:
    """The output of `call`, had a plain IP-Adapter run: row r sees the references if `sees[r]`.

    Rows that do not see them attend to the null image. `region` gives [B or 1, L, 1] for the
    height and width of a layer's activations; `also(q, k, v, extra_options)` is added to every
    layer. Patches of other kinds than attention replacements act as in `call`.
    """
    network = adapter.adapter
    shown = network.project({k: v[None] for k, v in references.features.items()})
    null = network.project({k: v[None] for k, v in references.null.items()})
    with_references = network.aggregate(shown, method, references.weights[None])
    without = network.aggregate(null.expand_as(shown), method, references.weights[None])
    layers = SD1_LAYERS if len(with_references) == 16 else SDXL_LAYERS
    chosen = torch.tensor(list(sees))[:, None, None]

    def replace(layer, blank):
        def attend(q, k, v, extra):
            heads = extra["n_heads"]
            keys = torch.where(chosen, layer.keys, blank.keys)
            values = torch.where(chosen, layer.values, blank.values)
            scale = weight if region is None else weight * region(extra["activations_shape"][2:])
            image = attention(q, keys, values, heads, layer.bias)
            out = attention(q, k, v, heads) + scale * image
            return out if also is None else out + also(q, k, v, extra)

        return attend

    table = zip(layers, with_references, without, strict=True)
    patches = {name: replace(layer, blank) for name, layer, blank in table}
    options = {"patches_replace": {"attn2": patches}}
    if "patches" in call.options:
        options["patches"] = call.options["patches"]
    return run_unet(model, call, options)


def run_unet(model, call: Call, transformer_options: dict | None = None) -> Tensor:
    """The same call once more, with other patches or none."""
    unet = model.model.diffusion_model
    options = dict(transformer_options or {})
    return unet(call.x, call.t, context=call.context, transformer_options=options)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a.float() - b.float()).abs().max())


def shown_rows(call: Call, known_texts: Sequence[Tensor]) -> list[bool]:
    """True for each row of `call` whose text is one of `known_texts` ([b, L, C] each)."""
    known = [row for text in known_texts for row in text]

    def is_shown(row):
        return any(torch.equal(row[: len(text)], text.to(row)) for text in known)

    return [is_shown(row) for row in call.context]


def assert_rows(model, calls, adapter, references, shown, hidden, weight=0.9, **options):
    """Rows with a text of `shown` see the references, rows with one of `hidden` the null image."""
    assert calls
    for call in calls:
        sees = shown_rows(call, shown)
        assert [not x for x in sees] == shown_rows(call, hidden), "the texts must tell rows apart"
        wanted = expected(model, call, adapter, references, sees, weight, **options)
        assert difference(call.out, wanted) < 1e-5
        other = expected(model, call, adapter, references, [not x for x in sees], weight, **options)
        assert min((other - wanted).flatten(1).abs().amax(1)) > 1e-3


def texts(*conditionings) -> list[Tensor]:
    """The encoded prompts of some conditionings."""
    return [entry[0] for conditioning in conditionings for entry in conditioning]


def one_call(model, prompts, cfg: float = 7.0) -> Call:
    """The only call of a sampling run of one step, for one latent."""
    with recorded(model) as calls:
        sample(model, *prompts, steps=1, cfg=cfg, batch=1)
    (call,) = calls
    return call


def sees(call: Call) -> list[bool]:
    """The rows of `one_call` that must see the references: core's order is positive, negative."""
    return [index == 0 for index in call.options["cond_or_uncond"]]
