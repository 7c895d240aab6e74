"""Everything that an evaluation needs, loaded and checked before any image is generated."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from ddpm import __version__
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.data import ImageData
from ddpm.evaluation.classes import class_without_images
from ddpm.evaluation.extraction import without_classes
from ddpm.evaluation.extractors import Extractor, NoExtractor
from ddpm.evaluation.feature_tables import Features
from ddpm.evaluation.features import feature_digest, load_extractors
from ddpm.evaluation.image_source import (
    ImageSource,
    describe_leak,
    images_from_disk,
    images_from_model,
    load_held_out,
    load_reference,
    was_trained_on,
)
from ddpm.evaluation.metrics import METRICS, describe_shortage
from ddpm.evaluation.reference_classifier import ReferenceClassifier
from ddpm.io.pipelines import load_pipeline
from ddpm.names import lookup

DENOISER_METRICS = {"denoising": "denoising error", "bits_per_dim": "variational bound"}


class EvaluationSetup(NamedTuple):
    """Everything that an evaluation needs.

    Attributes:
        images: the images to evaluate.
        data: the real images.
        held_out: real images that the model was not trained on; None if there are none.
        extractor: computes the features; a `NoExtractor` without image metrics.
        classifier: the reference classifier; None if the data has no classes, or without image metrics.
        metrics: names of the metrics.
        left_out: names of the metrics that the real images do not allow, and why.
        trained_on_reference: whether the model was trained on the real images; None if unknown.
    """

    images: ImageSource
    data: ImageData
    held_out: ImageData | None
    extractor: Extractor
    classifier: ReferenceClassifier | None
    metrics: list[str]
    left_out: dict[str, str]
    trained_on_reference: bool | None

    @property
    def image_metrics(self) -> list[str]:
        """The metrics that are computed from images."""
        return [name for name in self.metrics if name in METRICS]

    def reason_not_computable(self, name: str, reference: Features) -> str | None:
        """Return why an image metric cannot be computed, in a few words, as far as known before there are images."""
        labels, names = self.images.labels, self.data.class_names
        missing = None if labels is None else class_without_images(labels, names)
        if name == "accuracy" and missing is not None and self.images.pipeline is None:
            return f"there are no images of class {missing!r}"
        if name == "memorization" and self.trained_on_reference is False:
            return "the model was not trained on the reference"
        return describe_shortage(METRICS[name], self.images.count, reference)

    @property
    def reason_without_denoiser(self) -> str | None:
        """Why the metrics of the denoiser cannot be computed, in a few words; None if they can."""
        if self.images.pipeline is None:
            return "there is no model"
        data = self.data if self.held_out is None else self.held_out
        if self.images.pipeline.class_names and not data.class_names:
            return "the model needs the classes of the real images, which have none"
        return describe_few(data)

    def identify(self, command: EvaluateCommand) -> dict[str, Any]:
        """Return the facts that determine the content of evaluation.json."""
        return {
            "version": __version__,
            "samples": self.images.identity,
            "reference": self.data.fingerprint,
            "held_out": None if self.held_out is None else self.held_out.fingerprint,
            "features": feature_digest(self.extractor, self.classifier),
            "metrics": self.metrics,
            **{name: getattr(command, name) for name in ("bootstrap", "bound_images", "bound_steps")},
        }


def describe_few(data: ImageData) -> str | None:
    """Return why the metrics of the denoiser cannot be computed from so few images; None if they can."""
    return f"needs 2 real images or more, there are {len(data)}" if len(data) < 2 else None


def why_without_classes(name: str, extractor: str, data: ImageData) -> str | None:
    """Return why a metric cannot be computed if the real images have no classes, in a few words; None if it can.

    Args:
        name: of the metric.
        extractor: name of the extractor.
        data: the real images.
    """
    if data.num_classes or name not in METRICS:
        return None
    if name == "accuracy":
        return "the real images have no classes"
    if extractor == "classifier":
        others = " and ".join(without_classes(data.channels))
        return f"the real images have no classes, which the extractor classifier needs; those that do not: {others}"
    return None


def check_metrics(names: Sequence[str], extractor: str, data: ImageData) -> None:
    """Check that requested metrics do not need classes if the real images have none.

    Raises:
        ValueError: if one does; names it and what is possible.
    """
    for name in names:
        reason = why_without_classes(name, extractor, data)
        if reason is not None:
            able = [other for other in (*METRICS, *DENOISER_METRICS) if not why_without_classes(other, extractor, data)]
            raise ValueError(f"metrics: {name} is not possible: {reason}; use only {','.join(able)}")


def prepare_evaluation(
    command: EvaluateCommand,
    settings: SampleConfig,
    processes: PartialState,
    cache: Path,
    model: Path | None,
    guide: Path | None,
) -> EvaluationSetup:
    """Load the real images, the model or the images to evaluate, and the extractors.

    Args:
        command: what to evaluate, and how.
        settings: how to generate images.
        processes: all processes; each loads everything.
        cache: folder of cached classifiers.
        model: directory of the pipeline; None for images from disk.
        guide: directory of the guiding pipeline; None without one.

    Raises:
        ValueError: for an invalid command, or unusable data or images.
    """
    known = {**METRICS, **DENOISER_METRICS}
    names = list(known) if command.metrics is None else [n.strip() for n in command.metrics.split(",") if n.strip()]
    if not names:
        raise ValueError(f"metrics: the list is empty; allowed are {', '.join(known)}")
    for name in names:
        lookup(known, name, "metrics")
    pipeline = None if model is None else load_pipeline(model).to(processes.device)
    config, data = load_reference(command, pipeline)
    left_out = {name: why for name in names if (why := why_without_classes(name, command.extractor, data)) is not None}
    if command.metrics is not None or pipeline is None:
        check_metrics(names, command.extractor, data)
    names = [name for name in names if name not in left_out]
    if model is None or pipeline is None:
        images = images_from_disk(command, data)
    else:
        images = images_from_model(command, settings, data, pipeline, model, guide)
    held_out = load_held_out(command, config, data)
    if held_out is not None and processes.is_main_process and (copies := describe_leak(held_out, data, "reference")):
        print(f"WARNING: {copies}", file=sys.stderr)
    extractors: tuple[Extractor, ReferenceClassifier | None] = NoExtractor(), None
    if any(name in METRICS for name in names):
        require_classifier = command.metrics is not None and "accuracy" in names
        extractors = load_extractors(command.extractor, data, processes.device, cache, require_classifier)
    return EvaluationSetup(images, data, held_out, *extractors, names, left_out, was_trained_on(command.model, data))
