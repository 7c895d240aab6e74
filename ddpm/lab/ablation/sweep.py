"""Chooses a learning rate for each arm, from runs with a separate seed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm.atomic import write_json
from ddpm.config.study import Study
from ddpm.lab.ablation.trials import (
    Trial,
    evaluation_folder,
    find_study_evaluation,
    is_settled,
    list_sweep_trials,
    read_divergence,
)
from ddpm.lab.comparison.comparison import differing_settings, why_incomparable
from ddpm.lab.comparison.runs import Evaluation, finite, read_run


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
    tried = list_sweep_trials(study, path)
    missing = [trial for trial in tried if not is_settled(trial, study)]
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
    of rates) and `diverged`: whether the arm diverged at every rate. In that case no run of the arm is made.
    """
    file = path / "sweep.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _choose(study: Study, tried: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    evaluated = [(trial, found.content) for trial in tried if (found := _read_evaluation(trial)) is not None]
    _check_comparable(evaluated, study)
    values = {
        (trial.arm, trial.learning_rate): content["metrics"][study.metric]["value"]
        for trial, content in evaluated
        if finite(content["metrics"][study.metric]["value"])
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


def _read_evaluation(trial: Trial) -> Evaluation | None:
    """Return the evaluation of a run; None if the run diverged."""
    return None if read_divergence(trial.path) is not None else find_study_evaluation(read_run(trial.path, trial.name))


def _check_comparable(evaluated: Sequence[tuple[Trial, dict[str, Any]]], study: Study) -> None:
    """Check that the runs can be ranked."""
    for trial, content in evaluated[1:]:
        first, expected = evaluated[0]
        reasons = [*differing_settings(expected, content), why_incomparable(expected, content, study.metric)]
        if reasons[0] is not None:
            raise ValueError(
                f"learning_rates: {first.name} and {trial.name} were evaluated differently, {reasons[0]}; share "
                f"DDPM_CACHE between all machines of the study, and remove {evaluation_folder(trial.path)}"
            )
