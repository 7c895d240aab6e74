"""The inputs of a probe: a model, and the real images that it is measured on."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.config.commands import EvaluateCommand, ProbeCommand
from ddpm.config.sections import DataConfig
from ddpm.config.yaml_files import read_config, run_of
from ddpm.data import ImageData
from ddpm.data.slices import parse_split
from ddpm.evaluation.features import cache_directory
from ddpm.evaluation.image_source import check_size, is_model, load_real_images, reference_config
from ddpm.evaluation.reference_classifier import ReferenceClassifier, cached_classifier
from ddpm.io.pipelines import load_pipeline, locate, weights_digest
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
    if command.reference_split is not None and command.reference is None and run_of(command.model) is None:
        raise ValueError(
            f"reference_split: {command.model} is not in a run directory, so there are no images to split; name "
            "them with --reference"
        )
    if command.reference is not None or run_of(command.model) is not None:
        images = _read_images(command, pipeline, device)
    return ProbeInputs(str(directory), weights_digest(directory), pipeline, images)


def load_classifier(images: Images, device: torch.device) -> ReferenceClassifier:
    """Return a classifier trained on the real images, from the cache if it is there.

    Raises:
        ValueError: if the data has too few images or classes.
    """
    if images.data.num_classes < 2:
        raise ValueError("the real images have fewer than two classes")
    return cached_classifier(images.data, device, cache_directory())


def _read_images(command: ProbeCommand, pipeline: ClassConditionalPipeline, device: torch.device) -> Images:
    source = _source(command, pipeline)
    data = load_real_images(source, "reference")
    check_size(pipeline, data)
    names = pipeline.class_names
    unknown = next((name for name in data.class_names if names and name not in names), None)
    if unknown is not None or (names and not data.class_names):
        problem = "no classes" if unknown is None else f"the model has no class {unknown!r}"
        raise ValueError(f"reference: {problem}; name images of its classes, {', '.join(names[:5])}")
    if len(data) < 20:
        raise ValueError(f"reference: contains {len(data)} images; name at least 20, the minimum for an interval")
    draws = generator(command.seed, Purpose.SUBSET, 0)
    indices = torch.randperm(len(data), generator=draws)[: command.images].sort().values                 # (N,)
    pixels, classes = data.__getitems__(indices)
    labels = pipeline.labels([data.class_names[c] if names else None for c in classes.tolist()])
    return Images(data, pixels.to(device), labels.to(device), indices.to(device), _held_out(command, source, data))


def _source(command: ProbeCommand, pipeline: ClassConditionalPipeline) -> DataConfig:
    """Return the data that the command names; by default the run's own data, or a split of it."""
    if command.reference is None:
        config = reference_config(EvaluateCommand(model=command.model), pipeline)
        if command.reference_split is None:
            return config
        unet = pipeline.unet.config
        size = {"resolution": unet.resolution, "channels": unet.in_channels}
        return dataclasses.replace(config, split=command.reference_split, **size)
    path = Path(command.reference)
    is_run = command.reference != "digits" and path.is_dir() and run_of(path) is not None and is_model(path)
    if is_run and command.reference_split is not None:
        raise ValueError(
            f"reference_split: {path} is a run directory, whose configuration sets the split; leave this out, or name "
            "the source of the run's images with --reference"
        )
    named = EvaluateCommand(
        model=command.model, reference=command.reference, reference_split=command.reference_split
    )
    return reference_config(named, pipeline)


def _held_out(command: ProbeCommand, source: DataConfig, data: ImageData) -> bool | None:
    run = run_of(command.model)
    if run is None:
        return None
    if json.loads((run / "run.json").read_text())["data"]["fingerprint"] == data.fingerprint:
        return False
    config = read_config(run / "config.yaml")
    own = parse_split(config.data.split)
    # Other sources may contain the same images, and sums of splits overlap with their terms.
    known = data.part is not None and _same_source(config.data.source, source.source)
    if not known or any("+" in name or "[" in name for name in (own.split, data.part.split)):
        return None
    if own.split == data.part.split and own.part(data.part.of).shared(data.part):
        return False
    return None if config.model.pretrained else True      # the pretrained weights may have seen the images


def _same_source(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))
