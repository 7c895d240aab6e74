"""Estimates with 95 % intervals in closed form."""

from math import sqrt
from typing import NamedTuple

from torch import Tensor

Z = 1.959964        # quantile of the normal distribution at 97.5 %


class Estimate(NamedTuple):
    """An estimate and its uncertainty.

    Attributes:
        value: the estimate.
        low: lower end of its 95 % interval; None without an interval.
        high: upper end.
        count: number of images that it is based on; None for all.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None        # type: ignore[assignment]      # hides tuple.count, which nothing calls


def with_standard_error(value: float, standard_error: float, count: int | None = None) -> Estimate:
    """Return an estimate with the interval of a normal distribution, Z standard errors to each side.

    Args:
        value: the estimate.
        standard_error: its standard deviation over repetitions.
        count: passed on, see `Estimate`.
    """
    return Estimate(value, value - Z * standard_error, value + Z * standard_error, count)


def mean_estimate(values: Tensor) -> Estimate:
    """Return the mean of one value per image, (N,) with N at least 2, with its interval."""
    return with_standard_error(float(values.mean()), float(values.std()) / sqrt(len(values)))


def wilson_interval(successes: int, total: int, count: int | None = None) -> Estimate:
    """Return a fraction of independent trials with the interval of Wilson (1927), which also holds near 0 and 1.

    Args:
        successes: 0 to `total`.
        total: number of trials, 1 or more.
        count: passed on, see `Estimate`.
    """
    value = successes / total
    center = (value + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * sqrt(value * (1 - value) / total + Z**2 / (4 * total**2))
    # Set exactly at both ends, where rounding would leave the value outside by 1e-17.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == total else center + half
    return Estimate(value, low, high, count)
