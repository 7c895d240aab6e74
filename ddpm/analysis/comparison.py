"""Runs beside each other: which evaluations can be compared, and how much their figures differ."""

import json
from collections.abc import Callable, Sequence
from math import hypot
from typing import Any, NamedTuple

from ddpm.analysis.runs import Evaluation, Run

Figures = dict[str, Any]        # a figure as evaluation.json has it: value, low, high, count, better, floor


class Difference(NamedTuple):
    """How far a run's figure is from the first run's.

    Attributes:
        value: its figure minus the first run's.
        low: lower end of the 95 % interval; None where a figure has none.
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
        evaluations: name of a run -> the evaluation that is compared; runs without one are not in it.
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
    "denoising": _BOUND,
}
# Curves of metrics.jsonl (their keys hold this) -> whether a key of config.yaml decides what they are of.
_DECIDE: dict[str, Callable[[str], bool]] = {
    "loss": lambda key: key == "data" or key.startswith("diffusion."),
    "evaluation/": lambda key: key == "data" or (
        key.startswith("evaluation.") and key not in ("evaluation.every", "evaluation.metric")
    ),
}


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

    Raises:
        ValueError: if runs have evaluations, but none with equal settings.
    """
    evaluated = [run for run in runs if run.evaluations]
    chosen, notes = _shared(evaluated) if evaluated else ({}, [])
    for run in runs:
        if run.name not in chosen:
            notes.append(f"{run.name}: no evaluation; python scripts/evaluate.py {run.path}")
        elif run.newest_weights not in (None, chosen[run.name].weights):
            folder = chosen[run.name].folder.name
            notes.append(f"{run.name}: evaluation {folder} is not of its newest checkpoint; run it again")
    notes += _unlike(runs)
    rows, apart = _rows(chosen)
    return Comparison(runs, chosen, rows, _settings(runs), notes + apart)


def difference(first: Figures, other: Figures) -> Difference:
    """The second figure minus the first.

    The interval is for independent figures, the distances from each value to the ends of its interval added in squares
    (Zou & Donner 2008, doi 10.1002/sim.3095, equation 5). For symmetric intervals this is the usual root of the sum of
    squared half widths.
    """
    value = other["value"] - first["value"]
    if None in (first["low"], other["low"]):
        return Difference(value, None, None, "undecided")
    low = value - hypot(other["value"] - other["low"], first["high"] - first["value"])
    high = value + hypot(other["high"] - other["value"], first["value"] - first["low"])
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
    """The newest evaluations that all of the runs have with one identity."""
    by_run = []
    for run in runs:
        newest: dict[str, Evaluation] = {}
        for evaluation in run.evaluations:
            newest.setdefault(json.dumps(identity(evaluation.content)), evaluation)
        by_run.append(newest)
    shared = [key for key in by_run[0] if all(key in newest for newest in by_run)]
    if not shared:
        raise ValueError(_disagreement(runs, by_run))
    shared.sort(key=lambda key: max(newest[key].written for newest in by_run), reverse=True)
    chosen = {run.name: newest[shared[0]] for run, newest in zip(runs, by_run, strict=True)}
    others = [f"not shown, older: evaluation {by_run[0][key].folder.name} of {runs[0].name}" for key in shared[1:]]
    return chosen, [f"{line}, and its like of the other runs" if len(runs) > 1 else line for line in others]


def _disagreement(runs: Sequence[Run], by_run: Sequence[dict[str, Evaluation]]) -> str:
    key = next(iter(by_run[0]))
    other = next(i for i, newest in enumerate(by_run) if key not in newest)
    a, b = (identity(run.evaluations[0].content) for run in (runs[0], runs[other]))
    name = next(name for name in {**a, **b} if a.get(name) != b.get(name))
    return (
        f"{runs[0].path} and {runs[other].path} have no evaluation with equal settings: {name} is "
        f"{short(a.get(name))} there and {short(b.get(name))} here; run scripts/evaluate.py with the same settings"
    )


def _unlike(runs: Sequence[Run]) -> list[str]:
    """Which curves of runs are of different quantities."""
    notes = []
    for run in runs[1:]:
        changed = [key for key in run.config if run.config[key] != runs[0].config[key]]
        if run.facts["data"]["fingerprint"] != runs[0].facts["data"]["fingerprint"]:
            changed.insert(0, "data")
        for curves, decide in _DECIDE.items():
            keys = [key for key in changed if decide(key)]
            if keys and all(any(curves in name for record in r.records for name in record) for r in (runs[0], run)):
                kind = f"its {curves.strip('/')} is of another kind than that of {runs[0].name}"
                notes.append(f"{run.name}: {kind} ({', '.join(keys)})")
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
