"""Verdicts in words."""

from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.statistics import LEAST_PAIRS, POWER, Contrast
from ddpm.lab.pages import template_environment

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
    template = template_environment().get_template("ablation/verdict.txt.jinja")
    text = template.render(
        arm=arm, baseline=baseline, metric=metric, found=contrast, runs=runs, diverged=diverged, survivors=SURVIVORS,
        least_pairs=LEAST_PAIRS, power=POWER, number=number,
    )
    return " ".join(text.split())
