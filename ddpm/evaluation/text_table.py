"""An evaluation as a plain-text table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

METRIC_COLUMNS = ("", "value", "95 % interval", "images", "better", "at equal count", "real baseline", "its images")


def evaluation_table(result: dict[str, Any]) -> str:
    """Format the content of evaluation.json: the images, and each metric with its real-data baseline."""
    rows: list[Sequence[str]] = [METRIC_COLUMNS]
    for name, metric in result["metrics"].items():
        real = metric["real_baseline"]
        row = [name, number(metric["value"]), interval(metric), f"{metric['count']:,}", metric["better"]]
        baseline = [] if real is None else [number(real["samples"]), number(real["value"]), f"{real['count']:,}"]
        rows.append(row + (baseline or [""] * 3))
    errors = [("timestep", "sigma", "error of x_0", "error of eps")]
    for point in result["denoising"] or ():
        error = f"{number(point['x_0_error'])} ± {number(point['standard_error'])}"
        errors.append((str(point["timestep"]), number(point["sigma"]), error, number(point["eps_error"])))
    template = Path(__file__).with_name("evaluation_table.txt.jinja").read_text()
    page = Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    tables = {"table": align_columns(rows), "denoising_table": align_columns(errors)}
    return page.render(result, **tables, kind=describe_likelihood_images(result)).rstrip("\n")


def describe_likelihood_images(result: dict[str, Any]) -> str | None:
    """Return which images the denoiser was measured on, for an evaluation as in evaluation.json.

    Returns:
        "held-out images", "training images", or "reference images" if the model was not trained on the reference or
        this is unknown. None if the denoiser was not measured.
    """
    images = result.get("likelihood_images")
    if not images:
        return None
    if images["held_out"]:
        return "held-out images"
    return "training images" if result["reference"].get("trained_on") else "reference images"


def number(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval(metric: dict[str, Any]) -> str:
    """Format both ends of an interval; empty without an interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])} to {number(metric['high'])}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows in columns, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
