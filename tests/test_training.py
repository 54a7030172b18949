"""Training on ComfyUI's UNets: the same numbers as sampling, gradients for the adapter only."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multi_ipadapter.diffusion.objective import Noise, draw_noise
from multi_ipadapter.models.adapter import MultiIPAdapter
from multi_ipadapter.models.projection import POOLED
from multi_ipadapter.nodes.binding.backbone import training_backbone
from multi_ipadapter.nodes.steering.key_values import LoadedAdapter
from multi_ipadapter.runs.streams import step_noise
from multi_ipadapter.training.batch import collate
from multi_ipadapter.training.initial import initial_adapter
from multi_ipadapter.training.loop import NotFiniteError, Trainer, TrainingError
from multi_ipadapter.training.sampling import Row
from multi_ipadapter.training.validation import Validator

from .builders import apply, encode, make_adapter, make_images, sample
from .oracle import difference, recorded
from .training_world import WIDTHS, World, one_layer_backbone, settings

CLOSE = 1e-5
LINEAR_TOKENS = 4


@pytest.fixture(autouse=True)
def _autograd():
    """Training runs outside of inference mode."""
    with torch.inference_mode(False):
        yield


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    return request.getfixturevalue(request.param)


def randomised(adapter):
    """Away from the start, where the score is zero."""
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += torch.randn(parameter.shape, generator=random) * 0.2
    return adapter


def trainer_of(backbone, config, world=None, **kwargs):
    adapter = initial_adapter(config, backbone.text_weights(), WIDTHS)
    return Trainer(randomised(adapter), backbone, world or World(), config, **kwargs)


def one_batch(trainer, rows=None, dtype=torch.float32):
    config = trainer.config
    rows = rows or trainer.sampler.batch(0)
    batch = collate(trainer.source, rows, trainer.adapter.config.projection.inputs, config.slots)
    times = len(trainer.backbone.alphas_cumprod)
    noise = draw_noise(step_noise(config.seed, 0), tuple(batch.latents.shape), times)
    batch = dataclasses.replace(
        batch,
        latents=batch.latents.to(dtype),
        features={k: v.to(dtype) for k, v in batch.features.items()},
    )
    text = trainer.backbone.encode_text(batch.captions)
    return batch, Noise(noise.noise.to(dtype), noise.timesteps), text


def gradients(trainer, *batch):
    trainer.optimizer.zero_grad()
    trainer.loss(*batch).backward()
    return {
        name: None if p.grad is None else p.grad.clone()
        for name, p in trainer.adapter.named_parameters()
    }


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["concat", "mean", "learned"])
@pytest.mark.parametrize(("count", "slots"), [(1, 1), (3, 1), (3, 3)])
def test_training_computes_what_sampling_computes(
    model, clip, clip_vision, prompts, aggregation, count, slots
):
    heads = 1 if aggregation == "learned" else 0
    with torch.inference_mode():
        adapter = make_adapter(model, slots=slots, aggregation=aggregation, aggregator_heads=heads)
        for score in adapter.adapter.aggregator.parameters():
            score.copy_(torch.linspace(-2, 2, score.numel()).view_as(score))
        references = encode(adapter, clip_vision, make_images(count))
        with recorded(model) as calls:
            sample(apply(model, adapter, references), *prompts, steps=1, cfg=1.0, batch=2)
    (call,) = calls
    weights = {k: v.clone() for k, v in adapter.adapter.state_dict().items()}
    with training_backbone(model, clip, clip_vision, settings(), 64) as backbone:
        trained = MultiIPAdapter(adapter.config)
        trained.load_state_dict(weights)
        # One reference more than there is, to be masked out.
        features = {k: v.clone()[None] for k, v in references.features.items()}
        present = torch.ones(1, count, dtype=torch.bool)
        if slots == 1:
            features = {k: torch.cat([v, v[:, :1] * 9], 1) for k, v in features.items()}
            present = torch.cat([present, torch.tensor([[False]])], 1)
        layers = trained.aggregate(trained.project(features), mask=present)
        layers = [
            type(x)(*(None if y is None else y.expand(2, *y.shape[1:]) for y in x)) for x in layers
        ]
        text = {"context": call.context.clone()}
        out = backbone.denoise(call.x.clone(), call.t.clone(), text, layers)
        without = backbone.denoise(call.x.clone(), call.t.clone(), text, [])
    assert difference(out, call.out) < CLOSE
    assert difference(out, without) > 100 * CLOSE


def test_a_fresh_adapter_at_weight_zero_changes_no_bit(model, clip, clip_vision, prompts):
    config = settings(num_tokens=LINEAR_TOKENS)
    with training_backbone(model, clip, clip_vision, config, 64) as backbone:
        fresh = initial_adapter(config, backbone.text_weights(), WIDTHS)
    with torch.inference_mode():
        adapter = LoadedAdapter(fresh.requires_grad_(False), "fresh")
        references = encode(adapter, clip_vision, make_images(2))
        plain = sample(model, *prompts, steps=1)
        zero = sample(apply(model, adapter, references, weight=0.0), *prompts, steps=1)
        one = sample(apply(model, adapter, references, weight=1.0), *prompts, steps=1)
    assert torch.equal(plain, zero)
    assert not torch.equal(plain, one)


@pytest.mark.slow
def test_only_the_adapter_learns(model, clip, clip_vision):
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    options = dict(model.model_options["transformer_options"])
    config = settings(steps=2, precision="bf16", gradient_checkpointing=True)
    with training_backbone(model, clip, clip_vision, config, 64) as backbone:
        trainer = trainer_of(backbone, config)
        inside = vars(backbone.denoise.__self__).values()
        (unet,) = {id(c): c for c in inside if isinstance(c, torch.nn.Module)}.values()
        frozen = {k: v.clone() for k, v in unet.state_dict().items()}
        start = {k: v.clone() for k, v in trainer.adapter.state_dict().items()}
        assert trainer.train()
        assert all(not p.requires_grad and p.grad is None for p in unet.parameters())
        assert all(torch.equal(v, frozen[k]) for k, v in unet.state_dict().items())
        assert all(not torch.equal(v, start[k]) for k, v in trainer.adapter.state_dict().items())
    after = model.model.state_dict()
    assert all(v.dtype == after[k].dtype and torch.equal(v, after[k]) for k, v in before.items())
    assert all("forward" not in vars(module) for module in model.model.modules())
    assert all(p.grad is None for p in model.model.parameters())
    assert model.model_options["transformer_options"] == options


@pytest.mark.slow
def test_checkpointing_gives_the_same_gradients(model, clip, clip_vision):
    found = []
    for checkpointing in (False, True):
        config = settings(gradient_checkpointing=checkpointing, aggregator_heads=2)
        with training_backbone(model, clip, clip_vision, config, 64) as backbone:
            trainer = trainer_of(backbone, config)
            found.append(gradients(trainer, *one_batch(trainer)))
    plain, recomputed = found
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        assert difference(gradient, recomputed[name]) < 1e-6, name


@pytest.mark.parametrize("aggregation", ["concat", "mean", "learned"])
@pytest.mark.parametrize("slots", [1, 3])
def test_padding_has_no_part_in_the_gradient(aggregation, slots):
    config = settings(aggregation=aggregation, slots=slots)
    trainer = trainer_of(one_layer_backbone(), config)
    rows = [Row(0, (1,)), Row(5, (6, 7, 8))]
    batch, noise, text = one_batch(trainer, rows)
    assert batch.present.tolist() == [[True, False, False], [True, True, True]]
    filled = {k: v.clone().requires_grad_() for k, v in batch.features.items()}
    plain = gradients(trainer, batch, noise, text)
    loss = trainer.loss(dataclasses.replace(batch, features=filled), noise, text)
    loss.backward()
    assert (filled[POOLED].grad[0, 1:] == 0).all()
    assert (filled[POOLED].grad[batch.present].abs().sum(1) > 0).all()
    noisy = {k: v.detach().clone() for k, v in filled.items()}
    noisy[POOLED][0, 1:] = 50.0
    other = gradients(trainer, dataclasses.replace(batch, features=noisy), noise, text)
    for name, gradient in plain.items():
        assert difference(gradient, other[name]) < 1e-6, name


@pytest.mark.parametrize("aggregation", ["concat", "mean", "learned"])
@pytest.mark.parametrize("slots", [1, 3])
def test_gradients_are_those_of_finite_differences(aggregation, slots):
    config = settings(aggregation=aggregation, slots=slots, aggregator_heads=2)
    trainer = trainer_of(one_layer_backbone(dtype=torch.float64), config)
    trainer.adapter.double()
    batch, noise, text = one_batch(trainer, [Row(0, (1,)), Row(5, (6, 7, 8))], torch.float64)
    found = gradients(trainer, batch, noise, text)
    random = torch.Generator().manual_seed(0)
    step = 1e-3
    for name, parameter in trainer.adapter.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        direction /= direction.norm()
        losses = []
        with torch.no_grad():
            for side in (step, -2 * step):
                parameter += side * direction
                losses.append(trainer.loss(batch, noise, text).item())
            parameter += step * direction
        slope = (found[name] * direction).sum().item()
        assert found[name].abs().max() > 0, name
        measured = (losses[0] - losses[1]) / (2 * step)
        # The logits of `learned` are float32 in every case.
        close = 1e-4 if aggregation == "learned" else 1e-6
        assert measured == pytest.approx(slope, rel=1e-3, abs=close)


@pytest.mark.parametrize("slots", [1, 3])
def test_dropped_images_still_reach_every_parameter(slots):
    trainer = trainer_of(one_layer_backbone(), settings(slots=slots))
    batch, noise, text = one_batch(trainer, [Row(0, (1,), drop_image=True), Row(5, (6, 7), True)])
    assert all(g is not None for g in gradients(trainer, batch, noise, text).values())
    other = {k: v + 3 for k, v in batch.features.items()}
    unseen = dataclasses.replace(batch, features=other)
    assert trainer.loss(batch, noise, text).item() == trainer.loss(unseen, noise, text).item()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precisions_train(sd15, clip, clip_vision, precision):
    config = settings(precision=precision, steps=2)
    losses = []
    with training_backbone(sd15, clip, clip_vision, config, 64) as backbone:
        trainer = trainer_of(backbone, config)
        trainer.train(on_step=lambda report: losses.extend(report.losses))
    assert len(losses) == 2 and all(0 < x < 100 for x in losses)
    assert all(p.dtype == torch.float32 for p in trainer.adapter.parameters())


@pytest.mark.parametrize("in_loss", [True, False], ids=["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(tmp_path, in_loss):
    backbone, calls, kept = one_layer_backbone(), [], {}

    def denoise(*args):
        calls.append(1)
        out = backbone.denoise(*args)
        if len(calls) != 6:
            return out
        kept.update({p.name: p.read_bytes() for p in tmp_path.iterdir()})
        if not in_loss:
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out * float("nan") if in_loss else out

    config = settings(checkpoint_every=2, log_every=50, steps=6)
    spoilt = dataclasses.replace(backbone, denoise=denoise)
    trainer = trainer_of(spoilt, config, folder=tmp_path)
    with pytest.raises(NotFiniteError, match="learning_rate.*state-00000004.*is intact"):
        trainer.train()
    assert not trainer.intact
    assert max(kept) == "state-00000004.safetensors"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept


def test_an_update_that_was_cut_short_is_not_kept(tmp_path):
    trainer = trainer_of(one_layer_backbone(), settings(checkpoint_every=2), folder=tmp_path)
    original = trainer.optimizer.step

    def step(*args, **kwargs):
        original(*args, **kwargs)
        if trainer.progress.step == 3:
            raise KeyboardInterrupt

    trainer.optimizer.step = step
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.intact
    assert [p.name for p in tmp_path.iterdir()] == ["state-00000002.safetensors"]


def test_out_of_memory_says_what_to_change(tmp_path):
    backbone = one_layer_backbone()
    calls = []

    def denoise(*args):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backbone.denoise(*args)

    small = dataclasses.replace(backbone, denoise=denoise)
    trainer = trainer_of(small, settings(), folder=tmp_path)
    advice = "batch_size.*accumulation.*gradient_checkpointing.*state-00000005.* is intact"
    with pytest.raises(TrainingError, match=advice):
        trainer.train()
    assert [p.name for p in tmp_path.iterdir()] == ["state-00000005.safetensors"]


def test_a_failing_source_stops_the_run():
    world = World()
    trainer = trainer_of(one_layer_backbone(), settings(), world)
    del world.tensors["latents"]
    with pytest.raises(KeyError, match="latents"):
        trainer.train()


@pytest.mark.slow
def test_it_learns_whose_pictures_the_references_are():
    """The frozen model is first taught to remove noise, without knowing any identity."""
    config = settings(
        steps=400,
        batch_size=32,
        num_tokens=4,
        learning_rate=2e-2,
        warmup=10,
        validate_every=1,
        validation_identities=48,
        aggregation="learned",
        log_every=100,
    )
    backbone = pretrained_backbone(World(counts=[4] * 64, seed=1))
    trainer = Trainer(
        initial_adapter(config, backbone.text_weights(), WIDTHS),
        backbone,
        World(counts=[4] * 64, seed=1),
        config,
    )
    validator = Validator(backbone, World(counts=[4] * 48, seed=2), config)
    before = validator(trainer.adapter)
    trainer.train()
    after = validator(trainer.averaged())
    assert after.gain.low > 0 and after.gain_over_shuffled.low > 0
    assert after.matched.mean < before.matched.mean
    assert before.gain_over_shuffled.low < 0.1 * after.gain_over_shuffled.mean


def pretrained_backbone(world):
    backbone = one_layer_backbone()
    (model,) = (c.cell_contents for c in backbone.denoise.__closure__)
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    latents = world.tensors["latents"]
    for step in range(300):
        drawn = torch.arange(step * 32, step * 32 + 32) * 7 % len(latents)
        noise = draw_noise(step_noise(0, step), (32, *latents.shape[1:]), 100)
        a = backbone.alphas_cumprod[noise.timesteps].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents[drawn] + (1 - a).sqrt() * noise.noise
        text = backbone.encode_text([world.caption(int(i)) for i in drawn])
        loss = (backbone.denoise(noisy, noise.timesteps, text, []) - noise.noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    return backbone
