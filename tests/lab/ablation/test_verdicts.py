"""Sentences about contrasts: a golden file, and what each must contain."""

from collections.abc import Callable, Sequence

import pytest

from ddpm.lab.ablation.statistics import Contrast, Measured, contrast
from ddpm.lab.ablation.verdicts import qualify, verdict_sentence


def plain(values: Sequence[float]) -> list[Measured]:
    return [Measured(float(value)) for value in values]


FOUND = Contrast(-0.0123, -0.0196, -0.005, 0.975, 0.03125, 0.03125, -1.9, 0.008, -0.0214, 6, "better")
INCONCLUSIVE = Contrast(0.001, -0.002, 0.004, 0.95, 0.5, 0.03125, 0.3, 0.01, 0.00174, 6, "inconclusive")
CASES: dict[str, tuple[Contrast, dict[str, int]]] = {
    "better": (FOUND, {}),
    "worse": (
        FOUND._replace(value=2.5, low=1.0, high=4.0, relative=1.25, p_value=0.0625, verdict="worse"), {"adaln": 3}
    ),
    "inconclusive": (INCONCLUSIVE, {"adagn": 0}),
    "equal": (contrast(plain([1, 2, 3, 4, 5, 6]), plain([1, 2, 3, 4, 5, 6]), "lower"), {}),
    "one difference": (contrast(plain([0] * 6), plain([2] * 6), "lower"), {}),
    "two seeds": (contrast(plain([2, 2]), plain([1, 2]), "lower"), {"adagn": 3, "groupnorm": 1}),
    "one seed": (contrast(plain([0]), plain([1]), "lower"), {"groupnorm": 5}),
    "no seed": (contrast([], [], "lower"), {"adagn": 6}),
    "equally many diverged": (FOUND._replace(pairs=5), {"adagn": 1, "groupnorm": 1}),
    "remaining seeds": (qualify(FOUND._replace(pairs=5, p_value=0.0625), 1, 0), {"adagn": 1}),
    "missing": (INCONCLUSIVE._replace(pairs=4), {}),
}


def test_sentences(check_golden: Callable[[str, str], None]) -> None:
    sentences = {
        name: verdict_sentence("adagn", "groupnorm", "frechet_distance", found, 6, diverged)
        for name, (found, diverged) in CASES.items()
    }
    check_golden("verdicts.txt", "".join(f"{name}\n    {text}\n" for name, text in sentences.items()))
    assert all(text.endswith(".") and "adagn" in text for text in sentences.values())
    # Numbers are those of the contrast, as amounts; the rest is wording.
    for number in ("0.0123", "2.1 %", "97.5 %", "0.005", "0.0196", "6 seeds", "0.03125"):
        assert number in sentences["better"]
    for number in ("0.001", "0.17 %", "95 %", "-0.002", "0.004", "0.5", "0.01", "80 %"):
        assert number in sentences["inconclusive"]
    for name in ("two seeds", "remaining seeds", "equally many diverged"):
        diverged = CASES[name][1]
        assert all(f"{count} of 6 runs of {arm}" in sentences[name] for arm, count in diverged.items())


@pytest.mark.parametrize(
    ("verdict", "diverged", "of_baseline", "expected"),
    [
        ("better", 1, 0, "better on the remaining seeds"),
        ("better", 0, 1, "better"),
        ("better", 2, 2, "better"),
        ("worse", 0, 1, "worse on the remaining seeds"),
        ("worse", 1, 0, "worse"),
        ("inconclusive", 3, 0, "inconclusive"),
    ],
)
def test_an_arm_with_more_diverged_runs_is_not_better(
    verdict: str, diverged: int, of_baseline: int, expected: str
) -> None:
    found = FOUND._replace(verdict=verdict)
    assert qualify(found, diverged, of_baseline) == found._replace(verdict=expected)
