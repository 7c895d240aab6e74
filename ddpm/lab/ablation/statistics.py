"""Compares an arm with the baseline over several seeds, paired by seed.

Runs with the same seed share the initial weights of common tensors, the order of the images and the noise, so
differences are taken within seeds. The interval is Hesterberg's "t interval with bootstrap standard error" (2015, "What
Teachers Should Know About the Bootstrap", The American Statistician 69:4): the mean difference plus or minus a quantile
of the t distribution with n - 1 degrees of freedom times the standard error. A percentile interval would be far too
narrow for 3 to 6 seeds: it lies within the range of the n differences, and even the full range contains the true median
with probability 1 - 2^(1-n) only, which is 75 % for three seeds and 94 % for five.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import optimize, stats

MIN_PAIRS = 3           # for an interval; with two differences it would extend 12.7 standard errors to each side
EXACT_PAIRS = 14        # up to this number all sign flips are tried, above it 2^14 random ones
POWER = 0.8             # with which a detectable difference is found
DRAWN_AT_ONCE = 1_000_000       # draws that resampling keeps in memory at once


class Measured(NamedTuple):
    """A metric of one run.

    Attributes:
        value: the metric.
        standard_error: of measuring this model on other samples; None if unknown.
        scores: (N,), one per image, with mean `value`; the same images in the same order in all runs. None if unknown.
    """

    value: float
    standard_error: float | None = None
    scores: np.ndarray | None = None


class Contrast(NamedTuple):
    """An arm minus the baseline, paired by seed.

    Attributes:
        value: mean difference; None without a pair.
        low: lower end of its interval; None for fewer than three pairs, and if all differences are equal but not 0.
        high: upper end.
        level: confidence level of the interval, such as 0.95.
        p_value: two-sided p-value of the sign-flip test; None for fewer than three pairs.
        min_p_value: the smallest p-value that this number of pairs can give.
        effect_size: mean difference / standard deviation of the differences (Cohen's d_z); None if `low` is.
        detectable: the smallest true mean difference whose interval excludes 0 with 80 % power; None if `low` is.
        relative: `value` / |mean of the baseline|; None without a pair, or if that mean is 0.
        pairs: number of seeds with a metric in both arms.
        verdict: better, worse or inconclusive; "too few seeds" for fewer than three pairs, "no metrics" without one. It
            follows from the interval, because with five seeds no p-value is below 0.0625. `verdicts.qualify` changes it
            if runs diverged.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    p_value: float | None
    min_p_value: float | None
    effect_size: float | None
    detectable: float | None
    relative: float | None
    pairs: int
    verdict: str


def contrast(
    baseline: Sequence[Measured],
    arm: Sequence[Measured],
    better: str,
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> Contrast:
    """Compare an arm with the baseline.

    Args:
        baseline: one metric per seed; all numbers finite.
        arm: metrics of the same seeds in the same order.
        better: "lower" or "higher", whichever is better.
        level: confidence level of the interval, in (0, 1).
        replicates: number of bootstrap replicates, 2 or more.
        seed: seed of the bootstrap and of random sign flips.
    """
    assert len(baseline) == len(arm) and better in ("lower", "higher") and 0 < level < 1 and replicates >= 2
    pairs = len(arm)
    first, second = (np.array([run.value for run in runs], dtype=np.float64) for runs in (baseline, arm))
    assert np.isfinite(first).all() and np.isfinite(second).all()
    if pairs == 0:
        return Contrast(None, None, None, level, None, None, None, None, None, 0, "no metrics")
    differences = second - first                                                                    # (n,)
    value, reference = float(differences.mean()), float(abs(first.mean()))
    relative = value / reference if reference else None
    if pairs < MIN_PAIRS:
        return Contrast(value, None, None, level, None, None, None, None, relative, pairs, "too few seeds")

    rng = np.random.default_rng(seed)
    # Differences below this are rounding errors, as in (0.9 - 0.8) - (0.5 - 0.4).
    rounding = 8 * np.finfo(np.float64).eps * max(abs(first).max(), abs(second).max())
    error = _standard_error(baseline, arm, differences, replicates, rng)
    spread = float(differences.std(ddof=1))
    p_value, min_p_value = _sign_flip_test(differences, rng)
    effect = 0.0 if value == 0 else value / spread if spread > rounding else None
    if value != 0 and error <= rounding:
        # Equal differences, as of a coarse metric, say nothing about the spread over further seeds.
        return Contrast(value, None, None, level, p_value, min_p_value, effect, None, relative, pairs, "inconclusive")
    half = float(stats.t.ppf((1 + level) / 2, pairs - 1)) * error
    low, high = value - half, value + half
    if low <= 0 <= high:
        verdict = "inconclusive"
    else:
        verdict = "better" if (value < 0) == (better == "lower") else "worse"
    detectable = noncentrality(pairs, level) * error
    return Contrast(value, low, high, level, p_value, min_p_value, effect, detectable, relative, pairs, verdict)


def bonferroni_level(level: float, comparisons: int) -> float:
    """Return the level of each of several intervals that jointly hold with probability `level` (Bonferroni).

    Args:
        level: joint confidence level, in (0, 1).
        comparisons: number of intervals, 1 or more.
    """
    assert 0 < level < 1 and comparisons >= 1
    return 1 - (1 - level) / comparisons


@lru_cache
def noncentrality(pairs: int, level: float) -> float:
    """Return the true mean difference, in standard errors, that a t-test at 1 - `level` detects with 80 % power.

    Args:
        pairs: two or more.
        level: in (0, 1).

    Returns:
        The noncentrality at which t exceeds its critical value with probability 0.8.
    """
    freedom = pairs - 1
    critical = stats.t.ppf((1 + level) / 2, freedom)
    # The 80 % quantile of a standard deviation is 1.27 times the true one for two degrees of freedom, less for more,
    # so the root lies well below twice the critical value.
    return float(optimize.brentq(lambda center: stats.nct.sf(critical, freedom, center) - POWER, 0, 2 * critical + 3))


def _standard_error(
    baseline: Sequence[Measured], arm: Sequence[Measured], differences: np.ndarray, replicates: int, rng: Generator
) -> float:
    """Return the bootstrap standard error of the mean difference, over seeds and, if possible, over samples.

    If all runs have scores, images are drawn once for all runs, and seeds independently of them (Owen 2007, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1:2). This is conservative: variance that belongs to neither a
    seed nor an image alone is counted three times. Otherwise the standard errors of the metrics are treated as
    independent normal noise in each run that is drawn. The spread over seeds contains this noise already, so this is
    conservative too, by a factor of the square root of 2 if there is no other spread.
    """
    pairs = len(differences)
    runs = [*baseline, *arm]
    seeds = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=replicates)                      # (R, n)
    noise = 0.0
    if all(run.scores is not None for run in runs):
        first, second = _scores(baseline), _scores(arm)
        assert first.shape == second.shape
        resampled = _means_of_resampled(second - first, replicates, rng)                            # (R, n)
    else:
        resampled = np.broadcast_to(differences, seeds.shape)
        if all(run.standard_error is not None for run in runs):
            errors = np.array([run.standard_error for run in runs], dtype=np.float64)               # (2 n,)
            assert (errors >= 0).all() and np.isfinite(errors).all()
            noise = float(np.linalg.norm(errors)) / pairs
    # Means of resampled seeds have (n - 1) / n of the variance that they should have; stretching corrects this.
    centers = resampled.mean(1)
    stretched = np.sqrt(pairs / (pairs - 1)) * (resampled - centers[:, None])
    means = centers + (seeds * stretched).sum(1) / pairs                                            # (R,)
    return float(np.hypot(means.std(), noise))


def _scores(runs: Sequence[Measured]) -> np.ndarray:
    """Stack the scores of n runs to (n, N)."""
    table = np.stack([np.asarray(run.scores, dtype=np.float64) for run in runs])
    assert table.ndim == 2 and np.isfinite(table).all()
    values = [run.value for run in runs]
    # The scores were stored as float32.
    assert (abs(table.mean(1) - values) <= 1e-3 * abs(table).mean(1)).all(), "a value is the mean of its scores"
    return table


def _means_of_resampled(table: np.ndarray, replicates: int, rng: Generator) -> np.ndarray:
    """Return means over images drawn with replacement, the same images for all runs: (n, N) -> (R, n)."""
    images = table.shape[1]
    means = []
    for start in range(0, replicates, DRAWN_AT_ONCE // images + 1):
        size = min(DRAWN_AT_ONCE // images + 1, replicates - start)
        drawn = rng.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        # How often each image was drawn, like multinomial() but in a sixth of the time.
        counts = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        means.append(counts.astype(np.float64) @ table.T / images)
    return np.concatenate(means)


def _sign_flip_test(differences: np.ndarray, rng: Generator) -> tuple[float, float]:
    """Return the two-sided p-value of the sign-flip permutation test, and the smallest that it could have been.

    If the arms were equal, each difference would be as likely as its negative. The p-value is the fraction of sign
    flips whose sum is at least as far from 0 as that of the differences.
    """
    exact = len(differences) <= EXACT_PAIRS
    count = 2 ** min(len(differences), EXACT_PAIRS)
    # scipy tries all sign flips if it may; else it draws them at random and counts the differences themselves as one
    # more, so that p is never 0.
    found = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=count if exact else count - 1, rng=rng
    )
    return float(found.pvalue), 2 / count if exact else 1 / count
