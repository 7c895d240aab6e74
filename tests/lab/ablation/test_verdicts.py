"""What is said of contrasts, word by word."""

from collections.abc import Sequence

import pytest

from ddpm.lab.ablation.statistics import Contrast, Measured, contrast
from ddpm.lab.ablation.verdicts import sentence, weighed


def plain(values: Sequence[float]) -> list[Measured]:
    return [Measured(float(value)) for value in values]


FOUND = Contrast(-0.0123, -0.0196, -0.005, 0.975, 0.03125, 0.03125, -1.9, 0.008, -0.0214, 6, "better")
UNDECIDED = Contrast(0.001, -0.002, 0.004, 0.95, 0.5, 0.03125, 0.3, 0.01, 0.00174, 6, "undecided")
SENTENCES = {
    "better": (
        FOUND, {},
        "adagn is better than groupnorm: fid is lower by 0.0123 (2.1 %), 97.5 % interval 0.005 to 0.0196, 6 seeds, "
        "p 0.03125 (the least that 6 seeds can give).",
    ),
    "worse": (
        FOUND._replace(value=2.5, low=1.0, high=4.0, relative=1.25, p_value=0.0625, verdict="worse"), {"adaln": 3},
        "adagn is worse than groupnorm: fid is higher by 2.5 (125 %), 97.5 % interval 1 to 4, 6 seeds, p 0.0625.",
    ),
    "undecided": (
        UNDECIDED, {"adagn": 0},
        "adagn and groupnorm are not told apart with 6 seeds: fid of adagn minus that of groupnorm is 0.001 (0.17 %), "
        "95 % interval -0.002 to 0.004, p 0.5; a difference of 0.01 would have been found with 80 % power.",
    ),
    "equal": (
        contrast(plain([1, 2, 3, 4, 5, 6]), plain([1, 2, 3, 4, 5, 6]), "lower"), {},
        "adagn and groupnorm are not told apart with 6 seeds: fid is the same for each of them.",
    ),
    "one difference": (
        contrast(plain([0] * 6), plain([2] * 6), "lower"), {},
        "adagn and groupnorm are not told apart with 6 seeds: fid of adagn minus that of groupnorm is 2 for each of "
        "them, which does not tell how far another seed's would lie.",
    ),
    "two seeds": (
        contrast(plain([2, 2]), plain([1, 2]), "lower"), {"adagn": 3, "groupnorm": 1},
        "3 of 6 runs of adagn and 1 of 6 runs of groupnorm diverged; what follows is of the 2 seeds that both have. "
        "With 2 seeds there is no interval and no verdict, 3 are needed: fid of adagn minus that of groupnorm is "
        "-0.5 (-25 %).",
    ),
    "one seed": (
        contrast(plain([0]), plain([1]), "lower"), {"groupnorm": 5},
        "5 of 6 runs of groupnorm diverged; what follows is of the 1 seed that both have. "
        "With 1 seed there is no interval and no verdict, 3 are needed: fid of adagn minus that of groupnorm is 1.",
    ),
    "none": (
        contrast([], [], "lower"), {"adagn": 6},
        "6 of 6 runs of adagn diverged. "
        "adagn and groupnorm cannot be compared: there is no seed of which both have fid.",
    ),
    "lost alike": (
        FOUND._replace(pairs=5), {"adagn": 1, "groupnorm": 1},
        "adagn is better than groupnorm: fid is lower by 0.0123 (2.1 %), 97.5 % interval 0.005 to 0.0196, 5 seeds, "
        "p 0.03125 (the least that 5 seeds can give). 1 of 6 runs of adagn and 1 of 6 runs of groupnorm diverged; "
        "the figures are of the 5 seeds that both have.",
    ),
    "survivors": (
        weighed(FOUND._replace(pairs=5, p_value=0.0625), 1, 0), {"adagn": 1},
        "1 of 6 runs of adagn diverged; what follows is of the 5 seeds that both have. The seeds that are left would "
        "say that adagn is better than groupnorm, but adagn lost more runs, so it is not called better: fid is lower "
        "by 0.0123 (2.1 %), 97.5 % interval 0.005 to 0.0196, 5 seeds, p 0.0625.",
    ),
    "missing": (
        UNDECIDED._replace(pairs=4), {},
        "adagn and groupnorm are not told apart with 4 seeds: fid of adagn minus that of groupnorm is 0.001 (0.17 %), "
        "95 % interval -0.002 to 0.004, p 0.5; a difference of 0.01 would have been found with 80 % power. "
        "Figures of both are there for 4 of 6 seeds only.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "diverged", "expected"), SENTENCES.values(), ids=SENTENCES)
def test_sentences(found: Contrast, diverged: dict[str, int], expected: str) -> None:
    assert sentence("adagn", "groupnorm", "fid", found, 6, diverged) == expected


@pytest.mark.parametrize(
    ("verdict", "lost", "of_baseline", "expected"),
    [
        ("better", 1, 0, "better where it survived"),
        ("better", 0, 1, "better"),
        ("better", 2, 2, "better"),
        ("worse", 0, 1, "worse where the other survived"),
        ("worse", 1, 0, "worse"),
        ("undecided", 3, 0, "undecided"),
    ],
)
def test_no_arm_is_called_better_that_lost_more_runs(verdict: str, lost: int, of_baseline: int, expected: str) -> None:
    found = FOUND._replace(verdict=verdict)
    assert weighed(found, lost, of_baseline) == found._replace(verdict=expected)
