"""Formats numbers and settings for the templates of comparisons and studies."""

from typing import Any

from ddpm.evaluation.text_table import interval, number
from ddpm.lab.comparison.comparison import RunEntry, shorten
from ddpm.lab.comparison.runs import Run, is_finite


def run_columns(run: Run) -> dict[str, str]:
    """Return the columns of a run in the table of runs, by title."""
    last = run.records[-1] if run.records else {"step": 0, "samples": 0}
    losses = run.curve("loss")
    return {
        "steps": f"{last['step']:,}",
        "images seen": f"{last['samples']:,}",
        "parameters": count(run.facts.get("parameters")),
        "multiply-adds": count(run.facts.get("multiply_adds")),
        "seed": str(run.facts.get("seed", "unknown")),
        "last loss": number(losses[-1][1]) if losses else "",
    }


def setting(value: Any) -> str:
    """Format a value as in config.yaml."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def count(value: Any) -> str:
    """Format a number of parameters or multiply-adds."""
    return f"{value:,}" if is_finite(value) else "unknown"


def number_or_empty(value: float | None) -> str:
    """Format a number with four digits; empty if it is None."""
    return "" if value is None else number(value)


def signed(value: float | None) -> str:
    """Format a number with four digits and a sign; empty if it is None."""
    if value is None:
        return ""
    sign = "+" if value >= 0 else "-" if value < 0 else ""      # neither for nan
    return sign + number(abs(value))


def signed_interval(low: float | None, high: float | None) -> str:
    """Format the interval of a difference; empty without an interval."""
    return "" if low is None else f"{signed(low)} to {signed(high)}"


def at_equal_count(entry: RunEntry) -> str:
    """Format the metric of as many samples as there are images in the real-data baseline; empty without a baseline."""
    if entry.metric is None or entry.metric["real_baseline"] is None:
        return ""
    return number(entry.metric["real_baseline"]["samples"])


_FUNCTIONS = (
    at_equal_count, count, interval, is_finite, number, number_or_empty, run_columns, setting, shorten, signed,
    signed_interval,
)
TEMPLATE_FUNCTIONS = {function.__name__: function for function in _FUNCTIONS}
