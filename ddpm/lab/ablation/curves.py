"""Curves of an arm: mean and range over its runs at their common steps."""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from ddpm.lab.charts import thin
from ddpm.lab.comparison.runs import Run, is_finite
from ddpm.training.tracking import EVALUATION_SETTINGS


class Band(NamedTuple):
    """A curve with a range.

    Attributes:
        x: steps or seconds, rising.
        mean: mean over the runs at each x.
        low: smallest value of the runs.
        high: largest value of the runs.
        runs: number of runs.
        points_averaged: number of neighboring records of which each point is the mean.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    runs: int
    points_averaged: int = 1


def over_steps(runs: Sequence[Run], key: str) -> Band | None:
    """Return the curve of an arm over training steps.

    Only the runs that reach the last step of all runs count, so a run that diverged or is unfinished does not cut the
    others short. If these were measured with different settings, the runs with the most common settings count.

    Args:
        runs: runs of one arm, one per seed.
        key: key of metrics.jsonl, such as "loss" or "evaluation/accuracy".

    Returns:
        The curve at steps that all counted runs have; None if no run has a finite value.
    """
    curves = [curve for run in runs if (curve := _values(run, key))]
    if not curves:
        return None
    ends = Counter(max(curve) for curve in curves)
    end = max(ends, key=lambda point: (point[0], ends[point]))
    counted = [curve for curve in curves if max(curve) == end]
    common = sorted(point for point in set.intersection(*map(set, counted)) if point[1] == end[1])
    # Curves are thinned first, so that the shaded range is that of the curves shown and not of their noise.
    shown = [thin([(point[0], curve[point]) for point in common]) for curve in counted]
    band = average([step for step, _ in shown[0][0]], [[value for _, value in points] for points, _ in shown])
    return band._replace(points_averaged=shown[0][1])


def average(x: Sequence[float], curves: Sequence[Sequence[float]]) -> Band:
    """Return the mean and the range of the curves of several runs at the same x."""
    values = np.array(curves)                                                                       # (runs, x)
    return Band(x, values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist(), len(values))


def over_seconds(band: Band, step_seconds: Sequence[float]) -> Band:
    """Return the same curve over training time, on the machine that was measured.

    Args:
        band: a curve over steps.
        step_seconds: one or more measured times of a step of this arm; their median counts.
    """
    return band._replace(x=[step * median(step_seconds) for step in band.x])


def _values(run: Run, key: str) -> dict[tuple[float, str], float]:
    """Return the values of a metric by step and digest of the evaluation settings."""
    records = [record for record in run.records if is_finite(record.get(key))]
    return {(record["step"], str(record.get(EVALUATION_SETTINGS, ""))): record[key] for record in records}
