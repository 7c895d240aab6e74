"""What the runs of a study say, read back from its directory. What is left out, and why, is told here, once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.sections import differences
from ddpm.config.study import FIGURES, Study
from ddpm.config.yaml_files import read_config
from ddpm.evaluation.denoiser import SCORES, image_scores
from ddpm.evaluation.estimates import Z
from ddpm.lab.ablation.registration import registered
from ddpm.lab.ablation.run_provenance import provenance
from ddpm.lab.ablation.statistics import Contrast, Measured, contrast, simultaneous
from ddpm.lab.ablation.sweep import read_sweep
from ddpm.lab.ablation.timing import read_timing
from ddpm.lab.ablation.trials import Trial, divergence, evaluation_of, trials
from ddpm.lab.ablation.verdicts import sentence, weighed
from ddpm.lab.comparison.comparison import differing, identity, short
from ddpm.lab.comparison.runs import Evaluation, Run, finite, read_run

LEVEL = 0.95

Figures = dict[str, dict[int, Measured]]        # arm -> seed -> a figure


@dataclass(frozen=True)
class RunOutcome:
    """One run of a study.

    Attributes:
        arm: name of its arm.
        seed: as the study numbers it.
        path: its run directory.
        run: as it is read back; None where there is none.
        evaluation: that the study asks for; None where there is none, or it cannot be compared with the others.
        diverged: where its numbers stopped being finite; None if they did not.
        measured: the deciding figure; None where there is none.
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
    """All that is said of a study.

    Attributes:
        study: what was asked.
        path: its directory.
        registered: study.json.
        runs: arm -> its runs in the order of the seeds.
        primary: arm -> its contrast with the baseline in the deciding figure; the intervals hold together.
        exploratory: another figure -> arm -> contrast at 95 %, not adjusted for their number.
        better: figure -> lower or higher, whichever is better.
        means: figure -> arm -> mean over seeds, and standard deviation (None for one seed).
        step_seconds: arm -> measured seconds per training step; empty if not measured.
        verdicts: a sentence for every arm but the baseline.
        notes: what a reader has to know, a sentence each.
        provenance: of every run that is there: arm, seed, command, git_commit, versions, data, weights, evaluation.
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
    """Reads the runs of a study, and compares its arms with the first.

    Args:
        path: directory of the study.
        study: what is studied.

    Raises:
        ValueError: if the directory holds no study, a file cannot be read, or no run has the deciding metric; names the
            figures that there are.
    """
    facts = registered(path)
    sweep = read_sweep(path)
    rates = {arm: found["learning_rate"] for arm, found in sweep.items()}
    notes = [
        f"{arm}: the best learning rate, {found['learning_rate']:g}, is at an end of the list that was tried; "
        "a better one may lie beyond"
        for arm, found in sweep.items()
        if found["at_an_end"]
    ]
    read = [_read(trial) for trial in trials(study, path, rates)]
    notes += [
        f"{run.arm}, seed {run.seed}, is not evaluated yet"
        for run in read
        if run.run is not None and run.evaluation is None and run.diverged is None
    ]
    reference = next((run.evaluation.content for run in read if run.evaluation is not None), None)
    read = [_comparable(run, reference, facts, notes) for run in read]
    contents = [run.evaluation.content for run in read if run.evaluation is not None]
    better = {name: figure["better"] for content in contents for name, figure in content["figures"].items()}
    if contents and study.metric not in better:
        known = ", ".join(better) or "none"
        raise ValueError(f"metric: no run of {path} has {study.metric}; their figures are {known}")
    figures = {name: _figures(name, read, study, reference, notes) for name in better}
    deciding = figures.get(study.metric, {})
    runs = {arm.name: [_decided(run, study, deciding) for run in read if run.arm == arm.name] for arm in study.arms}
    notes += _missing(runs) + _trained_on(runs, study.metric)
    baseline, others = study.baseline.name, [arm.name for arm in study.arms[1:]]
    level = simultaneous(LEVEL, len(others))
    diverged = {arm: sum(run.diverged is not None for run in of_arm) for arm, of_arm in runs.items()}
    primary = {
        arm: _contrast(study.metric, arm, baseline, deciding, better.get(study.metric, "lower"), level, notes)
        for arm in others
    }
    primary = {arm: weighed(found, diverged[arm], diverged[baseline]) for arm, found in primary.items()}
    exploratory = {
        name: {
            arm: weighed(found, diverged[arm], diverged[baseline])
            for arm in others
            for found in [_contrast(name, arm, baseline, of_arms, better[name], LEVEL)]
        }
        for name, of_arms in figures.items()
        if name != study.metric
    }
    verdicts = [
        sentence(arm, baseline, study.metric, primary[arm], len(study.seeds), {a: n for a, n in diverged.items() if n})
        for arm in others
    ]
    timing = read_timing(path)
    if timing is None:
        notes.append("the training steps were not timed; scripts/ablate.py on this directory does it")
    notes += _unlike_code(read)
    return Outcome(
        study=study,
        path=path,
        registered=facts,
        runs=runs,
        primary=primary,
        exploratory=exploratory,
        better=better,
        means={name: _means(of_arms) for name, of_arms in figures.items()},
        step_seconds={} if timing is None else timing["seconds"],
        verdicts=verdicts,
        notes=notes,
        provenance=[_provenance(run, path) for of_arm in runs.values() for run in of_arm if run.run is not None],
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The statistics as plain values, the same for the same runs wherever and whenever they were made."""
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
    figures = {} if run.evaluation is None else run.evaluation.content["figures"]
    return {
        "seed": run.seed,
        "diverged": run.diverged,
        "weights": None if run.evaluation is None else run.evaluation.weights,
        "figures": {name: figure["value"] for name, figure in figures.items() if finite(figure["value"])},
    }


def _read(trial: Trial) -> RunOutcome:
    diverged = divergence(trial.path)
    if not (trial.path / "run.json").is_file():
        return RunOutcome(trial.arm, trial.seed, trial.path, None, None, diverged, None)
    different = differences(read_config(trial.path / "config.yaml"), trial.config)
    if different:
        listed = ", ".join(f"{key} ({old} there, {new} in the study)" for key, (old, new) in different.items())
        raise ValueError(f"{trial.path}: holds a run with other settings: {listed}; remove it, or restore the study's")
    run = read_run(trial.path, trial.name)
    evaluation = None if diverged is not None else evaluation_of(run)
    return RunOutcome(trial.arm, trial.seed, trial.path, run, evaluation, diverged, None)


def _comparable(
    run: RunOutcome, reference: dict[str, Any] | None, facts: dict[str, Any], notes: list[str]
) -> RunOutcome:
    """A run as it is, or without its evaluation where that is of other data or by another judge; says so."""
    if run.run is None or run.evaluation is None:
        return run
    told = {"data": (facts["data"]["fingerprint"], run.run.facts["data"]["fingerprint"])}
    first, own = identity(reference), identity(run.evaluation.content)
    told |= {key: (first.get(key), own.get(key)) for key in {**first, **own}}
    apart = [f"{key} is {short(a)} there and {short(b)} here" for key, (a, b) in told.items() if a != b]
    if not apart:
        return run
    notes.append(
        f"{run.arm}, seed {run.seed}, is left out: it was not evaluated like the others, {', '.join(apart)}; machines "
        "that share a study need one judge: share DDPM_CACHE among them"
    )
    return RunOutcome(run.arm, run.seed, run.path, run.run, None, run.diverged, None)


def _figures(
    name: str, runs: Sequence[RunOutcome], study: Study, reference: dict[str, Any], notes: list[str]
) -> Figures:
    """A figure of all runs that have it as a number."""
    found: Figures = {arm.name: {} for arm in study.arms}
    for run in runs:
        content = None if run.evaluation is None else run.evaluation.content
        if content is None:
            continue
        apart = differing(reference, content, name) or differing(reference, content, FIGURES.get(name, name))
        if apart is not None:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is left out: {apart}")
        elif name not in content["figures"]:
            notes.append(f"{name} is not known of {run.arm}, seed {run.seed}")
        elif finite(content["figures"][name]["value"]):
            found[run.arm][run.seed] = _measured(name, content["figures"][name], run.evaluation)
        elif name != study.metric:
            notes.append(f"{name} of {run.arm}, seed {run.seed}, is not finite and left out")
    return found


def _measured(name: str, figure: dict[str, Any], evaluation: Evaluation) -> Measured:
    low, high = figure["low"], figure["high"]
    error = (high - low) / (2 * Z) if finite(low) and finite(high) else None
    return Measured(figure["value"], error, image_scores(evaluation.folder, name))


def _decided(run: RunOutcome, study: Study, deciding: Figures) -> RunOutcome:
    """A run with the deciding figure; one whose figure is not finite has diverged."""
    measured = deciding.get(run.arm, {}).get(run.seed)
    diverged = run.diverged
    if run.evaluation is not None:
        figure = run.evaluation.content["figures"].get(study.metric)
        if figure is not None and not finite(figure["value"]):
            diverged = f"its {study.metric} is {figure['value']}"
    return RunOutcome(run.arm, run.seed, run.path, run.run, run.evaluation, diverged, measured)


def _missing(runs: Mapping[str, Sequence[RunOutcome]]) -> list[str]:
    """A sentence for every run that has no say, but for those that are left out already."""
    notes = []
    for of_arm in runs.values():
        for run in of_arm:
            if run.diverged is not None:
                notes.append(f"{run.arm}, seed {run.seed}, diverged and has no figure: {run.diverged}")
            elif run.run is None:
                notes.append(f"{run.arm}, seed {run.seed}, is not there yet")
            elif run.run.left_out:
                lines = f"lines of metrics.jsonl that are no records and left out: {run.run.left_out}"
                notes.append(f"{run.arm}, seed {run.seed}: {lines}")
    return notes


def _trained_on(runs: Mapping[str, Sequence[RunOutcome]], metric: str) -> list[str]:
    """Whether a figure of the denoiser decides on images that the models have seen."""
    measured = [run for of_arm in runs.values() for run in of_arm if run.measured is not None]
    images = [run.evaluation.content.get("likelihood_images") for run in measured]
    if metric in SCORES and any(described and not described["held_out"] for described in images):
        return [f"{metric} was decided on images that were trained on; evaluation.held_out_split names others"]
    return []


def _contrast(
    name: str,
    arm: str,
    baseline: str,
    figures: Figures,
    better: str,
    level: float,
    notes: list[str] | None = None,
) -> Contrast:
    """An arm with the baseline, over the seeds that both have; notes tell of those that only one has."""
    ours, theirs = figures.get(arm, {}), figures.get(baseline, {})
    both = [seed for seed in theirs if seed in ours]
    alone = {owner: sorted(of.keys() - set(both)) for owner, of in ((arm, ours), (baseline, theirs))}
    for owner, seeds in alone.items():
        if seeds and notes is not None:
            listed = ", ".join(map(str, seeds))
            notes.append(f"{name}: of {arm} and {baseline} only {owner} has seed {listed}, which is not paired")
    return contrast([theirs[seed] for seed in both], [ours[seed] for seed in both], better, level)


def _means(figures: Figures) -> dict[str, tuple[float, float | None]]:
    found: dict[str, tuple[float, float | None]] = {}
    for arm, of_seed in figures.items():
        values = [measured.value for measured in of_seed.values()]
        if values:
            found[arm] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found


def _unlike_code(runs: Sequence[RunOutcome]) -> list[str]:
    """Whether the runs were made by different code."""
    notes = []
    for key in ("git_commit", "versions"):
        counted = Counter(str(run.run.facts.get(key)) for run in runs if run.run is not None)
        if len(counted) > 1:
            kinds = "; ".join(f"{count} with {kind}" for kind, count in counted.most_common())
            notes.append(f"the runs were made with different {key}: {kinds}")
    return notes


def _provenance(run: RunOutcome, study: Path) -> dict[str, str]:
    """What reproduces a run, and tells whether it was."""
    return {"arm": run.arm, "seed": str(run.seed), **provenance(study, run.path, run.run, run.evaluation)}
