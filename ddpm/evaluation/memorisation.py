"""Whether samples are copies of training images."""

from typing import NamedTuple

from torch import Tensor

from ddpm.evaluation.chunks import some_rows
from ddpm.evaluation.estimates import Figure, Table
from ddpm.evaluation.intervals import share
from ddpm.evaluation.neighbours import nearest

LEVEL = 0.01                # share of new real images that count as memorised
BASELINE_IMAGES = 10_000    # so many real images give the threshold, at most


class Pairs(NamedTuple):
    """Samples beside their nearest training images, nearest first; all on the CPU, as the images are.

    Attributes:
        samples: int64 (M,), places of the samples.
        training: int64 (M,), places of the training images.
        distances: float64 (M,), root-mean-square difference per value.
    """

    samples: Tensor
    training: Tensor
    distances: Tensor


def nearest_pairs(samples: Table, training: Table, count: int) -> Pairs:
    """The samples that are nearest to training images: for a picture.

    Args:
        samples: (N, P), pixels in any unit.
        training: (M, P), in the same unit.
        count: how many, or all N where there are no more.
    """
    # The tables may be on a GPU; the places index images, which are not.
    squared, places = (found.cpu()[:, 0] for found in nearest(samples, training, 1))
    chosen = squared.argsort(stable=True)[:count]
    return Pairs(chosen, places[chosen], (squared[chosen] / samples.shape[1]).sqrt())


def memorised(samples: Table, training: Table, held_out: Table | None = None) -> Figure:
    """Share of the samples that are nearer to the training images than 99 % of new real images are.

    Distances are Euclidean. New real images are those that were held out of training. Without them, each training image
    stands for one that is new to all the others: its distance is that to the nearest other. Of either, 10,000 at
    random give the threshold, at most. A model that makes new images like the data is at 1 %, and exact copies of
    training images are at 100 %.

    Real images that equal a training image are left out of the baseline, since they say nothing of how near new images
    come. Otherwise data with more than 1 % of duplicates would have a threshold of 0.

    The threshold is the k-th smallest distance of M real images, with k = (M + 1) / 100 rounded: a new one is at or
    below it with probability k / (M + 1). Below 150 images it is the smallest. The interval (Wilson) is for the choice
    of samples. The threshold's own uncertainty is not in it: at M = 10,000 it stands for 0.8 to 1.2 %, at 1,000 for 0.4
    to 1.7 %.

    Args:
        samples: (N, P), pixels in any unit.
        training: (M, P), in the same unit, M at least 2.
        held_out: (H, P), likewise.

    Raises:
        ValueError: if every real image is a copy of a training image.
    """
    squared, _ = nearest(samples, training, 1)
    if held_out is not None:
        real, _ = nearest(some_rows(held_out, BASELINE_IMAGES)[0], training, 1)
    else:
        queries, own = some_rows(training, BASELINE_IMAGES)
        real, _ = nearest(queries, training, 1, own=own)
    new = real[real > 0].sort().values
    if not len(new):
        raise ValueError(
            "memorisation: every real image is a copy of a training image, so that there is nothing to compare with; "
            "give other held-out images, or choose others with --metrics"
        )
    threshold = new[max(1, round(LEVEL * (len(new) + 1))) - 1]
    return share(int((squared <= threshold).sum()), samples.shape[0])
