"""The training loop: batches -> G and U -> the frozen model -> loss -> the adapter's weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.backbone import Backbone
from ..diffusion.objective import (
    Noise,
    add_noise,
    draw_noise,
    min_snr_weight,
    prediction_target,
    row_losses,
)
from ..models.adapter import MultiIPAdapter
from ..models.aggregation import Aggregated
from ..runs import streams
from ..runs.processes import OneProcess
from ..runs.state import (
    OtherRunError,
    Progress,
    checkpoints,
    load_state,
    save_state,
    what_is_left,
)
from .batch import Batch, FeatureSource, collate, pinned, with_null_images
from .checks import check_shares
from .config import MAY_CHANGE, TrainingConfig
from .optimizer import build_optimizer, learning_rate_share
from .sampling import DropOneSampler
from .window import Report, Window

log = logging.getLogger("MultiIPAdapter")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

OnStep = Callable[[Report], None] | None
OnValidate = Callable[[int], None] | None  # told the step
Prepared = tuple[Batch, Noise, Mapping[str, Tensor]]  # with the encoded captions


class KeysAndValues(nn.Module):
    """All that is trained, as one call: features -> G and U of every layer."""

    def __init__(self, adapter: MultiIPAdapter):
        super().__init__()
        self.adapter = adapter

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> list[Aggregated]:
        """features [B, N, ...], present [B, N]."""
        return self.adapter.aggregate(self.adapter.project(features), mask=present)


class TrainingError(RuntimeError):
    """Training cannot go on with these settings; states on disk are intact."""


class NotFiniteError(TrainingError):
    """The loss or its gradient became NaN or infinite."""


class Trainer:
    """A run: its adapter, the average of its weights (EMA), and where it stands.

    Args:
        fingerprint: values of data and models, checked on resuming as the settings are.
        folder: for states; None: nothing is kept on disk.
    """

    def __init__(
        self,
        adapter: MultiIPAdapter,
        backbone: Backbone,
        source: FeatureSource,
        config: TrainingConfig,
        folder: Path | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        processes: OneProcess | None = None,
    ):
        self.adapter = adapter.to(backbone.device)
        self.backbone = backbone
        self.source = source
        self.config = config
        self.folder = folder
        self.fingerprint = dict(fingerprint or {}) | {"config": config.to_dict()}
        self.processes = processes or OneProcess()
        check_shares(config, self.processes)
        self.sampler = DropOneSampler(source.index, config)
        self.module = self.processes.wrap(KeysAndValues(self.adapter))
        self.parameters = [p for p in adapter.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(adapter, config)
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=config.precision == "fp16")
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
                self.progress, changes = load_state(
                    path, self.fingerprint, MAY_CHANGE, self.adapter, self.ema, self.optimizer
                )
            except OtherRunError:
                raise
            except ValueError as error:
                errors.append(str(error))
                log.warning("%s It is passed over.", error)
                continue
            self.scaler.load_state_dict(dict(self.progress.scaler) or self.scaler.state_dict())
            for change in [] if self.processes.rank else changes:
                log.warning("%s is resumed with another %s", path.parent.name, change)
            return True
        if errors:
            raise ValueError(
                f"No state can be read: {' '.join(errors)} Put whole ones back, or delete them to "
                "begin anew."
            )
        return False

    def save(self) -> Path | None:
        """Write the state, if there is a folder and this is the first process."""
        if self.folder is None or self.processes.rank:
            return None
        self.progress.scaler = self.scaler.state_dict() if self.scaler.is_enabled() else {}
        return save_state(
            self.folder,
            self.fingerprint,
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
        on_step: OnStep = None,
        on_validate: OnValidate = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Run to the last step; False when stopped early. The state is saved either way.

        Raises:
            TrainingError: the loss is no number, or memory ran out; states on disk are intact.
            OSError: the disk is full; states on disk are intact.
        """
        window = Window(self.config, self.processes, self.scaler)
        batches = self._batches()
        with self.memory_errors():
            try:
                while self.progress.step < self.config.steps:
                    if self._is_stopped(should_stop):
                        self._report(window, on_step)
                        return False
                    window.add(*self._step(batches, window))
                    self._after_step(window, on_step, on_validate)
                return True
            finally:
                batches.close()
                # Also when cancelled in mid-step; but never broken or half updated weights.
                self.intact = not self._updating and not window.problem()
                if self.intact:
                    self.save()

    @contextmanager
    def memory_errors(self) -> Iterator[None]:
        """Say in a TrainingError what to change when memory runs out."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Memory ran out after step {self.progress.step} with batch_size "
                f"{self.config.batch_size}. Lower batch_size and raise accumulation by as much, "
                "set gradient_checkpointing = true, or use precision bf16, and resume; or start "
                f"another run with a smaller size; {what_is_left(self.folder)}."
            ) from error

    def _is_stopped(self, should_stop: Callable[[], bool]) -> bool:
        """Several processes agree only now and then, because asking waits for all devices."""
        if self.processes.count > 1 and self.progress.step % self.config.log_every:
            return False
        return self.processes.any(should_stop())

    def _after_step(self, window: Window, on_step: OnStep, on_validate: OnValidate) -> None:
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

    def _report(self, window: Window, on_step: OnStep) -> None:
        if not window.losses:
            return
        if self.processes.any(bool(problem := window.problem())):
            raise NotFiniteError(
                f"{problem or 'The loss of another process is no longer finite'}. Lower "
                "learning_rate, or use precision bf16 or fp32 instead of fp16, and resume; "
                f"{what_is_left(self.folder)}."
            )
        step = self.progress.step
        report = window.report(step, self._learning_rate(step - 1))
        if on_step and not self.processes.rank:
            on_step(report)

    def _step(self, batches: Iterator[Prepared], window: Window) -> tuple[Tensor, Tensor]:
        """One optimizer step; loss and gradient norm stay on the device."""
        self.optimizer.zero_grad(set_to_none=True)  # what a cancelled step has left
        total = torch.zeros((), device=self.backbone.device)
        for part in range(self.config.accumulation):
            began = time.perf_counter()
            prepared = next(batches)
            window.waited += time.perf_counter() - began
            last = part == self.config.accumulation - 1
            sync = nullcontext() if last else self.processes.without_sync(self.module)
            with sync:
                loss = self.loss(*prepared) / self.config.accumulation
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
        self._average(norm)
        self.progress.step += 1
        self._updating = False
        return norm

    @torch.no_grad()
    def _average(self, norm: Tensor) -> None:
        if not self.config.ema_decay:
            return
        step = self.progress.step
        share = 1 - min(self.config.ema_decay, (1 + step) / (10 + step))
        averages, weights = list(self.ema.values()), list(self.adapter.state_dict().values())
        if self.scaler.is_enabled():  # a step that it skipped has no part; the GPU is not asked
            torch._foreach_lerp_(averages, weights, [share * norm.isfinite()] * len(averages))
        else:
            torch._foreach_lerp_(averages, weights, share)

    def _learning_rate(self, step: int) -> float:
        return self.config.learning_rate * learning_rate_share(self.config, step)

    def loss(self, batch: Batch, noise: Noise, text: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of a batch that is on the device, as its encoded captions are."""
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
        with autocast(self.config, self.backbone.device):
            layers = self.module(features, present)
            predicted = self.backbone.denoise(noisy, noise.timesteps, text, layers)
        losses = row_losses(predicted, target, batch.mask)
        if self.config.min_snr_gamma:
            losses = losses * min_snr_weight(
                self.config.min_snr_gamma, self.backbone.prediction, noise.timesteps, schedule
            )
        return losses.mean()

    def _batches(self) -> Generator[Prepared, None, None]:
        """This process's rows from the present micro-step on, prepared ahead in a thread."""
        names, slots = self.adapter.config.projection.inputs, self.config.slots
        num_timesteps = len(self.backbone.alphas_cumprod)
        count = self.config.batch_size // self.processes.count
        mine = slice(self.processes.rank * count, (self.processes.rank + 1) * count)
        device = self.backbone.device

        def prepare(micro_step: int) -> Prepared:
            batch = collate(self.source, self.sampler.batch(micro_step)[mine], names, slots)
            shape = (self.config.batch_size, *batch.latents.shape[1:])
            random = streams.step_noise(self.config.seed, micro_step)
            drawn = draw_noise(random, shape, num_timesteps, self.config.noise_offset)
            noise = Noise(*(x[mine] for x in drawn))
            text = self.backbone.encode_text(batch.captions)
            if device.type == "cuda":
                return batch.pin_memory(), Noise(*map(pinned, noise)), text
            return batch, noise, text

        with ThreadPoolExecutor(max_workers=1) as pool:
            position = self.progress.step * self.config.accumulation
            pending: list[Future] = []
            try:
                pending += [pool.submit(prepare, position + i) for i in range(self.config.prefetch)]
                while True:
                    batch, noise, text = pending.pop(0).result()
                    pending.append(pool.submit(prepare, position + self.config.prefetch))
                    position += 1
                    noise = Noise(*(x.to(device, non_blocking=True) for x in noise))
                    yield batch.to(device), noise, text
            finally:
                for future in pending:
                    future.cancel()


def autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[None]:
    """Half precision where the settings ask for it; the adapter's weights stay float32."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[config.precision])
