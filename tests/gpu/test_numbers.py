"""On a GPU, networks, losses, samplers and training steps give the numbers that they give on a CPU."""

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import DEVICE, SMALL
from torch import Tensor, nn

from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand
from ddpm.config.sections import Config, TrainConfig
from ddpm.data import load_data
from ddpm.diffusion import objective as objective_module
from ddpm.diffusion.objective import PREDICTIONS, WEIGHTINGS, diffusion_loss
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.pipelines import load_pipeline
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose, bits, normal
from ddpm.training.augmentation import AUGMENTATIONS, Augmentation
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.launch import start_accelerator
from ddpm.training.optim import OPTIMIZERS
from ddpm.training.timeline import Timeline
from ddpm.training.trainer import Trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a pipeline with a small network and return its folder."""
    folder = tmp_path_factory.mktemp("saved")
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    ClassConditionalPipeline.from_parts(network(), schedule, "eps", ["a", "b", "c", "d"]).save_pretrained(folder)
    return folder


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Compute products of float32 in float32, without TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Compute the same numbers each time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def network(**options: object) -> UNet:
    """Return a small U-Net for 16x16 images of 4 classes, with weights as after training.

    Args:
        options: of the U-Net.
    """
    shape = {"resolution": 16, "in_channels": 3, "out_channels": 3, "num_classes": 4, "channels": 16}
    levels = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,), "head_channels": 16}
    unet = UNet(**{**shape, **levels, **options})
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=draws)
    return unet


def batch(size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy images, timesteps and labels as a network takes them.

    Args:
        size: number of images.
    """
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 16, 16, generator=draws)
    return images, torch.arange(size) * 1000 // size, torch.arange(size) % 5


def gradient(model: nn.Module) -> Tensor:
    """Return the gradients of all parameters as one vector on the CPU.

    Args:
        model: after a backward pass.
    """
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, per that of what is expected.

    Args:
        found: on any device.
        expected: of the same shape.
    """
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def test_random_bits_are_those_of_the_cpu() -> None:
    index = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 7, 2**63 - 1])
    seeds = torch.arange(7) * 2**59
    for purpose in Purpose:
        here = bits(2**62 + 5, purpose, index.to(DEVICE), 11).cpu()
        assert torch.equal(here, bits(2**62 + 5, purpose, index, 11)), purpose
        assert torch.equal(bits(seeds, purpose, index.to(DEVICE), 5).cpu(), bits(seeds, purpose, index, 5)), purpose


def test_normal_numbers_are_those_of_the_cpu() -> None:
    index = torch.arange(100) * 2**27
    here, there = (normal(3, Purpose.NOISE, at, (3, 16, 16)).cpu() for at in (index.to(DEVICE), index))
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("full_precision")
def test_network_is_that_of_the_cpu(norm: str) -> None:
    for conditioning in CONDITIONINGS:
        check_network(norm, conditioning)


def check_network(norm: str, conditioning: str) -> None:
    """Compare outputs and gradients of one network on the GPU with those on the CPU."""
    there = network(norm=norm, conditioning=conditioning)
    here = copy.deepcopy(there).to(DEVICE)
    expected = there(*batch()).sample
    expected.square().mean().backward()
    found = here(*(x.to(DEVICE) for x in batch())).sample
    found.square().mean().backward()
    assert float((found.cpu() - expected).detach().abs().max() / expected.detach().std()) < 1e-4
    assert relative_error(gradient(here), gradient(there)) < 1e-3
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad(), torch.autocast(DEVICE, dtype):
            assert relative_error(here(*(x.to(DEVICE) for x in batch())).sample, expected) < 3e-2


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.usefixtures("full_precision")
def test_objective_is_that_of_the_cpu(learned_variance: bool) -> None:
    there, (x_0, t, labels) = network(out_channels=3 + 3 * learned_variance), batch()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    for kind in itertools.product(PREDICTIONS, WEIGHTINGS):
        found = []
        for device, unet in (("cpu", there), (DEVICE, copy.deepcopy(there).to(DEVICE))):
            inputs = [x.to(device) for x in (x_0.clamp(-1, 1), labels, t, noise)]
            found.append(diffusion_loss(unet, NoiseSchedule(SCHEDULES["cosine"](1000)), *inputs, *kind))
        torch.testing.assert_close(found[1].cpu(), found[0], rtol=1e-3, atol=1e-6)


def test_gradient_checkpointing_keeps_the_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        unet = network(dropout=0.3).to(DEVICE).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        torch.manual_seed(0)
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = unet(*(x.to(DEVICE) for x in batch())).sample.square().mean()
        loss.backward()
        found.append(gradient(unet))
    assert relative_error(found[1], found[0]) < 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.usefixtures("full_precision")
def test_samples_are_those_of_the_cpu(saved: Path, sampler: str) -> None:
    for scale in (1.0, 2.0):
        check_samples(saved, sampler, scale)


def check_samples(saved: Path, sampler: str, scale: float) -> None:
    """Compare samples drawn on the GPU with those drawn on the CPU, at one guidance scale."""
    options = {"sampler": sampler, "num_inference_steps": 10, "guidance_scale": scale, "output_type": "uint8"}
    options["eta"] = 0.5 if SAMPLERS[sampler].takes_eta else 0.0
    there = load_pipeline(saved)
    here = load_pipeline(saved).to(DEVICE)
    for pipeline in (here, there):
        pipeline.set_progress_bar_config(disable=True)
    expected = there([*range(4)], **options).images
    found, again = (here([*range(4)], **options).images for _ in range(2))
    assert found.dtype == torch.uint8 and found.device.type == "cpu" and torch.equal(found, again)
    assert float(((found.int() - expected.int()).abs() <= 1).double().mean()) >= 0.99


# -------------------------------------------------------------------------------------------------------- training


def build_trainer(path: Path, *options: str) -> tuple[Trainer, Callable[[int], list[float]]]:
    """Build a trainer of a small model of digits in this process.

    Args:
        path: the run directory.
        options: of scripts/train.py.

    Returns:
        The trainer, and a function that trains for a number of steps and returns the loss of each (0 if it was
        skipped).
    """
    config = parse_command(TrainCommand, "train.py", [*SMALL, *options]).config
    accelerator = start_accelerator(config)
    data = build_data(config)
    config = derive_config(config, data)
    made = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), path)

    def advance(steps: int) -> list[float]:
        inputs, losses = made.load_inputs(), []
        for _ in range(steps):
            before = made.sums["loss"]
            made.train_step(inputs)
            losses.append(made.sums["loss"] - before)
        return losses

    return made, advance


@pytest.mark.usefixtures("deterministic")
def test_augmented_images_are_those_of_a_cpu() -> None:
    """Interpolation is in float64, so that they differ by a rounding to float32 at most; labels are drawn on a CPU."""
    images = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 127.5 - 1
    augmentation, position = Augmentation(AUGMENTATIONS, 0.3, seed=1), torch.arange(200)
    expected, labels = augmentation(images, position)
    made, on_device = augmentation(images.to(DEVICE), position)
    assert on_device.device == made.device and torch.equal(on_device.cpu(), labels)
    torch.testing.assert_close(made.cpu(), expected, atol=2**-23, rtol=0)
    clean = ~labels.any(dim=1)
    assert 0 < clean.sum() < 200 and torch.equal(made.cpu()[clean], images[clean])


@pytest.mark.parametrize("place", ["memory", "cache"])
def test_images_held_on_the_gpu_give_the_batches_of_the_cpu(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and the host never waits for the GPU."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (500, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=generator.integers(0, 4, 500))
    data = load_data(str(tmp_path / "images.npz"), cache_gb=64 if place == "cache" else 0)
    assert data.in_memory == (place == "memory")
    config = Config(train=TrainConfig(batch_size=32, gradient_accumulation_steps=2, steps=40, seed=1))
    arguments = build_samples(config, data), Timeline.of(config.train), 0, 0, 1, config
    expected = list(load_micro_batches(*arguments))
    made = load_micro_batches(*arguments, torch.device(DEVICE))
    found = [next(made)]        # the images are copied before the first
    try:
        torch.cuda.set_sync_debug_mode("error")
        found += made
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(images.is_cuda and labels.is_cuda and not position.is_cuda for position, images, labels in found)
    for batch, parts in zip(found, expected, strict=True):
        for part, same in zip(batch, parts, strict=True):
            assert torch.equal(part.cpu(), same)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path, optimizer: str) -> None:
    options = "--model.dropout", "0.1", "--train.steps", "8", "--data.balance", "true", "--data.augment", "0.3"
    options += "--train.deterministic", "true", "--train.optimizer", optimizer
    whole, advance = build_trainer(tmp_path / "whole", *options)
    advance(4)
    expected = advance(4)
    whole.save()
    whole.checkpoints.wait()
    first, advance = build_trainer(tmp_path / "parts", *options)
    advance(4)
    first.save()
    first.checkpoints.wait()
    second, advance = build_trainer(tmp_path / "parts", *options)
    second.restore(tmp_path / "parts" / "checkpoints" / "step_00000004")
    assert {value.device.type for state in second.optimizer.optimizer.state.values() for value in state.values()} == {
        DEVICE
    }
    assert advance(4) == pytest.approx(expected, rel=1e-12)     # differences of a running sum
    second.save()
    second.checkpoints.wait()
    for file in ("training/model", "training/optimizer", "unet/diffusion_pytorch_model"):
        one, other = (load_file(tmp_path / run / "checkpoints" / "step_00000008" / f"{file}.safetensors")
                      for run in ("whole", "parts"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), file


def test_offloading_layer_by_layer_keeps_the_samples(saved: Path) -> None:
    pipeline = load_pipeline(saved)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "output_type": "uint8"}
    expected = load_pipeline(saved).to(DEVICE)([0, 1, 2], **options).images
    pipeline.enable_sequential_cpu_offload()
    found = pipeline([0, 1, 2], **options).images
    assert float(((found.int() - expected.int()).abs() <= 1).double().mean()) >= 0.99


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path: Path, precision: str, optimizer: str) -> None:
    options = "--train.mixed_precision", precision, "--train.steps", "40", "--train.optimizer", optimizer
    made, advance = build_trainer(tmp_path, *options)
    losses = [loss for loss in advance(40) if loss > 0]
    assert made.skipped <= 20 and sum(losses[-5:]) / 5 < 0.8 * losses[0], (made.skipped, losses)
    # Gradients are unscaled; the loss scale is in the thousands.
    assert 0 < made.sums["grad_norm"] / made.sums["steps"] < 100


def test_a_loss_that_is_not_finite_changes_the_loss_scale_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, advance = build_trainer(tmp_path, "--train.mixed_precision", "fp16")
    advance(5)
    scaler = made.accelerator.scaler
    models = made.unet, made.ema.model
    before = [[parameter.clone() for parameter in model.parameters()] for model in models]
    scale, skipped = scaler.get_scale(), made.skipped
    with monkeypatch.context() as patched:
        patched.setattr(objective_module, "diffusion_loss", lambda *inputs: diffusion_loss(*inputs) * math.inf)
        advance(1)
    assert made.skipped == skipped + 1 and scaler.get_scale() == scale / 2
    for model, parameters in zip(models, before, strict=True):
        assert all(torch.equal(new, old) for new, old in zip(model.parameters(), parameters, strict=True))
    state = json.loads(json.dumps(scaler.state_dict()))
    assert advance(1)[0] > 0
    scaler.load_state_dict(state)
    assert scaler.get_scale() == scale / 2
