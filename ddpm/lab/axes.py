"""Axes of charts: where values are placed, which are marked, and how numbers are written there."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Scale(NamedTuple):
    """An axis.

    Attributes:
        place: value -> 0 to 1.
        ticks: values that are marked.
        low: at 0.
        high: at 1.
    """

    place: Callable[[float], float]
    ticks: Sequence[float]
    low: float
    high: float


def linear(low: float, high: float) -> Scale:
    """Equal steps; the ends are widened to ticks."""
    if low == high:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    ticks = [i * step for i in range(first, last + 1)]
    return Scale(lambda value: (value - low) / (high - low), ticks, low, high)


def logarithmic(low: float, high: float) -> Scale:
    """Equal factors; `low` must be above 0."""
    assert low > 0
    if low == high:
        low, high = low / 2, high * 2
    margin = (high / low) ** 0.04
    low, high = low / margin, high * margin
    a, b = math.log(low), math.log(high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [tick for tick in linear(low, high).ticks if low <= tick <= high]
    ticks = ticks[:: -(-len(ticks) // 8)]
    return Scale(lambda value: (math.log(value) - a) / (b - a), ticks, low, high)


def fitting(low: float, high: float) -> Scale:
    """Logarithmic where all is above 0 and spans a factor of 3 or more, else linear."""
    return logarithmic(low, high) if low > 0 and high / low >= 3 else linear(low, high)


def compact(value: float) -> str:
    """A number as short as it goes: 25k, 1.5M, 0.02."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.4g}"


def span(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest."""
    known = list(values)
    return min(known), max(known)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= step * (1 - 1e-9))
