"""Sizes of the models of a study's arms, and checks that the arms can be compared."""

import dataclasses
from typing import NamedTuple

from torch import nn

from ddpm.config.sections import flatten
from ddpm.config.study import Study
from ddpm.config.yaml_files import prefixed_errors
from ddpm.data import ImageData
from ddpm.evaluation.modulation import modulated_layers
from ddpm.models.operations import multiply_adds
from ddpm.models.unet import UNet
from ddpm.training.build import adopt_pretrained, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.dry_run import count_parameters
from ddpm.training.launch import check_batch
from ddpm.training.validation import check_config

MIN_GROUP = 4           # smallest number of channels per group in an arm that adds the embedding before the norm
SIGMA_OPTIONS = ("schedule", "num_timesteps", "zero_terminal_snr")     # diffusion options that determine the sigmas


class Size(NamedTuple):
    """Size of a model.

    Attributes:
        parameters: number of parameters.
        multiply_adds: multiply-adds of a forward pass on one image.
    """

    parameters: int
    multiply_adds: int


def check_arms(study: Study) -> None:
    """Check the names in the configurations of the arms, and that their deciding metric is the same quantity.

    Raises:
        ValueError: if an option of an arm is wrong; the message names both.
    """
    for arm in study.arms:
        try:
            check_config(arm.config)
        except ValueError as problem:
            raise ValueError(f"arms.{arm.name}: {problem}") from None
        if study.metric == "denoising_error":
            for key in SIGMA_OPTIONS:
                ours, theirs = (getattr(config.diffusion, key) for config in (arm.config, study.baseline.config))
                if ours != theirs:
                    raise ValueError(
                        f"metric: denoising_error is a mean over sigmas, which differ in arms.{arm.name}: "
                        f"diffusion.{key} is {ours}, but {theirs} in {study.baseline.name}; use bits_per_dim or a "
                        "metric of generated images"
                    )


def check_batches(study: Study, processes: int) -> None:
    """Check that the batches of all arms, derived or given, divide among the processes and the accumulation steps.

    Raises:
        ValueError: if one does not; the message names the arm.
    """
    for arm in study.arms:
        with prefixed_errors(f"arms.{arm.name}"):
            check_batch(arm.config.train, processes)


def resolve_study(study: Study, data: ImageData) -> Study:
    """Return the study with values derived from the data in place of null.

    The options of training are derived once, from the base, so that all arms have the same budget. Those of the model
    are derived for each arm, because some of them must fit the options that the arm overrides.

    Args:
        study: the study as given.
        data: its images.

    Raises:
        ValueError: if an arm does not fit the data, or two arms are equal; the message names the arm.
    """
    base = derive_config(adopt_pretrained(study.base), data)
    arms = []
    for arm in study.arms:
        budget = {key: value for key, value in flatten(base.to_dict()).items() if key.startswith("train.")}
        own = flatten(arm.config.to_dict())
        with prefixed_errors(f"arms.{arm.name}"):
            shared = arm.config.with_options({key: value for key, value in budget.items() if own[key] is None})
            arms.append(dataclasses.replace(arm, config=derive_config(adopt_pretrained(shared), data)))
    return dataclasses.replace(study, base=base, arms=tuple(arms))


def measure_arms(study: Study, data: ImageData) -> dict[str, Size]:
    """Build the model of every arm, and return its size.

    Args:
        study: the study.
        data: its images.

    Raises:
        ValueError: if a model cannot be built for the data, or `check_groups` fails; the message names the arm.
    """
    sizes = {}
    for arm in study.arms:
        try:
            unet = build_unet(arm.config, data)
        except ValueError as problem:
            raise ValueError(f"arms.{arm.name}: {problem}") from None
        check_groups(unet, arm.name)
        sizes[arm.name] = Size(count_parameters(unet), multiply_adds(unet))
    return sizes


def check_groups(unet: UNet, arm: str) -> None:
    """Check that an arm that adds the embedding before GroupNorm has large enough groups.

    GroupNorm subtracts 1 / (channels per group) of what is added to a channel, which is everything if a group is one
    channel, so an arm with small groups could not win the comparison.

    Raises:
        ValueError: if groups are too small; the message names the layer.
    """
    for layer in modulated_layers(unet):
        norm = layer.norm.norm
        if isinstance(norm, nn.GroupNorm) and layer.norm.shift_before_norm:
            size = norm.num_channels // norm.num_groups
            if size < MIN_GROUP:
                raise ValueError(
                    f"arms.{arm}: {layer.name} adds the embedding before a norm with {size} channel(s) per group, "
                    f"which erases 1/{size} of it; use at least {MIN_GROUP} per group: increase model.channels, or "
                    "decrease model.norm_groups"
                )
