"""Checks the evaluation options of a study before its first run is trained."""

import dataclasses
from pathlib import Path

import torch

from ddpm.cache import cache_directory
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import DataConfig
from ddpm.config.study import STUDY_METRICS, Study
from ddpm.config.yaml_files import prefixed_errors
from ddpm.data import ImageData
from ddpm.data.notes import count_classes
from ddpm.evaluation.extractors import EXTRACTORS, build_extractor
from ddpm.evaluation.image_source import describe_leak, load_held_out, load_real_images, reference_config
from ddpm.evaluation.setup import DENOISER_METRICS, check_metrics, describe_few, why_without_classes
from ddpm.io.pipelines import locate
from ddpm.lab.ablation.planned_runs import evaluate_command, sampling_settings
from ddpm.processes import warn
from ddpm.training.validation import check_classes, check_extractor, check_monitoring, check_sampler, check_unguided

DOWNLOADED = ("dinov2:",)        # prefixes of extractors that take long to build and are checked when they are used


def check_evaluation(study: Study, data: ImageData) -> ImageData | None:
    """Check the options of the evaluation, and return the held-out images if there are any.

    Args:
        study: the study.
        data: the training images of its arms.

    Raises:
        ValueError: if an option cannot work; the message names it, such as evaluation.held_out_split.
    """
    for arm in study.arms:
        with prefixed_errors(f"arms.{arm.name}"):
            check_classes(arm.config, data)
            check_monitoring(arm.config, data)
        try:
            options, guide = sampling_settings(study, arm.config), study.evaluation.get("guide")
            check_sampler(arm.config, options, "sample", guide is not None)
            if data.num_classes == 0 and guide is None:
                check_unguided(options, "sample")
        except ValueError as problem:
            raise ValueError(f"evaluation.{str(problem).removeprefix('sample.')} (arm {arm.name})") from None
    command = evaluate_command(study, Path())
    check_extractor(command.extractor)
    try:
        if command.extractor not in EXTRACTORS and not command.extractor.startswith(DOWNLOADED):
            build_extractor(command.extractor, data, "cpu", cache_directory())
        reference, held_out = _check_images(command, study.baseline.config.data, data)
        if command.metrics is not None:
            check_metrics([name.strip() for name in command.metrics.split(",")], command.extractor, reference)
    except ValueError as problem:
        raise ValueError(f"evaluation.{problem}") from None
    reason = why_without_classes(STUDY_METRICS[study.metric], command.extractor, reference)
    if reason is not None:
        raise ValueError(f"metric: {study.metric} is not possible: {reason}; use denoising_error")
    if held_out is not None and STUDY_METRICS[study.metric] in DENOISER_METRICS:
        warn(*describe_unmeasured(study.metric, held_out))
    few = describe_few(reference if held_out is None else held_out)
    if few is not None and STUDY_METRICS[study.metric] in DENOISER_METRICS:
        raise ValueError(f"metric: {study.metric} {few}; hold out more with evaluation.held_out_split, or add images")
    if command.guide is not None:
        with prefixed_errors("evaluation.guide"):
            locate(command.guide)
    return held_out


def _check_images(
    command: EvaluateCommand, training: DataConfig, data: ImageData
) -> tuple[ImageData, ImageData | None]:
    """Read the reference images and the held-out images, and check that the latter are not trained on.

    Returns:
        The reference images, and the held-out images if there are any.
    """
    reference, config = data, training
    if command.reference is not None:
        config = reference_config(command, None)
    elif command.reference_split is not None:
        config = dataclasses.replace(training, split=command.reference_split)
    if config != training:
        resolution, channels = config.resolution or data.resolution, config.channels or data.channels
        config = dataclasses.replace(config, resolution=resolution, channels=channels)
        reference = load_real_images(config, "reference", None if data.format is None else data.format.intensity)
    held_out = load_held_out(command, config, reference)
    if held_out is None:
        return reference, None
    same_source = (command.held_out or config.source) == training.source
    shared = held_out.part.shared(data.part) if same_source and held_out.part and data.part else 0
    if shared or held_out.fingerprint == data.fingerprint:
        option = "held_out" if command.held_out_split is None else "held_out_split"
        raise ValueError(f"{option}: {shared or len(data):,} of these images are trained on; choose others")
    check_all_are_trained_on(held_out, data)
    if (copies := describe_leak(held_out, data, "training")) is not None:
        warn(copies)
    return reference, held_out


def check_all_are_trained_on(held_out: ImageData, data: ImageData) -> None:
    """Check that each class of the held-out images has training images.

    Raises:
        ValueError: if one has none; names it.
    """
    present = held_out.labels.unique()
    unlearned = present[~torch.isin(present, data.labels)].tolist()
    if unlearned:
        raise ValueError(
            f"held_out_split: {len(unlearned)} of its classes have no image that is trained on, such as "
            f"{data.class_names[unlearned[0]]!r}; select other rows for training and for this split, or shuffle the "
            "rows of the source"
        )


def describe_unmeasured(metric: str, held_out: ImageData) -> list[str]:
    """Return one line on the classes without held-out images, if there are any: a metric of them does not cover these.

    Args:
        metric: a metric of held-out images.
        held_out: the images.
    """
    counts = count_classes(held_out.labels, held_out.num_classes)
    names = [name for name, count in zip(held_out.class_names, counts, strict=True) if count == 0]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [
        f"evaluation.held_out_split: has no image of {len(names):,} of {len(counts):,} classes ({shown}), so that "
        f"{metric} does not cover them; add images of these classes, or hold out a larger part"
    ]
