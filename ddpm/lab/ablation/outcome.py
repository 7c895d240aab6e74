"""Reads the runs of a study and compares its arms; notes say which runs are left out, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.sections import differences
from ddpm.config.study import STUDY_METRICS, Study
from ddpm.config.yaml_files import read_config
from ddpm.evaluation.denoiser import SCORES, image_scores
from ddpm.evaluation.estimates import Z
from ddpm.lab.ablation.registration import read_registration
from ddpm.lab.ablation.run_provenance import provenance
from ddpm.lab.ablation.statistics import Contrast, Measured, bonferroni_level, contrast
from ddpm.lab.ablation.sweep import read_sweep
from ddpm.lab.ablation.timing import read_timing
from ddpm.lab.ablation.trials import Trial, find_study_evaluation, list_trials, read_divergence
from ddpm.lab.ablation.verdicts import qualify, verdict_sentence
from ddpm.lab.comparison.comparison import comparison_key, shorten, why_incomparable
from ddpm.lab.comparison.runs import Evaluation, Run, finite, read_run

CONFIDENCE = 0.95

ByArmAndSeed = dict[str, dict[int, Measured]]       # a metric by arm and seed


@dataclass(frozen=True)
class RunOutcome:
    """One run of a study.

    Attributes:
        arm: name of its arm.
        seed: seed in the study.
        path: its run directory.
        run: the run; None if it does not exist yet.
        evaluation: the study's evaluation; None if it does not exist or cannot be compared with the others.
        diverged: how the run diverged; None if it did not.
        measured: the primary metric; None if there is none.
    """

    arm: str
    seed: int
    path: Path
    run: Run | None
    evaluation: Evaluation | None
    diverged: str | None
    measured: Measured | None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a study.

    Attributes:
        study: the study.
        path: its directory.
        registered: content of study.json.
        runs: runs of each arm in the order of the seeds.
        primary: contrast of each arm with the baseline in the primary metric; the intervals hold jointly.
        exploratory: contrasts of each arm in each other metric, at 95 % without correction for multiple comparisons.
        better: "lower" or "higher" for each metric.
        means: mean over seeds and standard deviation (None for one seed) by metric and arm.
        step_seconds: measured seconds per training step of each arm; empty if not measured.
        verdicts: a sentence for every arm but the baseline.
        notes: sentences about everything that limits the conclusions.
        provenance: arm, seed, command, git_commit, versions, data, weights and evaluation of every existing run.
    """

    study: Study
    path: Path
    registered: dict[str, Any]
    runs: dict[str, list[RunOutcome]]
    primary: dict[str, Contrast]
    exploratory: dict[str, dict[str, Contrast]]
    better: dict[str, str]
    means: dict[str, dict[str, tuple[float, float | None]]]
    step_seconds: dict[str, list[float]]
    verdicts: list[str]
    notes: list[str]
    provenance: list[dict[str, str]]


def read_outcome(path: Path, study: Study) -> Outcome:
    """Read the runs of a study, and compare its arms with the first.

    Args:
        path: directory of the study.
        study: the study.

    Raises:
        ValueError: if the directory contains no study or a damaged file, or no run has the primary metric.
    """
    facts = read_registration(path)
    sweep = read_sweep(path)
    rates = {arm: found["learning_rate"] for arm, found in sweep.items()}
    notes = [
        f"{arm}: the best learning rate, {found['learning_rate']:g}, is at an end of the list; a better one may lie "
        "beyond it"
        for arm, found in sweep.items()
        if found["at_an_end"]
    ]
    read = [_read(trial) for trial in list_trials(study, path, rates)]
    notes += [
        f"{run.arm}, seed {run.seed}, is not evaluated yet"
        for run in read
        if run.run is not None and run.evaluation is None and run.diverged is None
    ]
    reference = next((run.evaluation.content for run in read if run.evaluation is not None), None)
    read = [_comparable(run, reference, facts, notes) for run in read]
    contents = [run.evaluation.content for run in read if run.evaluation is not None]
    better = {name: metric["better"] for content in contents for name, metric in content["metrics"].items()}
    if contents and study.metric not in better:
        known = ", ".join(better) or "none"
        raise ValueError(f"metric: no run of {path} has {study.metric}; choose one of {known}")
    metrics = {name: _metrics(name, read, study, reference, notes) for name in better}
    primary_values = metrics.get(study.metric, {})
    decided = [_with_primary_metric(run, study, primary_values) for run in read]
    runs = {arm.name: [run for run in decided if run.arm == arm.name] for arm in study.arms}
    notes += _missing(runs) + _trained_on(runs, study.metric)
    baseline, others = study.baseline.name, [arm.name for arm in study.arms[1:]]
    level = bonferroni_level(CONFIDENCE, len(others))
    diverged = {arm: sum(run.diverged is not None for run in of_arm) for arm, of_arm in runs.items()}

    def compare_arms(name: str, values: ByArmAndSeed, level: float) -> dict[str, Contrast]:
        found = {arm: _contrast(arm, baseline, values, better.get(name, "lower"), level) for arm in others}
        return {arm: qualify(one, diverged[arm], diverged[baseline]) for arm, one in found.items()}

    primary = compare_arms(study.metric, primary_values, level)
    exploratory = {
        name: compare_arms(name, values, CONFIDENCE) for name, values in metrics.items() if name != study.metric
    }
    notes += _unpaired(study.metric, primary_values, baseline)
    verdicts = [
        verdict_sentence(arm, baseline, study.metric, primary[arm], len(study.seeds), diverged) for arm in others
    ]
    timing = read_timing(path)
    if timing is None:
        notes.append("the training steps were not timed; run scripts/ablate.py on this directory again")
    notes += _unlike_code(read)
    return Outcome(
        study=study,
        path=path,
        registered=facts,
        runs=runs,
        primary=primary,
        exploratory=exploratory,
        better=better,
        means={name: _means(of_arms) for name, of_arms in metrics.items()},
        step_seconds={} if timing is None else timing["seconds"],
        verdicts=verdicts,
        notes=notes,
        provenance=[
            {"arm": run.arm, "seed": str(run.seed), **provenance(path, run.path, run.run, run.evaluation)}
            for of_arm in runs.values()
            for run in of_arm
            if run.run is not None
        ],
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return the statistics as JSON data that depends only on the runs."""
    study = outcome.study
    return {
        "question": study.question,
        "digest": outcome.registered["digest"],
        "metric": study.metric,
        "better": outcome.better,
        "baseline": study.baseline.name,
        "verdicts": outcome.verdicts,
        "notes": outcome.notes,
        "primary": {arm: found._asdict() for arm, found in outcome.primary.items()},
        "exploratory": {
            name: {arm: found._asdict() for arm, found in of_arms.items()}
            for name, of_arms in outcome.exploratory.items()
        },
        "means": {
            name: {arm: {"mean": mean, "standard_deviation": sd} for arm, (mean, sd) in of_arms.items()}
            for name, of_arms in outcome.means.items()
        },
        "runs": {arm: [_run_json(run) for run in runs] for arm, runs in outcome.runs.items()},
    }


def _run_json(run: RunOutcome) -> dict[str, Any]:
    metrics = {} if run.evaluation is None else run.evaluation.content["metrics"]
    return {
        "seed": run.seed,
        "diverged": run.diverged,
        "weights": None if run.evaluation is None else run.evaluation.weights,
        "metrics": {name: metric["value"] for name, metric in metrics.items() if finite(metric["value"])},
    }


def _read(trial: Trial) -> RunOutcome:
    diverged = read_divergence(trial.path)
    if not (trial.path / "run.json").is_file():
        return RunOutcome(trial.arm, trial.seed, trial.path, None, None, diverged, None)
    different = differences(read_config(trial.path / "config.yaml"), trial.config)
    if different:
        listed = ", ".join(f"{key} ({old} there, {new} in the study)" for key, (old, new) in different.items())
        raise ValueError(f"{trial.path}: contains a run with other settings: {listed}; remove it, or restore the study")
    run = read_run(trial.path, trial.name)
    evaluation = None if diverged is not None else find_study_evaluation(run)
    return RunOutcome(trial.arm, trial.seed, trial.path, run, evaluation, diverged, None)


def _comparable(
    run: RunOutcome, reference: dict[str, Any] | None, facts: dict[str, Any], notes: list[str]
) -> RunOutcome:
    """Return the run, without its evaluation (and with a note) if that has other data or another classifier."""
    if run.run is None or run.evaluation is None:
        return run
    pairs = {"data": (facts["data"]["fingerprint"], run.run.facts["data"]["fingerprint"])}
    first, own = comparison_key(reference), comparison_key(run.evaluation.content)
    pairs |= {key: (first.get(key), own.get(key)) for key in {**first, **own}}
    different = [f"{key} is {shorten(b)} instead of {shorten(a)}" for key, (a, b) in pairs.items() if a != b]
    if not different:
        return run
    notes.append(
        f"{run.arm}, seed {run.seed}, is left out because it was evaluated differently: {', '.join(different)}; share "
        "DDPM_CACHE between all machines of a study"
    )
    return replace(run, evaluation=None)


def _metrics(
    name: str, runs: Sequence[RunOutcome], study: Study, reference: dict[str, Any], notes: list[str]
) -> ByArmAndSeed:
    """Return the values of a metric for all runs in which it is finite."""
    found: ByArmAndSeed = {arm.name: {} for arm in study.arms}
    for run in runs:
        content = None if run.evaluation is None else run.evaluation.content
        if content is None:
            continue
        keys = (name, STUDY_METRICS.get(name, name))
        reason = next((why for key in keys if (why := why_incomparable(reference, content, key)) is not None), None)
        if reason is not None:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is left out because {reason}")
        elif name not in content["metrics"]:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, was not measured")
        elif finite(content["metrics"][name]["value"]):
            found[run.arm][run.seed] = _measured(name, content["metrics"][name], run.evaluation)
        elif name != study.metric:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is left out because it is not finite")
    return found


def _measured(name: str, metric: dict[str, Any], evaluation: Evaluation) -> Measured:
    low, high = metric["low"], metric["high"]
    error = (high - low) / (2 * Z) if finite(low) and finite(high) else None
    return Measured(metric["value"], error, image_scores(evaluation.folder, name))


def _with_primary_metric(run: RunOutcome, study: Study, primary_values: ByArmAndSeed) -> RunOutcome:
    """Return the run with its primary metric; a run in which that is not finite has diverged."""
    measured = primary_values.get(run.arm, {}).get(run.seed)
    diverged = run.diverged
    if run.evaluation is not None:
        metric = run.evaluation.content["metrics"].get(study.metric)
        if metric is not None and not finite(metric["value"]):
            diverged = f"its {study.metric} is {metric['value']}"
    return replace(run, diverged=diverged, measured=measured)


def _missing(runs: Mapping[str, Sequence[RunOutcome]]) -> list[str]:
    """Return a note for every run that diverged, does not exist or has invalid records."""
    notes = []
    for of_arm in runs.values():
        for run in of_arm:
            if run.diverged is not None:
                notes.append(f"{run.arm}, seed {run.seed}, diverged: {run.diverged}")
            elif run.run is None:
                notes.append(f"{run.arm}, seed {run.seed}, does not exist yet")
            elif run.run.left_out:
                lines = f"invalid lines of metrics.jsonl are ignored ({run.run.left_out})"
                notes.append(f"{run.arm}, seed {run.seed}: {lines}")
    return notes


def _trained_on(runs: Mapping[str, Sequence[RunOutcome]], metric: str) -> list[str]:
    """Return a note if the primary metric measures the denoiser on images that it was trained on."""
    measured = [run for of_arm in runs.values() for run in of_arm if run.measured is not None]
    images = [run.evaluation.content.get("likelihood_images") for run in measured]
    if metric in SCORES and any(record and not record["held_out"] for record in images):
        return [f"{metric} was measured on training images; set evaluation.held_out_split to use others"]
    return []


def _contrast(arm: str, baseline: str, values: ByArmAndSeed, better: str, level: float) -> Contrast:
    """Compare an arm with the baseline over the seeds that both have."""
    ours, theirs = values.get(arm, {}), values.get(baseline, {})
    both = [seed for seed in theirs if seed in ours]
    return contrast([theirs[seed] for seed in both], [ours[seed] for seed in both], better, level)


def _unpaired(name: str, values: ByArmAndSeed, baseline: str) -> list[str]:
    """Return a note for each arm whose seeds are not those of the baseline."""
    notes = []
    for arm in values:
        for owner, other in ((arm, baseline), (baseline, arm)):
            seeds = ", ".join(map(str, sorted(values[owner].keys() - values[other].keys())))
            if seeds:
                notes.append(f"{name}: {arm} and {baseline} are not paired at seed {seeds}, which only {owner} has")
    return notes


def _means(metrics: ByArmAndSeed) -> dict[str, tuple[float, float | None]]:
    found: dict[str, tuple[float, float | None]] = {}
    for arm, of_seed in metrics.items():
        values = [measured.value for measured in of_seed.values()]
        if values:
            found[arm] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found


def _unlike_code(runs: Sequence[RunOutcome]) -> list[str]:
    """Return a note for each of commit and versions that differs between runs."""
    notes = []
    for key in ("git_commit", "versions"):
        counted = Counter(str(run.run.facts.get(key)) for run in runs if run.run is not None)
        if len(counted) > 1:
            kinds = "; ".join(f"{count} with {kind}" for kind, count in counted.most_common())
            notes.append(f"the runs were made with different {key}: {kinds}")
    return notes
