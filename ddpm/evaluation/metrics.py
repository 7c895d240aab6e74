"""The metrics: what each measures of described images. A new one is a function and an entry in METRICS."""

from collections.abc import Callable
from typing import NamedTuple

from ddpm.evaluation.chunks import some_rows
from ddpm.evaluation.class_accuracy import accuracy, confusion, inception_score
from ddpm.evaluation.estimates import Described, Figure, Table
from ddpm.evaluation.frechet import PER_FEATURE, distance_to, frechet_at_infinity, frechet_bootstrap, moments
from ddpm.evaluation.kernel import kernel_distance
from ddpm.evaluation.memorisation import memorised
from ddpm.evaluation.neighbours import NEIGHBOURS, precision_recall

MANIFOLD_IMAGES = 10_000    # of either side, at most, where all pairs are looked at


class Options(NamedTuple):
    """What metrics can be told.

    Attributes:
        seed: of resampling.
        replicates: number of resamplings for intervals; 0 for no such interval.
        held_out: real images that the model was not trained on; None where there are none.
    """

    seed: int = 0
    replicates: int = 200
    held_out: Described | None = None


def always(samples: Described) -> str | None:
    """Applies to all samples."""
    return None


class Metric(NamedTuple):
    """A way to compare samples with real images.

    Attributes:
        measure: samples, reference, options -> figures by name; ValueError for features that are not finite.
        better: name of each figure -> "lower" or "higher". `measure` may leave one out that its images are too few for.
        needs: images as they are described -> the least number there must be of samples and of real ones.
        floor: whether real images in place of the samples give a figure to compare with.
        applies: samples -> None, or in a few words why they do not have what is measured.
    """

    measure: Callable[[Described, Described, Options], dict[str, Figure]]
    better: dict[str, str]
    needs: Callable[[Described], int]
    floor: bool
    applies: Callable[[Described], str | None] = always


def shortage(metric: Metric, count: int, reference: Described) -> str | None:
    """Why there are too few images for a metric, in a few words; None where there are enough.

    Args:
        metric: the metric.
        count: of the images to be measured.
        reference: the real images, described as those will be.
    """
    least, (real, width) = metric.needs(reference), reference.features.shape
    for there, kind in ((count, ""), (real, "real ")):
        if there < least:
            # What needs more images than there are features needs them because of the features.
            why = f" for {width} features" if least > width else ""
            return f"needs {least} {kind}images or more{why}, there are {there}"
    return None


def _frechet(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    real = moments(reference.features)
    value = distance_to(real)(moments(samples.features))
    ends = frechet_bootstrap(samples.features, real, options.replicates, options.seed) if options.replicates else ()
    figures = {"frechet_distance": Figure(value, *ends)}
    count, width = samples.features.shape
    if count >= PER_FEATURE * (width + 1):
        figures["frechet_distance_infinity"] = frechet_at_infinity(samples.features, real, options.seed)
    return figures


def _on_manifold(
    measure: Callable[[Table, Table], dict[str, Figure]], samples: Described, reference: Described
) -> dict[str, Figure]:
    """Measures on MANIFOLD_IMAGES rows at random, where there are more; `count` is then how many samples."""
    tables = [some_rows(described.features, MANIFOLD_IMAGES)[0] for described in (samples, reference)]
    figures = measure(*tables)
    if max(samples.features.shape[0], reference.features.shape[0]) <= MANIFOLD_IMAGES:
        return figures
    return {name: figure._replace(count=len(tables[0])) for name, figure in figures.items()}


def _kernel(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    return _on_manifold(lambda a, b: {"kernel_distance": kernel_distance(a, b)}, samples, reference)


def _neighbours(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    return _on_manifold(precision_recall, samples, reference)


def _inception_score(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    return {"inception_score": inception_score(samples.logits)}


def _accuracy(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    return {"accuracy": accuracy(confusion(samples.read, samples.labels))}


def _memorisation(samples: Described, reference: Described, options: Options) -> dict[str, Figure]:
    held_out = None if options.held_out is None else options.held_out.pixels
    return {"memorised": memorised(samples.pixels, reference.pixels, held_out)}


def _has_logits(samples: Described) -> str | None:
    return "the extractor has no classes" if samples.logits is None else None


def _has_labels(samples: Described) -> str | None:
    if samples.read is None:
        return "there is no judge of the classes"
    return "the images have no labels" if samples.labels is None else None


METRICS: dict[str, Metric] = {
    "frechet_distance": Metric(
        measure=_frechet,
        better={"frechet_distance": "lower", "frechet_distance_infinity": "lower"},
        needs=lambda described: described.features.shape[1] + 1,        # below it the covariance is singular
        floor=True,
    ),
    "kernel_distance": Metric(
        measure=_kernel, better={"kernel_distance": "lower"}, needs=lambda described: 3, floor=True
    ),
    "precision_recall": Metric(
        measure=_neighbours,
        better=dict.fromkeys(("precision", "recall", "density", "coverage"), "higher"),
        needs=lambda described: NEIGHBOURS + 1,
        floor=True,
    ),
    "inception_score": Metric(
        measure=_inception_score,
        better={"inception_score": "higher"},
        needs=lambda described: 2,
        floor=True,
        applies=_has_logits,
    ),
    "accuracy": Metric(
        measure=_accuracy, better={"accuracy": "higher"}, needs=lambda described: 1, floor=True, applies=_has_labels
    ),
    # The reference is taken for the training images. Real images in place of samples are what defines its 1 %.
    "memorisation": Metric(
        measure=_memorisation, better={"memorised": "lower"}, needs=lambda described: 2, floor=False
    ),
}
