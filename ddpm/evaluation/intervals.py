"""95 % intervals in closed form."""

from math import sqrt

from ddpm.evaluation.estimates import Figure

Z = 1.959964        # quantile of the normal distribution at 97.5 %


def with_standard_error(value: float, standard_error: float, count: int | None = None) -> Figure:
    """The value and Z standard errors to each side, for what is close to normal.

    Args:
        value: the estimate.
        standard_error: its standard deviation over repetitions.
        count: passed on, see `Figure`.
    """
    return Figure(value, value - Z * standard_error, value + Z * standard_error, count)


def share(successes: int, total: int, count: int | None = None) -> Figure:
    """A share of independent trials with the interval of Wilson (1927), which holds near 0 and 1 too.

    Args:
        successes: 0 to `total`.
        total: number of trials, 1 or more.
        count: passed on, see `Figure`.
    """
    value = successes / total
    centre = (value + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * sqrt(value * (1 - value) / total + Z**2 / (4 * total**2))
    # Exact at both ends, where rounding would leave the value outside by 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return Figure(value, low, high, count)
