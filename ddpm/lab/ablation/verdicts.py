"""Verdicts in words."""

from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.statistics import MIN_PAIRS, POWER, Contrast
from ddpm.lab.pages import template_environment

# The weaker form of each verdict, if more runs diverged in the arm that it calls better.
ON_REMAINING_SEEDS = {"better": "better on the remaining seeds", "worse": "worse on the remaining seeds"}


def qualify(contrast: Contrast, diverged: int, diverged_in_baseline: int) -> Contrast:
    """Weaken a verdict if more runs diverged in the arm that it calls better: the remaining seeds may be the easy ones.

    Args:
        contrast: an arm compared with the baseline, over the seeds that both have.
        diverged: number of runs of the arm that diverged.
        diverged_in_baseline: number of runs of the baseline that diverged.
    """
    winner_diverged_more = {"better": diverged > diverged_in_baseline, "worse": diverged_in_baseline > diverged}
    if winner_diverged_more.get(contrast.verdict):
        return contrast._replace(verdict=ON_REMAINING_SEEDS[contrast.verdict])
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
        A sentence, and another if seeds are missing; that one comes first if different numbers of runs diverged.
    """
    template = template_environment().get_template("ablation/verdict.txt.jinja")
    text = template.render(
        arm=arm, baseline=baseline, metric=metric, found=contrast, runs=runs, diverged=diverged,
        on_remaining_seeds=ON_REMAINING_SEEDS, min_pairs=MIN_PAIRS, power=POWER, number=number,
    )
    return " ".join(text.split())
