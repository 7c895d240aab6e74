"""Checks the evaluation options of a study before its first run is trained."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import DataConfig
from ddpm.config.study import Arm, Study
from ddpm.data import ImageData
from ddpm.diffusion.sampling import check_drawing
from ddpm.evaluation.extractors import EXTRACTORS, build_extractor
from ddpm.evaluation.features import cache_directory
from ddpm.evaluation.image_source import load_held_out, load_real_images, reference_config
from ddpm.io.pipelines import locate
from ddpm.lab.ablation.trials import drawing_settings, evaluate_command
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
        _check_drawing(study, arm)
    command = evaluate_command(study, Path())
    check_extractor(command.extractor)
    with _named(""):
        if command.extractor not in EXTRACTORS and not command.extractor.startswith(DOWNLOADED):
            build_extractor(command.extractor, data, "cpu", cache_directory())
        _check_images(command, study.baseline.config.data, data)
    if command.guide is not None:
        with _named("guide: "):
            locate(command.guide)


def _check_drawing(study: Study, arm: Arm) -> None:
    try:
        settings = drawing_settings(study, arm.config)
        check_drawing(build_schedule(arm.config), settings.sampler, settings.steps, settings.timestep_spacing, settings.eta)
    except ValueError as problem:
        raise ValueError(f"{str(problem).replace('sample.', 'evaluation.')} (arm {arm.name})") from None
    if settings.guidance_scale != 1 and study.evaluation.get("guide") is None and arm.config.diffusion.class_dropout_prob == 0:
        raise ValueError(
            f"evaluation.guidance_scale: must be 1 because diffusion.class_dropout_prob is 0 in arm {arm.name}; leave it at 1, or "
            "set evaluation.guide"
        )


def _check_images(command: EvaluateCommand, training: DataConfig, data: ImageData) -> None:
    """Read the reference images and the held-out images, and check that the latter are not trained on."""
    reference, config = data, training
    if command.reference is not None:
        config = reference_config(command, None)
        size = {"resolution": config.resolution or data.resolution, "channels": config.channels or data.channels}
        config = dataclasses.replace(config, **size)
        reference = load_real_images(config, "reference")
    held_out = load_held_out(command, config, reference)
    if held_out is None:
        return
    source = config.source if command.held_out is None else command.held_out
    shared = held_out.part.shared(data.part) if source == training.source else 0
    if shared or held_out.fingerprint == data.fingerprint:
        raise ValueError(f"held_out_split: {shared or len(data):,} of these images are trained on; choose other rows")


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"evaluation.{key}{problem}") from None
