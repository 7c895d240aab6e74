"""Metrics react to damage as expected: real digits, damaged by tests/benchmarks/evaluation.py."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLASSES_KEPT = ("none", "8 of 10 classes only", "5 of 10 classes only", "2 of 10 classes only")
BLUR = ("none", "blur 0.4 pixels", "blur 0.7 pixels", "blur 1 pixels")
NOISE = ("none", "noise 10 levels", "noise 25 levels", "noise 60 levels")
COPIES = ("none", *(f"{share}% copies of training images" for share in (10, 50, 100)))
REPEATS = ("none", "50% of the images, repeated", "5% of the images, repeated")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Run the benchmark and return its metrics by kind of damage."""
    out = tmp_path_factory.mktemp("damage")
    script = ROOT / "tests" / "benchmarks" / "evaluation.py"
    subprocess.run([sys.executable, str(script), "digits", "--out", str(out)], cwd=ROOT, check=True, timeout=1800)
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    return {name: {key: metric["value"] for key, metric in metrics.items()} for name, metrics in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("damages", "metric", "rises"), [
    *[(damages, "frechet_distance", True) for damages in (BLUR, NOISE, CLASSES_KEPT, REPEATS)],
    *[(damages, "kernel_distance", True) for damages in (BLUR, NOISE, CLASSES_KEPT, REPEATS)],
    *[(damages, "precision", False) for damages in (BLUR, NOISE)],
    *[(damages, "density", False) for damages in (BLUR, NOISE)],
    *[(damages, "recall", False) for damages in (CLASSES_KEPT, REPEATS)],
    *[(damages, "coverage", False) for damages in (BLUR, NOISE, CLASSES_KEPT, REPEATS)],
    (CLASSES_KEPT, "inception_score", False),
    (BLUR, "accuracy", False),
    (NOISE, "accuracy", False),
    (COPIES, "memorized", True),
    (COPIES, "frechet_distance", False),
], ids=lambda x: x[1] if isinstance(x, tuple) else str(x))
def test_more_damage_is_a_worse_metric(damages: tuple[str, ...], metric: str, rises: bool, damaged: dict) -> None:
    values = [damaged[name][metric] for name in damages]
    for less, more in pairwise(values):
        # Shares of 900 images move by chance; where nothing is left they stay at 0.
        slack = 0.002 if metric in ("accuracy", "coverage", "precision", "recall", "memorized") else 0
        assert (more > less - slack) if rises else (more < less + slack), values
    assert (values[-1] > values[0]) == rises and values[-1] != values[0]


@pytest.mark.slow
def test_swapped_classes_show_in_accuracy_only(damaged: dict) -> None:
    for share in (10, 50):
        swapped, real = damaged[f"{share}% of the classes swapped"], damaged["none"]
        assert swapped["accuracy"] == pytest.approx(real["accuracy"] * (1 - share / 100), abs=0.02)
        assert {key for key in real if swapped[key] != real[key]} == {"accuracy"}


@pytest.mark.slow
def test_real_images_are_not_memorized(damaged: dict) -> None:
    assert damaged["none"]["memorized"] < 0.025         # 1 % is expected, of 898 images
    assert damaged["100% copies of training images"]["memorized"] > 0.99
