"""Kernel distance between two sets of features (Bińkowski et al. 2018, arXiv 1801.01401)."""

from math import sqrt

import torch
from torch import Tensor

from ddpm.evaluation.estimates import Estimate, with_standard_error
from ddpm.evaluation.feature_tables import Table, iterate_blocks


def kernel_distance(samples: Table, reference: Table) -> Estimate:
    """Return the unbiased squared maximum mean discrepancy under the kernel (x . y / D + 1)^3, from all pairs.

    Where the distributions are equal, the estimate is below 0 as often as above. The interval is that of the jackknife
    over both sets: it covers the value for infinitely many samples and reference images. Where the distributions are
    equal it is too wide, because the statistic is degenerate there.

    Args:
        samples: (N, D), N at least 3.
        reference: (M, D), M at least 3.

    Returns:
        The KID itself (not times 1000), ± 1.96 standard errors.
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
    """Return, for each row of either table, the sum of the kernel over the other table: float64 (N,) and (M,)."""
    rows, columns = [], torch.zeros(())
    for _, x in iterate_blocks(a):
        row, column = torch.zeros(()), []
        for _, y in iterate_blocks(b):
            kernel = (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)
            row = row + kernel.sum(1)
            column.append(kernel.sum(0))
        rows.append(row)
        columns = columns + torch.cat(column)
    return torch.cat(rows), columns


def _sums_within(table: Table) -> Tensor:
    """Return, for each row of a table, the sum of the kernel over all other rows: float64 (N,)."""
    itself = [(x.square().sum(1) / x.shape[1] + 1) ** 3 for _, x in iterate_blocks(table)]
    return _sums(table, table)[0] - torch.cat(itself)


def _jackknife(within: Tensor, between: Tensor, others: int) -> float:
    """Return the jackknife variance of the distance with respect to one of the two sets.

    Args:
        within: (N,), sums over the other rows of the set.
        between: (N,), sums over the rows of the other set.
        others: number of rows of the other set.
    """
    n = len(within)
    # Leaving out a row removes its pairs from the sum within (each counted twice) and from the sum between. Pairs
    # inside the other set are unaffected and cancel in the deviations.
    left_out = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (between.sum() - between) / ((n - 1) * others)
    return float((left_out - left_out.mean()).square().sum() * (n - 1) / n)
