"""What the numbers of a contrast bear, in words."""

from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.statistics import LEAST_PAIRS, POWER, Contrast

# Verdict -> what is left of it where the arm that it favours lost more runs than the other.
SURVIVORS = {"better": "better where it survived", "worse": "worse where the other survived"}


def weighed(contrast: Contrast, lost: int, lost_by_baseline: int) -> Contrast:
    """A contrast that calls neither arm better which lost more runs: those that are left may be the easy ones.

    Args:
        contrast: of an arm and the baseline, over the seeds that both have.
        lost: how many runs of the arm diverged.
        lost_by_baseline: how many of the baseline.
    """
    flattered = {"better": lost > lost_by_baseline, "worse": lost_by_baseline > lost}
    if flattered.get(contrast.verdict):
        return contrast._replace(verdict=SURVIVORS[contrast.verdict])
    return contrast


def sentence(arm: str, baseline: str, metric: str, contrast: Contrast, runs: int, diverged: dict[str, int]) -> str:
    """What the numbers bear, in words.

    Args:
        arm: its name.
        baseline: its name.
        metric: name of the figure.
        contrast: of the two.
        runs: how many each arm was to have.
        diverged: name of an arm -> how many of its runs diverged; arms without such runs may be left out.

    Returns:
        A sentence, and another where seeds are missing: before it if the two lost different numbers of runs.
    """
    said = [_finding(arm, baseline, metric, contrast)]
    lost = [f"{diverged[name]} of {_counted(runs, 'run')} of {name}" for name in (arm, baseline) if diverged.get(name)]
    if diverged.get(arm, 0) != diverged.get(baseline, 0):
        rest = f"; what follows is of the {_counted(contrast.pairs, 'seed')} that both have" if contrast.pairs else ""
        said.insert(0, f"{' and '.join(lost)} diverged{rest}.")
    elif lost:
        rest = f"the figures are of the {_counted(contrast.pairs, 'seed')} that both have"
        said.append(f"{' and '.join(lost)} diverged{f'; {rest}' if contrast.pairs else ''}.")
    elif 0 < contrast.pairs < runs:
        said.append(f"Figures of both are there for {contrast.pairs} of {_counted(runs, 'seed')} only.")
    return " ".join(said)


def _finding(arm: str, baseline: str, metric: str, found: Contrast) -> str:
    seeds = _counted(found.pairs, "seed")
    if found.value is None:
        return f"{arm} and {baseline} cannot be compared: there is no seed of which both have {metric}."
    difference = f"{metric} of {arm} minus that of {baseline} is {number(found.value)}{_percent(found.relative)}"
    if found.verdict == "too few seeds":
        return f"With {seeds} there is no interval and no verdict, {LEAST_PAIRS} are needed: {difference}."
    apart = f"{arm} and {baseline} are not told apart with {seeds}"
    if found.low is None:
        return f"{apart}: {difference} for each of them, which does not tell how far another seed's would lie."
    if found.low == found.high == 0:
        return f"{apart}: {metric} is the same for each of them."
    level = f"{100 * found.level:.4g} % interval"
    least = f" (the least that {seeds} can give)" if found.p_value == found.least_p_value else ""
    p_value = f"p {number(found.p_value)}{least}"
    if found.verdict == "undecided":
        ends = f"{number(found.low)} to {number(found.high)}"
        power = f"a difference of {number(found.detectable)} would have been found with {100 * POWER:g} % power"
        return f"{apart}: {difference}, {level} {ends}, {p_value}; {power}."
    # As an amount, so that the interval has no signs.
    way, sign = ("lower", -1) if found.value < 0 else ("higher", 1)
    low, high = sorted((sign * found.low, sign * found.high))
    amount = f"{number(abs(found.value))}{_percent(found.relative and abs(found.relative))}"
    ends = f"{level} {number(low)} to {number(high)}"
    facts = f"{metric} is {way} by {amount}, {ends}, {seeds}, {p_value}"
    if found.verdict in SURVIVORS.values():
        seems = next(verdict for verdict, of_those_left in SURVIVORS.items() if of_those_left == found.verdict)
        lost = arm if seems == "better" else baseline
        return (
            f"The seeds that are left would say that {arm} is {seems} than {baseline}, but {lost} lost more runs, so "
            f"it is not called better: {facts}."
        )
    return f"{arm} is {found.verdict} than {baseline}: {facts}."


def _percent(share: float | None) -> str:
    """Two digits, in brackets; nothing where there is no share."""
    if share is None:
        return ""
    percent = 100 * share
    return f" ({percent:.2g} %)" if abs(percent) < 99.5 else f" ({percent:,.0f} %)"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
