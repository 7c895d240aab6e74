"""Checks the evaluation options of a study before its first run is trained."""

import dataclasses
from pathlib import Path

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import DataConfig
from ddpm.config.study import Arm, Study
from ddpm.data import ImageData
from ddpm.diffusion.sampling import plan_timesteps
from ddpm.evaluation.extractors import EXTRACTORS, build_extractor
from ddpm.evaluation.features import cache_directory
from ddpm.evaluation.image_source import load_held_out, load_real_images, reference_config
from ddpm.io.pipelines import locate
from ddpm.lab.ablation.planned_runs import evaluate_command, sampling_settings
from ddpm.training.build import build_schedule
from ddpm.training.validation import check_extractor

DOWNLOADED = ("dinov2:",)        # prefixes of extractors that take long to build and are checked when they are used


def check_evaluation(study: Study, data: ImageData) -> None:
    """Check the options of the evaluation.

    Args:
        study: the study.
        data: the training images of its arms.

    Raises:
        ValueError: if an option cannot work; the message names it, such as evaluation.held_out_split.
    """
    for arm in study.arms:
        _check_sampler(study, arm)
    command = evaluate_command(study, Path())
    check_extractor(command.extractor)
    try:
        if command.extractor not in EXTRACTORS and not command.extractor.startswith(DOWNLOADED):
            build_extractor(command.extractor, data, "cpu", cache_directory())
        _check_images(command, study.baseline.config.data, data)
    except ValueError as problem:
        raise ValueError(f"evaluation.{problem}") from None
    if command.guide is not None:
        try:
            locate(command.guide)
        except ValueError as problem:
            raise ValueError(f"evaluation.guide: {problem}") from None


def _check_sampler(study: Study, arm: Arm) -> None:
    try:
        options = sampling_settings(study, arm.config)
        schedule = build_schedule(arm.config)
        plan_timesteps(schedule, options.sampler, options.steps, options.timestep_spacing, options.eta)
    except ValueError as problem:
        raise ValueError(f"evaluation.{str(problem).removeprefix('sample.')} (arm {arm.name})") from None
    unconditional = study.evaluation.get("guide") is not None or arm.config.diffusion.class_dropout_prob > 0
    if options.guidance_scale != 1 and not unconditional:
        raise ValueError(
            f"evaluation.guidance_scale: must be 1 because diffusion.class_dropout_prob is 0 in arm {arm.name}; leave "
            "it at 1, or set evaluation.guide"
        )


def _check_images(command: EvaluateCommand, training: DataConfig, data: ImageData) -> None:
    """Read the reference images and the held-out images, and check that the latter are not trained on."""
    reference, config = data, training
    if command.reference is not None:
        config = reference_config(command, None)
        resolution, channels = config.resolution or data.resolution, config.channels or data.channels
        config = dataclasses.replace(config, resolution=resolution, channels=channels)
        reference = load_real_images(config, "reference")
    held_out = load_held_out(command, config, reference)
    if held_out is None:
        return
    source = config.source if command.held_out is None else command.held_out
    shared = 0
    if source == training.source and held_out.part is not None and data.part is not None:
        shared = held_out.part.shared(data.part)
    if shared or held_out.fingerprint == data.fingerprint:
        option = "held_out" if command.held_out_split is None else "held_out_split"
        raise ValueError(f"{option}: {shared or len(data):,} of these images are trained on; choose others")
