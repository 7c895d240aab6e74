"""What the arms of a study are as models: how large, and whether they can be compared at all."""

from typing import NamedTuple

from torch import nn

from ddpm.config.sections import Config
from ddpm.config.study import Arm, Study
from ddpm.data import ImageData
from ddpm.evaluation.modulation import modulated_layers
from ddpm.models.unet import UNet
from ddpm.training.build import build_unet, check_config
from ddpm.training.dry_run import multiply_adds

LEAST_GROUP = 4         # channels in a group of an additive arm
OF_NOISE = ("schedule", "num_timesteps", "zero_terminal_snr")      # diffusion options that say which noise levels are


class Size(NamedTuple):
    """How large a model is.

    Attributes:
        parameters: number of them.
        multiply_adds: of a forward pass on one image.
    """

    parameters: int
    multiply_adds: int


def check_arms(study: Study) -> None:
    """Refuses arms that name what there is not, or that have unequal data or budgets.

    Raises:
        ValueError: names the arm and the option.
    """
    expected = _given_alike(study.baseline.config)
    for arm in study.arms:
        try:
            check_config(arm.config)
        except ValueError as problem:
            raise ValueError(f"arms.{arm.name}: {problem}") from None
        for key, value in _given_alike(arm.config).items():
            if value != expected[key]:
                raise ValueError(
                    f"arms.{arm.name}: {key} is {value}, that of {study.baseline.name} is {expected[key]}; arms are "
                    "compared on equal data with equal budgets"
                )
        if study.metric == "denoising_error":
            _check_noise(study.baseline, arm)


def _check_noise(baseline: Arm, arm: Arm) -> None:
    for key in OF_NOISE:
        ours, theirs = getattr(arm.config.diffusion, key), getattr(baseline.config.diffusion, key)
        if ours != theirs:
            raise ValueError(
                f"metric: denoising_error is a mean over noise levels, and arms.{arm.name} has others: diffusion.{key} "
                f"is {ours}, that of {baseline.name} is {theirs}; take bits_per_dim or a figure of images"
            )


def _given_alike(config: Config) -> dict[str, object]:
    """What all arms are given alike."""
    data = {f"data.{key}": value for key, value in config.data.reading().items() if key != "memory_gb"}
    budget = {f"train.{key}": getattr(config.train, key) for key in ("steps", "batch_size")}
    return {**data, **budget, "model.pretrained": config.model.pretrained}


def arm_sizes(study: Study, data: ImageData) -> dict[str, Size]:
    """Builds the model of every arm.

    Args:
        study: what is studied.
        data: its images.

    Raises:
        ValueError: if a model cannot be built for the data, or its norms would decide the comparison; names the arm.
    """
    sizes = {}
    for arm in study.arms:
        try:
            unet = build_unet(arm.config, data)
        except ValueError as problem:
            raise ValueError(f"arms.{arm.name}: {problem}") from None
        check_groups(unet, arm.name)
        sizes[arm.name] = Size(sum(p.numel() for p in unet.parameters()), multiply_adds(unet))
    return sizes


def check_groups(unet: UNet, arm: str) -> None:
    """Refuses an additive arm with small groups.

    Of what is added to a channel before GroupNorm, 1 / (channels per group) is subtracted again, all of it where a
    group is one channel: a comparison of such an arm is decided before it begins.

    Raises:
        ValueError: names the layer.
    """
    for layer in modulated_layers(unet):
        norm: nn.GroupNorm = layer.norm.norm
        size = norm.num_channels // norm.num_groups
        if layer.norm.shift_before_norm and size < LEAST_GROUP:
            raise ValueError(
                f"arms.{arm}: {layer.name} adds the embedding before a norm of {size} channel(s) per group, which "
                f"erases 1/{size} of it; {LEAST_GROUP} per group are needed: change model.channels, or lower "
                "model.norm_groups"
            )
