"""Detection of samples that copy training images."""

from typing import NamedTuple

from torch import Tensor

from ddpm.evaluation.estimates import Estimate, wilson_interval
from ddpm.evaluation.feature_tables import Table, random_rows
from ddpm.evaluation.neighbors import nearest

LEVEL = 0.01                # fraction of new real images that counts as memorized
BASELINE_IMAGES = 10_000    # maximum number of real images that determine the threshold


class Pairs(NamedTuple):
    """Samples and their nearest training images, nearest first; all on the CPU, where the images are.

    Attributes:
        samples: int64 (M,), indices of the samples.
        training: int64 (M,), indices of the training images.
        distances: float64 (M,), root-mean-square difference per value.
    """

    samples: Tensor
    training: Tensor
    distances: Tensor


def nearest_pairs(samples: Table, training: Table, count: int) -> Pairs:
    """Return the samples that are nearest to training images, to be shown in a picture.

    Args:
        samples: (N, P), pixels in any unit.
        training: (M, P), in the same unit.
        count: number of pairs, at most N.
    """
    # The tables may be on a GPU; the indices index images, which are not.
    squared, indices = (found.cpu()[:, 0] for found in nearest(samples, training, 1))
    chosen = squared.argsort(stable=True)[:count]
    return Pairs(chosen, indices[chosen], (squared[chosen] / samples.shape[1]).sqrt())


def memorized_fraction(samples: Table, training: Table, held_out: Table | None = None) -> Estimate:
    """Return the fraction of samples that are nearer to the training images than 99 % of new real images are.

    Distances are Euclidean. New real images are those held out of training. Without them, each training image is
    compared with all the others, as if it were new. In either case at most 10,000 random images determine the
    threshold. A model that generates new images from the data distribution scores 1 %; exact copies score 100 %.

    Real images that equal a training image are excluded from the baseline, because they do not show how near new images
    come. Otherwise data with more than 1 % of duplicates would have a threshold of 0.

    The threshold is the k-th smallest distance of M real images, with k = (M + 1) / 100 rounded: a new image is at or
    below it with probability k / (M + 1). Below 150 images it is the smallest distance. The Wilson interval covers the
    choice of the samples, not the uncertainty of the threshold: at M = 10,000 the threshold corresponds to 0.8 to
    1.2 %, at 1,000 to 0.4 to 1.7 %.

    Args:
        samples: (N, P), pixels in any unit.
        training: (M, P), in the same unit, M at least 2.
        held_out: (H, P), likewise.

    Raises:
        ValueError: if every real image is a copy of a training image.
    """
    squared, _ = nearest(samples, training, 1)
    if held_out is not None:
        real, _ = nearest(random_rows(held_out, BASELINE_IMAGES)[0], training, 1)
    else:
        queries, own = random_rows(training, BASELINE_IMAGES)
        real, _ = nearest(queries, training, 1, own=own)
    new = real[real > 0].sort().values
    if not len(new):
        raise ValueError(
            "memorization: every real image is a copy of a training image, so there is no baseline; use other "
            "held-out images, or choose other metrics with --metrics"
        )
    threshold = new[max(1, round(LEVEL * (len(new) + 1))) - 1]
    return wilson_interval(int((squared <= threshold).sum()), samples.shape[0])
