"""Inexpensive metrics on few images, for repeated evaluation during training."""

import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from torch import Tensor

from ddpm.cache import SHARE_CACHE
from ddpm.config.sections import EvaluationConfig
from ddpm.data import ImageData
from ddpm.diffusion.sampling import class_seeds
from ddpm.evaluation.classes import accuracy, proportional_labels
from ddpm.evaluation.dinov2 import DinoV2, import_transformers
from ddpm.evaluation.extractors import EXTRACTORS, Extractor, check_color
from ddpm.evaluation.feature_tables import Features, random_rows
from ddpm.evaluation.features import cached_features, extract_features, feature_digest, load_extractors
from ddpm.evaluation.frechet import distance_to, moments
from ddpm.evaluation.inception import Inception, import_torch_fidelity
from ddpm.evaluation.kernel import kernel_distance
from ddpm.evaluation.metrics import METRICS, confusion, describe_shortage
from ddpm.evaluation.reference_classifier import ReferenceClassifier, check_trainable, why_untrainable
from ddpm.float64 import float64_device
from ddpm.io.provenance import settings_on_record
from ddpm.processes import check_same, first_on_main

KERNEL_IMAGES = 2_000       # maximum number of real images, since all pairs are compared

Measure = Callable[[Features], float]      # samples -> value


def _frechet(reference: Features) -> Measure:
    distance = distance_to(moments(reference.features))
    return lambda samples: distance(moments(samples.features))


def _kernel(reference: Features) -> Measure:
    real, _ = random_rows(reference.features, KERNEL_IMAGES)
    return lambda samples: kernel_distance(samples.features, real).value


# Inexpensive entries of METRICS, without intervals. Each prepares the reference once and returns a function of samples.
MONITORED: dict[str, Callable[[Features], Measure]] = {
    "frechet_distance": _frechet,
    "kernel_distance": _kernel,
    "accuracy": lambda reference: lambda samples: accuracy(confusion(samples)).value,
}


def check_images(settings: EvaluationConfig, data: ImageData) -> None:
    """Check that images allow the configured evaluation, without computing or downloading anything.

    Args:
        settings: what to measure.
        data: the training images.

    Raises:
        ValueError: if they do not; names the option and what is possible.
    """
    name, (kind, _, _) = settings.extractor, settings.extractor.partition(":")
    try:
        if name == ReferenceClassifier.name:
            check_trainable(data)
        elif name in EXTRACTORS or kind == DinoV2.name:
            check_color(kind, data)
            (import_torch_fidelity if kind == Inception.name else import_transformers)()
    except ValueError as problem:
        raise ValueError(f"evaluation.{problem}") from None
    if settings.metric == "accuracy" and (reason := why_untrainable(data)) is not None:
        raise ValueError(f"evaluation.metric: accuracy needs a classifier, and {reason}; use frechet_distance")


class InTrainingMetrics:
    """Measures images against the training data during training. All processes create one.

    Attributes:
        labels: int64 (count,), sorted classes of the images to generate, in the proportions of the data.
        seeds: of the images to generate.
        better: "lower" or "higher", the better direction of the metric that selects the best model.
        identity: JSON facts that determine what the metrics mean.
    """

    def __init__(
        self, settings: EvaluationConfig, data: ImageData, processes: Accelerator | PartialState, cache: Path
    ) -> None:
        """Train the reference classifier and extract features of the training images, unless both are cached.

        Args:
            settings: what to generate and to measure.
            data: the training images.
            processes: all processes.
            cache: folder of cached classifiers and features.

        Raises:
            ValueError: if the extractor is unknown, or there are too few classes or images.
        """
        def load() -> tuple[Extractor, ReferenceClassifier | None]:
            try:
                return load_extractors(
                    settings.extractor, data, processes.device, cache, require_classifier=settings.metric == "accuracy"
                )
            except ValueError as problem:
                raise ValueError(f"evaluation.extractor: {str(problem).removeprefix('extractor: ')}") from problem

        self._extractors = first_on_main(processes, load)
        extractor, classifier = self._extractors
        check_same(processes, {"evaluation.extractor": feature_digest(extractor, classifier)}, SHARE_CACHE)
        self._reference = reference = cached_features(data, extractor, classifier, cache, processes)
        problems = {
            name: describe_shortage(METRICS[name], settings.count, reference)
            or METRICS[name].why_inapplicable(reference)
            for name in MONITORED
        }
        self._names = [name for name, problem in problems.items() if problem is None]
        if problems[settings.metric] is not None:
            others = f"evaluation.metric {' or '.join(self._names)}" if self._names else "evaluation.every 0"
            # Otherwise there are too few real images, whatever is drawn.
            enough = describe_shortage(METRICS[settings.metric], sys.maxsize, reference) is None
            raise ValueError(
                f"evaluation.metric: {settings.metric} cannot be measured: {problems[settings.metric]}; "
                f"{'change evaluation.count, or ' * enough}use {others}"
            )
        self._device = float64_device(processes.device)
        self.better = METRICS[settings.metric].better[settings.metric]
        self.labels = proportional_labels(data.labels, data.num_classes, settings.count)
        self.seeds = class_seeds(self.labels.tolist(), settings.seed, data.num_classes)
        self.identity: dict[str, Any] = {
            "metric": settings.metric,
            "count": settings.count,
            "seed": settings.seed,
            **settings_on_record(settings.sampling_options()),
            "extractor": extractor.name,
            "features": feature_digest(extractor, classifier),
        }

    def extract_features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the columns of `Features` for a batch, uint8 (B, C, H, W): name -> (B, D) on the CPU."""
        return extract_features(images, *self._extractors)

    def measure(self, columns: dict[str, Tensor]) -> dict[str, float]:
        """Compute the metrics of the generated images.

        Args:
            columns: from `extract_features`, for all images in the order of `labels`, each (count, D).

        Returns:
            The applicable entries of MONITORED.
        """
        samples = Features(**{name: values.to(self._device) for name, values in columns.items()}, labels=self.labels)
        return {name: measure(samples) for name, measure in self._measures.items()}

    @cached_property
    def _measures(self) -> dict[str, Measure]:
        """Prepare the metrics on first use: this reads all real features, and only one process measures."""
        return {name: MONITORED[name](self._reference) for name in self._names}
