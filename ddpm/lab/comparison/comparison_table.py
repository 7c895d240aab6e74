"""Formats a comparison as text for a terminal."""

from collections.abc import Sequence
from typing import Any

from ddpm.evaluation.text_table import aligned, interval, number
from ddpm.lab.comparison.comparison import Comparison, Difference, RunEntry
from ddpm.lab.comparison.runs import Run, finite


def format_comparison(comparison: Comparison) -> str:
    """Return the runs, the settings that differ, the metrics with their differences, and the notes."""
    parts = [_block([("run", *_FACTS), *((run.name, *run_columns(run).values()) for run in comparison.runs)])]
    if comparison.settings:
        heads = ("setting", *(run.name for run in comparison.runs))
        rows = [(key, *map(setting, values)) for key, values in comparison.settings.items()]
        parts.append(_block([heads, *rows]))
    if comparison.rows:
        parts.append(_block(_metrics(comparison), left=2))
    if comparison.notes:
        parts.append("\n".join(comparison.notes))
    return "\n\n".join(parts)


_FACTS = ("steps", "images seen", "parameters", "multiply-adds", "seed", "last loss")


def run_columns(run: Run) -> dict[str, str]:
    """Return the columns of a run in the table of runs, by title."""
    last = run.records[-1] if run.records else None
    losses = run.curve("loss")
    values = (
        "0" if last is None else f"{last['step']:,}",
        "0" if last is None else f"{run.seen(last):,}",
        _known(run.facts.get("parameters")),
        _known(run.facts.get("multiply_adds")),
        _known(run.facts.get("seed"), ""),
        number(losses[-1][1]) if losses else "",
    )
    return dict(zip(_FACTS, values, strict=True))


def setting(value: Any) -> str:
    """Format a value as in config.yaml."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def signed(value: float) -> str:
    """Format a number with four digits and a sign."""
    sign = "+" if value >= 0 else "-" if value < 0 else ""      # neither for nan
    return sign + number(abs(value))


def signed_interval(found: Difference) -> str:
    """Format the interval of a difference."""
    return "" if found.low is None else f"{signed(found.low)} to {signed(found.high)}"


def at_equal_count(entry: RunEntry) -> str:
    """Format the metric of as many samples as there are images in the real-data baseline; empty without a baseline."""
    real_baseline = None if entry.metric is None else entry.metric["real_baseline"]
    return "" if real_baseline is None else number(real_baseline.get("samples", entry.metric["value"]))


def _metrics(comparison: Comparison) -> list[tuple[str, ...]]:
    first = next(iter(comparison.evaluations))
    versus = (f"minus {first}", "95 % interval", "") if len(comparison.evaluations) > 1 else ()
    rows = [("metric", "run", "value", "95 % interval", "images", "at equal count", *versus)]
    for row in comparison.rows:
        title = f"{row.name} ({row.better} is better)"
        for entry in row.entries:
            metric, found = entry.metric, entry.difference
            cells = ("none", "", "", "") if metric is None else (
                number(metric["value"]), interval(metric), f"{metric['count']:,}", at_equal_count(entry)
            )
            apart = () if not versus else ("", "", "") if found is None else (
                signed(found.value), signed_interval(found), found.verdict
            )
            rows.append((title, entry.run, *cells, *apart))
            title = ""
        if row.real_baseline is not None:
            value = number(row.real_baseline["value"])
            cells = (value, interval(row.real_baseline), f"{row.real_baseline['count']:,}", value)
            rows.append(("", "real images", *cells, *("" for _ in versus)))
    return rows


def _known(value: Any, form: str = ",") -> str:
    return format(value, form) if finite(value) else "unknown"


def _block(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    return "\n".join(line.rstrip() for line in aligned(rows, left))
