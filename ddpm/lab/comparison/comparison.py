"""Compares runs: finds evaluations with the same settings, and the differences between their metrics."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ddpm.lab.comparison.runs import BaselineRecord, EstimateRecord, Evaluation, Run, finite


class Difference(NamedTuple):
    """Difference between the metric of a run and that of the first run.

    Attributes:
        value: the run's metric minus the first run's.
        low: lower end of the 95 % interval; None if a metric has no finite interval.
        high: upper end.
        verdict: better, worse or undecided.
    """

    value: float
    low: float | None
    high: float | None
    verdict: str


class RunEntry(NamedTuple):
    """A metric of one run.

    Attributes:
        run: name of the run.
        metric: the metric; None if the evaluation does not have it.
        difference: difference from the first evaluated run; None for that run, and if the two are not comparable.
    """

    run: str
    metric: EstimateRecord | None
    difference: Difference | None


class Row(NamedTuple):
    """One metric of all evaluated runs.

    Attributes:
        name: name of the metric.
        better: "lower" or "higher".
        real_baseline: the real-data baseline, from the first evaluation that has one.
        entries: one per evaluated run.
    """

    name: str
    better: str
    real_baseline: BaselineRecord | None
    entries: Sequence[RunEntry]


class Comparison(NamedTuple):
    """A comparison of runs.

    Attributes:
        runs: the runs in the given order; the others are compared with the first.
        evaluations: the evaluation of each run that is compared; runs without a comparable evaluation are missing.
        rows: the metrics.
        settings: values of all runs for the keys of config.yaml that differ.
        notes: sentences about everything that limits the comparison.
    """

    runs: Sequence[Run]
    evaluations: dict[str, Evaluation]
    rows: Sequence[Row]
    settings: dict[str, Sequence[Any]]
    notes: Sequence[str]


def _held_out(content: dict[str, Any]) -> str | None:
    return content["held_out"]["fingerprint"] if content.get("held_out") else None


def _sigmas(content: dict[str, Any]) -> str | None:
    points = content.get("denoising") or ()
    return ", ".join(f"{point['sigma']:.6g}" for point in points) or None


_BOUND: dict[str, Callable[[dict[str, Any]], Any]] = {
    "held_out.fingerprint": _held_out,
    "reference.fingerprint": lambda content: content["reference"]["fingerprint"],
    "bound_images": lambda content: (content.get("likelihood_images") or {}).get("count"),
}
# Additional settings that must agree for one metric (or for the curve of denoising errors).
ALSO_NEEDED: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "accuracy": {"classifier.digest": lambda content: content["classifier"]["digest"] if content.get("classifier") else None},
    "memorised": {"held_out.fingerprint": _held_out},
    "bits_per_dim": {**_BOUND, "bound_steps": lambda content: content.get("bound_steps")},
    "denoising": _BOUND,        # the curve over sigma
    # A mean over other sigmas, such as those of another schedule, is a different quantity.
    "denoising_error": {**_BOUND, "sigmas": _sigmas},
}
_MISSING = object()


def comparison_key(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that must agree for two evaluations to be comparable.

    Args:
        content: content of evaluation.json.

    Returns:
        Values by name. The batch size is not among them because it changes pixels by one grey level at most.
    """
    samples, extractor = content["samples"], content["extractor"]
    drawing = samples.get("settings") or {}
    return {
        "extractor": extractor["name"],
        "extractor.digest": extractor["digest"],
        "reference.fingerprint": content["reference"]["fingerprint"],
        "count": samples["count"],
        "drawn by a model": samples.get("settings") is not None,
        "guide": "a model" if samples.get("guide") else None,
        **{key: drawing[key] for key in sorted(drawing) if key != "batch_size"},
    }


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first.

    Args:
        runs: one or more.
    """
    evaluated = [run for run in runs if run.evaluations]
    chosen, notes = _shared(evaluated) if evaluated else ({}, [])
    for run in runs:
        if not run.evaluations:
            notes.append(f"{run.name}: there is no evaluation; run python scripts/evaluate.py {run.path}")
        elif run.name in chosen and run.newest_weights not in (None, chosen[run.name].weights):
            folder = chosen[run.name].folder.name
            notes.append(f"{run.name}: evaluation {folder} is of an older checkpoint; run scripts/evaluate.py again")
        if run.left_out:
            notes.append(f"{run.name}: invalid lines of metrics.jsonl are ignored ({run.left_out})")
    notes += _unlike_losses(runs) + _unlike_evaluations(runs)
    rows, withheld = _rows(chosen)
    return Comparison(runs, chosen, rows, _settings(runs), notes + withheld)


def difference(first: EstimateRecord, other: EstimateRecord) -> Difference:
    """Return the second metric minus the first.

    The interval assumes independent metrics: it adds the squared distances from each value to the ends of its interval
    (Zou & Donner 2008, doi 10.1002/sim.3095, equation 5). For symmetric intervals this is the usual root of the sum of
    squared half widths.
    """
    value = other["value"] - first["value"]
    if not all(finite(metric[key]) for metric in (first, other) for key in ("value", "low", "high")):
        return Difference(value, None, None, "undecided")
    low = value - math.hypot(other["value"] - other["low"], first["high"] - first["value"])
    high = value + math.hypot(other["high"] - other["value"], first["value"] - first["low"])
    if low <= 0 <= high:
        return Difference(value, low, high, "undecided")
    return Difference(value, low, high, "better" if (value < 0) == (other["better"] == "lower") else "worse")


def why_incomparable(first: dict[str, Any], other: dict[str, Any], name: str) -> str | None:
    """Return why the metric `name` of two evaluations cannot be compared; None if it can."""
    for key, of in ALSO_NEEDED.get(name, {}).items():
        if of(first) != of(other):
            return f"{key} is {shorten(of(first))} and {shorten(of(other))}"
    return None


def shorten(value: Any) -> str:
    """Shorten a digest to its first digits, and return other values as text."""
    text = "none" if value is None else str(value)
    return text[:8] if len(text) >= 32 and text.isalnum() else text


def _shared(runs: Sequence[Run]) -> tuple[dict[str, Evaluation], list[str]]:
    """Return one evaluation of each run with the settings of the first run's, and notes on what is not shown."""
    by_run = []
    for run in runs:
        by_settings: dict[str, Evaluation] = {}
        for evaluation in run.evaluations:
            by_settings.setdefault(json.dumps(comparison_key(evaluation.content)), evaluation)
        by_run.append(by_settings)

    def rank(key: str) -> tuple[int, int, float]:
        """Rank settings by the number of runs, the number of these with their newest weights, and the time."""
        found = [(run, by_settings[key]) for run, by_settings in zip(runs, by_run, strict=True) if key in by_settings]
        newest = sum(evaluation.weights == run.newest_weights for run, evaluation in found)
        return len(found), newest, max(evaluation.written for _, evaluation in found)

    best, *others = sorted(by_run[0], key=rank, reverse=True)
    chosen = {run.name: by_settings[best] for run, by_settings in zip(runs, by_run, strict=True) if best in by_settings}
    incomparable = [run for run in runs if run.name not in chosen]
    alone = len(chosen) == 1 and incomparable     # there is nothing to compare the first run with
    notes = [
        f"{'all metrics' if alone else f'the metrics of {run.name}'} are left out: "
        f"{_disagreement(runs[0], by_run[0][best], run)}"
        for run in incomparable
    ]
    if alone:
        return {}, notes
    for key in others:
        if len(runs) == 1:
            notes.append(f"evaluation {by_run[0][key].folder.name} of {runs[0].name} is not shown")
        elif rank(key)[0] > 1:
            folder = by_run[0][key].folder.name
            notes.append(f"evaluation {folder} of {runs[0].name} and its counterparts are not shown")
    return chosen, notes


def _disagreement(first: Run, evaluation: Evaluation, run: Run) -> str:
    a, b = comparison_key(evaluation.content), comparison_key(run.evaluations[0].content)
    pairs = {key: (a.get(key, _MISSING), b.get(key, _MISSING)) for key in {**a, **b}}
    name, (x, y) = next((key, pair) for key, pair in pairs.items() if pair[0] != pair[1])
    there, here = ("missing" if value is _MISSING else shorten(value) for value in (x, y))
    return (
        f"{first.name} and {run.name} have no evaluation with equal settings, {name} is {there} for {first.name} and "
        f"{here} for {run.name}; run scripts/evaluate.py with the same settings"
    )


def _unlike_losses(runs: Sequence[Run]) -> list[str]:
    """Return notes on losses that are not comparable with the first run's."""
    first, notes = runs[0], []
    for run in runs[1:]:
        changed = [key for key in run.config if key.startswith("diffusion.") and run.config[key] != first.config[key]]
        if run.facts["data"]["fingerprint"] != first.facts["data"]["fingerprint"]:
            changed.insert(0, "data")
        if changed and first.curve("loss") and run.curve("loss"):
            notes.append(f"{run.name}: its loss is not comparable with that of {first.name} ({', '.join(changed)})")
    return notes


def _unlike_evaluations(runs: Sequence[Run]) -> list[str]:
    """Return notes on evaluation curves that may not be comparable with those of the first run."""
    known = {run.name: run.evaluation_settings for run in runs if run.evaluation_settings}
    if not known:
        return []
    (first, settings), *others = known.items()
    notes = []
    for name, other in others:
        if other != settings:
            notes.append(f"the curves of {first} and {name} were measured with different evaluation settings")
        elif None in other:
            notes.append(f"the curves of {first} and {name} may have different settings, which were not recorded")
    return notes


def _settings(runs: Sequence[Run]) -> dict[str, Sequence[Any]]:
    found = {key: [run.config[key] for run in runs] for key in runs[0].config}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _rows(evaluations: dict[str, Evaluation]) -> tuple[list[Row], list[str]]:
    contents = {name: evaluation.content for name, evaluation in evaluations.items()}
    if not contents:
        return [], []
    (first_name, first), *others = contents.items()
    rows, notes = [], []
    for name in dict.fromkeys(name for content in contents.values() for name in content["metrics"]):
        metrics = [content["metrics"].get(name) for content in contents.values()]
        some = next(metric for metric in metrics if metric is not None)
        real_baseline = next((f["real_baseline"] for f in metrics if f is not None and f["real_baseline"] is not None), None)
        entries = [RunEntry(first_name, metrics[0], None)]
        for (run, content), metric in zip(others, metrics[1:], strict=True):
            reason = why_incomparable(first, content, name)
            if metric is None or metrics[0] is None:
                entries.append(RunEntry(run, metric, None))
            elif reason is not None:
                entries.append(RunEntry(run, metric, None))
                notes.append(f"{name}: {first_name} and {run} are not compared because {reason}")
            else:
                entries.append(RunEntry(run, metric, difference(metrics[0], metric)))
        rows.append(Row(name, some["better"], real_baseline, entries))
    return rows, notes
