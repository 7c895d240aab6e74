"""Reads the runs of a study and compares its arms; notes say which runs are left out, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ddpm.config.study import STUDY_METRICS, Study
from ddpm.evaluation.denoiser import SCORES, image_scores
from ddpm.evaluation.estimates import Z
from ddpm.evaluation.text_table import describe_likelihood_images
from ddpm.lab.ablation.planned_runs import PlannedRun, find_study_evaluation, list_planned_runs, read_divergence
from ddpm.lab.ablation.registration import read_registration
from ddpm.lab.ablation.statistics import Contrast, Measured, bonferroni_level, contrast
from ddpm.lab.ablation.sweep import read_sweep
from ddpm.lab.ablation.timing import read_timing
from ddpm.lab.ablation.verdicts import qualify, verdict_sentence
from ddpm.lab.comparison.comparison import differing_settings, shorten, why_incomparable
from ddpm.lab.comparison.runs import Evaluation, Run, is_finite, read_run

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
        measured: the deciding metric; None if there is none.
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
        deciding: contrast of each arm with the baseline in the deciding metric; the intervals hold jointly.
        exploratory: contrasts of each arm in each other metric, at 95 % without correction for multiple comparisons.
        better: "lower" or "higher" for each metric.
        means: "mean" over seeds and "standard_deviation" (None for one seed) by metric and arm.
        step_seconds: measured seconds per training step of each arm; empty if not measured.
        verdicts: a sentence for every arm but the baseline.
        notes: sentences about everything that limits the conclusions.
    """

    study: Study
    path: Path
    registered: dict[str, Any]
    runs: dict[str, list[RunOutcome]]
    deciding: dict[str, Contrast]
    exploratory: dict[str, dict[str, Contrast]]
    better: dict[str, str]
    means: dict[str, dict[str, dict[str, float | None]]]
    step_seconds: dict[str, list[float]]
    verdicts: list[str]
    notes: list[str]

    def facts(self, arm: str) -> dict[str, Any]:
        """Return the content of run.json of a run of an arm; empty if no run exists yet."""
        return next((run.run.facts for run in self.runs[arm] if run.run is not None), {})

    def step_time(self, arm: str) -> float | None:
        """Return the median time of a training step of an arm in seconds; None if it was not measured."""
        return median(self.step_seconds[arm]) if self.step_seconds.get(arm) else None


def read_outcome(path: Path, study: Study) -> Outcome:
    """Read the runs of a study, and compare its arms with the first.

    Args:
        path: directory of the study.
        study: the study.

    Raises:
        ValueError: if the directory contains no study or a damaged file.
    """
    registered = read_registration(path)
    sweep = read_sweep(path)
    notes = [
        f"{arm}: the best learning rate, {found['learning_rate']:g}, is at an end of the list; others may be better"
        for arm, found in sweep.items()
        if found["at_an_end"]
    ]
    rates = {arm: found["learning_rate"] for arm, found in sweep.items()}
    outcomes = [_read(planned) for planned in list_planned_runs(study, path, rates)]
    first = next((run.evaluation.content for run in outcomes if run.evaluation is not None), {})
    data = registered["data"]["fingerprint"]
    outcomes = [_drop_incomparable_evaluation(run, first, data, notes) for run in outcomes]
    evaluated = [(run, run.evaluation) for run in outcomes if run.evaluation is not None]
    better = {name: metric["better"] for _, e in evaluated for name, metric in e.content["metrics"].items()}
    names = dict.fromkeys([*better, study.metric])
    values = {name: _read_metric(name, evaluated, first, study, notes) for name in names}
    outcomes = [_add_deciding_metric(run, study, values) for run in outcomes]
    runs = {arm.name: [run for run in outcomes if run.arm == arm.name] for arm in study.arms}
    timing = read_timing(path)
    notes += _note_runs(runs, study)
    baseline, others = study.baseline.name, [arm.name for arm in study.arms[1:]]
    diverged = {arm: sum(run.diverged is not None for run in of_arm) for arm, of_arm in runs.items()}

    def compare_arms(name: str, level: float) -> dict[str, Contrast]:
        found = {}
        for arm in others:
            ours, theirs = values[name][arm], values[name][baseline]
            pairs = [(theirs[seed], ours[seed]) for seed in theirs if seed in ours]
            compared = contrast([a for a, _ in pairs], [b for _, b in pairs], better.get(name, "lower"), level)
            found[arm] = qualify(compared, diverged[arm], diverged[baseline])
        return found

    deciding = compare_arms(study.metric, bonferroni_level(CONFIDENCE, len(others)))
    notes += _note_unpaired(study.metric, values[study.metric], baseline)
    if timing is None:
        notes.append("the training steps were not timed; run scripts/ablate.py on this directory again")
    return Outcome(
        study=study,
        path=path,
        registered=registered,
        runs=runs,
        deciding=deciding,
        exploratory={name: compare_arms(name, CONFIDENCE) for name in better if name != study.metric},
        better=better,
        means={name: _means(values[name]) for name in better},
        step_seconds={} if timing is None else timing["seconds"],
        verdicts=[
            verdict_sentence(arm, baseline, study.metric, deciding[arm], len(study.seeds), diverged) for arm in others
        ],
        notes=notes + _note_code(outcomes),
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return the statistics as JSON data that depends only on the runs."""
    study = outcome.study

    def run_json(run: RunOutcome) -> dict[str, Any]:
        metrics = {} if run.evaluation is None else run.evaluation.content["metrics"]
        return {
            "seed": run.seed,
            "diverged": run.diverged,
            "weights": None if run.evaluation is None else run.evaluation.weights,
            "metrics": {name: metric["value"] for name, metric in metrics.items() if is_finite(metric["value"])},
        }

    return {
        "question": study.question,
        "digest": outcome.registered["digest"],
        "metric": study.metric,
        "better": outcome.better,
        "baseline": study.baseline.name,
        "verdicts": outcome.verdicts,
        "notes": outcome.notes,
        "deciding": {arm: found._asdict() for arm, found in outcome.deciding.items()},
        "exploratory": {
            name: {arm: found._asdict() for arm, found in contrasts.items()}
            for name, contrasts in outcome.exploratory.items()
        },
        "means": outcome.means,
        "runs": {arm: [run_json(run) for run in runs] for arm, runs in outcome.runs.items()},
    }


def _read(planned: PlannedRun) -> RunOutcome:
    diverged = read_divergence(planned.path)
    run = read_run(planned.path, planned.name) if (planned.path / "run.json").is_file() else None
    evaluation = find_study_evaluation(run) if run is not None and diverged is None else None
    return RunOutcome(planned.arm, planned.seed, planned.path, run, evaluation, diverged, None)


def _drop_incomparable_evaluation(run: RunOutcome, first: dict[str, Any], data: str, notes: list[str]) -> RunOutcome:
    """Return the run, without its evaluation (and with a note) if that has other data or another classifier."""
    if run.run is None or run.diverged is not None:
        return run
    if run.evaluation is None:
        notes.append(f"{run.arm}, seed {run.seed}, is not evaluated yet")
        return run
    different = differing_settings(first, run.evaluation.content)
    if run.run.facts["data"]["fingerprint"] != data:
        different.insert(0, f"data: {shorten(data)} and {shorten(run.run.facts['data']['fingerprint'])}")
    if not different:
        return run
    notes.append(
        f"{run.arm}, seed {run.seed}, is left out because its evaluation differs from the first one "
        f"({', '.join(different)}); share DDPM_CACHE between all machines of a study"
    )
    return replace(run, evaluation=None)


def _read_metric(
    name: str, evaluated: Sequence[tuple[RunOutcome, Evaluation]], first: dict[str, Any], study: Study, notes: list[str]
) -> ByArmAndSeed:
    """Return the values of a metric for all runs in which it is finite."""
    found: ByArmAndSeed = {arm.name: {} for arm in study.arms}
    for run, evaluation in evaluated:
        metric = evaluation.content["metrics"].get(name)
        keys = (name, STUDY_METRICS.get(name, name))
        reason = next((why for key in keys if (why := why_incomparable(first, evaluation.content, key))), None)
        if reason is not None:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is left out because {reason}")
        elif metric is None:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, was not measured")
        elif is_finite(metric["value"]):
            low, high = metric["low"], metric["high"]
            error = (high - low) / (2 * Z) if is_finite(low) and is_finite(high) else None
            found[run.arm][run.seed] = Measured(metric["value"], error, image_scores(evaluation.folder, name))
        elif name != study.metric:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is left out because it is not finite")
    return found


def _add_deciding_metric(run: RunOutcome, study: Study, values: Mapping[str, ByArmAndSeed]) -> RunOutcome:
    """Return the run with its deciding metric; a run in which that is not finite has diverged."""
    diverged = run.diverged
    if run.evaluation is not None:
        metric = run.evaluation.content["metrics"].get(study.metric)
        if metric is not None and not is_finite(metric["value"]):
            diverged = f"its {study.metric} is {metric['value']}"
    return replace(run, diverged=diverged, measured=values[study.metric][run.arm].get(run.seed))


def _note_runs(runs: Mapping[str, Sequence[RunOutcome]], study: Study) -> list[str]:
    """Return a note for every run that diverged or does not exist yet.

    One more is added if the deciding metric measures the denoiser on images that it was trained on.
    """
    notes, everything = [], [run for of_arm in runs.values() for run in of_arm]
    for run in everything:
        if run.diverged is not None:
            notes.append(f"{run.arm}, seed {run.seed}, diverged: {run.diverged}")
        elif run.run is None:
            notes.append(f"{run.arm}, seed {run.seed}, does not exist yet")
    images = [describe_likelihood_images(run.evaluation.content) for run in everything if run.evaluation is not None]
    if study.metric in SCORES and "training images" in images:
        notes.append(f"{study.metric} was measured on training images; set evaluation.held_out_split to use others")
    return notes


def _note_unpaired(name: str, values: ByArmAndSeed, baseline: str) -> list[str]:
    """Return a note for each arm whose seeds are not those of the baseline."""
    notes = []
    for arm in values:
        for owner, other in ((arm, baseline), (baseline, arm)):
            seeds = ", ".join(map(str, sorted(values[owner].keys() - values[other].keys())))
            if seeds:
                notes.append(f"{name}: {arm} and {baseline} are not paired at seed {seeds}, which only {owner} has")
    return notes


def _means(values: ByArmAndSeed) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for arm, by_seed in values.items():
        if by_seed:
            table = [measured.value for measured in by_seed.values()]
            deviation = float(np.std(table, ddof=1)) if len(table) > 1 else None
            found[arm] = {"mean": float(np.mean(table)), "standard_deviation": deviation}
    return found


def _note_code(runs: Sequence[RunOutcome]) -> list[str]:
    """Return a note for each of commit and versions that differs between runs."""
    facts = [run.run.facts for run in runs if run.run is not None]
    commits = Counter(of_run.get("git_commit") or "an unknown commit" for of_run in facts)
    versions = Counter(
        ", ".join(f"{name} {version}" for name, version in (of_run.get("versions") or {}).items()) or "unknown versions"
        for of_run in facts
    )
    return [
        f"the runs were trained with different {kind}: "
        + "; ".join(f"{count} with {value}" for value, count in counted.most_common())
        for kind, counted in (("commits", commits), ("versions", versions))
        if len(counted) > 1
    ]
