"""A comparison as lines for a terminal."""

from collections.abc import Sequence
from typing import Any

from ddpm.evaluation.text_table import aligned, interval, number
from ddpm.lab.comparison.comparison import Comparison, Difference, Entry
from ddpm.lab.comparison.runs import Run, finite


def as_table(comparison: Comparison) -> str:
    """Runs, settings that differ, figures with differences, and notes."""
    parts = [_block([("run", *_FACTS), *((run.name, *facts(run).values()) for run in comparison.runs)])]
    if comparison.settings:
        heads = ("setting", *(run.name for run in comparison.runs))
        rows = [(key, *map(setting, values)) for key, values in comparison.settings.items()]
        parts.append(_block([heads, *rows]))
    if comparison.rows:
        parts.append(_block(_figures(comparison), left=2))
    if comparison.notes:
        parts.append("\n".join(comparison.notes))
    return "\n\n".join(parts)


_FACTS = ("steps", "images seen", "parameters", "multiply-adds", "seed", "last loss")


def facts(run: Run) -> dict[str, str]:
    """What is said of a run in a line, by column."""
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
    """A value of config.yaml as it stands there."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def signed(value: float) -> str:
    """Four digits with a sign."""
    sign = "+" if value >= 0 else "-" if value < 0 else ""      # neither for nan
    return sign + number(abs(value))


def span(found: Difference) -> str:
    """The interval of a difference."""
    return "" if found.low is None else f"{signed(found.low)} to {signed(found.high)}"


def matched(entry: Entry) -> str:
    """The figure of as many samples as there are real images in the floor; nothing where there is no floor."""
    floor = None if entry.figure is None else entry.figure["floor"]
    return "" if floor is None else number(floor.get("samples", entry.figure["value"]))


def _figures(comparison: Comparison) -> list[tuple[str, ...]]:
    first = next(iter(comparison.evaluations))
    versus = (f"against {first}", "95 % interval", "") if len(comparison.evaluations) > 1 else ()
    rows = [("figure", "run", "value", "95 % interval", "images", "as many as real", *versus)]
    for row in comparison.rows:
        title = f"{row.name} ({row.better} is better)"
        for entry in row.entries:
            figure, found = entry.figure, entry.difference
            cells = ("none", "", "", "") if figure is None else (
                number(figure["value"]), interval(figure), f"{figure['count']:,}", matched(entry)
            )
            apart = () if not versus else ("", "", "") if found is None else (
                signed(found.value), span(found), found.verdict
            )
            rows.append((title, entry.run, *cells, *apart))
            title = ""
        if row.floor is not None:
            value = number(row.floor["value"])
            cells = (value, interval(row.floor), f"{row.floor['count']:,}", value)
            rows.append(("", "real images", *cells, *("" for _ in versus)))
    return rows


def _known(value: Any, form: str = ",") -> str:
    return format(value, form) if finite(value) else "unknown"


def _block(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    return "\n".join(line.rstrip() for line in aligned(rows, left))
