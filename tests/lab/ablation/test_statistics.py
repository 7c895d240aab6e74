"""Contrasts against scipy and closed forms, in studies without a difference, and in studies with a planted one."""

import tracemalloc
from collections.abc import Callable, Sequence
from itertools import product
from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest
from numpy.random import Generator
from scipy import stats

from ddpm.lab.ablation import statistics
from ddpm.lab.ablation.statistics import Contrast, Measured, bonferroni_level, contrast, noncentrality

# A standard deviation of 10,000 replicates has a standard error of 0.7 % for normal ones; four of these.
MONTE_CARLO = 4 / sqrt(2 * 10_000)
IMAGES = 40


def plain(values: Sequence[float]) -> list[Measured]:
    return [Measured(float(value)) for value in values]


def scored(table: np.ndarray) -> list[Measured]:
    return [Measured(float(row.mean()), None, row) for row in table]


def half_width(found: Contrast) -> float:
    return (found.high - found.low) / 2


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


class Kind(NamedTuple):
    """A kind of study: effect of a seed on one arm, and how its metrics are measured."""

    effect: Callable[[Generator, int], np.ndarray]
    measure: Callable[[Generator, np.ndarray], tuple[list[Measured], list[Measured]]]


def normal(rng: Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n)


def skewed(rng: Generator, n: int) -> np.ndarray:
    return rng.lognormal(0, 1, n)


def exactly(rng: Generator, metrics: np.ndarray) -> tuple[list[Measured], list[Measured]]:
    return plain(metrics[0]), plain(metrics[1])


def with_errors(rng: Generator, metrics: np.ndarray) -> tuple[list[Measured], list[Measured]]:
    """Independent noise of known size, as large as the spread of the seeds."""
    noisy = metrics + rng.standard_normal(metrics.shape)
    return tuple([Measured(float(value), 1.0) for value in arm] for arm in noisy)


def with_scores(rng: Generator, metrics: np.ndarray) -> tuple[list[Measured], list[Measured]]:
    """Images that are harder than others, and that favor one arm; noise of each image in each run."""
    hard, favored = 3 * rng.standard_normal(IMAGES), 4 * rng.standard_normal((2, 1, IMAGES))
    tables = metrics[:, :, None] + hard + favored + rng.standard_normal((*metrics.shape, IMAGES))
    return scored(tables[0]), scored(tables[1])


EFFECTS = {"normal": normal, "skewed": skewed}
MEASURES = {"exact": exactly, "standard errors": with_errors, "scores": with_scores}
KINDS = {f"{e}, {m}": Kind(EFFECTS[e], MEASURES[m]) for e, m in product(EFFECTS, MEASURES)}


def studies(kind: Kind, seeds: int, count: int, shift: float = 0.0) -> list[Contrast]:
    """Simulate studies whose arm has metrics higher by `shift`; the error of few replicates averages out."""
    rng = np.random.default_rng(seeds)
    found = []
    for i in range(count):
        metrics = kind.effect(rng, 2 * seeds).reshape(2, seeds)
        metrics[1] += shift
        found.append(contrast(*kind.measure(rng, metrics), "lower", replicates=400, seed=i))
    return found


def false_verdicts(found: list[Contrast], shift: float = 0.0) -> float:
    """Return the fraction of intervals that do not contain the true value."""
    return float(np.mean([not study.low <= shift <= study.high for study in found]))


def excess(count: int, share: float = 0.05) -> float:
    """Four binomial standard errors: one false alarm in 30,000 tests that should pass."""
    return 4 * sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_studies_without_a_difference_find_none(kind: Kind, seeds: int) -> None:
    found = studies(kind, seeds, count := 300)
    wrong = sum(study.verdict != "inconclusive" for study in found)
    assert wrong / count == false_verdicts(found) <= 0.05 + excess(count)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_intervals_cover_at_the_level_that_they_state(kind: Kind, seeds: int) -> None:
    wrong = false_verdicts(studies(kind, seeds, count := 4000, shift := 1.3), shift)
    # 0.2 %: half a percent of width, which 400 replicates cost by their error.
    assert wrong <= 0.05 + excess(count) + 0.002
    if kind is KINDS["normal, exact"]:
        assert wrong >= 0.05 - excess(count)


def test_images_that_favor_an_arm_would_be_taken_for_a_difference_without_resampling_them() -> None:
    rng, count = np.random.default_rng(1), 200
    pairs = [with_scores(rng, normal(rng, 16).reshape(2, 8)) for _ in range(count)]
    metrics = [[plain([run.value for run in arm]) for arm in pair] for pair in pairs]
    blind = [contrast(a, b, "lower", replicates=400) for a, b in metrics]
    seeing = [contrast(a, b, "lower", replicates=400) for a, b in pairs]
    assert false_verdicts(blind) > 0.05 + 2 * excess(count)
    assert false_verdicts(seeing) <= 0.05 + excess(count)


@pytest.mark.parametrize(("seeds", "level"), [(3, 0.95), (5, 0.975), (8, 0.95)])
def test_a_detectable_difference_is_found_with_the_power_that_is_stated(seeds: int, level: float) -> None:
    rng, count = np.random.default_rng(2), 1000
    # The true standard deviation of a difference is 1.
    shift = noncentrality(seeds, level) / sqrt(seeds)
    differences = shift + rng.standard_normal((count, seeds))
    zero = plain(np.zeros(seeds))
    found = [contrast(zero, plain(row), "higher", level, replicates=400, seed=i) for i, row in enumerate(differences)]
    # 2 %: 400 replicates find the critical value to 3.5 %, around which power is about linear.
    assert np.mean([f.verdict == "better" for f in found]) == pytest.approx(0.8, abs=excess(count, 0.8) + 0.02)


def test_detectable_is_the_difference_for_the_spread_that_was_found() -> None:
    row = random(6, seed=3)
    row = (row - row.mean()) / row.std(ddof=1)
    found = contrast(plain(np.zeros(6)), plain(row), "lower")
    power = stats.nct.sf(stats.t.ppf(0.975, 5), 5, found.detectable * sqrt(6))
    # Power changes by about 0.35 for each standard error of 2.6 to 3.5 that the noncentrality is off.
    assert power == pytest.approx(0.8, abs=0.35 * 3.5 * MONTE_CARLO)


@pytest.mark.parametrize(("seeds", "level"), [(3, 0.95), (5, 0.95), (6, 0.975), (20, 0.9)])
def test_the_interval_is_that_of_the_t_test_where_metrics_are_exact(seeds: int, level: float) -> None:
    first, second = random(2, seeds, seed=seeds) + np.array([[0.0], [0.3]])
    found = contrast(plain(first), plain(second), "lower", level)
    expected = stats.ttest_rel(second, first).confidence_interval(level)
    assert found.value == pytest.approx((second - first).mean(), rel=1e-12)
    width = (expected.high - expected.low) / 2
    np.testing.assert_allclose((found.low, found.high), expected, rtol=0, atol=MONTE_CARLO * width)
    assert found.effect_size == pytest.approx((second - first).mean() / (second - first).std(ddof=1), rel=1e-12)
    assert found.relative == pytest.approx((second - first).mean() / abs(first.mean()), rel=1e-12)


@pytest.mark.parametrize("chunk", [50, statistics.DRAWN_AT_ONCE])
@pytest.mark.parametrize(("seeds", "images"), [(3, 7), (6, 150)])
def test_the_error_over_seeds_and_images_is_the_closed_form_of_infinitely_many_replicates(
    seeds: int, images: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", chunk)
    table = random(seeds, images, seed=4) + random(seeds, 1, seed=5) / 3 + random(images, seed=6)
    found = contrast(scored(np.ones((seeds, images))), scored(1 + table), "lower")
    rows, columns = table.mean(1), table.mean(0)
    both = table - rows[:, None] - columns + table.mean()
    # Multinomial weights have the covariance I - 1/N. Of seeds, variances are those with n - 1 in the denominator.
    variance = rows.var(ddof=1) / seeds + columns.var() / images + (both**2).sum() / (seeds * (seeds - 1) * images**2)
    expected = stats.t.ppf(0.975, seeds - 1) * sqrt(variance)
    # 1.5: three seeds have ten samples in all, whose tails are not normal.
    assert half_width(found) == pytest.approx(expected, rel=1.5 * MONTE_CARLO)


def test_standard_errors_widen_the_interval_by_their_own_variance() -> None:
    first, second = random(2, 5, seed=7)
    errors = np.array([[0.5, 1.0, 0.2, 0.0, 3.0], [0.7, 0.1, 0.0, 2.0, 1.0]])
    arms = [[Measured(*run) for run in zip(*arm, strict=True)] for arm in ((first, errors[0]), (second, errors[1]))]
    variance = (second - first).var(ddof=1) / 5 + (errors**2).sum() / 25
    found = contrast(*arms, "lower")
    assert half_width(found) == pytest.approx(stats.t.ppf(0.975, 4) * sqrt(variance), rel=MONTE_CARLO)
    # Of one run the error is not known: over seeds alone.
    arms[1][2] = arms[1][2]._replace(standard_error=None)
    assert contrast(*arms, "lower") == contrast(plain(first), plain(second), "lower")


def test_scores_of_some_runs_only_are_not_used() -> None:
    first, second = scored(random(4, 30, seed=8)), scored(random(4, 30, seed=9) + 1)
    second[3] = Measured(second[3].value)
    expected = contrast(plain([r.value for r in first]), plain([r.value for r in second]), "lower")
    assert contrast(first, second, "lower") == expected


@pytest.mark.parametrize("rounded", [False, True])
def test_the_p_value_is_that_of_all_sign_flips(rounded: bool) -> None:
    for seeds in range(3, 13):
        # Rounded differences have ties, which rounding errors of sums must not break.
        differences = random(seeds, seed=10) + 0.6
        differences = differences.round(1) / 3 if rounded else differences
        found = contrast(plain(np.zeros(seeds)), plain(differences), "lower")
        sums = abs(np.array(list(product((1, -1), repeat=seeds))) @ differences)
        assert found.p_value == np.mean(sums >= sums[0] - 1e-12 * abs(differences).sum())
        assert found.min_p_value == 2.0 ** (1 - seeds)


def test_the_smallest_p_value_is_that_of_differences_of_one_sign() -> None:
    for seeds in (3, 5, 14):
        found = contrast(plain(np.zeros(seeds)), plain(1 + random(seeds, seed=11) / 10), "lower")
        assert found.p_value == found.min_p_value == 2.0 ** (1 - seeds)


def test_random_sign_flips_are_tried_for_many_seeds() -> None:
    differences = random(18, seed=12) + 0.4
    found = contrast(plain(np.zeros(18)), plain(differences), "lower")
    bits = (np.arange(2**18)[:, None] >> np.arange(18)) & 1
    exact = float((abs((1 - 2 * bits) @ differences) >= differences.sum() * (1 - 1e-12)).mean())
    # Four binomial standard errors of 2^14 draws.
    assert found.p_value == pytest.approx(exact, abs=4 * sqrt(exact * (1 - exact) / 2**14)) and exact > 0.01
    far = contrast(plain(np.zeros(18)), plain(10 + random(18, seed=13)), "lower")
    assert found.min_p_value == 2.0**-14 <= far.p_value <= 2.0**-12


MEASURED = {
    "exact": exactly(np.random.default_rng(0), random(2, 5, seed=14)),
    "standard errors": with_errors(np.random.default_rng(0), random(2, 5, seed=14)),
    "scores": with_scores(np.random.default_rng(0), random(2, 5, seed=14)),
}


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_swapped_arms_give_the_mirrored_contrast(measured: tuple[list[Measured], list[Measured]]) -> None:
    one, other = contrast(*measured, "lower"), contrast(*reversed(measured), "lower")
    assert (other.value, other.low, other.high) == (-one.value, -one.high, -one.low)
    assert (other.p_value, other.detectable, other.effect_size) == (one.p_value, one.detectable, -one.effect_size)


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
@pytest.mark.parametrize("factor", [1e-9, 7.0, 1e12])
def test_the_unit_does_not_matter(measured: tuple[list[Measured], list[Measured]], factor: float) -> None:
    def scale(run: Measured) -> Measured:
        return Measured(*(None if part is None else factor * part for part in run))

    one, other = contrast(*measured, "lower"), contrast(*([scale(run) for run in arm] for arm in measured), "lower")
    for name in ("value", "low", "high", "detectable"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-9)
    assert other.verdict == one.verdict
    for name in ("p_value", "effect_size", "relative"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


@pytest.mark.parametrize(("better", "shift", "verdict"), [
    ("lower", -5, "better"), ("lower", 5, "worse"), ("higher", 5, "better"), ("higher", -5, "worse"),
    ("lower", 0.1, "inconclusive"), ("higher", 0.1, "inconclusive"),
])  # fmt: skip
def test_the_verdict_is_that_of_the_interval(better: str, shift: float, verdict: str) -> None:
    differences = random(5, seed=15) - random(5, seed=15).mean() + shift
    assert contrast(plain(np.zeros(5)), plain(differences), better).verdict == verdict


@pytest.mark.filterwarnings("error")
def test_equal_metrics_are_inconclusive() -> None:
    found = contrast(plain([0.1, 0.2, 0.7]), plain([0.1, 0.2, 0.7]), "lower")
    assert (found.value, found.low, found.high, found.effect_size, found.detectable) == (0, 0, 0, 0, 0)
    assert (found.p_value, found.verdict, found.relative) == (1, "inconclusive", 0)
    assert contrast(plain([0, 0, 0]), plain([0, 0, 0]), "lower").relative is None


@pytest.mark.filterwarnings("error")
def test_equal_differences_give_no_interval() -> None:
    # Equal but for rounding.
    found = contrast(plain([0.8, 0.4, 0.1]), plain([0.9, 0.5, 0.2]), "higher")
    assert found.value == pytest.approx(0.1) and found.p_value == 0.25
    assert (found.low, found.high, found.effect_size, found.detectable) == (None, None, None, None)
    assert found.verdict == "inconclusive"
    # Their images tell it.
    noise = random(200, seed=16) / 10
    noise -= noise.mean()
    first, second = np.add.outer([0.8, 0.4, 0.1], noise), np.add.outer([0.9, 0.5, 0.2], -noise)
    found = contrast(scored(first), scored(second), "higher")
    assert found.low < found.value < found.high and found.verdict == "better"


@pytest.mark.parametrize("pairs", [0, 1, 2])
@pytest.mark.filterwarnings("error")
def test_fewer_than_three_pairs_have_no_interval(pairs: int) -> None:
    found = contrast(plain([4.0, 2.0][:pairs]), plain([5.0, 4.0][:pairs]), "lower")
    assert found[1:3] == (None, None) and found[4:8] == (None, None, None, None)
    assert (found.pairs, found.verdict) == (pairs, "too few seeds" if pairs else "no metrics")
    assert found[0] == [None, 1.0, 1.5][pairs] and found.relative == [None, 0.25, 0.5][pairs]


def test_twenty_runs_of_ten_thousand_images_do_not_fill_the_memory() -> None:
    table = random(40, 10_000, seed=17)
    tracemalloc.start()
    contrast(scored(table[:20]), scored(table[20:]), "lower", replicates=300)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


BAD = {
    "not finite": ([1, 2, np.nan], [1, 2, 3], {}),
    "infinite": ([1, 2, 3], [1, 2, np.inf], {}),
    "unpaired": ([1, 2, 3], [1, 2], {}),
    "direction": ([1, 2, 3], [1, 2, 4], {"better": "smaller"}),
    "level": ([1, 2, 3], [1, 2, 4], {"level": 95}),
    "replicates": ([1, 2, 3], [1, 2, 4], {"replicates": 1}),
}


@pytest.mark.parametrize(("first", "second", "options"), BAD.values(), ids=BAD)
def test_invalid_arguments_are_refused(first: list[float], second: list[float], options: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        contrast(plain(first), plain(second), **{"better": "lower", **options})


def test_scores_that_do_not_belong_to_the_metrics_are_refused() -> None:
    table = random(3, 10, seed=18)
    runs = scored(table)
    for bad in (
        [runs[0]._replace(value=runs[0].value + 1), *runs[1:]],
        [runs[0]._replace(scores=np.append(table[0, 1:], np.nan)), *runs[1:]],
    ):
        with pytest.raises(AssertionError):
            contrast(bad, runs, "lower")
    for images in (1, 5):
        with pytest.raises(AssertionError):
            contrast(scored(table[:, :images]), runs, "lower")
    for error in (-1.0, np.inf):
        with pytest.raises(AssertionError):
            contrast([Measured(1.0, error)] * 3, [Measured(1.0, 0.1)] * 3, "lower")


def test_simultaneous_intervals() -> None:
    assert bonferroni_level(0.95, 1) == 0.95 and bonferroni_level(0.95, 2) == pytest.approx(0.975)
    assert bonferroni_level(0.9, 5) == pytest.approx(0.98)
    # Wrong with probability 5 % at most, even where the comparisons have nothing in common.
    assert bonferroni_level(0.95, 7) ** 7 >= 0.95
    for level, comparisons in ((0.95, 0), (1.0, 2), (0.0, 2)):
        with pytest.raises(AssertionError):
            bonferroni_level(level, comparisons)
