"""Runs beside each other: which evaluations can be compared, and how much their figures differ."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ddpm.lab.comparison.runs import Evaluation, Run, finite

Figures = dict[str, Any]        # a figure as evaluation.json has it: value, low, high, count, better, floor


class Difference(NamedTuple):
    """How far a run's figure is from the first run's.

    Attributes:
        value: its figure minus the first run's.
        low: lower end of the 95 % interval; None where a figure has none, or one that is no finite number.
        high: upper end.
        verdict: better, worse or undecided.
    """

    value: float
    low: float | None
    high: float | None
    verdict: str


class Entry(NamedTuple):
    """A run's figure.

    Attributes:
        run: its name.
        figure: None where its evaluation has none of this name.
        difference: from the first evaluated run; None for that run itself, and where the two cannot be compared.
    """

    run: str
    figure: Figures | None
    difference: Difference | None


class Row(NamedTuple):
    """One figure of all evaluated runs.

    Attributes:
        name: of the figure.
        better: lower or higher.
        floor: the figure of real images in place of the samples, in the first evaluation that has it.
        entries: one per evaluated run.
    """

    name: str
    better: str
    floor: Figures | None
    entries: Sequence[Entry]


class Comparison(NamedTuple):
    """All that is said of some runs.

    Attributes:
        runs: in the order in which they were given; the first is what the others are compared with.
        evaluations: name of a run -> the evaluation that is compared; runs without one, or with none that can be
            compared, are not in it.
        rows: figures.
        settings: key of config.yaml -> value of each run, where they differ.
        notes: what a reader has to know, a sentence each.
    """

    runs: Sequence[Run]
    evaluations: dict[str, Evaluation]
    rows: Sequence[Row]
    settings: dict[str, Sequence[Any]]
    notes: Sequence[str]


def _held_out(content: dict[str, Any]) -> str | None:
    return content["held_out"]["fingerprint"] if content.get("held_out") else None


def _noise_levels(content: dict[str, Any]) -> str | None:
    points = content.get("denoising") or ()
    return ", ".join(f"{point['noise_level']:.6g}" for point in points) or None


_BOUND: dict[str, Callable[[dict[str, Any]], Any]] = {
    "held_out.fingerprint": _held_out,
    "reference.fingerprint": lambda content: content["reference"]["fingerprint"],
    "bound_images": lambda content: (content.get("likelihood_images") or {}).get("count"),
}
# What must agree for a figure (or the denoising error) beside what must agree for all.
ALSO_NEEDED: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "accuracy": {"judge.digest": lambda content: content["judge"]["digest"] if content.get("judge") else None},
    "memorised": {"held_out.fingerprint": _held_out},
    "bits_per_dim": {**_BOUND, "bound_steps": lambda content: content.get("bound_steps")},
    "denoising": _BOUND,        # the curve, which has the noise levels as its axis
    # A mean over other noise levels, as those of another schedule, is another quantity.
    "denoising_error": {**_BOUND, "noise levels": _noise_levels},
}
_MISSING = object()


def identity(content: dict[str, Any]) -> dict[str, Any]:
    """What must agree for the figures of two evaluations to be comparable.

    Args:
        content: of an evaluation.json.

    Returns:
        Key -> value. The size of batches is not in it: it moves pixels by one grey level at most.
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
    """Sets runs beside each other.

    Args:
        runs: one or more; the first is what the others are compared with.
    """
    evaluated = [run for run in runs if run.evaluations]
    chosen, notes = _shared(evaluated) if evaluated else ({}, [])
    for run in runs:
        if not run.evaluations:
            notes.append(f"{run.name}: no evaluation; python scripts/evaluate.py {run.path}")
        elif run.name in chosen and run.newest_weights not in (None, chosen[run.name].weights):
            folder = chosen[run.name].folder.name
            notes.append(f"{run.name}: evaluation {folder} is not of its newest checkpoint; run it again")
        if run.left_out:
            notes.append(f"{run.name}: lines of metrics.jsonl that are no records and left out: {run.left_out}")
    notes += _unlike_losses(runs) + _unlike_evaluations(runs)
    rows, apart = _rows(chosen)
    return Comparison(runs, chosen, rows, _settings(runs), notes + apart)


def difference(first: Figures, other: Figures) -> Difference:
    """The second figure minus the first.

    The interval is for independent figures, the distances from each value to the ends of its interval added in squares
    (Zou & Donner 2008, doi 10.1002/sim.3095, equation 5). For symmetric intervals this is the usual root of the sum of
    squared half widths.
    """
    value = other["value"] - first["value"]
    if not all(finite(figure[key]) for figure in (first, other) for key in ("value", "low", "high")):
        return Difference(value, None, None, "undecided")
    low = value - math.hypot(other["value"] - other["low"], first["high"] - first["value"])
    high = value + math.hypot(other["high"] - other["value"], first["value"] - first["low"])
    if low <= 0 <= high:
        return Difference(value, low, high, "undecided")
    return Difference(value, low, high, "better" if (value < 0) == (other["better"] == "lower") else "worse")


def differing(first: dict[str, Any], other: dict[str, Any], name: str) -> str | None:
    """What forbids to compare the figure `name` of two evaluations, in a few words; None if nothing does."""
    for key, of in ALSO_NEEDED.get(name, {}).items():
        if of(first) != of(other):
            return f"{key} is {short(of(first))} and {short(of(other))}"
    return None


def short(value: Any) -> str:
    """A value for people: the first digits of a digest, the rest as it is."""
    text = "none" if value is None else str(value)
    return text[:8] if len(text) >= 32 and text.isalnum() else text


def _shared(runs: Sequence[Run]) -> tuple[dict[str, Evaluation], list[str]]:
    """One evaluation of each run that has one like the first run's, and a sentence for all that is not shown."""
    by_run = []
    for run in runs:
        alike: dict[str, Evaluation] = {}
        for evaluation in run.evaluations:
            alike.setdefault(json.dumps(identity(evaluation.content)), evaluation)
        by_run.append(alike)

    def rank(key: str) -> tuple[int, int, float]:
        """By how many runs have it, how many of these with their newest weights, and the time."""
        found = [(run, alike[key]) for run, alike in zip(runs, by_run, strict=True) if key in alike]
        newest = sum(evaluation.weights == run.newest_weights for run, evaluation in found)
        return len(found), newest, max(evaluation.written for _, evaluation in found)

    best, *others = sorted(by_run[0], key=rank, reverse=True)
    chosen = {run.name: alike[best] for run, alike in zip(runs, by_run, strict=True) if best in alike}
    apart = [run for run in runs if run.name not in chosen]
    alone = len(chosen) == 1 and apart      # nothing to compare the first run with
    notes = [
        f"{'all figures are' if alone else f'the figures of {run.name} are'} left out: "
        f"{_disagreement(runs[0], by_run[0][best], run)}"
        for run in apart
    ]
    if alone:
        return {}, notes
    for key in others:
        if len(runs) == 1:
            notes.append(f"not shown: evaluation {by_run[0][key].folder.name} of {runs[0].name}")
        elif rank(key)[0] > 1:
            folder = by_run[0][key].folder.name
            notes.append(f"not shown: evaluation {folder} of {runs[0].name}, and its like of the other runs")
    return chosen, notes


def _disagreement(first: Run, evaluation: Evaluation, run: Run) -> str:
    a, b = identity(evaluation.content), identity(run.evaluations[0].content)
    pairs = {key: (a.get(key, _MISSING), b.get(key, _MISSING)) for key in {**a, **b}}
    name, (x, y) = next((key, pair) for key, pair in pairs.items() if pair[0] != pair[1])
    there, here = ("missing" if value is _MISSING else short(value) for value in (x, y))
    return (
        f"{first.name} and {run.name} have no evaluation with equal settings, {name} is {there} there and {here} here; "
        f"run scripts/evaluate.py with the same settings"
    )


def _unlike_losses(runs: Sequence[Run]) -> list[str]:
    """Which losses are other quantities than the first run's."""
    first, notes = runs[0], []
    for run in runs[1:]:
        changed = [key for key in run.config if key.startswith("diffusion.") and run.config[key] != first.config[key]]
        if run.facts["data"]["fingerprint"] != first.facts["data"]["fingerprint"]:
            changed.insert(0, "data")
        if changed and first.curve("loss") and run.curve("loss"):
            kind = f"its loss is of another kind than that of {first.name}"
            notes.append(f"{run.name}: {kind} ({', '.join(changed)})")
    return notes


def _unlike_evaluations(runs: Sequence[Run]) -> list[str]:
    """Which evaluations while training are, or may be, other quantities than those of the first run that has any."""
    told = {run.name: run.evaluation_settings for run in runs if run.evaluation_settings}
    if not told:
        return []
    (first, settings), *others = told.items()
    notes = []
    for name, other in others:
        if other != settings:
            notes.append(f"the curves of {first} and {name} are of different evaluation settings")
        elif None in other:
            notes.append(f"the curves of {first} and {name} may be of different evaluation settings: they do not tell")
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
    for name in dict.fromkeys(name for content in contents.values() for name in content["figures"]):
        figures = [content["figures"].get(name) for content in contents.values()]
        some = next(figure for figure in figures if figure is not None)
        floor = next((f["floor"] for f in figures if f is not None and f["floor"] is not None), None)
        entries = [Entry(first_name, figures[0], None)]
        for (run, content), figure in zip(others, figures[1:], strict=True):
            apart = differing(first, content, name)
            if figure is None or figures[0] is None:
                entries.append(Entry(run, figure, None))
            elif apart is not None:
                entries.append(Entry(run, figure, None))
                notes.append(f"{name}: {first_name} and {run} are not compared, {apart}")
            else:
                entries.append(Entry(run, figure, difference(figures[0], figure)))
        rows.append(Row(name, some["better"], floor, entries))
    return rows, notes
