"""Figures of few images, cheap enough to be measured again and again while a model is trained."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from torch import Tensor

from ddpm.config.sections import EvaluationConfig
from ddpm.data import ImageData
from ddpm.diffusion.sampling import class_seeds
from ddpm.evaluation.chunks import some_rows
from ddpm.evaluation.class_accuracy import accuracy, confusion
from ddpm.evaluation.class_proportions import proportional_labels
from ddpm.evaluation.estimates import Described
from ddpm.evaluation.features import Extractor
from ddpm.evaluation.frechet import distance_to, moments
from ddpm.evaluation.kernel import kernel_distance
from ddpm.evaluation.metrics import METRICS
from ddpm.evaluation.reference import describe, described_data, description, readers
from ddpm.evaluation.reference_classifier import Judge
from ddpm.processes import first_on_main

KERNEL_IMAGES = 2_000       # real ones, at most, whose pairs are looked at

Measure = Callable[[Described], float]      # of samples


def _frechet(reference: Described) -> Measure:
    distance = distance_to(moments(reference.features))
    return lambda samples: distance(moments(samples.features))


def _kernel(reference: Described) -> Measure:
    real, _ = some_rows(reference.features, KERNEL_IMAGES)
    return lambda samples: kernel_distance(samples.features, real).value


def _accuracy(reference: Described) -> Measure:
    return lambda samples: accuracy(confusion(samples.read, samples.labels)).value


# The entries of METRICS that are cheap, without intervals: what can be computed from the reference once is.
MONITORED: dict[str, Callable[[Described], Measure]] = {
    "frechet_distance": _frechet,
    "kernel_distance": _kernel,
    "accuracy": _accuracy,
}


class Monitor:
    """What training images are like, and how far drawn ones are from them. All processes build one.

    Attributes:
        labels: int64 (count,), the classes to draw, rising, in the proportions of the data.
        seeds: of the images to draw.
        better: "lower" or "higher", what is better of the figure that chooses the best model.
        identity: JSON-able facts that decide what the figures mean.
    """

    def __init__(
        self, settings: EvaluationConfig, data: ImageData, processes: Accelerator | PartialState, cache: Path
    ) -> None:
        """Has a judge trained and the training images described, unless the cache has both.

        Args:
            settings: what to draw and to measure.
            data: the training images.
            processes: all of them.
            cache: where judges and descriptions are kept.

        Raises:
            ValueError: if the extractor is not known, or there are too few classes or images.
        """
        if settings.extractor == "judge" and data.num_classes < 2:
            raise ValueError(
                "evaluation.extractor: a judge tells classes apart, and the data has one; use inception or dinov2"
            )
        self._extractor, self._judge = first_on_main(processes, lambda: _readers(settings, data, processes, cache))
        self._reference = described_data(data, self._extractor, self._judge, cache, processes)
        problems = {name: self._problem(name, settings.count) for name in MONITORED}
        self._names = [name for name, problem in problems.items() if problem is None]
        if problems[settings.metric] is not None:
            others = f"evaluation.metric {' or '.join(self._names)}" if self._names else "evaluation.every 0"
            raise ValueError(
                f"evaluation.metric: {settings.metric} cannot be measured, as {problems[settings.metric]}; change "
                f"evaluation.count, or use {others}"
            )
        self._device = processes.device
        self.better = METRICS[settings.metric].better[settings.metric]
        self.labels = proportional_labels(data.labels, data.num_classes, settings.count)
        self.seeds = class_seeds(self.labels.tolist(), settings.seed, data.num_classes)
        self.identity: dict[str, Any] = {
            "metric": settings.metric,
            "count": settings.count,
            "seed": settings.seed,
            **settings.drawing(),
            "extractor": self._extractor.name,
            "description": description(self._extractor, self._judge),
        }

    def describe(self, images: Tensor) -> dict[str, Tensor]:
        """What there is to know of a batch, uint8 (B, C, H, W): columns, each (B, D) on the CPU."""
        return describe(images, self._extractor, self._judge)

    def measure(self, columns: dict[str, Tensor]) -> dict[str, float]:
        """The figures of the drawn images.

        Args:
            columns: of `describe`, of all images in the order of `labels`, each (count, D).

        Returns:
            Those entries of MONITORED that apply.
        """
        here = {name: values.to(self._device) for name, values in columns.items()}
        samples = Described(here["features"], here["pixels"], here.get("logits"), here.get("read"), self.labels)
        return {name: measure(samples) for name, measure in self._measures.items()}

    @cached_property
    def _measures(self) -> dict[str, Measure]:
        """Made when first needed: it takes a pass over the real images, and one process measures."""
        return {name: MONITORED[name](self._reference) for name in self._names}

    def _problem(self, name: str, count: int) -> str | None:
        """Why a figure cannot be had from `count` drawn images, in a few words; None where it can."""
        metric = METRICS[name]
        real, width = self._reference.features.shape
        least = metric.needs(self._reference)
        short = next((f"{n} {kind}" for n, kind in ((count, "drawn"), (real, "real")) if n < least), None)
        if short is not None:
            return f"it needs {least} images or more for {width} features, and there are {short} ones"
        return metric.applies(self._reference)


def _readers(
    settings: EvaluationConfig, data: ImageData, processes: Accelerator | PartialState, cache: Path
) -> tuple[Extractor, Judge | None]:
    """The extractor and the judge; an error names the option of the configuration."""
    try:
        return readers(settings.extractor, data, processes.device, cache, settings.metric == "accuracy")
    except ValueError as problem:
        raise ValueError(f"evaluation.extractor: {str(problem).removeprefix('extractor: ')}") from problem
