"""The inputs of a probe: a model, and the real images that it is measured on."""

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.config.commands import MIN_PROBE_IMAGES, EvaluateCommand, ProbeCommand
from ddpm.config.places import is_same_path
from ddpm.config.run_folders import read_data_options, run_of
from ddpm.config.sections import DataConfig
from ddpm.config.yaml_files import read_config
from ddpm.data import ImageData
from ddpm.data.slices import parse_split
from ddpm.evaluation.image_source import (
    check_size,
    load_reference,
    was_trained_on,
)
from ddpm.io.pipelines import load_pipeline, locate
from ddpm.io.provenance import weights_digest
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose, generator


class Images(NamedTuple):
    """Real images.

    Attributes:
        data: all images.
        pixels: uint8 (N, C, H, W), a subset of them.
        labels: int64 (N,), their classes as the model's ids.
        indices: int64 (N,), the indices of the subset in `data`.
        held_out: whether the images were excluded from training; None if unknown.
    """

    data: ImageData
    pixels: Tensor
    labels: Tensor
    indices: Tensor
    held_out: bool | None


class ProbeInputs(NamedTuple):
    """A model, and real images to measure it on.

    Attributes:
        name: the directory that the model was loaded from.
        weights: SHA-256 of its weights.
        pipeline: the model, on its device.
        images: None if it is not known which images to use.
    """

    name: str
    weights: str
    pipeline: ClassConditionalPipeline
    images: Images | None


def read_inputs(command: ProbeCommand, device: torch.device) -> ProbeInputs:
    """Load the model, and the real images that the command or the run directory names.

    Raises:
        ValueError: if there is no such model, or the images cannot be read or do not fit the model.
    """
    directory = locate(command.model)
    pipeline = load_pipeline(directory).to(device)
    images = None
    if command.reference is not None or run_of(command.model) is not None:
        images = _read_images(command, pipeline, device)
    elif command.reference_split is not None:
        raise ValueError(
            f"reference_split: {command.model} is not in a run directory, so there are no images to split; give "
            "them with --reference"
        )
    return ProbeInputs(str(directory), weights_digest(directory), pipeline, images)


def _read_images(command: ProbeCommand, pipeline: ClassConditionalPipeline, device: torch.device) -> Images:
    source, data = load_reference(_as_evaluation(command), pipeline)
    check_size(pipeline, data)
    names = pipeline.class_names
    unknown = next((name for name in data.class_names if names and name not in names), None)
    if unknown is not None or (names and not data.class_names):
        problem = "no classes" if unknown is None else f"the model has no class {unknown!r}"
        raise ValueError(f"reference: {problem}; choose images of its classes, {', '.join(names[:5])}")
    if len(data) < MIN_PROBE_IMAGES:
        raise ValueError(
            f"reference: contains {len(data)} images; give at least {MIN_PROBE_IMAGES}, for a usable interval"
        )
    draws = generator(command.seed, Purpose.SUBSET, 0)
    indices = torch.randperm(len(data), generator=draws)[: command.images].sort().values                # (N,)
    pixels, classes = data.__getitems__(indices)
    labels = pipeline.labels([data.class_names[c] if names else None for c in classes.tolist()])
    return Images(data, pixels.to(device), labels.to(device), indices.to(device), _held_out(command, source, data))


def _as_evaluation(command: ProbeCommand) -> EvaluateCommand:
    """Return the evaluation that has the same real images: by default the run's own, or a split of them."""
    named = {name: getattr(command, name) for name in ("model", "reference", "reference_split")}
    return EvaluateCommand(**named)


def _held_out(command: ProbeCommand, source: DataConfig, data: ImageData) -> bool | None:
    run, part = run_of(command.model), data.part
    if run is None:
        return None
    if was_trained_on(command.model, data):
        return False
    config = read_config(run / "config.yaml")
    own = parse_split(config.data.split)
    # Other sources may contain the same images, and sums of splits overlap with their terms.
    same_source = is_same_path(read_data_options(run).source, source.source)
    if part is None or not same_source or any("+" in name or "[" in name for name in (own.split, part.split)):
        return None
    if own.split == part.split and own.part(part.total).shared(part):
        return False
    return None if config.model.pretrained else True      # the pretrained weights may have seen the images
