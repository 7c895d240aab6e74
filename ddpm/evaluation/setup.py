"""Everything that an evaluation needs, loaded and checked before any image is generated."""

from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from ddpm import __version__
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.data import ImageData
from ddpm.evaluation.classes import class_without_images
from ddpm.evaluation.extractors import Extractor
from ddpm.evaluation.feature_tables import Features
from ddpm.evaluation.features import feature_digest, load_extractors
from ddpm.evaluation.image_source import (
    ImageSource,
    images_from_disk,
    images_from_model,
    load_held_out,
    load_real_images,
    reference_config,
    trained_intensity,
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
        extractor: computes the features.
        classifier: the reference classifier; None if the data has no classes.
        metrics: names of the metrics.
        trained_on_reference: whether the model was trained on the real images; None if unknown.
    """

    images: ImageSource
    data: ImageData
    held_out: ImageData | None
    extractor: Extractor
    classifier: ReferenceClassifier | None
    metrics: list[str]
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
    config = reference_config(command, pipeline)
    data = load_real_images(config, "reference", trained_intensity(command.model))
    if model is None or pipeline is None:
        images = images_from_disk(command, data)
    else:
        images = images_from_model(command, settings, data, pipeline, model, guide)
    held_out = load_held_out(command, config, data)
    require_classifier = command.metrics is not None and "accuracy" in names
    extractors = load_extractors(command.extractor, data, processes.device, cache, require_classifier)
    return EvaluationSetup(images, data, held_out, *extractors, names, was_trained_on(command.model, data))
