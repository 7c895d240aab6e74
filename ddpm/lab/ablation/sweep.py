"""Chooses a learning rate for each arm, from runs with a separate seed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm.atomic import write_json
from ddpm.config.study import Study
from ddpm.lab.ablation.planned_runs import (
    PlannedRun,
    evaluation_folder,
    find_study_evaluation,
    is_finished,
    list_sweep_runs,
    read_divergence,
)
from ddpm.lab.comparison.comparison import differing_settings, why_incomparable
from ddpm.lab.comparison.runs import Evaluation, is_finite, read_run


def choose_rates(study: Study, path: Path) -> dict[str, float]:
    """Choose the best learning rate of each arm by the study's metric; the choice is kept in sweep.json.

    Args:
        study: a study with `learning_rates`.
        path: directory of the study.

    Returns:
        The learning rate of each arm.

    Raises:
        ValueError: if runs of the sweep are missing, or were evaluated with different settings.
    """
    tried = list_sweep_runs(study, path)
    missing = [planned for planned in tried if not is_finished(planned, study)]
    if missing:
        raise ValueError(
            f"learning_rates: {len(missing)} of {len(tried)} runs of the sweep are missing; run this command again "
            "when the other shards are finished"
        )
    if not (path / "sweep.json").is_file():
        write_json(path / "sweep.json", _choose(study, tried))
    return {arm: found["learning_rate"] for arm, found in read_sweep(path).items()}


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """Read sweep.json; empty if there is none.

    For each arm it has `learning_rate`, the `metrics` of each rate (null if the run diverged), `at_an_end` (of the list
    of rates) and `diverged`: whether the arm diverged at every rate. In that case the arm is not trained.
    """
    file = path / "sweep.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _choose(study: Study, tried: Sequence[PlannedRun]) -> dict[str, dict[str, Any]]:
    evaluated = [(planned, found.content) for planned in tried if (found := _read_evaluation(planned)) is not None]
    _check_comparable(evaluated, study)
    values = {
        (planned.arm, planned.learning_rate): content["metrics"][study.metric]["value"]
        for planned, content in evaluated
        if is_finite(content["metrics"][study.metric]["value"])
    }
    lower = any(content["metrics"][study.metric]["better"] == "lower" for _, content in evaluated)
    chosen = {}
    for arm in study.arms:
        known = {rate: values[arm.name, rate] for rate in study.learning_rates if (arm.name, rate) in values}
        best = (min if lower else max)(known, key=known.__getitem__, default=min(study.learning_rates))
        chosen[arm.name] = {
            "learning_rate": best,
            "metrics": {f"{rate:g}": known.get(rate) for rate in study.learning_rates},
            "at_an_end": bool(known) and best in (min(study.learning_rates), max(study.learning_rates)),
            "diverged": not known,
        }
    return chosen


def _read_evaluation(planned: PlannedRun) -> Evaluation | None:
    """Return the evaluation of a run; None if the run diverged."""
    if read_divergence(planned.path) is not None:
        return None
    return find_study_evaluation(read_run(planned.path, planned.name))


def _check_comparable(evaluated: Sequence[tuple[PlannedRun, dict[str, Any]]], study: Study) -> None:
    """Check that the runs can be ranked."""
    for planned, content in evaluated[1:]:
        first, expected = evaluated[0]
        reasons = [*differing_settings(expected, content), why_incomparable(expected, content, study.metric)]
        if reasons[0] is not None:
            raise ValueError(
                f"learning_rates: {first.name} and {planned.name} were evaluated differently ({reasons[0]}); share "
                f"DDPM_CACHE between all machines of the study, and remove {evaluation_folder(planned.path)}"
            )
