"""A learning rate for each arm, chosen by runs with a seed of their own, so that no arm is judged at another's."""

import json
from pathlib import Path
from typing import Any

from ddpm.ablation.trials import Trial, divergence, evaluation_of, sweep_trials
from ddpm.analysis.runs import finite, read_run
from ddpm.manifest import appearing
from ddpm.study import Study


def chosen_rates(study: Study, path: Path) -> dict[str, float]:
    """The best learning rate of each arm by the study's metric; chosen once, and kept in sweep.json.

    Args:
        study: with `learning_rates`; all runs of its sweep are there.
        path: its directory.

    Returns:
        Arm -> learning rate.

    Raises:
        ValueError: if no run of an arm is finite, or none has the metric.
    """
    file = path / "sweep.json"
    if not file.is_file():
        content = _choose(study, path)
        with appearing(file) as stream:
            stream.write((json.dumps(content, indent=2) + "\n").encode())
    return {arm: found["learning_rate"] for arm, found in read_sweep(path).items()}


def read_sweep(path: Path) -> dict[str, dict[str, Any]]:
    """sweep.json: arm -> `learning_rate`, the `figures` of each rate (null: diverged), `at_an_end` of the list."""
    file = path / "sweep.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _choose(study: Study, path: Path) -> dict[str, dict[str, Any]]:
    figures = {(trial.arm, trial.learning_rate): _figure(trial, study) for trial in sweep_trials(study, path)}
    found = {}
    for arm in study.arms:
        of_rate = {rate: figures[arm.name, rate] for rate in study.learning_rates}
        known = {rate: figure for rate, figure in of_rate.items() if figure is not None}
        if not known:
            raise ValueError(f"learning_rates: {arm.name} diverged at every one; name lower ones")
        lower = next(iter(known.values()))["better"] == "lower"
        best = min(known, key=lambda rate: known[rate]["value"] * (1 if lower else -1))
        values = {f"{rate:g}": None if figure is None else figure["value"] for rate, figure in of_rate.items()}
        at_an_end = len(of_rate) > 1 and best in (min(of_rate), max(of_rate))
        found[arm.name] = {"learning_rate": best, "figures": values, "at_an_end": at_an_end}
    return found


def _figure(trial: Trial, study: Study) -> dict[str, Any] | None:
    """The deciding figure of a run; None where it diverged."""
    if divergence(trial.path) is not None:
        return None
    content = evaluation_of(read_run(trial.path, trial.name)).content
    figure = content["figures"][study.metric]
    return figure if finite(figure["value"]) else None
