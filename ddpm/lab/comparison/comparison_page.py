"""The page of a comparison: one self-contained HTML file, without scripts or network access."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ddpm.evaluation.estimates import Z
from ddpm.evaluation.text_table import interval, number
from ddpm.lab.charts import (
    STYLES,
    Chart,
    Mark,
    Series,
    draw_confusion_matrix,
    draw_lines,
    draw_strip,
    thin,
    to_svg,
)
from ddpm.lab.comparison.comparison import Comparison, Row, RunEntry, shorten, why_incomparable
from ddpm.lab.comparison.comparison_table import at_equal_count, run_columns, setting, signed, signed_interval
from ddpm.lab.comparison.runs import EVALUATED, EVALUATED_BY, CurvePoint, Run, finite
from ddpm.lab.comparison.sample_grids import find_shared_samples, read_training_grids
from ddpm.lab.pages import template_environment

MATRIX_CLASSES = 20      # largest confusion matrix that is drawn; above, confusions are listed
LISTED = 10             # number of confusions that are listed


def render_comparison(comparison: Comparison) -> str:
    """Return the page.

    Raises:
        ValueError: if an image cannot be read.
    """
    styles = {run.name: i % STYLES for i, run in enumerate(comparison.runs)}
    samples, gone = find_shared_samples(comparison.evaluations)
    shown = {strip.run for of_class in samples for strip in of_class.strips}
    grids, torn = read_training_grids([run for run in comparison.runs if run.name not in shown])
    first = next(iter(comparison.evaluations.values()), None)
    templates = template_environment()
    templates.globals |= {
        "run_columns": run_columns,
        "interval": interval,
        "number": number,
        "setting": setting,
        "signed": signed,
        "signed_interval": signed_interval,
        "at_equal_count": at_equal_count,
        "strip": lambda row, entry: _strip(row, entry, styles),
    }
    return templates.get_template("comparison/comparison.html.jinja").render(
        runs=comparison.runs,
        styles=styles,
        rows=comparison.rows,
        settings=comparison.settings,
        notes=[*comparison.notes, *gone, *torn],
        first=next(iter(comparison.evaluations), None),
        several=len(comparison.evaluations) > 1,
        method=None if first is None else _method(first.content),
        classifiers=[(name, e.content["classifier"]) for name, e in comparison.evaluations.items() if e.content.get("classifier")],
        skipped=dict(item for e in comparison.evaluations.values() for item in e.content.get("skipped", {}).items()),
        curves=_curves(comparison.runs, styles),
        denoising=_denoising(comparison, styles),
        samples=samples,
        grids=grids,
        confusions=_confusions(comparison, styles),
    )


def _method(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that the compared evaluations have in common."""
    samples, extractor = content["samples"], content["extractor"]
    drawing = {key: value for key, value in (samples.get("settings") or {}).items() if key != "batch_size"}
    held_out = content.get("held_out")
    how = ", ".join(f"{key.replace('_', ' ')} {setting(value)}" for key, value in drawing.items())
    real = content["reference"]
    return [
        ("images", f"{samples['count']:,} per run{f'; {how}' if how else ''}"),
        ("real images", f"{real['summary']} ({shorten(real['fingerprint'])})"),
        ("held out", f"{held_out['summary']} ({shorten(held_out['fingerprint'])})" if held_out else "none"),
        ("features", f"{extractor['features'] or 'none'} of {extractor['name']} ({shorten(extractor['digest'])})"),
    ]


def _curves(runs: Sequence[Run], styles: dict[str, int]) -> list[Chart]:
    """Return charts of the loss and of the metrics during training, over the number of images seen.

    Metrics with different settings are different quantities, so each settings have their own chart.
    """
    losses = [(run.name, run.curve("loss")) for run in runs]
    charts = [_curve("loss", [(name, points) for name, points in losses if points], styles, "")]
    keys = {key for run in runs for record in run.records for key in record if key.startswith(EVALUATED)}
    for key in sorted(keys - {EVALUATED_BY}):
        by_settings: dict[str | None, list[tuple[str, list[CurvePoint]]]] = {}
        for run in runs:
            for digest, points in run.evaluation_curve(key):
                by_settings.setdefault(digest, []).append((run.name, points))
        for digest, curves in by_settings.items():
            caption = "" if len(by_settings) == 1 else f"Evaluation settings {digest or 'not recorded'}."
            charts.append(_curve(key.removeprefix(EVALUATED).replace("_", " "), curves, styles, caption))
    return [chart for chart in charts if chart is not None]


def _curve(
    name: str, curves: Sequence[tuple[str, list[CurvePoint]]], styles: dict[str, int], caption: str
) -> Chart | None:
    """Return one chart of the curves of several runs."""
    if not curves:
        return None
    parts = [(run, *thin(points)) for run, points in curves]
    series = [Series(run, styles[run], points) for run, points, _ in parts]
    most = max(together for _, _, together in parts)
    if most > 1:
        caption = f"{caption} Each point is the mean of up to {most} logged values.".strip()
    figure = draw_lines(series, "images seen", name)
    return Chart(name.capitalize(), figure, [line.name for line in series], caption)


def _denoising(comparison: Comparison, styles: dict[str, int]) -> Chart | None:
    """Return a chart of the error of x_0 over sigma, for the runs that are comparable with the first."""
    contents = {name: e.content for name, e in comparison.evaluations.items() if e.content.get("denoising")}
    if not contents:
        return None
    series, left_out = [], []
    first = next(iter(contents.values()))
    for name, content in contents.items():
        reason = why_incomparable(first, content, "denoising")
        if reason is not None:
            left_out.append(f"{name} is left out because {reason}.")
            continue
        points = sorted(content["denoising"], key=lambda point: point["sigma"])
        drawn = [p for p in points if finite(p["x_0_error"]) and p["x_0_error"] > 0 and finite(p["standard_error"])]
        indices = [(point["sigma"], point["x_0_error"]) for point in drawn]
        if indices:
            series.append(Series(name, styles[name], indices, [Z * point["standard_error"] for point in drawn]))
    if not series:
        return None
    images = first.get("likelihood_images")
    shown = "" if not images else (
        f"{images['count']:,} {'held-out images' if images['held_out'] else 'images of the training data'}; "
    )
    figure = draw_lines(series, "noise level", "mean squared error of x_0", x_scale="log")
    caption = " ".join([f"{shown}bars are 95 % intervals.", *left_out])
    return Chart("Denoising error", figure, [line.name for line in series], caption)


def _confusions(comparison: Comparison, styles: dict[str, int]) -> list[tuple[str, Markup | None, list[str]]]:
    """Return for each run its name, a chart of its confusion matrix (if not too large) and its worst confusions."""
    found = []
    for name, evaluation in comparison.evaluations.items():
        matrix, classes = evaluation.content.get("confusion"), evaluation.content.get("class_names")
        if matrix:
            few = len(matrix) <= MATRIX_CLASSES
            chart = to_svg(draw_confusion_matrix(matrix, classes, styles[name])) if few else None
            found.append((name, chart, _most_confused(matrix, classes)))
    return found


def _most_confused(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    wrong = [
        (count / sum(row), f"{names[i]} classified as {names[j]}: {count:,} of {sum(row):,}")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return [text for _, text in sorted(wrong, key=lambda pair: -pair[0])[:LISTED]]


def _strip(row: Row, entry: RunEntry, styles: dict[str, int]) -> Markup | str:
    """Return the interval of a metric as a small chart; empty if the value is not finite."""
    own = [e.metric for e in (entry, *row.entries) if e.metric is not None and finite(e.metric["value"])]
    if not finite(entry.metric["value"]):
        return ""
    real_baselines = [(metric["value"], metric["real_baseline"].get("samples")) for metric in own if metric["real_baseline"] is not None]
    real = None if row.real_baseline is None else row.real_baseline["value"]
    alike = finite(real) and all(samples in (None, value) for value, samples in real_baselines)
    marks = [_mark(metric, styles[entry.run]) for metric in own]
    return to_svg(draw_strip(marks, real if alike else None))


def _mark(metric: dict[str, Any], style: int) -> Mark:
    low, high = (metric[key] if finite(metric[key]) else None for key in ("low", "high"))
    return Mark(style, metric["value"], low, high)
