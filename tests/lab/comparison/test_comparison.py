"""Which evaluations are compared with which, and by how much they differ."""

import json
import math
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.config.sections import DiffusionConfig
from ddpm.evaluation.estimates import wilson_interval
from ddpm.lab.comparison.comparison import ALSO_NEEDED, compare, difference
from ddpm.lab.comparison.runs import read_runs

SETTINGS = {
    "sampler": "ddim", "steps": 50, "guidance_scale": 1.0, "guidance_interval": None, "batch_size": 100, "seed": 0
}


# ------------------------------------------------------------------------------------------------------- differences


def test_difference_of_symmetric_intervals_is_the_root_of_the_squares(estimate: Callable[..., dict[str, Any]]) -> None:
    found = difference(estimate(20.0, 3.0), estimate(26.0, 4.0))
    assert found == (6.0, pytest.approx(1.0), pytest.approx(11.0), "worse")        # half width sqrt(9 + 16) = 5


def test_difference_of_shares_is_newcombes() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table II, method 10: 56/70 and 48/80 give 0.0524 to 0.3339."""
    first, other = ({**wilson_interval(k, n)._asdict(), "better": "higher"} for k, n in ((48, 80), (56, 70)))
    found = difference(first, other)
    assert found[:3] == (pytest.approx(0.2), pytest.approx(0.0524, abs=6e-5), pytest.approx(0.3339, abs=6e-5))
    assert found.verdict == "better"


def test_intervals_cover_the_difference(estimate: Callable[..., dict[str, Any]]) -> None:
    """95 % of the intervals of two normal metrics with the same mean contain 0."""
    draws = np.random.default_rng(0).normal(size=(4000, 2)) * [1.0, 3.0]
    decided = sum(
        difference(estimate(x, 1.959964 * 1.0), estimate(y, 1.959964 * 3.0)).verdict != "inconclusive" for x, y in draws
    )
    assert abs(decided / 4000 - 0.05) < 4 * sqrt(0.05 * 0.95 / 4000)       # four standard errors of a share


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(("other", "half", "verdict"), [
    (8, 1.0, "falls"), (12, 1.0, "rises"),
    (12, 2.0, "inconclusive"), (10, 1.0, "inconclusive"), (90, None, "inconclusive"),
])
def test_verdicts(
    better: str, other: float, half: float | None, verdict: str, estimate: Callable[..., dict[str, Any]]
) -> None:
    found = difference(estimate(10, 1.0, better), estimate(other, half, better))
    good = {"lower": "falls", "higher": "rises"}[better]
    assert found.verdict == (verdict if verdict == "inconclusive" else "better" if verdict == good else "worse")
    assert found.value == other - 10 and (found.low is None) == (half is None)


@pytest.mark.parametrize("key", ["value", "low", "high"])
@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_are_inconclusive(
    key: str, damage: float, which: int, estimate: Callable[..., dict[str, Any]]
) -> None:
    pair = [estimate(10, 1.0), estimate(20, 1.0)]
    pair[which][key] = damage
    found = difference(*pair)
    assert found.verdict == "inconclusive" and (found.low, found.high) == (None, None)
    assert math.isfinite(found.value) == (key != "value")


def test_swapped_runs_negate_the_difference(estimate: Callable[..., dict[str, Any]]) -> None:
    a, b = estimate(0.2, 0.1, "higher"), {**estimate(0.5, 0.1, "higher"), "low": 0.3}
    there, back = difference(a, b), difference(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


# --------------------------------------------------------------------------------------------- what can be compared


def test_comparison(runs: tuple[Path, Path]) -> None:
    found = compare(read_runs(runs))
    assert [run.name for run in found.runs] == ["a", "b"] and found.notes == []
    assert found.settings == {"model.norm": ["adagn", "groupnorm"], "train.steps": [30, 50]}
    by_name = {row.name: row for row in found.rows}
    assert list(by_name) == ["frechet_distance", "accuracy", "recall", "bits_per_dim", "memorized"]
    verdicts = {name: row.entries[1].difference.verdict for name, row in by_name.items()}
    assert verdicts == {"frechet_distance": "worse", "accuracy": "better", "recall": "inconclusive",
                        "bits_per_dim": "inconclusive", "memorized": "inconclusive"}
    assert by_name["frechet_distance"].real_baseline["value"] == 1.5 and by_name["recall"].real_baseline is None
    assert all(row.entries[0].difference is None for row in found.rows)


CHANGES = [
    ("extractor__name", "inception", ("extractor", "classifier", "inception")),
    ("extractor__digest", "1" * 64, ("extractor.digest", "eeeeeeee", "11111111")),
    ("reference__fingerprint", "0" * 32, ("reference.fingerprint", "ffffffff", "00000000")),
    ("samples__count", 300, ("count", "500", "300")),
    ("samples__guide", "9" * 64, ("guide", "none", "a model")),
    ("samples__settings__steps", 20, ("steps", "50", "20")),
    ("samples__settings__guidance_interval", [0.3, 3], ("guidance_interval", "none", "[0.3, 3]")),
    ("samples__settings__seed", 7, ("seed", "0", "7")),
]


@pytest.mark.parametrize(("key", "value", "named"), CHANGES)
def test_evaluations_that_differ_are_left_out(
    tmp_path: Path,
    key: str,
    value: Any,
    named: tuple[str, ...],
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", steps=50)
    add_evaluation(a)
    add_evaluation(b, **{key: value})
    found = compare(read_runs([a, b]))
    assert found.rows == [] and found.evaluations == {} and found.settings == {"train.steps": [30, 50]}
    (note,) = found.notes
    assert all(word in note for word in (*named, "scripts/evaluate.py"))


def test_a_setting_that_is_missing_is_not_null(
    tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    add_evaluation(a)
    add_evaluation(b, samples__settings={k: v for k, v in SETTINGS.items() if k != "guidance_interval"})
    (note,) = compare(read_runs([a, b])).notes
    assert note.index("guidance_interval") < note.index("none") < note.index("missing")
    (note,) = compare(read_runs([b, a])).notes
    assert note.index("guidance_interval") < note.index("missing") < note.index("none")


def test_only_incomparable_runs_are_left_out(
    tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    a, b, c = (make_run(tmp_path / name) for name in "abc")
    for run in (a, c):
        add_evaluation(run)
    add_evaluation(b, samples__settings__seed=7)
    found = compare(read_runs([a, b, c]))
    assert list(found.evaluations) == ["a", "c"] and all(len(row.entries) == 2 for row in found.rows)
    (note,) = found.notes
    assert "b" in note.split() and "seed" in note
    # The settings that most runs share, not the newest.
    add_evaluation(a, "other", 2e9, samples__settings__seed=7)
    add_evaluation(b, "alike")
    found = compare(read_runs([a, b, c]))
    assert list(found.evaluations) == ["a", "b", "c"]
    (note,) = found.notes
    assert "other" in note.split()


def test_weights_and_batch_size_may_differ(
    tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    add_evaluation(a)
    add_evaluation(b, model__weights="v" * 64, samples__settings__batch_size=7)
    found = compare(read_runs([a, b]))
    assert all(row.entries[1].difference is not None for row in found.rows) and found.settings == {"train.seed": [0, 1]}


NEEDED = {
    "held_out.fingerprint": ("held_out", {"summary": "", "fingerprint": "7" * 32, "count": 9}),
    "classifier.digest": ("classifier__digest", "8" * 64),
    "likelihood_images.count": ("likelihood_images__count", 64),
    "bound_steps": ("bound_steps", 5),
}


@pytest.mark.parametrize("key", NEEDED)
def test_a_metric_that_needs_more_is_withheld_alone(
    tmp_path: Path, key: str, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    add_evaluation(a)
    add_evaluation(b, **dict([NEEDED[key]]))
    found = compare(read_runs([a, b]))
    withheld = {row.name for row in found.rows if row.entries[1].difference is None}
    assert withheld == {name for name, needs in ALSO_NEEDED.items() if key in needs} & {row.name for row in found.rows}
    assert {note.split(":")[0] for note in found.notes} == withheld and all(key in note for note in found.notes)


def test_denoising_errors_are_compared_at_equal_sigmas(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    estimate: Callable[..., dict[str, Any]],
) -> None:
    a, b, c = (make_run(tmp_path / name) for name in "abc")
    points = [{"sigma": x, "x_0_error": 0.1, "standard_error": 0.01, "eps_error": 0.1} for x in (0.02, 3.0)]
    metrics = {"denoising_error": estimate(0.1, 0.01), "accuracy": estimate(0.8, 0.03, "higher")}
    for run, levels in ((a, {}), (b, {}), (c, {"denoising": points})):
        add_evaluation(run, metrics=metrics, **levels)
    found = compare(read_runs([a, b, c]))
    error, accuracy = found.rows
    assert [entry.difference is None for entry in error.entries] == [True, False, True]
    assert [entry.difference is None for entry in accuracy.entries] == [True, False, False]
    (note,) = found.notes
    assert all(word in note for word in ("denoising_error", "a and c", "0.01, 0.1, 1, 10", "0.02, 3"))


def test_the_newest_shared_evaluation_is_taken(
    tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    add_evaluation(a, "old", 1e9)
    add_evaluation(a, "new", 2e9, samples__settings__steps=20)
    add_evaluation(a, "alone", 3e9, samples__settings__steps=10)
    add_evaluation(b, "old", 1e9)
    add_evaluation(b, "older", 0.5e9)
    add_evaluation(b, "new", 1.5e9, samples__settings__steps=20)
    found = compare(read_runs([a, b]))
    assert [e.folder.name for e in found.evaluations.values()] == ["new", "new"]
    (note,) = found.notes
    assert "old" in note.split()


def test_a_metric_that_one_run_lacks(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    estimate: Callable[..., dict[str, Any]],
) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    add_evaluation(a, metrics={"accuracy": estimate(0.5, 0.1, "higher")})
    add_evaluation(b, metrics={"recall": estimate(0.5, 0.1, "higher", 0.9)})
    found = compare(read_runs([a, b]))
    assert [row.name for row in found.rows] == ["accuracy", "recall"]
    assert all(entry.difference is None for row in found.rows for entry in row.entries)


def test_a_run_without_evaluation_is_compared_by_the_rest(
    runs: tuple[Path, Path], tmp_path: Path, make_run: Callable[..., Path], monitor: Callable[..., None]
) -> None:
    c = make_run(tmp_path / "c", steps=10, diffusion=DiffusionConfig(prediction="eps"))
    found = compare(read_runs([c, *runs]))
    assert list(found.evaluations) == ["a", "b"]
    assert any(f"scripts/evaluate.py {c}" in note for note in found.notes)
    # Its loss is another quantity.
    assert any(note.startswith("a:") and "diffusion.prediction" in note for note in found.notes)


def test_changes_during_training_are_told(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    a, b = make_run(tmp_path / "a", steps=10), make_run(tmp_path / "b", steps=10)
    changes = [
        {"step": 400, "option": "train.batch_size", "old": 64, "new": 32},
        {"step": 400, "option": "train.log_every", "old": 1, "new": 2},
    ]
    (b / "run.json").write_text(json.dumps(json.loads((b / "run.json").read_text()) | {"changes": changes}))
    notes = [note for note in compare(read_runs([a, b])).notes if "changed during training" in note]
    assert len(notes) == 1 and notes[0].startswith("b: ") and notes[0].endswith("train.batch_size 64 to 32 at step 400")


def notes_on_curves(*runs: Path) -> list[set[str]]:
    """Return the words of each note except those about missing evaluations."""
    return [{*note.split()} for note in compare(read_runs(runs)).notes if "scripts/evaluate.py" not in note]


def test_curves_of_other_settings_are_noted(
    tmp_path: Path, make_run: Callable[..., Path], monitor: Callable[..., None]
) -> None:
    a, b, c = (make_run(tmp_path / name) for name in "abc")
    assert notes_on_curves(a, b, c) == []
    monitor(a, "aa11", "aa11")
    monitor(b, "aa11")
    assert notes_on_curves(a, b, c) == []
    monitor(c, "bb22")
    (words,) = notes_on_curves(a, b, c)
    assert {"a", "c", "settings"} <= words and "b" not in words


def test_an_evaluation_of_earlier_weights_is_noted(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    add_checkpoint: Callable[..., Path],
) -> None:
    run = make_run(tmp_path / "a")
    add_evaluation(run)
    add_checkpoint(run, 10, "w" * 64)
    newest = add_checkpoint(run, 30, "x" * 64)
    (note,) = compare(read_runs([run])).notes
    assert note.startswith("a:") and "ddim50-classifier" in note
    (newest / "MANIFEST.json").write_text(json.dumps({"unet/model.safetensors": "w" * 64}))
    assert compare(read_runs([run])).notes == []
    (newest / "MANIFEST.json").write_text("{")              # the one before is what would be evaluated
    assert compare(read_runs([run])).notes == []


@pytest.mark.parametrize("order", [(1e9, 2e9, 3e9), (3e9, 2e9, 1e9), (2e9, 2e9, 2e9)])
def test_the_newest_weights_are_taken_whatever_the_times(
    tmp_path: Path,
    order: Sequence[float],
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    add_checkpoint: Callable[..., Path],
) -> None:
    """Copying a run directory changes the times of its files."""
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for run in (a, b):
        add_checkpoint(run, 10, "o" * 64)
        add_checkpoint(run, 30, "n" * 64)
        for name, weights, written in zip(("early", "last", "zbest"), "onb", order, strict=True):
            add_evaluation(run, name, written, model__weights=weights * 64)
    found = compare(read_runs([a, b]))
    assert [e.folder.name for e in found.evaluations.values()] == ["last", "last"] and found.notes == []


@pytest.mark.parametrize("order", [(1e9, 2e9), (2e9, 1e9)])
def test_settings_of_the_newest_weights_are_preferred(
    tmp_path: Path,
    order: Sequence[float],
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    add_checkpoint: Callable[..., Path],
) -> None:
    a = make_run(tmp_path / "a")
    add_checkpoint(a, 30, "n" * 64)
    add_evaluation(a, "early", order[0], samples__settings__seed=3)
    add_evaluation(a, "last", order[1], model__weights="n" * 64)
    assert compare(read_runs([a])).evaluations["a"].folder.name == "last"
