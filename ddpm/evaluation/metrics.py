"""The metrics that compare samples with real images. To add one, see docs/design.md."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ddpm.evaluation.classes import accuracy, confusion_matrix, inception_score
from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.feature_tables import Features, Table, random_rows
from ddpm.evaluation.frechet import PER_FEATURE, frechet_at_infinity, frechet_bootstrap, frechet_distance, moments
from ddpm.evaluation.kernel import kernel_distance
from ddpm.evaluation.memorization import memorized_fraction
from ddpm.evaluation.neighbors import NEIGHBORS, precision_recall

RESAMPLING_SEED = 0
MAX_PAIRWISE_IMAGES = 10_000    # maximum per side for metrics that compare all pairs


class Options(NamedTuple):
    """Options of the metrics.

    Attributes:
        replicates: number of bootstrap resamples; 0 disables these intervals.
        held_out: real images that the model was not trained on; None if there are none.
    """

    replicates: int = 200
    held_out: Features | None = None


class Metric(NamedTuple):
    """A comparison of samples with real images.

    Attributes:
        measure: samples, reference, options -> estimates by name; ValueError if features are not finite.
        better: name of each estimate -> "lower" or "higher". `measure` may omit one if there are too few images for it.
        needs: reference -> minimum number of samples and of real images.
        real_baseline: whether to measure real images in place of the samples, as a baseline.
        why_inapplicable: samples -> why the metric cannot be computed for them, in a few words; None if it can.
    """

    measure: Callable[[Features, Features, Options], dict[str, Estimate]]
    better: dict[str, str]
    needs: Callable[[Features], int]
    real_baseline: bool = True
    why_inapplicable: Callable[[Features], str | None] = lambda samples: None


def describe_shortage(metric: Metric, count: int, reference: Features) -> str | None:
    """Return why there are too few images for a metric, in a few words; None if there are enough.

    Args:
        metric: the metric.
        count: number of samples.
        reference: features of the real images.
    """
    minimum, (real, width) = metric.needs(reference), reference.features.shape
    for there, kind in ((count, ""), (real, "real ")):
        if there < minimum:
            # A minimum above the number of features is due to the features.
            why = f" for {width} features" if minimum > width else ""
            return f"needs {minimum} {kind}images or more{why}, there are {there}"
    return None


def _frechet(samples: Features, reference: Features, options: Options) -> dict[str, Estimate]:
    real = moments(reference.features)
    value = frechet_distance(moments(samples.features), real)
    ends = frechet_bootstrap(samples.features, real, options.replicates, RESAMPLING_SEED) if options.replicates else ()
    found = {"frechet_distance": Estimate(value, *ends)}
    count, width = samples.features.shape
    if count >= PER_FEATURE * (width + 1):
        found["frechet_distance_infinity"] = frechet_at_infinity(samples.features, real, RESAMPLING_SEED)
    return found


def _on_limited_rows(
    compare: Callable[[Table, Table], dict[str, Estimate]],
) -> Callable[[Features, Features, Options], dict[str, Estimate]]:
    """Limit a metric to MAX_PAIRWISE_IMAGES random rows per side; `count` is then the number of samples used."""

    def measure(samples: Features, reference: Features, options: Options) -> dict[str, Estimate]:
        tables = [random_rows(side.features, MAX_PAIRWISE_IMAGES)[0] for side in (samples, reference)]
        found = compare(*tables)
        if max(samples.features.shape[0], reference.features.shape[0]) <= MAX_PAIRWISE_IMAGES:
            return found
        return {name: estimate._replace(count=len(tables[0])) for name, estimate in found.items()}

    return measure


def _memorization(samples: Features, reference: Features, options: Options) -> dict[str, Estimate]:
    held_out = None if options.held_out is None else options.held_out.pixels
    return {"memorized": memorized_fraction(samples.pixels, reference.pixels, held_out)}


def _inception_score(samples: Features, reference: Features, options: Options) -> dict[str, Estimate]:
    assert samples.logits is not None
    return {"inception_score": inception_score(samples.logits)}


def confusion(samples: Features) -> Tensor:
    """Return the confusion matrix of samples with labels and class logits: int64 (K, K)."""
    assert samples.class_logits is not None and samples.labels is not None
    return confusion_matrix(samples.class_logits, samples.labels)


def _why_no_accuracy(samples: Features) -> str | None:
    if samples.labels is None:
        return "the images have no labels"
    return "there is no reference classifier" if samples.class_logits is None else None


METRICS: dict[str, Metric] = {
    "frechet_distance": Metric(
        measure=_frechet,
        better={"frechet_distance": "lower", "frechet_distance_infinity": "lower"},
        needs=lambda reference: reference.features.shape[1] + 1,        # with fewer the covariance is singular
    ),
    "kernel_distance": Metric(
        measure=_on_limited_rows(lambda samples, reference: {"kernel_distance": kernel_distance(samples, reference)}),
        better={"kernel_distance": "lower"},
        needs=lambda reference: 3,
    ),
    "precision_recall": Metric(
        measure=_on_limited_rows(precision_recall),
        better=dict.fromkeys(("precision", "recall", "density", "coverage"), "higher"),
        needs=lambda reference: NEIGHBORS + 1,
    ),
    "inception_score": Metric(
        measure=_inception_score,
        better={"inception_score": "higher"},
        needs=lambda reference: 2,
        why_inapplicable=lambda samples: "the extractor has no classes" if samples.logits is None else None,
    ),
    "accuracy": Metric(
        measure=lambda samples, reference, options: {"accuracy": accuracy(confusion(samples))},
        better={"accuracy": "higher"},
        needs=lambda reference: 1,
        why_inapplicable=_why_no_accuracy,
    ),
    # Assumes that the reference is the training data. By definition, new real images score 1 %.
    "memorization": Metric(_memorization, {"memorized": "lower"}, needs=lambda reference: 2, real_baseline=False),
}
