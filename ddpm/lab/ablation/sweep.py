"""Chooses a learning rate for each arm, from runs with a separate seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm.atomic import write_json
from ddpm.config.study import Study
from ddpm.lab.ablation.trials import Trial, evaluation_folder, find_study_evaluation, list_sweep_trials, read_divergence
from ddpm.lab.comparison.comparison import comparison_key, shorten, why_incomparable
from ddpm.lab.comparison.runs import Evaluation, finite, read_run


def choose_rates(study: Study, path: Path) -> dict[str, float]:
    """Choose the best learning rate of each arm by the study's metric; the choice is kept in sweep.json.

    Args:
        study: a study with `learning_rates`; all runs of its sweep are finished.
        path: directory of the study.

    Returns:
        The learning rate of each arm.

    Raises:
        ValueError: if runs of the sweep were evaluated with different settings.
    """
    file = path / "sweep.json"
    if not file.is_file():
        write_json(file, _choose(study, path))
    return {arm: found["learning_rate"] for arm, found in read_sweep(path).items()}


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """Read sweep.json; empty if there is none.

    For each arm it has `learning_rate`, the `metrics` of each rate (null if the run diverged), `at_an_end` (of the list
    of rates) and `diverged`: whether the arm diverged at every rate. In that case no run of the arm is made.
    """
    file = path / "sweep.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _choose(study: Study, path: Path) -> dict[str, dict[str, Any]]:
    tried = list_sweep_trials(study, path)
    contents = {t.path: found.content for t in tried if (found := _evaluation(t)) is not None}
    _check_comparable([(t, contents[t.path]) for t in tried if t.path in contents], study)
    metrics = {(trial.arm, trial.learning_rate): _metric(contents.get(trial.path), study) for trial in tried}
    found = {}
    for arm in study.arms:
        of_rate = {rate: metrics[arm.name, rate] for rate in study.learning_rates}
        known = {rate: metric for rate, metric in of_rate.items() if metric is not None}
        best = _best(known) if known else min(of_rate)
        values = {f"{rate:g}": None if metric is None else metric["value"] for rate, metric in of_rate.items()}
        at_an_end = bool(known) and best in (min(of_rate), max(of_rate))
        chosen = {"learning_rate": best, "metrics": values, "at_an_end": at_an_end, "diverged": not known}
        found[arm.name] = chosen
    return found


def _best(known: Mapping[float, dict[str, Any]]) -> float:
    lower = next(iter(known.values()))["better"] == "lower"
    return min(known, key=lambda rate: known[rate]["value"] * (1 if lower else -1))


def _check_comparable(evaluated: Sequence[tuple[Trial, dict[str, Any]]], study: Study) -> None:
    """Check that the runs can be ranked."""
    for trial, content in evaluated[1:]:
        first, expected = evaluated[0]
        a, b = comparison_key(expected), comparison_key(content)
        different = [f"{k} is {shorten(a.get(k))} and {shorten(b.get(k))}" for k in {**a, **b} if a.get(k) != b.get(k)]
        reason = different[0] if different else why_incomparable(expected, content, study.metric)
        if reason is not None:
            raise ValueError(
                f"learning_rates: {first.name} and {trial.name} were evaluated differently, {reason}; share DDPM_CACHE "
                f"between all machines of the study, and remove {evaluation_folder(trial.path)}"
            )


def _evaluation(trial: Trial) -> Evaluation | None:
    return None if read_divergence(trial.path) is not None else find_study_evaluation(read_run(trial.path, trial.name))


def _metric(content: dict[str, Any] | None, study: Study) -> dict[str, Any] | None:
    """Return the primary metric of a run; None if the run diverged."""
    metric = None if content is None else content["metrics"][study.metric]
    return metric if metric is not None and finite(metric["value"]) else None
