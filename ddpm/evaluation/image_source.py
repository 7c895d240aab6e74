"""What is evaluated: images that a model draws, or somebody else's."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.config.commands import EvaluateCommand, SamplingOptions
from ddpm.config.sections import DataConfig, SampleConfig
from ddpm.config.yaml_files import read_config, run_of
from ddpm.data import ImageData, load_data
from ddpm.diffusion.sampling import class_seeds
from ddpm.evaluation.class_proportions import proportional_labels
from ddpm.evaluation.image_sets import read_images
from ddpm.io.drawing import write_samples
from ddpm.io.formats import Plan, Request
from ddpm.io.pictures import decoded
from ddpm.io.pipelines import load_pipeline, locate, weights_digest
from ddpm.io.samples import process_digest
from ddpm.names import did_you_mean
from ddpm.pipeline import ClassConditionalPipeline

MOST = 10_000           # images that are drawn unless told otherwise

Read = Callable[[list[int]], Tensor]        # places -> uint8 (B, C, H, W)


@dataclass(frozen=True)
class Subject:
    """Images to be evaluated, not drawn or read yet.

    Attributes:
        name: for people.
        count: number of images.
        batch_size: images that are read at a time.
        labels: int64 (N,), the class of the reference that each should show; None where that is not known.
        identity: JSON-able facts that decide what the images are.
        get: makes the images, on all processes, and returns how they are read.
        folder: where drawn images are kept; None for somebody else's.
        pipeline: the model that draws them; None for somebody else's.
    """

    name: str
    count: int
    batch_size: int
    labels: Tensor | None
    identity: dict[str, Any]
    get: Callable[[], Read]
    folder: Path | None = None
    pipeline: ClassConditionalPipeline | None = None


def is_model(path: Path) -> bool:
    """Whether a path is a run directory, a checkpoint or a pipeline; anything else should be images."""
    parts = ("model_index.json", "pipeline/model_index.json", "run.json")
    return not path.exists() or any((path / part).exists() for part in parts) or any(path.glob("checkpoints/step_*"))


def reference_config(command: EvaluateCommand, pipeline: ClassConditionalPipeline | None) -> DataConfig:
    """Which real images there are to compare with, as large as the model's if there is one.

    Raises:
        ValueError: if none are named and the model is in no run directory.
    """
    if command.reference is None:
        run = run_of(command.model)
        if run is None:
            raise ValueError(
                f"reference: {command.model} is in no run directory, so there are no real images to compare with; "
                "name them with --reference (digits, a folder of class folders, a parquet file, a run directory)"
            )
        return read_config(run / "config.yaml").data
    source, path = command.reference, Path(command.reference)
    if source != "digits" and path.is_dir() and is_model(path) and run_of(path) is not None:
        return read_config(run_of(path) / "config.yaml").data
    size = {} if pipeline is None else {
        "resolution": pipeline.unet.config.resolution, "channels": pipeline.unet.config.in_channels
    }
    return DataConfig(source=source, split=command.reference_split or "train", **size)


def read_data(config: DataConfig, name: str) -> ImageData:
    """Real images; an error names the option `name` instead of the configuration's key."""
    try:
        data = load_data(**config.reading())
    except ValueError as problem:
        message = str(problem).replace("data.source", name).replace("data.split", f"{name}_split")
        raise ValueError(message) from problem
    _check_distinct(data.class_names, name)
    return data


def _check_distinct(names: Sequence[str], option: str) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{option}: two classes are called {twice!r}; give every class a name of its own")


def held_out_data(command: EvaluateCommand, config: DataConfig, data: ImageData) -> ImageData | None:
    """Real images that the model was not trained on, as large as the reference; None where none are named.

    Raises:
        ValueError: if they are the reference itself, or of other classes.
    """
    if command.held_out is None and command.held_out_split is None:
        return None
    same_source = command.held_out is None
    split = command.held_out_split or "train"
    columns = (config.image_column, config.label_column) if same_source else (None, None)
    other = dataclasses.replace(
        config,
        source=config.source if same_source else command.held_out,
        split=split,
        resolution=data.resolution,
        channels=data.channels,
        image_column=columns[0],
        label_column=columns[1],
    )
    held_out = read_data(other, "held_out")
    if held_out.fingerprint == data.fingerprint:
        raise ValueError("held_out: these are the reference images themselves; name others, or leave it out")
    shared = held_out.part.shared(data.part) if other.source == config.source else 0
    if shared:
        raise ValueError(
            f"held_out_split: {held_out.part} has {shared:,} images that are in the reference too, {data.part}; name "
            "other rows"
        )
    if held_out.class_names != data.class_names:
        raise ValueError(
            f"held_out: its classes are {_few(held_out.class_names)}, those of the reference are "
            f"{_few(data.class_names)}; name images of the same classes"
        )
    return held_out


class Located(NamedTuple):
    """The pipeline directories that a command means, the same for all processes though a run may go on meanwhile.

    Attributes:
        model: None for somebody else's images.
        guide: None without one.
    """

    model: Path | None
    guide: Path | None


def located(command: EvaluateCommand) -> Located:
    """Looks them up.

    Raises:
        ValueError: if there is no good one.
    """
    model = locate(command.model) if is_model(command.model) else None
    return Located(model, None if command.guide is None else locate(command.guide))


def drawn(
    command: EvaluateCommand,
    settings: SampleConfig,
    data: ImageData,
    pipeline: ClassConditionalPipeline,
    directories: Located,
) -> Subject:
    """Images that a model draws: as many of each class as the reference's proportions say.

    The j-th image of class c has the seed `seed + j * number of classes + c`, as in scripts/sample.py.

    Raises:
        ValueError: if the model does not fit the reference, or the settings do not fit the model.
    """
    check_size(pipeline, data)
    names = pipeline.class_names
    _check_distinct(names, str(command.model))
    unknown = [name for name in data.class_names if name not in names] if names else []
    if unknown:
        raise ValueError(
            f"reference: the model has no class {unknown[0]!r}{did_you_mean(unknown[0], names)}; its classes are "
            f"{_few(names)}"
        )
    guide = None if directories.guide is None else load_pipeline(directories.guide).to(pipeline.device)
    count = command.count or min(len(data), MOST)
    if names:
        labels = proportional_labels(data.labels, data.num_classes, count)
        ids = [names.index(data.class_names[c]) for c in labels.tolist()]
    else:
        labels, ids = None, [None] * count
    seeds = class_seeds([c or 0 for c in ids], settings.seed, max(1, len(names)))
    requests = [
        Request("none" if c is None else names[c], f"seed{seed:06d}", -1 if c is None else c, seed)
        for c, seed in zip(ids, seeds, strict=True)
    ]
    draw = pipeline.drawer(pipeline.labels(ids), seeds, guide=guide, **settings.drawing())
    identity = {
        "weights": weights_digest(directories.model),
        "process": process_digest(pipeline),
        "guide": None if guide is None else f"{weights_digest(directories.guide)} {process_digest(guide)}",
        "settings": {**settings.drawing(), "seed": settings.seed},
        "count": count,
        "classes": digest_of([r.label for r in requests]),
    }
    folder = _room(command) / "samples" / f"{settings.sampler}{settings.steps}-{digest_of(identity)[:6]}"

    def get() -> Read:
        write_samples(folder, requests, draw, settings.batch_size, names, identity, ("png",))
        plan = Plan(folder, requests, settings.batch_size, names)
        return lambda places: torch.stack([decoded(folder / plan.png(requests[i])) for i in places])

    return Subject(str(command.model), count, settings.batch_size, labels, identity, get, folder, pipeline)


def check_size(pipeline: ClassConditionalPipeline, data: ImageData) -> None:
    """Refuses real images of another size than the model's.

    Raises:
        ValueError: names both.
    """
    config = pipeline.unet.config
    ours, theirs = (config.resolution, config.in_channels), (data.resolution, data.channels)
    if ours != theirs:
        raise ValueError(
            f"reference: its images are {theirs[0]}x{theirs[0]} with {theirs[1]} channel(s), the model's "
            f"{ours[0]}x{ours[0]} with {ours[1]}; name images like those that it was trained on"
        )


def given(command: EvaluateCommand, data: ImageData) -> Subject:
    """Somebody else's images.

    Raises:
        ValueError: if they cannot be read or are not like the reference; or a drawing option is given.
    """
    options = [f.name for f in dataclasses.fields(SamplingOptions) if f.name != "model"]
    for name in ("count", *options):
        if getattr(command, name) is not None:
            raise ValueError(f"{name}: {command.model} are images that are there already; leave it out")
    images = read_images(command.model, data.resolution, data.channels, data.class_names)
    identity = {"images": images.digest, "count": len(images)}
    return Subject(images.summary(), len(images), 500, images.labels, identity, lambda: images.read)


def output_folder(command: EvaluateCommand, name: str) -> Path:
    """Where an evaluation is written."""
    return command.out or _room(command) / name


def features_folder(command: EvaluateCommand, key: str) -> Path:
    """Where descriptions of images are kept, of images and extractor by the name `key`."""
    return (command.out or _room(command)) / "features" / key


def relative(path: Path, base: Path) -> str:
    """A path as seen from a folder, so that both can be moved together."""
    return os.path.relpath(path, base)


def digest_of(facts: Any) -> str:
    """SHA-256 of JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _room(command: EvaluateCommand) -> Path:
    """Of a run all its evaluations are together: those of a checkpoint would go with it."""
    path = command.model
    if is_model(path):
        return (run_of(path) or path) / "evaluations"
    path = path.absolute()
    return path.with_name(f"{path.stem}-evaluations")


def _few(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
