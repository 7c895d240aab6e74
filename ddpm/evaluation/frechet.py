"""Fréchet distance between two sets of features, each modeled as a Gaussian (Heusel et al. 2017, arXiv 1706.08500)."""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.evaluation.estimates import Estimate, with_standard_error
from ddpm.evaluation.feature_tables import Table, iterate_blocks

HELD_VALUES = 2**22         # float64 values of moments or counts that are in memory at once: 32 MiB
SIZES = 10                  # number of subset sizes for the extrapolation
PER_FEATURE = 10            # images per D + 1 that the extrapolation needs; gives five subsets of the smallest size


class Moments(NamedTuple):
    """Parameters of a Gaussian, estimated from N rows.

    Attributes:
        mean: float64 (D,).
        covariance: float64 (D, D), unbiased.
    """

    mean: Tensor
    covariance: Tensor


def moments(table: Table) -> Moments:
    """Compute mean and covariance in one pass over the table.

    Args:
        table: (N, D), N at least 2.

    Raises:
        ValueError: if values are not finite; names the first such image.
    """
    return weighted_moments(table, torch.ones(1, table.shape[0], dtype=torch.int64))[0]


def weighted_moments(table: Table, counts: Tensor) -> list[Moments]:
    """Compute the moments under several weightings of the rows, in one pass over the table.

    Args:
        table: (N, D).
        counts: integers (R, N), how often each row counts; each row of counts sums to at least 2.

    Returns:
        R moments.

    Raises:
        ValueError: if values are not finite; names the first such image.
    """
    shift = sums = products = torch.empty(0)
    for first, block in iterate_blocks(table):
        if first == 0:
            # Means may be far larger than deviations; centering on the first block's mean avoids cancellation.
            shift = block.mean(0)
            sums = block.new_zeros(len(counts), len(shift))
            products = block.new_zeros(len(counts), len(shift), len(shift))
        block = block - shift
        weights = counts[:, first : first + len(block)].to(block)                                       # (R, rows)
        sums += weights @ block
        for product, weight in zip(products, weights, strict=True):
            chosen = weight.nonzero()[:, 0]         # in a resample a third of the rows has weight 0
            rows = block[chosen] * weight[chosen].sqrt()[:, None]
            product.addmm_(rows.T, rows)
    found = []
    for count, total, product in zip(counts.sum(1).tolist(), sums, products, strict=True):
        assert count > 1
        mean = total / count
        found.append(Moments(mean + shift, (product - total[:, None] * mean) / (count - 1)))
    return found


def distance_to(reference: Moments) -> Callable[[Moments], float]:
    """Return the Fréchet distance to a reference Gaussian as a function of the other Gaussian.

    |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((sqrt(B) A sqrt(B))^(1/2)). The matrix under the root is symmetric, so the root
    exists for covariances of any rank and needs no complex numbers.
    """
    values, vectors = torch.linalg.eigh(reference.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def distance(samples: Moments) -> float:
        shared = torch.linalg.eigvalsh(root @ samples.covariance @ root).clamp(min=0).sqrt().sum()
        spread = samples.covariance.trace() + reference.covariance.trace() - 2 * shared
        return max(0.0, float((samples.mean - reference.mean).square().sum() + spread))

    return distance


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the Fréchet distance between two Gaussians (Dowson and Landau 1982), or squared Wasserstein-2 distance.

    Returns:
        The distance, 0 or more, in squared units of the features.
    """
    return distance_to(b)(a)


def frechet_bootstrap(samples: Table, reference: Moments, replicates: int, seed: int) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the Fréchet distance at this number of samples.

    The samples are resampled with replacement, N of N. That biases the distance upwards, because a resample has fewer
    distinct images, so the quantiles of the replicates (2.5 and 97.5 %) are shifted by the distance of the samples
    minus the mean of the replicates. The interval covers the expected distance of N samples to this fixed reference; it
    covers neither the bias at small N (see `frechet_at_infinity`) nor the choice of the reference images. In
    simulations the coverage was 92 to 95 % where the distributions differ. The interval is up to twice too wide where
    they hardly differ or N is below about 20 D.

    Args:
        samples: (N, D).
        reference: moments of the real images.
        replicates: number of resamples; 200 determine the ends to about a tenth of the interval.
        seed: for resampling.

    Returns:
        Low and high; low may be below 0.
    """
    total, width = samples.shape
    distance = distance_to(reference)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, HELD_VALUES // max(width * width, total))
    found: list[float] = []
    while len(found) < replicates:
        drawn = [
            torch.randint(total, (total,), generator=generator).bincount(minlength=total)
            for _ in range(min(at_once, replicates - len(found)))
        ]
        found += map(distance, weighted_moments(samples, torch.stack(drawn)))
    distances = torch.tensor(found, dtype=torch.float64)
    ends = distances.quantile(distances.new_tensor([0.025, 0.975]))
    low, high = (distance(moments(samples)) + ends - distances.mean()).tolist()
    return low, high


def frechet_at_infinity(samples: Table, reference: Moments, seed: int) -> Estimate:
    """Extrapolate the Fréchet distance to infinitely many samples (after Chong and Forsyth 2020, arXiv 1911.07023).

    The bias of the distance falls as 1 / n, with a term in 1 / n^2 that matters where n is a few times D. Ten sizes n
    from N down to max(N / 10, 2 (D + 1)) are evenly spaced in 1 / n. For each, the shuffled samples are split into as
    many disjoint subsets of that size as possible. The estimate is the value at 1 / n = 0 of the parabola through the
    mean distances over 1 / n. The paper fits a straight line; at N = 2,000 and D = 112 that is three to five standard
    errors too low. The estimate may be below 0 and is reported unchanged. The reference is fixed, so the bias of
    its own size remains.

    The interval is that of a weighted mean over images. Subsets of one size are independent, so the variance of their
    distances, times their size, estimates the variance s^2 of one image's influence; the variance of the estimate is
    s^2 times the sum of the squared weights that the extrapolation gives to the images. In simulations (N from 10 to
    50 D, D from 4 to 112, equal and different distributions) the interval covered the true distance in 92 to 100 % of
    the cases; it is too wide where the distributions hardly differ.

    Args:
        samples: (N, D), N at least PER_FEATURE (D + 1).
        reference: moments of the real images.
        seed: for shuffling.
    """
    total, width = samples.shape
    assert total >= PER_FEATURE * (width + 1)
    minimum = max(total // SIZES, 2 * (width + 1))
    distance = distance_to(reference)
    generator = torch.Generator().manual_seed(seed)
    inverse_sizes = torch.linspace(1 / total, 1 / minimum, SIZES, dtype=torch.float64)
    sizes = [max(minimum, int(1 / x)) for x in inverse_sizes.tolist()]
    x = total / torch.tensor(sizes, dtype=torch.float64)        # scaled so that its powers are of similar size
    # Least squares: the weight of each size's mean distance in the value at x = 0.
    coefficients = torch.linalg.pinv(x[:, None] ** torch.arange(3))[0]

    value, squares, freedom = 0.0, 0.0, 0
    weights = torch.zeros(total, dtype=torch.float64)
    for size, coefficient in zip(sizes, coefficients.tolist(), strict=True):
        subsets = torch.randperm(total, generator=generator)[: total // size * size].view(-1, size)
        counts = torch.zeros(len(subsets), total, dtype=torch.int64).scatter_(1, subsets, 1)
        distances = torch.tensor([distance(m) for m in weighted_moments(samples, counts)], dtype=torch.float64)
        value += coefficient * float(distances.mean())
        squares += size * float((distances - distances.mean()).square().sum())
        freedom += len(subsets) - 1
        weights[subsets.flatten()] += coefficient / subsets.numel()
    return with_standard_error(value, sqrt(squares / freedom * float(weights.square().sum())))
