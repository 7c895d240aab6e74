"""Durations of several sides, measured in alternation, and their comparison."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch

WARM_UP_CALLS = (3, 50)         # fewest and most calls before the times count
WARM_UP_SECONDS = (0.3, 30.0)   # shortest and longest warm-up, except the first call, which may compile
STABLE = 0.05                   # the last two calls of a warm-up differ by less than this fraction
BLOCK_SECONDS = 0.1             # calls that are timed together take at least this long, because a GPU works ahead
MIN_ROUNDS = 3


class Rounds(NamedTuple):
    """The durations of the calls of each side.

    Attributes:
        seconds: side -> seconds per call in each round.
        warm_up: side -> number of calls before the first round.
    """

    seconds: dict[str, list[float]]
    warm_up: dict[str, int]


def finish_work() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_calls(act: Callable[[], object], calls: int = 1) -> float:
    """Return the seconds per call, from an idle device to an idle device."""
    finish_work()
    start = time.perf_counter()
    for _ in range(calls):
        act()
    finish_work()
    return (time.perf_counter() - start) / calls


def warm_up(act: Callable[[], object], deadline: float) -> list[float]:
    """Call until the duration is stable, and return the seconds of each call.

    Args:
        act: what to call.
        deadline: `time.monotonic()` after which no call is added to the fewest.
    """
    taken: list[float] = []
    fewest, most = WARM_UP_CALLS
    shortest, longest = WARM_UP_SECONDS
    while len(taken) < most:
        taken.append(time_calls(act))
        spent = sum(taken[1:])
        stable = len(taken) > 1 and abs(taken[-1] - taken[-2]) < STABLE * taken[-2] and spent >= shortest
        if len(taken) >= fewest and (stable or spent >= longest or time.monotonic() > deadline):
            break
    return taken


def time_alternately(acts: Mapping[str, Callable[[], object]], rounds: int, deadline: float) -> Rounds:
    """Time all sides in each round; which of them begins changes from round to round.

    Args:
        acts: side -> what to call.
        rounds: number of rounds.
        deadline: `time.monotonic()` after which no round is added to the first MIN_ROUNDS.
    """
    warmed = {side: warm_up(act, deadline) for side, act in acts.items()}
    calls = {side: ceil(BLOCK_SECONDS / taken[-1]) for side, taken in warmed.items()}
    seconds: dict[str, list[float]] = {side: [] for side in acts}
    for i in range(rounds):
        if i >= MIN_ROUNDS and time.monotonic() > deadline:
            break
        for side in list(acts)[:: 1 if i % 2 == 0 else -1]:
            seconds[side].append(time_calls(acts[side], calls[side]))
    return Rounds(seconds, {side: len(taken) for side, taken in warmed.items()})


def summarize_values(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the quartiles and the number of values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "quartiles": [low, high], "count": len(values)}


def compare_sides(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Summarize the values of both sides, of which less is better.

    Args:
        values: of `ours` and `diffusers`; one side may be missing.

    Returns:
        The summary of each side, and `ratio`, diffusers' median divided by ours: above 1 if ours needs less.
    """
    sides: dict[str, Any] = {side: summarize_values(found) for side, found in values.items() if found}
    if {"ours", "diffusers"} <= sides.keys():
        sides["ratio"] = sides["diffusers"]["median"] / sides["ours"]["median"]
    return sides
