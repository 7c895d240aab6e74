"""A comparison as one HTML page that needs nothing else: no script, no other file, no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ddpm.analysis.charts import (
    STYLES,
    Series,
    confusion_chart,
    fitting,
    interval_strip,
    line_chart,
    linear,
    logarithmic,
    thinned,
)
from ddpm.analysis.comparison import Comparison, Entry, Row, differing, short
from ddpm.analysis.grids import picture, shared_samples
from ddpm.analysis.runs import Run
from ddpm.analysis.table import facts, matched, setting, signed, span
from ddpm.evaluation.intervals import Z
from ddpm.evaluation.table import interval, number

SHOWN_CLASSES = 20      # of a confusion matrix; of more only the most frequent confusions are listed
LISTED = 10             # of them


class Chart(NamedTuple):
    """A chart with its words.

    Attributes:
        title: for people.
        svg: the chart.
        lines: (name, style) of each series.
        caption: a sentence; empty for none.
    """

    title: str
    svg: Markup
    lines: Sequence[tuple[str, int]]
    caption: str = ""


def page(comparison: Comparison) -> str:
    """The whole page.

    Args:
        comparison: what to show.

    Raises:
        ValueError: if an image cannot be read.
    """
    styles = {run.name: i % STYLES for i, run in enumerate(comparison.runs)}
    samples, gone = shared_samples(comparison.evaluations)
    shown = {strip.run for of_class in samples for strip in of_class.strips}
    first = next(iter(comparison.evaluations.values()), None)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "facts": facts,
        "interval": interval,
        "number": number,
        "setting": setting,
        "signed": signed,
        "span": span,
        "matched": matched,
        "strip": lambda row, entry: Markup(_strip(row, entry, styles)),
    }
    return environment.get_template("page.html.jinja").render(
        runs=comparison.runs,
        styles=styles,
        rows=comparison.rows,
        settings=comparison.settings,
        notes=[*comparison.notes, *gone],
        first=next(iter(comparison.evaluations), None),
        several=len(comparison.evaluations) > 1,
        method=None if first is None else _method(first.content),
        judges=[(name, e.content["judge"]) for name, e in comparison.evaluations.items() if e.content.get("judge")],
        skipped=dict(item for e in comparison.evaluations.values() for item in e.content.get("skipped", {}).items()),
        curves=_curves(comparison.runs, styles),
        denoising=_denoising(comparison, styles),
        samples=samples,
        grids=[
            (run.name, int(run.newest_grid.stem.removeprefix("step_")), picture(run.newest_grid))
            for run in comparison.runs
            if run.name not in shown and run.newest_grid is not None
        ],
        confusions=_confusions(comparison, styles),
    )


def _method(content: dict[str, Any]) -> list[tuple[str, str]]:
    """How the compared evaluations were made: what they have in common."""
    samples, extractor = content["samples"], content["extractor"]
    drawing = {key: value for key, value in (samples.get("settings") or {}).items() if key != "batch_size"}
    held_out = content.get("held_out")
    how = ", ".join(f"{key.replace('_', ' ')} {setting(value)}" for key, value in drawing.items())
    real = content["reference"]
    return [
        ("images", f"{samples['count']:,} per run{f'; {how}' if how else ''}"),
        ("real images", f"{real['summary']} ({short(real['fingerprint'])})"),
        ("held out", f"{held_out['summary']} ({short(held_out['fingerprint'])})" if held_out else "none"),
        ("features", f"{extractor['features']} of {extractor['name']} ({short(extractor['digest'])})"),
    ]


def _curves(runs: Sequence[Run], styles: dict[str, int]) -> list[Chart]:
    """The loss, and what was evaluated while the runs trained; aligned by the images that were seen."""
    keys = sorted({key for run in runs for record in run.records for key in record if key.startswith("evaluation/")})
    charts = []
    for key in ("loss", *keys):
        series, most = [], 1
        for run in runs:
            points, together = thinned(run.curve(key))
            most = max(most, together)
            if points:
                series.append(Series(run.name, styles[run.name], points))
        if series:
            name = key.removeprefix("evaluation/").replace("_", " ")
            svg = Markup(line_chart(series, "images seen", name, linear, fitting))
            caption = f"Each point is the mean of up to {most} logged values." if most > 1 else ""
            charts.append(Chart(name.capitalize(), svg, _lines(series), caption))
    return charts


def _denoising(comparison: Comparison, styles: dict[str, int]) -> Chart | None:
    """Error of x_0 at each noise level, of the runs whose errors are comparable with the first one's."""
    contents = {name: e.content for name, e in comparison.evaluations.items() if e.content.get("denoising")}
    if not contents:
        return None
    series, left_out = [], []
    first = next(iter(contents.values()))
    for name, content in contents.items():
        apart = differing(first, content, "denoising")
        if apart is not None:
            left_out.append(f"{name} is left out: {apart}.")
            continue
        points = sorted(content["denoising"], key=lambda point: point["noise_level"])
        places = [(point["noise_level"], point["x_0_error"]) for point in points if point["x_0_error"] > 0]
        bars = [Z * point["standard_error"] for point in points if point["x_0_error"] > 0]
        series.append(Series(name, styles[name], places, bars))
    images = first.get("likelihood_images")
    told = "" if not images else (
        f"{images['count']:,} {'held-out images' if images['held_out'] else 'images of the training data'}; "
    )
    svg = line_chart(series, "noise level", "mean squared error of x_0", logarithmic, fitting)
    return Chart(
        "Denoising error", Markup(svg), _lines(series), " ".join([f"{told}bars are 95 % intervals.", *left_out])
    )


def _confusions(comparison: Comparison, styles: dict[str, int]) -> list[tuple[str, Markup | None, list[str]]]:
    """Name of a run, its matrix as a chart if the classes are few, and its most frequent confusions."""
    found = []
    for name, evaluation in comparison.evaluations.items():
        matrix, classes = evaluation.content.get("confusion"), evaluation.content.get("class_names")
        if matrix:
            few = len(matrix) <= SHOWN_CLASSES
            chart = Markup(confusion_chart(matrix, classes, styles[name])) if few else None
            found.append((name, chart, _most_confused(matrix, classes)))
    return found


def _most_confused(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    wrong = [
        (count / sum(row), f"{names[i]} read as {names[j]}: {count:,} of {sum(row):,}")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return [text for _, text in sorted(wrong, key=lambda pair: -pair[0])[:LISTED]]


def _strip(row: Row, entry: Entry, styles: dict[str, int]) -> str:
    own = [entry.figure, *(e.figure for e in row.entries if e.figure is not None)]
    floors = [(figure["value"], figure["floor"].get("samples")) for figure in own if figure["floor"] is not None]
    alike = row.floor is not None and all(samples in (None, value) for value, samples in floors)
    return interval_strip([_ends(figure) for figure in own], styles[entry.run], row.floor["value"] if alike else None)


def _ends(figure: dict[str, Any]) -> tuple[float, float | None, float | None]:
    return figure["value"], figure["low"], figure["high"]


def _lines(series: Sequence[Series]) -> list[tuple[str, int]]:
    return [(line.name, line.style) for line in series]
