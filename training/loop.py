"""The training loop: batches -> G and U -> the frozen model -> loss -> the adapter's weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.adapter import MultiIPAdapter
from ..models.aggregation import Aggregated
from .backbone import Backbone
from .batch import Batch, FeatureSource, collate, with_null_images
from .config import TrainingConfig
from .objective import Noise, add_noise, draw_noise, min_snr_weight, prediction_target, row_losses
from .optimizer import build_optimizer, learning_rate_share
from .processes import OneProcess
from .sampling import DropOneSampler
from .state import OtherRunError, Progress, checkpoints, load_state, save_state

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class KeysAndValues(nn.Module):
    """All that is trained, as one call: features -> G and U of every layer."""

    def __init__(self, adapter: MultiIPAdapter):
        super().__init__()
        self.adapter = adapter

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> list[Aggregated]:
        """features [B, N, ...], present [B, N]."""
        return self.adapter.aggregate(self.adapter.project(features), mask=present)


@dataclass(frozen=True)
class Report:
    """What `on_step` is told, at most every `log_every` steps.

    `loss` and `gradient_norm` are means over the steps since the last report; `waited` is the
    share of the time that was spent waiting for data.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    waited: float
    losses: tuple[float, ...]


class TrainingError(RuntimeError):
    """Training cannot go on with these settings; the last state is intact."""


class NotFiniteError(TrainingError):
    """The loss or its gradient became NaN or infinite."""


class Trainer:
    """A run: its adapter, the average of its weights (EMA), and where it stands.

    Args:
        run: values that identify the run, checked on resuming (settings, data, encoders).
        folder: for states; None: nothing is kept on disk.
    """

    def __init__(
        self,
        adapter: MultiIPAdapter,
        backbone: Backbone,
        source: FeatureSource,
        config: TrainingConfig,
        folder: Path | None = None,
        run: Mapping[str, Any] | None = None,
        processes: OneProcess | None = None,
    ):
        self.adapter = adapter.to(backbone.device)
        self.backbone = backbone
        self.source = source
        self.config = config
        self.folder = folder
        self.run = dict(run or {}) | {"config": _identifying(config)}
        self.processes = processes or OneProcess()
        if config.batch_size % self.processes.count:
            raise ValueError(
                f"Got batch_size {config.batch_size} for {self.processes.count} processes; "
                "expected a multiple of their number."
            )
        self.sampler = DropOneSampler(source.index, config)
        self.module = self.processes.wrap(KeysAndValues(self.adapter))
        self.parameters = [p for p in adapter.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(adapter, config)
        on_gpu = backbone.device.type != "cpu"
        self.scaler = torch.amp.GradScaler(
            backbone.device.type, enabled=config.precision == "fp16" and on_gpu
        )
        self.ema: dict[str, Tensor] = {}
        if config.ema_decay:
            self.ema = {k: v.detach().clone() for k, v in adapter.state_dict().items()}
        self.progress = Progress()
        self.intact = True  # False: an update was cut short, or the weights are no numbers
        self._updating = False

    def resume(self) -> bool:
        """Go on from the newest state in the folder; False: there is none.

        Raises:
            ValueError: the states belong to another run, or all are damaged.
        """
        errors = []
        for path in reversed(checkpoints(self.folder) if self.folder else []):
            try:
                self.progress = load_state(path, self.run, self.adapter, self.ema, self.optimizer)
            except OtherRunError:
                raise
            except ValueError as error:
                errors.append(str(error))
                continue
            self.scaler.load_state_dict(dict(self.progress.scaler) or self.scaler.state_dict())
            return True
        if errors:
            raise ValueError("No state can be read: " + " ".join(errors))
        return False

    def save(self) -> Path | None:
        """Write the state, if there is a folder and this is the first process."""
        if self.folder is None or self.processes.rank:
            return None
        self.progress.scaler = self.scaler.state_dict() if self.scaler.is_enabled() else {}
        return save_state(
            self.folder,
            self.run,
            self.progress,
            self.adapter,
            self.ema,
            self.optimizer,
            self.config.keep_checkpoints,
        )

    def averaged(self) -> MultiIPAdapter:
        """A copy of the adapter with the averaged weights (or the latest, without EMA)."""
        twin = MultiIPAdapter(self.adapter.config)
        weights = self.ema if self.config.ema_decay else self.adapter.state_dict()
        twin.load_state_dict({k: v.detach().cpu() for k, v in weights.items()})
        return twin.eval().requires_grad_(False)

    def train(
        self,
        on_step: Callable[[Report], None] | None = None,
        on_validate: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run to the last step; False when stopped early. The state is saved either way.

        Raises:
            TrainingError: the loss is no number, or memory ran out; the last state is intact.
            OSError: the disk is full; the last state is intact.
        """
        window = _Window(self.config, self.processes, skips=self.scaler.is_enabled())
        batches = self._batches()
        try:
            while self.progress.step < self.config.steps:
                if self._is_stopped(should_stop):
                    self._report(window, on_step)
                    return False
                window.add(*self._step(batches, window))
                self._after_step(window, on_step, on_validate)
            return True
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Memory ran out at step {self.progress.step + 1} with batch_size "
                f"{self.config.batch_size}. Lower batch_size and raise accumulation by as much, "
                "set gradient_checkpointing = true, use precision bf16, or lower size; the last "
                "checkpoint is intact."
            ) from error
        finally:
            batches.close()
            # Also when cancelled in the middle of a step; broken or half updated weights are not.
            self.intact = not self._updating and window.is_finite()
            if self.intact:
                self.save()

    def _is_stopped(self, should_stop: Callable[[], bool]) -> bool:
        """Several processes agree only now and then, because asking waits for all devices."""
        if self.processes.count > 1 and self.progress.step % self.config.log_every:
            return False
        return self.processes.any(should_stop())

    def _after_step(self, window, on_step, on_validate) -> None:
        step, config = self.progress.step, self.config
        keep = bool(config.checkpoint_every) and step % config.checkpoint_every == 0
        if keep or step % config.log_every == 0 or step == config.steps:
            self._report(window, on_step)  # raises before broken weights could be saved
        if on_validate and config.validate_every and step % config.validate_every == 0:
            began = time.perf_counter()
            on_validate(step)
            window.began += time.perf_counter() - began  # the speed is that of training
        if keep:
            self.save()
            self.processes.wait()

    def _report(self, window: _Window, on_step) -> None:
        if not window.losses:
            return
        step = self.progress.step
        report = window.report(step, self._learning_rate(step - 1))
        if on_step and not self.processes.rank:
            on_step(report)

    def _step(
        self, batches: Iterator[tuple[Batch, Noise]], window: _Window
    ) -> tuple[Tensor, Tensor]:
        """One optimizer step; loss and gradient norm stay on the device."""
        self.optimizer.zero_grad(set_to_none=True)  # what a cancelled step has left
        total = torch.zeros((), device=self.backbone.device)
        for part in range(self.config.accumulation):
            began = time.perf_counter()
            batch, noise = next(batches)
            window.waited += time.perf_counter() - began
            last = part == self.config.accumulation - 1
            sync = nullcontext() if last else self.processes.without_sync(self.module)
            with sync:
                loss = self.loss(batch, noise) / self.config.accumulation
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total, self._update()

    def _update(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_share(self.config, self.progress.step)
        self.scaler.unscale_(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        self._updating = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        self.progress.step += 1
        self._updating = False
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        if not self.config.ema_decay:
            return
        step = self.progress.step
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        averages = list(self.ema.values())
        torch._foreach_lerp_(averages, list(self.adapter.state_dict().values()), 1 - decay)

    def _learning_rate(self, step: int) -> float:
        return self.config.learning_rate * learning_rate_share(self.config, step)

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        """Mean loss of a batch that is on the device."""
        schedule = self.backbone.alphas_cumprod
        noisy = add_noise(batch.latents, noise, schedule)
        target = prediction_target(self.backbone.prediction, batch.latents, noise, schedule)
        features, present = with_null_images(
            batch.features,
            batch.present,
            batch.drop_image,
            self.backbone.null_features,
            self.config.slots,
        )
        text = self.backbone.encode_text(batch.captions)
        with autocast(self.config, self.backbone.device):
            layers = self.module(features, present)
            predicted = self.backbone.denoise(noisy, noise.timesteps, text, layers)
        losses = row_losses(predicted, target, batch.mask)
        if self.config.min_snr_gamma:
            losses = losses * min_snr_weight(
                self.config.min_snr_gamma, self.backbone.prediction, noise.timesteps, schedule
            )
        return losses.mean()

    def _batches(self) -> Iterator[tuple[Batch, Noise]]:
        """This process's rows from the present micro-step on, prepared ahead in a thread."""
        names, slots = self.adapter.config.projection.inputs, self.config.slots
        num_timesteps = len(self.backbone.alphas_cumprod)
        count = self.config.batch_size // self.processes.count
        mine = slice(self.processes.rank * count, (self.processes.rank + 1) * count)
        device = self.backbone.device

        def prepare(micro_step: int) -> tuple[Batch, Noise]:
            batch = collate(self.source, self.sampler.batch(micro_step)[mine], names, slots)
            shape = (self.config.batch_size, *batch.latents.shape[1:])
            drawn = draw_noise(self.config, shape, num_timesteps, micro_step)
            noise = Noise(*(x[mine] for x in drawn))
            if device.type == "cuda":
                return batch.pin_memory(), Noise(*(x.pin_memory() for x in noise))
            return batch, noise

        with ThreadPoolExecutor(max_workers=1) as pool:
            pending: list[Future] = []
            try:
                position = self.progress.step * self.config.accumulation
                while True:
                    while len(pending) < self.config.prefetch:
                        pending.append(pool.submit(prepare, position))
                        position += 1
                    batch, noise = pending.pop(0).result()
                    yield batch.to(device), Noise(*(x.to(device, non_blocking=True) for x in noise))
            finally:
                for future in pending:
                    future.cancel()


class _Window:
    """Losses since the last report, kept on the device until somebody asks."""

    def __init__(self, config: TrainingConfig, processes: OneProcess, skips: bool):
        self.config = config
        self.processes = processes
        self.skips = skips  # the scaler passes over a step whose gradient is not finite
        self._clear()

    def _clear(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self.losses.append(loss)
        self.norms.append(norm)

    def is_finite(self) -> bool:
        """Whether all steps since the last report were sound; waits for the device."""
        values = self.losses if self.skips else [*self.losses, *self.norms]
        return not values or bool(torch.stack(values).isfinite().all())

    def report(self, step: int, learning_rate: float) -> Report:
        """Raises NotFiniteError, in all processes alike."""
        losses = self.processes.mean(torch.stack(self.losses))
        if not self.is_finite() or not losses.isfinite().all():
            raise NotFiniteError(
                "The loss is no longer a finite number. Lower learning_rate, or use precision "
                "bf16 or fp32 instead of fp16; the last checkpoint is intact and can be resumed."
            )
        seconds = time.perf_counter() - self.began
        rows = len(losses) * self.config.batch_size * self.config.accumulation
        report = Report(
            step,
            losses.mean().item(),
            learning_rate,
            torch.stack(self.norms).mean().item(),
            rows / seconds,
            self.waited / seconds,
            tuple(losses.tolist()),
        )
        self._clear()
        return report


def autocast(config: TrainingConfig, device: torch.device):
    """Half precision where the settings ask for it; the adapter's weights stay float32."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[config.precision])


def _identifying(config: TrainingConfig) -> dict[str, Any]:
    """Settings that a resumed run may not change: all that shape its steps."""
    free = ("steps", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints")
    free += ("prefetch", "compile", "gradient_checkpointing")
    free += ("validation_identities", "validation_references")
    return {k: v for k, v in config.to_dict().items() if k not in free}
