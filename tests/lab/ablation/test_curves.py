"""Bands of an arm's runs: what is counted, at which steps, and that the numbers are those of numpy."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.lab.ablation.curves import over_seconds, over_steps
from ddpm.lab.comparison.runs import Run


def a_run(records: Iterable[dict[str, Any]]) -> Run:
    return Run("run", Path("run"), {"train.batch_size": 64}, {}, list(records), None, [])


def logged(steps: Iterable[int], loss: Callable[[int], float | None], key: str = "loss", **more: Any) -> Run:
    return a_run({"step": step, key: loss(step), **more} for step in steps)


def test_mean_and_range_are_those_of_the_runs() -> None:
    table = np.random.default_rng(0).random((5, 30))
    band = over_steps([logged(range(30), row.__getitem__) for row in table], "loss")
    assert band.x == list(range(30)) and (band.runs, band.points_averaged) == (5, 1)
    np.testing.assert_allclose(band.mean, table.mean(0), rtol=1e-14)
    np.testing.assert_array_equal([band.low, band.high], [table.min(0), table.max(0)])


def test_long_curves_are_thinned_before_their_range_is_taken() -> None:
    table = np.random.default_rng(1).random((3, 1000))
    band = over_steps([logged(range(1000), row.__getitem__) for row in table], "loss")
    thin = table.reshape(3, 250, 4).mean(2)
    assert band.points_averaged == 4 and band.x == [4 * i + 1.5 for i in range(250)]
    np.testing.assert_allclose([band.mean, band.low, band.high], [thin.mean(0), thin.min(0), thin.max(0)], rtol=1e-12)


def test_only_common_steps_count() -> None:
    # A run that was interrupted has additional records after it was resumed.
    band = over_steps([logged([10, 20, 25, 30, 40], float), logged([10, 20, 30, 35, 40], lambda s: s + 2.0)], "loss")
    assert band.x == [10, 20, 30, 40] and band.mean == [11, 21, 31, 41] and band.runs == 2
    assert band.low == [10, 20, 30, 40] and band.high == [12, 22, 32, 42]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), "diverged", True])
def test_values_that_are_not_finite_are_skipped(bad: Any) -> None:
    runs = [logged([10, 20, 30], float), logged([10, 20, 30], lambda step: bad if step == 20 else 1.0)]
    assert over_steps(runs, "loss").x == [10, 30]


def test_a_run_that_diverged_does_not_cut_the_others_short() -> None:
    whole = [logged(range(10, 110, 10), lambda step, seed=seed: seed + 1 / step) for seed in range(3)]
    silent = logged(range(10, 110, 10), lambda step: 7.0 if step < 50 else None)
    stopped = logged([10, 20], lambda step: 9.0)
    band = over_steps([stopped, *whole, silent], "loss")
    assert band == over_steps(whole, "loss") and band.runs == 3 and band.x[-1] == 100


def test_metrics_with_different_settings_are_not_averaged() -> None:
    key, settings = "evaluation/accuracy", "evaluation/settings"
    one, two, other = (logged([5, 10], float, key, **{settings: name}) for name in ("a", "a", "b"))
    assert over_steps([other, one, two], key) == over_steps([one, two], key)
    # If the settings of a run were changed, only its records with the settings of the others count.
    changed = a_run([{"step": 5, key: 0.5, settings: "b"}, {"step": 10, key: 0.7, settings: "a"}])
    assert over_steps([one, two, changed], key).x == [10] and over_steps([changed], key).x == [10]
    # Records without evaluation do not matter.
    mixed = a_run([*one.records, {"step": 10, "loss": 1.0}])
    assert over_steps([mixed], key) == over_steps([one], key) and over_steps([mixed], "loss").x == [10]


@pytest.mark.parametrize("runs", [[], [a_run([])], [logged([10], float, key="other")]], ids=["none", "empty", "other"])
def test_no_curve_without_finite_values(runs: list[Run]) -> None:
    assert over_steps(runs, "loss") is None


def test_the_later_record_of_a_step_counts() -> None:
    assert over_steps([a_run([{"step": 1, "loss": 5.0}, {"step": 1, "loss": 3.0}])], "loss").mean == [3.0]


def test_seconds_are_steps_times_the_median() -> None:
    band = over_steps([logged([10, 20, 40], float)], "loss")
    timed = over_seconds(band, [0.5, 9.0, 0.25])
    assert timed.x == [5, 10, 20] and timed._replace(x=band.x) == band
