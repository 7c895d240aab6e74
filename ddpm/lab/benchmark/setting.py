"""What is measured: the presets, the images, and networks of both sides with equal weights and equal outputs."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm.config.commands import BenchmarkCommand
from ddpm.config.run_folders import is_run, name_near_runs, read_data_options
from ddpm.config.sections import Config
from ddpm.config.yaml_files import read_config
from ddpm.data import ImageData
from ddpm.io.unet2d import to_unet2d
from ddpm.models.unet import UNet
from ddpm.training.build import build_data, build_unet
from ddpm.training.derived_options import derive_config

RANDOM_IMAGES = 512
RANDOM_CLASSES = 10

# UNet2DModel has one number of groups for all norms, hence norm_groups.
BENCHMARK_PRESETS: dict[str, dict[str, Any]] = {
    # The first command of the README.
    "digits": {
        "data.resolution": 8, "model.channels": 32, "model.channel_mult": [1, 2], "model.num_res_blocks": 1,
        "model.attention_resolutions": [4], "model.head_channels": 32, "model.norm_groups": 8, "train.batch_size": 64,
    },
    # 11 million parameters at 32x32.
    "cifar": {
        "data.resolution": 32, "model.channels": 64, "model.channel_mult": [1, 2, 2, 2], "model.num_res_blocks": 2,
        "model.attention_resolutions": [16, 8], "model.head_channels": 64, "model.norm_groups": 16,
        "train.batch_size": 16,
    },
    # 296 million parameters at 64x64 (Dhariwal & Nichol 2021, arXiv 2105.05233, table 11).
    "adm64": {
        "data.resolution": 64, "model.channels": 192, "model.channel_mult": [1, 2, 3, 4], "model.num_res_blocks": 3,
        "model.attention_resolutions": [32, 16, 8], "model.head_channels": 64, "model.norm_groups": 32,
        "train.batch_size": 16,
    },
}
# What every preset shares: the objective of diffusers' training example.
OBJECTIVE = {"diffusion.schedule": "linear", "diffusion.prediction": "eps", "diffusion.timestep_sampler": "uniform"}
# What the other side has no counterpart for. There are more steps than any benchmark makes.
COMPARABLE = {
    "data.augment": 0.0, "data.balance": False, "model.pretrained": None, "train.gradient_accumulation_steps": 1,
    "train.steps": 100_000, "train.max_skipped": 1000, "evaluation.every": 0,
}
COLORS = {"digits": 1, "cifar": 3, "adm64": 3}      # channels of the random images

# The largest difference of the outputs, root mean square, as a fraction of that of the outputs. In fp32 without TF32
# the order of sums differs. In half precision each of about 100 layers rounds by 2^-9 (bf16), the errors of which add
# up as independent ones to about 2 %, on both sides.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


class Setting(NamedTuple):
    """What is measured.

    Attributes:
        name: preset or run directory.
        config: the configuration of both sides.
        images: what the images are, in words.
    """

    name: str
    config: Config
    images: str

    def load_images(self) -> ImageData:
        """Load the images, or draw random ones, which every call does alike."""
        if not self.images.startswith("random"):
            return build_data(self.config)
        size = self.config.data.resolution
        assert size is not None
        shape = (RANDOM_IMAGES, COLORS[self.name], size, size)
        pixels = torch.randint(0, 256, shape, generator=_generator())
        labels = torch.arange(RANDOM_IMAGES) % RANDOM_CLASSES
        return ImageData(pixels.to(torch.uint8), labels, tuple(map(str, range(RANDOM_CLASSES))))

    def build_network(self, data: ImageData, device: torch.device) -> UNet:
        """Build our network with random weights, which every call draws alike on a device, in evaluation mode."""
        with torch.device("meta"):
            unet = build_unet(self.config, data)
        unet = unet.to_empty(device=device)
        randomize_weights(unet)
        return unet.eval()


def choose_setting(command: BenchmarkCommand) -> Setting:
    """Return what a command measures.

    Raises:
        ValueError: if there is no run in --run-dir.
    """
    given: dict[str, Any] = {} if command.source is None else {"data.source": command.source}
    given |= {} if command.batch_size is None else {"train.batch_size": command.batch_size}
    given |= {} if command.mixed_precision is None else {"train.mixed_precision": command.mixed_precision}
    if command.run_dir is None:
        preset = command.preset or "digits"
        random = f"random, {RANDOM_IMAGES} of {RANDOM_CLASSES} classes"
        images = command.source or random
        learning = {"train.learning_rate": 2e-4, "train.warmup_steps": 0, "train.lr_schedule": "constant"}
        options = {**BENCHMARK_PRESETS[preset], **OBJECTIVE, **learning, **COMPARABLE, **given}
        return Setting(preset, Config().with_options(options), images)
    if not is_run(command.run_dir):
        raise ValueError(f"run_dir: {command.run_dir} is not a run directory{name_near_runs(command.run_dir)}")
    config = read_config(command.run_dir / "config.yaml")
    config = dataclasses.replace(config, data=read_data_options(command.run_dir))
    config = config.with_options({**COMPARABLE, **given})
    return Setting(str(command.run_dir), derive_config(config, build_data(config)), config.data.source)


@torch.no_grad()
def randomize_weights(network: nn.Module) -> None:
    """Draw all weights, also those that are zero at the start of training, so that every layer counts in the output.

    Weights of layers have the standard deviation 1 / sqrt(fan in), and those of norms are around 1.
    """
    device = next(network.parameters()).device
    generator = _generator(device)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        else:
            parameter.normal_(float(name.endswith("weight")), 0.1, generator=generator)


def copy_to_diffusers(unet: UNet) -> nn.Module:
    """Build the UNet2DModel with the weights of a network, on its device and in its mode.

    Raises:
        ValueError: if UNet2DModel does not support the architecture; names the option.
    """
    return to_unet2d(copy.deepcopy(unet)).train(unet.training)


@torch.no_grad()
def check_equal_outputs(ours: nn.Module, theirs: nn.Module, inputs: tuple[Any, ...], tolerance: float) -> float:
    """Check that two networks compute the same.

    Args:
        ours, theirs: the networks, in evaluation mode.
        inputs: images, timesteps and labels.
        tolerance: the largest difference, as a fraction.

    Returns:
        The root mean square of the difference of the outputs, divided by that of their outputs.

    Raises:
        RuntimeError: if the difference is larger.
    """
    a, b = (network(*inputs).sample.double() for network in (ours, theirs))
    difference = float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
    if not difference <= tolerance:         # also if it is not a number
        raise RuntimeError(
            f"the outputs of the two sides differ by {difference:.2g} of their root mean square, and {tolerance:g} is "
            "allowed; they do not compute the same, so nothing is compared"
        )
    return difference


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute fp32 products in fp32 within this context, and not in TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def draw_inputs(data: ImageData, config: Config, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return a batch for the networks: images of noise (B, C, H, W), timesteps (B,), and labels (B,) or None."""
    count, generator = config.train.batch_size, _generator()
    x = torch.randn(count, data.channels, data.resolution, data.resolution, generator=generator)
    t = torch.randint(0, config.diffusion.num_timesteps, (count,), generator=generator)
    labels = (torch.arange(count) % data.num_classes).to(device) if data.num_classes else None
    return x.to(device), t.to(device), labels


def _generator(device: torch.device | None = None) -> torch.Generator:
    return torch.Generator(device or "cpu").manual_seed(0)
