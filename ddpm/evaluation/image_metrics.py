"""Metrics of the evaluated images, each with its real-data baseline: its value for real images."""

from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm.config.commands import EvaluateCommand
from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.feature_tables import Features, random_indices
from ddpm.evaluation.metrics import METRICS, Options
from ddpm.evaluation.setup import EvaluationSetup


class EvaluationFeatures(NamedTuple):
    """Features of all images of an evaluation.

    Attributes:
        samples: the evaluated images.
        reference: the real images.
        held_out: other real images; None if there are none.
    """

    samples: Features
    reference: Features
    held_out: Features | None


def measure_images(
    command: EvaluateCommand, setup: EvaluationSetup, features: EvaluationFeatures
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute all applicable image metrics with their baselines; also return why others were skipped."""
    metrics: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    options = Options(replicates=command.bootstrap, held_out=features.held_out)
    for name in setup.image_metrics:
        metric = METRICS[name]
        reason = metric.why_inapplicable(features.samples) or setup.reason_not_computable(name, features.reference)
        if reason is not None:
            skipped[name] = reason
            continue
        found = metric.measure(features.samples, features.reference, options)
        baseline = measure_real_baseline(name, found, setup, features, options) if metric.real_baseline else {}
        for key, estimate in found.items():
            own = estimate_json(estimate, setup.images.count)
            metrics[key] = {**own, "better": metric.better[key], "real_baseline": baseline.get(key)}
    return metrics, skipped


def measure_real_baseline(
    name: str, found: dict[str, Estimate], setup: EvaluationSetup, features: EvaluationFeatures, options: Options
) -> dict[str, dict[str, Any]]:
    """Compute a metric for real images in place of the samples, by name of the estimate.

    If there are fewer real images, `samples` is the value at equal count: of as many samples against the same real
    images. Distances are biased upwards for small numbers of images, so only these two values can be compared.
    """
    metric = METRICS[name]
    by_classifier = name == "accuracy" or (name == "inception_score" and setup.extractor is setup.classifier)
    real, rest = _split_real_images(setup, features, by_classifier)
    count, total = real.features.shape[0], features.samples.features.shape[0]
    if min(count, rest.features.shape[0]) < metric.needs(real):
        return {}
    baseline = metric.measure(real, rest, options)
    if name != "accuracy" and (count != total or rest is not features.reference):     # a proportion is unbiased
        as_many = features.samples.select(random_indices(total, min(count, total)))
        found = metric.measure(as_many, rest, options._replace(replicates=0))
    return {k: {**estimate_json(baseline[k], count), "samples": found[k].value} for k in baseline if k in found}


def _split_real_images(
    setup: EvaluationSetup, features: EvaluationFeatures, by_classifier: bool
) -> tuple[Features, Features]:
    """Return real images in place of the samples, as many if possible, and the reference to compare them with.

    These are held-out images against the reference or, without any, up to half of the reference against the rest.
    Classifier-based metrics use only images held out from the classifier's training; it is more accurate on images
    it has seen.
    """
    count, reference = features.samples.features.shape[0], features.reference
    total = reference.features.shape[0]
    if features.held_out is not None:
        available = features.held_out.features.shape[0]
        return features.held_out.select(random_indices(available, min(count, available))), reference
    if by_classifier:
        assert setup.classifier is not None
        return reference.select(setup.classifier.held_out_indices), reference
    chosen = random_indices(total, min(count, total // 2))
    return reference.select(chosen), reference.select(torch.from_numpy(np.setdiff1d(np.arange(total), chosen)))


def estimate_json(estimate: Estimate, count: int) -> dict[str, Any]:
    """Return an estimate with the number of images that it is based on."""
    return {**estimate._asdict(), "count": estimate.count or count}
