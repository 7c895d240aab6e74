"""Curves of an arm: mean and range over its runs at their common steps."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from ddpm.lab.charts import thin
from ddpm.lab.comparison.runs import EVALUATED_BY, Run, finite


class Band(NamedTuple):
    """A curve with a range.

    Attributes:
        x: steps or seconds, rising.
        mean: over the runs, at each x.
        low: least of the runs.
        high: greatest of the runs.
        runs: how many there are.
        together: neighbouring records of which each point is the mean.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    runs: int
    together: int = 1


class _Place(NamedTuple):
    """Where a value stands: only values of one step and one way to measure go together."""

    step: float
    settings: str | None


def over_steps(runs: Sequence[Run], key: str) -> Band | None:
    """Return the curve of an arm over training steps.

    Counted are the runs that reach the last step that any of them has, so one that diverged or is not finished does not
    cut the others short. If these were measured with different settings, those with the most common settings count.

    Args:
        runs: of one arm, one per seed.
        key: of metrics.jsonl, such as "loss" or "evaluation/accuracy".

    Returns:
        At steps that all counted runs have; None where no run has a finite number of this name.
    """
    curves = [curve for run in runs if (curve := _values(run, key))]
    if not curves:
        return None
    ends = Counter(_end(curve) for curve in curves)
    end = max(ends, key=lambda place: (place.step, ends[place]))
    counted = [curve for curve in curves if _end(curve) == end]
    common = set.intersection(*map(set, counted))
    indices = sorted(place for place in common if place.settings == end.settings)
    # Thinned before they are compared: the range is that of the curves that are shown, not of their noise.
    shown = [thin([(place.step, curve[place]) for place in indices]) for curve in counted]
    columns = list(zip(*([value for _, value in points] for points, _ in shown), strict=True))
    return Band(
        x=[step for step, _ in shown[0][0]],
        mean=[fmean(values) for values in columns],
        low=[min(values) for values in columns],
        high=[max(values) for values in columns],
        runs=len(counted),
        together=shown[0][1],
    )


def over_seconds(band: Band, step_seconds: Sequence[float]) -> Band:
    """Return the same curve over training time, on the machine that was measured.

    Args:
        band: over steps.
        step_seconds: of single steps of this arm, one or more; their median counts.
    """
    each = median(step_seconds)
    return band._replace(x=[step * each for step in band.x])


def _values(run: Run, key: str) -> dict[_Place, float]:
    records = (record for record in run.records if finite(record.get(key)))
    return {_location(record): record[key] for record in records}


def _location(record: dict[str, Any]) -> _Place:
    settings = record.get(EVALUATED_BY)
    return _Place(record["step"], settings if isinstance(settings, str) else None)


def _end(curve: dict[_Place, float]) -> _Place:
    return max(curve, key=lambda place: place.step)
