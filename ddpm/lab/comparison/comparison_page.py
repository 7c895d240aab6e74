"""The page of a comparison: one self-contained HTML file, without scripts or network access."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ddpm.evaluation.estimates import Z
from ddpm.evaluation.text_table import describe_likelihood_images
from ddpm.lab.charts import STYLES, Chart, Mark, Series, draw_confusion_matrix, draw_lines, draw_strip, thin, to_svg
from ddpm.lab.comparison.comparison import Comparison, MetricRow, RunEntry, why_incomparable
from ddpm.lab.comparison.formats import TEMPLATE_FUNCTIONS
from ddpm.lab.comparison.runs import CurvePoint, Run, is_finite
from ddpm.lab.comparison.sample_grids import find_shared_samples, read_training_grids
from ddpm.lab.pages import template_environment
from ddpm.training.tracking import EVALUATION_PREFIX, EVALUATION_SETTINGS

MATRIX_CLASSES = 20     # largest confusion matrix that is drawn; for larger ones, confusions are listed
LISTED = 10             # number of confusions that are listed


def render_comparison(comparison: Comparison) -> str:
    """Return the page.

    Raises:
        ValueError: if an image cannot be read.
    """
    styles = {run.name: i % STYLES for i, run in enumerate(comparison.runs)}
    contents = {name: evaluation.content for name, evaluation in comparison.evaluations.items()}
    samples, sample_notes = find_shared_samples(comparison.evaluations)
    shown = {strip.run for of_class in samples for strip in of_class.strips}
    return template_environment().get_template("comparison/comparison.html.jinja").render(
        comparison=comparison,
        contents=contents,
        notes=[*comparison.notes, *sample_notes],
        styles=styles,
        skipped={name: why for content in contents.values() for name, why in content.get("skipped", {}).items()},
        curves=_draw_curves(comparison.runs, styles),
        denoising=_draw_denoising(contents, styles),
        samples=samples,
        grids=read_training_grids([run for run in comparison.runs if run.name not in shown]),
        confusions=_confusions(contents, styles),
        draw_strip=lambda row, entry: _draw_strip(row, entry, styles),
        **TEMPLATE_FUNCTIONS,
    )


def _draw_curves(runs: Sequence[Run], styles: dict[str, int]) -> list[Chart]:
    """Draw the loss and the metrics during training, over the number of images seen.

    Metrics with different settings are different quantities, so each settings have their own chart.
    """
    losses = [(run.name, points) for run in runs if (points := run.curve("loss"))]
    charts = [_draw_curve("loss", losses, styles, "")] if losses else []
    keys = {key for run in runs for record in run.records for key in record if key.startswith(EVALUATION_PREFIX)}
    for key in sorted(keys - {EVALUATION_SETTINGS}):
        by_settings: dict[str, list[tuple[str, list[CurvePoint]]]] = {}
        for run in runs:
            for digest, points in run.evaluation_curve(key):
                by_settings.setdefault(digest, []).append((run.name, points))
        for digest, curves in by_settings.items():
            caption = "" if len(by_settings) == 1 else f"Evaluation settings {digest}."
            charts.append(_draw_curve(key.removeprefix(EVALUATION_PREFIX).replace("_", " "), curves, styles, caption))
    return charts


def _draw_curve(
    name: str, curves: Sequence[tuple[str, list[CurvePoint]]], styles: dict[str, int], caption: str
) -> Chart:
    thinned = [(run, *thin(points)) for run, points in curves]
    maximum = max(size for _, _, size in thinned)
    if maximum > 1:
        caption = f"{caption} Each point is the mean of up to {maximum} logged values.".strip()
    figure = draw_lines([Series(run, styles[run], points) for run, points, _ in thinned], "images seen", name)
    return Chart(name.capitalize(), figure, [run for run, _, _ in thinned], caption)


def _draw_denoising(contents: dict[str, dict[str, Any]], styles: dict[str, int]) -> Chart | None:
    """Draw the error of x_0 over sigma, for the runs that are comparable with the first; None without any."""
    measured = {name: content for name, content in contents.items() if content.get("denoising")}
    first = next(iter(measured.values()), {})
    series, notes = [], ["bars are 95 % intervals."]
    for name, content in measured.items():
        reason = why_incomparable(first, content, "denoising")
        if reason is not None:
            notes.append(f"{name} is left out because {reason}.")
            continue
        points = sorted(content["denoising"], key=lambda point: point["sigma"])
        positive = [point for point in points if is_finite(point["x_0_error"]) and point["x_0_error"] > 0]
        drawn = [point for point in positive if is_finite(point["standard_error"])]
        if drawn:
            errors = [(point["sigma"], point["x_0_error"]) for point in drawn]
            series.append(Series(name, styles[name], errors, [Z * point["standard_error"] for point in drawn]))
    if not series:
        return None
    if (kind := describe_likelihood_images(first)) is not None:
        notes[0] = f"{first['likelihood_images']['count']:,} {kind}; {notes[0]}"
    figure = draw_lines(series, "sigma", "mean squared error of x_0", x_scale="log")
    return Chart("Denoising error", figure, [line.name for line in series], " ".join(notes))


def _confusions(
    contents: dict[str, dict[str, Any]], styles: dict[str, int]
) -> list[tuple[str, Markup | None, list[tuple[str, str, int, int]]]]:
    """Return the name of each run, a chart of its confusion matrix (if not too large) and its worst confusions.

    A confusion has the names of the requested and the recognized class, the number of images and of all in the class.
    """
    found = []
    for run, content in contents.items():
        if content.get("confusion"):
            matrix, names = content["confusion"], content["class_names"]
            small = len(matrix) <= MATRIX_CLASSES
            wrong = [
                (names[i], names[j], count, sum(row))
                for i, row in enumerate(matrix)
                for j, count in enumerate(row)
                if i != j and count
            ]
            wrong.sort(key=lambda confusion: -confusion[2] / confusion[3])
            chart = to_svg(draw_confusion_matrix(matrix, names, styles[run])) if small else None
            found.append((run, chart, wrong[:LISTED]))
    return found


def _draw_strip(row: MetricRow, entry: RunEntry, styles: dict[str, int]) -> Markup | str:
    """Return the interval of a metric as a small chart; empty if the value is not finite."""
    if entry.metric is None or not is_finite(entry.metric["value"]):
        return ""
    marks, equal_counts = [], True
    for _, metric, _ in (entry, *row.entries):
        if metric is not None and is_finite(metric["value"]):
            low, high = (metric[key] if is_finite(metric[key]) else None for key in ("low", "high"))
            marks.append(Mark(styles[entry.run], metric["value"], low, high))
            equal_counts &= (metric["real_baseline"] or {}).get("samples") in (None, metric["value"])
    real = None if row.real_baseline is None else row.real_baseline["value"]
    return to_svg(draw_strip(marks, real if is_finite(real) and equal_counts else None))
