import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddpm.config.study import Study
from ddpm.lab.ablation.outcome import Outcome, outcome_json, read_outcome
from ddpm.lab.ablation.planned_runs import (
    PlannedRun,
    evaluate_command,
    is_finished,
    list_planned_runs,
    record_divergence,
    sampling_settings,
)
from ddpm.lab.ablation.registration import register
from ddpm.lab.ablation.statistics import Measured, contrast
from ddpm.lab.ablation.study_page import render_study
from ddpm.lab.ablation.study_report import format_study

pytestmark = pytest.mark.usefixtures("read_once")

Estimates = Callable[[PlannedRun], dict[str, float] | None]


def accuracy_of(planned: PlannedRun) -> dict[str, float]:
    values = {"plain": 0.8, "again": 0.81, "decayed": 0.5}
    accuracy = values[planned.arm] + 0.01 * planned.seed + 0.001 * (planned.seed == 1) * (planned.arm == "again")
    return {"accuracy": accuracy, "frechet_distance": 2 * accuracy}


@pytest.fixture
def finished(
    tmp_path: Path, study: Callable[..., Study], made: tuple[Callable[..., None], Callable[..., Path]]
) -> Callable[..., Study]:
    """Return a function that makes a study of runs with given metrics; None leaves a run without an evaluation."""

    def make(
        metrics: Estimates = accuracy_of,
        classifier: Callable[[PlannedRun], str] = lambda planned: "j" * 64,
        **changes: Any,
    ) -> Study:
        made_of = study(**changes)
        register(made_of, {}, SimpleNamespace(summary=lambda: "images", fingerprint="d" * 8), tmp_path)
        for planned in list_planned_runs(made_of, tmp_path, {}):
            made[0](planned.config, planned.path)
            values = metrics(planned)
            if values is not None:
                settings = sampling_settings(made_of, planned.config)
                made[1](evaluate_command(made_of, planned.path), settings, values, classifier(planned))
        return made_of

    return make


def noted(outcome: Outcome, *words: str) -> bool:
    return any(all(word in note for word in words) for note in outcome.notes)


def test_runs_are_paired_by_seed(tmp_path: Path, finished: Callable[..., Study]) -> None:
    outcome = read_outcome(tmp_path, finished())
    error = 0.0196 / 1.959964
    plain, again = ([Measured(v, error) for v in values] for values in ((0.8, 0.81, 0.82), (0.81, 0.821, 0.83)))
    expected = contrast(plain, again, "higher", level=0.975)
    found = outcome.deciding["again"]
    assert found[:3] == pytest.approx(expected[:3], rel=1e-6) and found.verdict == expected.verdict
    assert (found.p_value, found.level, found.pairs) == (expected.p_value, expected.level, 3)
    assert outcome.exploratory["frechet_distance"]["decayed"].verdict == "better"       # lower is better there
    assert outcome.deciding["decayed"].verdict == "worse" and outcome.deciding["decayed"].level == 0.975
    assert outcome.better == {"accuracy": "higher", "frechet_distance": "lower"}
    assert outcome.means["accuracy"]["plain"] == pytest.approx({"mean": 0.81, "standard_deviation": 0.01})
    assert [run.measured.value for run in outcome.runs["decayed"]] == pytest.approx([0.5, 0.51, 0.52])
    assert list(outcome.runs) == ["plain", "again", "decayed"] and len(outcome.verdicts) == 2
    (note,) = outcome.notes
    assert "timed" in note and "scripts/ablate.py" in note


def test_commands_and_hashes_of_every_run(
    tmp_path: Path, finished: Callable[..., Study], read_page: Callable[[str], Any]
) -> None:
    page = read_page(render_study(read_outcome(tmp_path, finished())))
    heads, *rows = next(rows for rows in page.tables if "weights" in rows[0])
    runs = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [(run["arm"], run["seed"]) for run in runs][:4] == [
        ("plain", "0"), ("plain", "1"), ("plain", "2"), ("again", "0")
    ]
    for run in runs:
        folder = tmp_path.parent / run["evaluation"]
        content = json.loads((folder / "evaluation.json").read_text())
        assert content["model"]["weights"] == run["weights"] and run["data"] == "d" * 8
        assert run["commit"] == "c0ffee" and run["versions"] == "torch 2"
        config = folder.parents[1] / "config.yaml"
        assert str(config.relative_to(tmp_path.parent)) in run["command"]
    assert len({run["weights"] for run in runs}) == 9


def test_the_record_is_plain_json_without_absolute_paths(tmp_path: Path, finished: Callable[..., Study]) -> None:
    outcome = read_outcome(tmp_path, finished())
    content = outcome_json(outcome)
    text = json.dumps(content, allow_nan=False)
    assert str(tmp_path) not in text and str(tmp_path) not in render_study(outcome)
    assert content["deciding"]["decayed"]["pairs"] == 3 and content["runs"]["again"][1]["weights"]
    assert content["runs"]["again"][1]["metrics"]["accuracy"] == pytest.approx(0.821)


def test_runs_of_another_classifier_or_other_data_are_left_out_and_named(
    tmp_path: Path, finished: Callable[..., Study]
) -> None:
    study = finished(classifier=lambda planned: ("k" if planned.arm == "again" else "j") * 64)
    facts = tmp_path / "decayed" / "seed_1" / "run.json"
    content = json.loads(facts.read_text())
    facts.write_text(json.dumps(content | {"data": {"summary": "others", "fingerprint": "e" * 8}}))
    outcome = read_outcome(tmp_path, study)
    assert outcome.deciding["again"].pairs == 0 and outcome.deciding["again"].value is None
    assert outcome.deciding["again"].verdict == "no metrics" and "again" not in outcome.means["accuracy"]
    assert outcome.deciding["decayed"].pairs == 2
    assert noted(outcome, "again", "seed 0", "extractor.digest", "jjjjjjjj", "kkkkkkkk", "DDPM_CACHE")
    assert noted(outcome, "decayed", "seed 1", "dddddddd", "eeeeeeee")
    assert noted(outcome, "decayed", "plain", "seed 1", "pair")


def test_metrics_that_are_not_finite_count_as_diverged(tmp_path: Path, finished: Callable[..., Study]) -> None:
    def metrics(planned: PlannedRun) -> dict[str, float]:
        broken = {"accuracy": float("nan")} if (planned.arm, planned.seed) == ("again", 2) else {}
        other = {"frechet_distance": float("inf")} if (planned.arm, planned.seed) == ("again", 0) else {}
        return accuracy_of(planned) | broken | other

    outcome = read_outcome(tmp_path, finished(metrics))
    assert "nan" in outcome.runs["again"][2].diverged and outcome.runs["again"][2].measured is None
    assert outcome.deciding["again"].pairs == 2 and "1 of 3 runs of again" in outcome.verdicts[0]
    assert noted(outcome, "frechet_distance", "again", "seed 0", "finite")
    assert outcome.exploratory["frechet_distance"]["again"].pairs == 2
    json.dumps(outcome_json(outcome), allow_nan=False)


def test_a_diverged_run_counts_in_spite_of_its_evaluation(tmp_path: Path, finished: Callable[..., Study]) -> None:
    study = finished()
    record_divergence(tmp_path / "plain" / "seed_0", 7, "not finite at step 7")
    outcome = read_outcome(tmp_path, study)
    assert outcome.runs["plain"][0].diverged == "not finite at step 7"
    assert outcome.deciding["again"].pairs == outcome.deciding["decayed"].pairs == 2
    assert all("1 of 3 runs of plain" in verdict for verdict in outcome.verdicts)
    assert noted(outcome, "plain, seed 0", "not finite at step 7")


def test_an_arm_with_more_diverged_runs_is_not_called_better(tmp_path: Path, finished: Callable[..., Study]) -> None:
    study = finished(seeds=(0, 1, 2, 3))
    record_divergence(tmp_path / "decayed" / "seed_3", 7, "not finite at step 7")
    outcome = read_outcome(tmp_path, study)
    assert outcome.deciding["decayed"].verdict == "worse"
    assert outcome.verdicts[1].startswith("1 of 4 runs of decayed") and "3 seeds" in outcome.verdicts[1]
    assert outcome.exploratory["frechet_distance"]["decayed"].verdict == "better on the remaining seeds"


def test_all_runs_of_an_arm_may_diverge(tmp_path: Path, finished: Callable[..., Study]) -> None:
    study = finished()
    for arm in ("plain", "again", "decayed"):
        for seed in (0, 1, 2):
            record_divergence(tmp_path / arm / f"seed_{seed}", None, "not finite")
    outcome = read_outcome(tmp_path, study)
    assert not outcome.means and outcome.deciding["again"].pairs == 0
    assert all(f"3 of 3 runs of {arm}" in outcome.verdicts[0] for arm in ("again", "plain"))
    assert format_study(outcome)


def test_an_unfinished_study_can_be_read(tmp_path: Path, finished: Callable[..., Study]) -> None:
    study = finished(lambda planned: accuracy_of(planned) if planned.seed < 2 else None)
    (tmp_path / "again" / "seed_2" / "run.json").unlink()
    outcome = read_outcome(tmp_path, study)
    assert {c.verdict for c in outcome.deciding.values()} == {"too few seeds"}
    assert noted(outcome, "again, seed 2") and noted(outcome, "decayed, seed 2", "evaluated")


@pytest.mark.parametrize(("held_out", "trained_on", "noted_down"), [
    (True, True, False), (False, True, True), (False, False, False), (False, None, False),
])
def test_a_note_says_that_the_denoiser_was_measured_on_training_images(
    tmp_path: Path, finished: Callable[..., Study], held_out: bool, trained_on: bool | None, noted_down: bool
) -> None:
    study = finished(lambda planned: {"denoising_error": 0.2 + 0.01 * planned.seed}, metric="denoising_error")
    for file in tmp_path.glob("*/*/evaluations/*/evaluation.json"):
        content = json.loads(file.read_text())
        content["likelihood_images"] = {"count": 50, "held_out": held_out}
        content["reference"]["trained_on"] = trained_on
        file.write_text(json.dumps(content))
    assert noted(read_outcome(tmp_path, study), "evaluation.held_out_split") == noted_down


def test_other_evaluations_of_a_run_are_ignored(
    tmp_path: Path, finished: Callable[..., Study], made: Any
) -> None:
    study = finished()
    planned = list_planned_runs(study, tmp_path, {})[0]
    ours = evaluate_command(study, planned.path)
    others = dataclasses.replace(ours, out=planned.path / "evaluations" / "mine", held_out_split="train[:10]")
    made[1](others, sampling_settings(study, planned.config), {"accuracy": 1.0})        # the latest of these weights
    before = read_outcome(tmp_path, study).runs["plain"][0]
    assert before.evaluation.folder == ours.out and before.measured.value == pytest.approx(0.8)
    (ours.out / "evaluation.json").unlink()
    assert read_outcome(tmp_path, study).runs["plain"][0].evaluation is None
    assert not is_finished(planned, study)


def test_an_evaluation_of_other_weights_is_ignored(tmp_path: Path, finished: Callable[..., Study]) -> None:
    study = finished()
    planned = list_planned_runs(study, tmp_path, {})[0]
    assert is_finished(planned, study)
    file = evaluate_command(study, planned.path).out / "evaluation.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"model": {"weights": "0" * 64}}))
    assert read_outcome(tmp_path, study).runs["plain"][0].evaluation is None and not is_finished(planned, study)


def test_the_table_has_every_arm_and_note(tmp_path: Path, finished: Callable[..., Study]) -> None:
    lines = format_study(read_outcome(tmp_path, finished())).splitlines()
    assert lines[0] == "Is there anything?"
    assert [line.split()[0] for line in lines if line[:5] in ("plain", "again", "decay")][-3:] == [
        "plain", "again", "decayed"
    ]
    assert lines[-1].startswith("note: ")
    row = next(line for line in lines if line.startswith("decayed  ") or line.startswith("decayed   "))
    assert row.split()[1:3] == ["10", "20"] and row.split()[-1] == "worse" and np.isclose(float(row.split()[3]), 0.51)
