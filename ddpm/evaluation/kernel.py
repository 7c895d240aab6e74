"""Kernel distance between two sets of features (Bińkowski et al. 2018, arXiv 1801.01401)."""

from math import sqrt

import torch
from torch import Tensor

from ddpm.evaluation.chunks import blocks
from ddpm.evaluation.estimates import Figure, Table
from ddpm.evaluation.intervals import with_standard_error


def kernel_distance(samples: Table, reference: Table) -> Figure:
    """Squared maximum mean discrepancy under the kernel (x . y / D + 1)^3, without bias, from all pairs.

    Being without bias it is below 0 as often as above where the distributions are equal. The interval is that of the
    jackknife over both sets: it covers the value that infinitely many samples and references would have. Where the
    distributions are equal, it is too wide (there the statistic is degenerate).

    Args:
        samples: (N, D), N at least 3.
        reference: (M, D), M at least 3.

    Returns:
        The value (the KID itself, not times 1000), plus and minus 1.96 standard errors.
    """
    n, m = samples.shape[0], reference.shape[0]
    assert min(n, m) > 2 and samples.shape[1] == reference.shape[1]
    within, within_reference = _sums_within(samples), _sums_within(reference)
    between, between_reference = _sums(samples, reference)
    cross = between.sum()
    value = within.sum() / (n * (n - 1)) + within_reference.sum() / (m * (m - 1)) - 2 * cross / (n * m)
    variance = _jackknife(within, between, m) + _jackknife(within_reference, between_reference, n)
    return with_standard_error(float(value), sqrt(variance))


def _sums(a: Table, b: Table) -> tuple[Tensor, Tensor]:
    """Of each row of either table, the sum of the kernel over all rows of the other: float64 (N,) and (M,)."""
    rows, columns = [], 0
    for _, x in blocks(a):
        row, column = 0, []
        for _, y in blocks(b):
            kernel = (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)
            row = row + kernel.sum(1)
            column.append(kernel.sum(0))
        rows.append(row)
        columns = columns + torch.cat(column)
    return torch.cat(rows), columns


def _sums_within(table: Table) -> Tensor:
    """Of each row of a table, the sum of the kernel over all other rows: float64 (N,)."""
    itself = [(x.square().sum(1) / x.shape[1] + 1) ** 3 for _, x in blocks(table)]
    return _sums(table, table)[0] - torch.cat(itself)


def _jackknife(within: Tensor, between: Tensor, others: int) -> float:
    """Variance of the distance for the choice of one set, from the values without each of its rows.

    Args:
        within: (N,), sums over the other rows of the set.
        between: (N,), sums over the rows of the other set.
        others: number of rows of the other set.
    """
    n = len(within)
    # Without a row, its pairs leave the sum within (each was counted twice) and the sum between. The other set's own
    # pairs are the same in all, and drop out of the deviations.
    left = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (between.sum() - between) / ((n - 1) * others)
    return float((left - left.mean()).square().sum() * (n - 1) / n)
