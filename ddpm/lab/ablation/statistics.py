"""What the figures of several seeds say of an arm beside the baseline, paired by seed.

Runs of one seed share the initial weights of common tensors, the order of the images and the noise, so differences are
taken within seeds. The interval is Hesterberg's "t interval with bootstrap standard error" (2015, "What Teachers Should
Know About the Bootstrap", The American Statistician 69:4): the mean difference and so many standard errors to each side
as the t distribution with n - 1 degrees of freedom says. A percentile interval would be far too narrow for 3 to 6
seeds: it lies within the range of the n differences, and even this whole range holds the true middle with probability
1 - 2^(1-n) only, which is 75 % for three seeds and 94 % for five.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import optimize, stats

LEAST_PAIRS = 3         # for an interval; that of two differences would reach 12.7 standard errors to each side
EXACT_PAIRS = 14        # up to so many all sign flips are tried, above it 2^14 random ones
POWER = 0.8             # with which a detectable difference is found
CHUNK = 1_000_000       # draws that resampling holds at once


class Measured(NamedTuple):
    """A figure of one run.

    Attributes:
        value: the figure.
        standard_error: how far it would vary if this very model were measured on other samples; None if unknown.
        scores: (N,), one per image, with mean `value`; the same images in the same order in all runs. None if unknown.
    """

    value: float
    standard_error: float | None = None
    scores: np.ndarray | None = None


class Contrast(NamedTuple):
    """An arm minus the baseline, paired by seed.

    Attributes:
        value: mean difference; None without a pair.
        low: lower end of its interval; None for fewer than three pairs, and where all differences are equal but not 0.
        high: upper end.
        level: of the interval, such as 0.95.
        p_value: of the sign-flip test, two-sided; None for fewer than three pairs.
        least_p_value: the smallest that so many pairs can give.
        effect_size: mean difference / standard deviation of the differences (Cohen's d_z); None as `low`.
        detectable: the smallest true mean difference whose interval would leave out 0 with 80 % power; None as `low`.
        relative: `value` / |mean of the baseline|; None without a pair, and where that mean is 0.
        pairs: seeds of which both have a figure.
        verdict: better, worse or undecided; too few seeds for fewer than three pairs, no figures without one. It rests
            on the interval: five seeds give no p below 0.0625. `sentences.weighed` qualifies it where runs diverged.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    p_value: float | None
    least_p_value: float | None
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
    """Compares an arm with the baseline.

    Args:
        baseline: one figure per seed; all numbers finite.
        arm: figures of the same seeds in the same order.
        better: lower or higher, whichever is better.
        level: of the interval, in (0, 1).
        replicates: of the bootstrap, 2 or more.
        seed: of all that is random here.

    Returns:
        The mean difference, and what bears on it.
    """
    assert len(baseline) == len(arm) and better in ("lower", "higher") and 0 < level < 1 and replicates >= 2
    pairs = len(arm)
    first, second = (np.array([run.value for run in runs], dtype=np.float64) for runs in (baseline, arm))
    assert np.isfinite(first).all() and np.isfinite(second).all()
    if pairs == 0:
        return Contrast(None, None, None, level, None, None, None, None, None, 0, "no figures")
    differences = second - first                                                                    # (n,)
    value, reference = float(differences.mean()), float(abs(first.mean()))
    relative = value / reference if reference else None
    if pairs < LEAST_PAIRS:
        return Contrast(value, None, None, level, None, None, None, None, relative, pairs, "too few seeds")

    rng = np.random.default_rng(seed)
    # What is below this is rounding of the figures, as in 0.9 - 0.8 against 0.5 - 0.4.
    rounding = 8 * np.finfo(np.float64).eps * max(abs(first).max(), abs(second).max())
    error = _standard_error(baseline, arm, differences, replicates, rng)
    spread = float(differences.std(ddof=1))
    p_value, least = _sign_flips(differences, rng)
    effect = 0.0 if value == 0 else value / spread if spread > rounding else None
    if value != 0 and error <= rounding:
        # Equal differences, as of a coarse figure, do not tell how far another seed's would lie.
        return Contrast(value, None, None, level, p_value, least, effect, None, relative, pairs, "undecided")
    half = float(stats.t.ppf((1 + level) / 2, pairs - 1)) * error
    low, high = value - half, value + half
    if low <= 0 <= high:
        verdict = "undecided"
    else:
        verdict = "better" if (value < 0) == (better == "lower") else "worse"
    detectable = noncentrality(pairs, level) * error
    return Contrast(value, low, high, level, p_value, least, effect, detectable, relative, pairs, verdict)


def simultaneous(level: float, comparisons: int) -> float:
    """The level of each of several intervals that hold together with probability `level` or more (Bonferroni).

    Args:
        level: of all together, in (0, 1).
        comparisons: how many, 1 or more.
    """
    assert 0 < level < 1 and comparisons >= 1
    return 1 - (1 - level) / comparisons


@lru_cache
def noncentrality(pairs: int, level: float) -> float:
    """The true mean difference, in standard errors, that a two-sided t-test at 1 - `level` finds with 80 % power.

    Args:
        pairs: two or more.
        level: in (0, 1).

    Returns:
        The noncentrality at which t is beyond its critical value, on the right side, with probability 0.8.
    """
    freedom = pairs - 1
    critical = stats.t.ppf((1 + level) / 2, freedom)
    # The 80 % quantile of a standard deviation is 1.27 times the true one for two degrees of freedom, less for more,
    # so the root lies well below twice the critical value.
    return float(optimize.brentq(lambda centre: stats.nct.sf(critical, freedom, centre) - POWER, 0, 2 * critical + 3))


def _standard_error(
    baseline: Sequence[Measured], arm: Sequence[Measured], differences: np.ndarray, replicates: int, rng: Generator
) -> float:
    """Bootstrap standard error of the mean difference, over seeds and, as far as these are known, over samples.

    Where all runs have scores, images are drawn once for all runs, and seeds independently of them (Owen 2007, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1:2). This errs on the wide side: variance that belongs to
    neither a seed nor an image alone is counted three times. Else the standard errors of the figures are taken for
    normal noise, independent in each run that is drawn. The spread of the seeds holds such noise already, so this errs
    on the wide side too, by a factor of the root of 2 where there is no other spread.
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
    # Means of resampled seeds have (n - 1) / n of the variance that they should have; stretched, they have all of it.
    centres = resampled.mean(1)
    stretched = np.sqrt(pairs / (pairs - 1)) * (resampled - centres[:, None])
    means = centres + (seeds * stretched).sum(1) / pairs                                            # (R,)
    return float(np.hypot(means.std(), noise))


def _scores(runs: Sequence[Measured]) -> np.ndarray:
    """(n, N) scores of n runs."""
    table = np.stack([np.asarray(run.scores, dtype=np.float64) for run in runs])
    assert table.ndim == 2 and np.isfinite(table).all()
    values = [run.value for run in runs]
    # Some digits of float32.
    assert (abs(table.mean(1) - values) <= 1e-3 * abs(table).mean(1)).all(), "a value is the mean of its scores"
    return table


def _means_of_resampled(table: np.ndarray, replicates: int, rng: Generator) -> np.ndarray:
    """(n, N) -> (R, n), means over images that are drawn with replacement, the same for all n."""
    images = table.shape[1]
    means = []
    for start in range(0, replicates, CHUNK // images + 1):
        size = min(CHUNK // images + 1, replicates - start)
        drawn = rng.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        # How often each was drawn: as multinomial(), in a sixth of the time.
        counts = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        means.append(counts.astype(np.float64) @ table.T / images)
    return np.concatenate(means)


def _sign_flips(differences: np.ndarray, rng: Generator) -> tuple[float, float]:
    """p-value of the sign-flip permutation test, two-sided, and the smallest that it could have been.

    If nothing but chance told the arms apart, each difference would be as likely as its negative. The p-value is the
    share of sign flips whose sum is as far from 0 as that of the differences, or further.
    """
    pairs = len(differences)
    if pairs <= EXACT_PAIRS:
        flips = (np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1                              # (2^n, n)
        least = 2.0 ** (1 - pairs)
    else:
        flips = rng.integers(2, size=(2**EXACT_PAIRS, pairs))
        flips[0] = 0        # the differences as they are: without them p could be 0
        least = 2.0**-EXACT_PAIRS
    sums = abs((1 - 2 * flips) @ differences)
    # Sums of other orders are equal but for rounding.
    return float((sums >= sums[0] - 1e-12 * abs(differences).sum()).mean()), least
