"""Compares runs: finds evaluations with the same settings, and the differences between their metrics."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ddpm.io.provenance import LATER_SETTINGS, describe_history
from ddpm.lab.comparison.runs import Evaluation, Run, is_finite


class Difference(NamedTuple):
    """Difference between the metric of a run and that of the first run.

    Attributes:
        value: the run's metric minus the first run's.
        low: lower end of the 95 % interval; None if a metric has no finite interval.
        high: upper end.
        verdict: better, worse or inconclusive.
    """

    value: float
    low: float | None
    high: float | None
    verdict: str


class RunEntry(NamedTuple):
    """A metric of one run.

    Attributes:
        run: name of the run.
        metric: its entry in evaluation.json; None if the evaluation does not have it.
        difference: difference from the first evaluated run; None for that run, and if the two are not comparable.
    """

    run: str
    metric: dict[str, Any] | None
    difference: Difference | None


class MetricRow(NamedTuple):
    """One metric of all evaluated runs.

    Attributes:
        name: name of the metric.
        better: "lower" or "higher".
        real_baseline: the real-data baseline, from the first evaluation that has one.
        entries: one per evaluated run.
    """

    name: str
    better: str
    real_baseline: dict[str, Any] | None
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
    rows: Sequence[MetricRow]
    settings: dict[str, Sequence[Any]]
    notes: Sequence[str]


_DENOISER = ("held_out.fingerprint", "reference.fingerprint", "likelihood_images.count")
# Additional settings that must agree for one metric (or for the curve of denoising errors), as keys of evaluation.json.
ALSO_NEEDED = {
    "accuracy": ("classifier.digest",),
    "memorized": ("held_out.fingerprint",),
    "bits_per_dim": (*_DENOISER, "bound_steps"),
    "denoising": _DENOISER,        # the curve over sigma
    # A mean over other sigmas, such as those of another schedule, is a different quantity.
    "denoising_error": (*_DENOISER, "sigmas"),
}
_MISSING = object()


def comparison_key(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that must agree for two evaluations to be comparable.

    Args:
        content: content of evaluation.json.

    Returns:
        Values by name. The batch size and compilation are not among them because they change pixels by one gray level
        at most.
    """
    samples, extractor = content["samples"], content["extractor"]
    drawing = samples.get("settings") or {}
    if drawing:
        drawing = {**LATER_SETTINGS, **drawing}
    return {
        "extractor": extractor["name"],
        "extractor.digest": extractor["digest"],
        "reference.fingerprint": content["reference"]["fingerprint"],
        "count": samples["count"],
        "images": "existing" if samples.get("settings") is None else "generated",
        "guided by": "a model" if samples.get("guide") else None,
        **{key: drawing[key] for key in sorted(drawing) if key not in ("batch_size", "compile")},
    }


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first.

    Args:
        runs: one or more.
    """
    evaluated = [run for run in runs if run.evaluations]
    chosen, notes = _choose_evaluations(evaluated) if evaluated else ({}, [])
    for run in runs:
        if not run.evaluations:
            notes.append(f"{run.name}: there is no evaluation; run python scripts/evaluate.py {run.path}")
        elif run.name in chosen and run.newest_weights not in (None, chosen[run.name].weights):
            folder = chosen[run.name].folder.name
            notes.append(f"{run.name}: evaluation {folder} is of an older checkpoint; run scripts/evaluate.py again")
    for run in runs:
        if history := describe_history(run.facts.get("changes", [])):
            notes.append(f"{run.name}: changed during training: {history}")
    notes += _note_incomparable_losses(runs) + _note_incomparable_curves(runs)
    rows, metric_notes = _compare_metrics(chosen)
    settings: dict[str, Sequence[Any]] = {key: [run.config[key] for run in runs] for key in runs[0].config}
    differing = {key: values for key, values in settings.items() if any(value != values[0] for value in values)}
    return Comparison(runs, chosen, rows, differing, notes + metric_notes)


def difference(first: dict[str, Any], other: dict[str, Any]) -> Difference:
    """Return the second metric minus the first.

    The interval assumes independent metrics: it adds the squared distances from each value to the ends of its interval
    (Zou & Donner 2008, doi 10.1002/sim.3095, equation 5). For symmetric intervals this is the usual root of the sum of
    squared half widths.
    """
    value = other["value"] - first["value"]
    if not all(is_finite(metric[key]) for metric in (first, other) for key in ("value", "low", "high")):
        return Difference(value, None, None, "inconclusive")
    low = value - math.hypot(other["value"] - other["low"], first["high"] - first["value"])
    high = value + math.hypot(other["high"] - other["value"], first["value"] - first["low"])
    if low <= 0 <= high:
        return Difference(value, low, high, "inconclusive")
    return Difference(value, low, high, "better" if (value < 0) == (other["better"] == "lower") else "worse")


def why_incomparable(first: dict[str, Any], other: dict[str, Any], name: str) -> str | None:
    """Return why the metric `name` of two evaluations cannot be compared; None if it can."""
    pairs = {key: (_look_up(first, key), _look_up(other, key)) for key in ALSO_NEEDED.get(name, ())}
    return next((f"{key} is {shorten(a)} and {shorten(b)}" for key, (a, b) in pairs.items() if a != b), None)


def _look_up(content: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key of evaluation.json; None if it is missing."""
    if key == "sigmas":
        return ", ".join(f"{point['sigma']:.6g}" for point in content.get("denoising") or ()) or None
    value: Any = content
    for name in key.split("."):
        value = (value or {}).get(name)
    return value


def differing_settings(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the settings of two evaluations that differ but must agree, such as "count: 500 and 300"."""
    a, b = comparison_key(first), comparison_key(other)
    pairs = {key: (a.get(key, _MISSING), b.get(key, _MISSING)) for key in a | b}
    return [f"{key}: {shorten(x)} and {shorten(y)}" for key, (x, y) in pairs.items() if x != y]


def shorten(value: Any) -> str:
    """Shorten a digest to its first digits, and return other values as text."""
    text = "none" if value is None else "missing" if value is _MISSING else str(value)
    return text[:8] if len(text) >= 32 and text.isalnum() else text


def _choose_evaluations(runs: Sequence[Run]) -> tuple[dict[str, Evaluation], list[str]]:
    """Return one evaluation of each run with the settings of the first run's, and notes on what is not shown."""
    by_run = {
        run.name: {json.dumps(comparison_key(e.content)): e for e in reversed(run.evaluations)} for run in runs
    }

    def rank(key: str) -> tuple[int, int, float]:
        """Rank settings by the number of runs, the number of these with their newest weights, and the time."""
        found = [(run, by_run[run.name][key]) for run in runs if key in by_run[run.name]]
        newest = sum(evaluation.weights == run.newest_weights for run, evaluation in found)
        return len(found), newest, max(evaluation.written for _, evaluation in found)

    first = runs[0].name
    *others, best = sorted(by_run[first], key=rank)
    chosen = {name: evaluations[best] for name, evaluations in by_run.items() if best in evaluations}
    incomparable = [run for run in runs if run.name not in chosen]
    alone = len(chosen) == 1 and incomparable     # there is nothing to compare the first run with
    notes = []
    for run in incomparable:
        differing = differing_settings(chosen[first].content, run.evaluations[0].content)[0]
        notes.append(
            f"{'all metrics' if alone else f'the metrics of {run.name}'} are left out: {first} and {run.name} have no "
            f"evaluation with equal settings ({differing}); run scripts/evaluate.py with the same settings"
        )
    if alone:
        return {}, notes
    for key in reversed(others):
        folder = by_run[first][key].folder.name
        if len(runs) == 1:
            notes.append(f"evaluation {folder} of {first} is not shown")
        elif rank(key)[0] > 1:
            notes.append(f"evaluation {folder} of {first} and those of other runs with equal settings are not shown")
    return chosen, notes


def _note_incomparable_losses(runs: Sequence[Run]) -> list[str]:
    """Return notes on losses that are not comparable with the first run's."""
    first, notes = runs[0], []
    for run in runs[1:]:
        changed = [key for key in run.config if key.startswith("diffusion.") and run.config[key] != first.config[key]]
        if run.facts["data"]["fingerprint"] != first.facts["data"]["fingerprint"]:
            changed.insert(0, "data")
        if changed and first.curve("loss") and run.curve("loss"):
            notes.append(f"{run.name}: its loss is not comparable with that of {first.name} ({', '.join(changed)})")
    return notes


def _note_incomparable_curves(runs: Sequence[Run]) -> list[str]:
    """Return notes on evaluation curves that are not comparable with those of the first run."""
    known = {run.name: run.evaluation_settings for run in runs if run.evaluation_settings}
    first = next(iter(known), "")
    return [
        f"the curves of {first} and {name} were measured with different evaluation settings"
        for name, settings in known.items()
        if settings != known[first]
    ]


def _compare_metrics(evaluations: dict[str, Evaluation]) -> tuple[list[MetricRow], list[str]]:
    """Return all metrics of the evaluations by name of the run, and a note for each that cannot be compared."""
    contents = {run: evaluation.content for run, evaluation in evaluations.items()}
    first = next(iter(contents), "")
    rows, notes = [], []
    for name in dict.fromkeys(name for content in contents.values() for name in content["metrics"]):
        metrics = {run: content["metrics"].get(name) for run, content in contents.items()}
        known = [metric for metric in metrics.values() if metric is not None]
        entries = []
        for run, metric in metrics.items():
            found = None
            if run != first and metric is not None and metrics[first] is not None:
                reason = why_incomparable(contents[first], contents[run], name)
                if reason is None:
                    found = difference(metrics[first], metric)
                else:
                    notes.append(f"{name}: {first} and {run} are not compared because {reason}")
            entries.append(RunEntry(run, metric, found))
        real_baseline = next((metric["real_baseline"] for metric in known if metric["real_baseline"] is not None), None)
        rows.append(MetricRow(name, known[0]["better"], real_baseline, entries))
    return rows, notes
