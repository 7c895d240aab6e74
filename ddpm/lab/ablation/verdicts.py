"""Verdicts in words."""

from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.statistics import LEAST_PAIRS, POWER, Contrast

# The weaker form of each verdict, if the arm that it favours lost more runs to divergence than the other.
SURVIVORS = {"better": "better where it survived", "worse": "worse where the other survived"}


def qualify(contrast: Contrast, lost: int, lost_by_baseline: int) -> Contrast:
    """Withdraw "better" from an arm that lost more runs to divergence: its remaining seeds may be the easy ones.

    Args:
        contrast: an arm compared with the baseline, over the seeds that both have.
        lost: number of runs of the arm that diverged.
        lost_by_baseline: number of runs of the baseline that diverged.
    """
    favoured = {"better": lost > lost_by_baseline, "worse": lost_by_baseline > lost}
    if favoured.get(contrast.verdict):
        return contrast._replace(verdict=SURVIVORS[contrast.verdict])
    return contrast


def verdict_sentence(
    arm: str, baseline: str, metric: str, contrast: Contrast, runs: int, diverged: dict[str, int]
) -> str:
    """Put a contrast into words.

    Args:
        arm: name of the arm.
        baseline: name of the baseline.
        metric: name of the metric.
        contrast: the arm compared with the baseline.
        runs: number of runs of each arm, as planned.
        diverged: number of diverged runs by arm; arms without any may be missing.

    Returns:
        A sentence, and another if seeds are missing; that one comes first if the arms lost different numbers of runs.
    """
    sentences = [_finding(arm, baseline, metric, contrast)]
    lost = [f"{diverged[name]} of {_counted(runs, 'run')} of {name}" for name in (arm, baseline) if diverged.get(name)]
    pairs = f"; the comparison uses the {_counted(contrast.pairs, 'seed')} that both have"
    rest = pairs if contrast.pairs else ""
    if diverged.get(arm, 0) != diverged.get(baseline, 0):
        sentences.insert(0, f"{' and '.join(lost)} diverged{rest}.")
    elif lost:
        sentences.append(f"{' and '.join(lost)} diverged{rest}.")
    elif 0 < contrast.pairs < runs:
        sentences.append(f"Only {contrast.pairs} of {_counted(runs, 'seed')} are available in both arms so far.")
    return " ".join(sentences)


def _finding(arm: str, baseline: str, metric: str, found: Contrast) -> str:
    seeds = _counted(found.pairs, "seed")
    if found.value is None:
        return f"{arm} and {baseline} cannot be compared: no seed has {metric} in both arms."
    difference = f"{metric} of {arm} minus {metric} of {baseline} is {number(found.value)}{_percent(found.relative)}"
    if found.verdict == "too few seeds":
        return f"With {seeds} there is no interval and no verdict, {LEAST_PAIRS} seeds are needed: {difference}."
    inconclusive = f"No difference was found between {arm} and {baseline} with {seeds}"
    if found.low is None or found.high is None:
        return f"{inconclusive}: {difference} for every seed, so the spread over further seeds is unknown."
    if found.low == found.high == 0:
        return f"{inconclusive}: {metric} is equal for every seed."
    assert found.p_value is not None and found.detectable is not None      # an interval comes with both
    level = f"{100 * found.level:.4g} % interval"
    least = f" (the smallest possible with {seeds})" if found.p_value == found.least_p_value else ""
    p_value = f"p {number(found.p_value)}{least}"
    if found.verdict == "undecided":
        power = f"a difference of {number(found.detectable)} would have been detected with {100 * POWER:g} % power"
        return f"{inconclusive}: {difference}, {level} {number(found.low)} to {number(found.high)}, {p_value}; {power}."
    # As an amount, so that the interval has no signs.
    low, high = sorted((abs(found.low), abs(found.high)))
    amount = f"{number(abs(found.value))}{_percent(found.relative and abs(found.relative))}"
    way = "lower" if found.value < 0 else "higher"
    facts = f"{metric} is {way} by {amount}, {level} {number(low)} to {number(high)}, {seeds}, {p_value}"
    if found.verdict not in SURVIVORS.values():
        return f"{arm} is {found.verdict} than {baseline}: {facts}."
    seems, lost = ("better", arm) if found.verdict == SURVIVORS["better"] else ("worse", baseline)
    return (
        f"On the remaining seeds {arm} is {seems} than {baseline}, but {lost} lost more runs to divergence, so it "
        f"cannot be called better: {facts}."
    )


def _percent(fraction: float | None) -> str:
    """Format a fraction as a percentage in brackets; empty if it is None."""
    if fraction is None:
        return ""
    percent = 100 * fraction
    return f" ({percent:.2g} %)" if abs(percent) < 99.5 else f" ({percent:,.0f} %)"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
