"""The rival: the training loop of the common public script, written from its description.

Nothing is cached: VAE, image encoder and text encoder run for every sample. The UNet is frozen in
float32 (under autocast on a GPU), keys and values are projected inside the attention replacements
from the joined tokens of all references, and the loss is read from the device in every step.
Decoding runs ahead in threads, as the script's data loader does with workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.objective import Noise, add_noise, draw_noise, prediction_target
from ..models.projection import HIDDEN
from ..nodes.host.memory import copies_for_autograd
from ..nodes.steering.vision import encode_null
from ..nodes.unet.attention import core_attention
from ..nodes.unet.private import private_unet, text_weights
from ..nodes.unet.sites import cross_attention_sites
from ..pictures.load import load_picture
from ..runs.streams import step_noise
from ..training.batch import LATENTS
from ..training.config import TrainingConfig
from ..training.initial import initial_adapter
from ..training.loop import autocast
from ..training.sampling import Row
from ._training_world import FIT, World

_TOKENS, _BIAS = "benchmark_tokens", "benchmark_bias"


class PlainAttention:
    """Text attention plus attention to the tokens of all references, [B, N T, C]."""

    def __init__(self, to_k: nn.Linear, to_v: nn.Linear):
        self.to_k, self.to_v = to_k, to_v

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        text = core_attention(q, k, v, extra_options)
        tokens, bias = extra_options[_TOKENS], extra_options[_BIAS]
        if bias is not None:
            bias = bias.to(q.dtype).unsqueeze(1).expand(-1, q.shape[1], -1)
        keys, values = self.to_k(tokens), self.to_v(tokens)
        return text + core_attention(q, keys, values, extra_options, bias)


class PlainLoop:
    """One run; call `step` again and again. To be made under `torch.inference_mode(False)`."""

    def __init__(self, world: World, config: TrainingConfig, sampler):
        self.world, self.config, self.sampler = world, config, sampler
        self.device = comfy.model_management.get_torch_device()
        models = world.models
        self.unet = private_unet(models.model, self.device, torch.float32)
        sites = cross_attention_sites(self.unet)
        with torch.inference_mode():
            null = encode_null(models.clip_vision, (HIDDEN,))
        self.null = copies_for_autograd(null)[HIDDEN].to(self.device)
        widths = {HIDDEN: self.null.shape[-1]}
        adapter = initial_adapter(config, text_weights(self.unet, sites), widths)
        self.adapter = adapter.to(self.device)
        self.replace = {
            (*site.block, site.index): PlainAttention(layer.to_k_ip, layer.to_v_ip)
            for site, layer in zip(sites, adapter.ip_adapter.values(), strict=True)
        }
        trained = [*adapter.image_proj.parameters(), *adapter.ip_adapter.parameters()]
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        sigmas = models.model.get_model_object("model_sampling").sigmas
        self.alphas_cumprod = (1 / (1 + sigmas.detach().clone() ** 2)).to(self.device)
        self.pool = ThreadPoolExecutor(4)
        self.position = 0
        self.ahead = self._load(0)

    def close(self) -> None:
        """End the decoding threads."""
        self.pool.shutdown(cancel_futures=True)

    def step(self) -> float:
        """One optimizer step; its loss."""
        rows, futures = self.ahead
        self.position += 1
        self.ahead = self._load(self.position)
        pixels = [future.result()[0] for future in futures]
        loss = self.loss(rows, pixels, self.position)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def loss(self, rows: Sequence[Row], pixels: Sequence[Tensor], number: int) -> Tensor:
        """Mean loss; `pixels` are those of the targets, then of all references."""
        latents = self._encode(pixels[: len(rows)], LATENTS)
        drawn = draw_noise(
            step_noise(self.config.seed, number), tuple(latents.shape), len(self.alphas_cumprod)
        )
        noise = Noise(*(x.to(self.device) for x in drawn))
        features, present = self._references(rows, pixels[len(rows) :])
        context = self._text(["" if r.drop_text else self._caption(r) for r in rows])
        with autocast(self.config, self.device):
            predicted = self._predict(latents, noise, features, present, context)
        # The random UNets predict v.
        target = prediction_target("v_prediction", latents, noise, self.alphas_cumprod)
        return F.mse_loss(predicted.float(), target.float())

    def _predict(self, latents, noise, features, present, context) -> Tensor:
        tokens = self.adapter.project({HIDDEN: features})  # [B, N, T, C]
        bias = None
        if not present.all():
            absent = ~present.repeat_interleave(tokens.shape[2], dim=1).to(self.device)
            bias = torch.zeros(absent.shape, device=self.device).masked_fill(absent, -torch.inf)
        options = {
            "patches_replace": {"attn2": self.replace},
            "optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(
                *args, **kwargs
            ),
            _TOKENS: tokens.flatten(1, 2),
            _BIAS: bias,
        }
        noisy = add_noise(latents, noise, self.alphas_cumprod)
        return self.unet(
            noisy, noise.timesteps.float(), context=context, transformer_options=options
        )

    def _load(self, position: int) -> tuple[list[Row], list[Future]]:
        rows = self.sampler.batch(position)
        return rows, [
            self.pool.submit(load_picture, self.world.index, n, self.world.scale.pixels, FIT)
            for n in picture_numbers(rows)
        ]

    def _encode(self, pixels: Sequence[Tensor], name: str) -> Tensor:
        return self.world.encode(torch.stack(list(pixels)), (name,))[name].to(self.device)

    def _references(self, rows: Sequence[Row], pixels) -> tuple[Tensor, Tensor]:
        """Hidden states [B, N, S, C] and presence [B, N]."""
        width = max(len(row.references) for row in rows)
        present = torch.tensor([[i < len(row.references) for i in range(width)] for row in rows])
        encoded = self._encode(pixels, HIDDEN)
        features = encoded.new_zeros(*present.shape, *encoded.shape[1:])
        features[present.to(self.device)] = encoded
        drop = torch.tensor([row.drop_image for row in rows], device=self.device)
        return torch.where(drop.view(-1, 1, 1, 1), self.null.unsqueeze(0), features), present

    def _caption(self, row: Row) -> str:
        return self.world.index.caption(row.target)

    def _text(self, captions: Sequence[str]) -> Tensor:
        """[B, 77, C], all captions in one pass."""
        clip = self.world.models.clip
        comfy.model_management.load_model_gpu(clip.patcher)
        tokens = [[token for token, _ in clip.tokenize(c)["l"][0]] for c in captions]
        with torch.inference_mode():
            context = clip.cond_stage_model.clip_l.encode(tokens)[0]
        return copies_for_autograd({"context": context})["context"].to(self.device).float()


def picture_numbers(rows: Sequence[Row]) -> list[int]:
    """Numbers of the targets, then of all references; repeated pictures are encoded again."""
    return [row.target for row in rows] + [n for row in rows for n in row.references]
