"""The page of a probe: one self-contained HTML file, without scripts or network access."""

from collections.abc import Callable, Collection, Iterable, Sequence
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.text_table import interval, number
from ddpm.lab.charts import Chart, Mark, Row, Series, draw_heat_map, draw_lines, draw_rows, draw_stacked_bars, to_svg
from ddpm.lab.pages import template_environment
from ddpm.lab.probe.results import Freezing, ProbeGrid, ProbeResults, Strength, Swap, Variance
from ddpm.lab.probe.summary import FAILURES, FROZEN, SIGNS, number_layers, percent, pool_variance, summarize

PARTS = ("scale", "shift")
MOST_MAPS = 30          # with more layers than this, the page would take long to open with a map of each
SOURCES = ("timestep", "class", "interaction")
LEGEND_STYLES = {
    **{source: i for i, source in enumerate(SOURCES)},
    **{"scale and shift": 0, "scale": 3, "shift": 4},
    **{"classified as A": 0, "classified as B": 1, "change": 0, "error": 7, "all": 7},
}


class LayerMaps(NamedTuple):
    """The modulation of one layer.

    Attributes:
        title: display name of the layer.
        maps: maps of each part.
    """

    title: str
    maps: Sequence[Markup]


def render_probe(results: ProbeResults) -> str:
    """Return the page."""
    templates = template_environment()
    templates.globals |= {"interval": interval, "number": number, "percent": percent}
    names = number_layers(results.layers)
    chosen = _chosen(results)
    others = names.keys() - chosen
    return templates.get_template("probe/probe.html.jinja").render(
        results=results,
        names=names,
        styles=LEGEND_STYLES,
        parts=_parts(results),
        signs=SIGNS,
        failures=FAILURES,
        verdict=summarize(results),
        overview=_overview(results, names),
        chosen=_maps(results, chosen, (_class_map, _channel_map)),
        others=_maps(results, others, (_class_map,)) if len(names) <= MOST_MAPS else [],
        left_out_maps=0 if len(names) <= MOST_MAPS else len(others),
        introduction=introduction(results),
        variance=_variance(results, names),
        frozen=_frozen(results),
        frozen_layers=_frozen_layers(results, names),
        swap=None if results.swap is None else _swap(results.swap),
        sensitivity=_sensitivity(results),
        separability=_separability(results, names),
        erasure=_erasure(results, names),
        method=_method(results),
    )


def introduction(results: ProbeResults) -> str:
    """Return an explanation of this network's modulation for readers who do not know it."""
    parts = _parts(results).split(" and ")
    if any(layer.shift_before_norm for layer in results.layers):
        how = "a shift is added to the activations before they are normalized"
    else:
        acts = {"scale": "multiplied by 1 + scale", "shift": "shifted"}
        how = f"the activations are normalized, then {' and '.join(acts[part] for part in parts if part in acts)}"
    sources = {
        "timestep": "the timestep",
        "class": "the class",
        "cross_attention": "the timestep (the class enters by cross-attention, so the modulation does not "
        "depend on it)",
    }
    source = sources.get(results.model.conditioning, "timestep and class")
    numbers = f"the {_parts(results)} of each channel {'are' if len(parts) > 1 else 'is'} computed from {source}"
    if results.model.conditioning == "none":
        numbers = f"the {_parts(results)} of each channel {'are' if len(parts) > 1 else 'is'} constant"
    return f"In each layer below, {how}; {numbers}. This is the modulation."


def _overview(results: ProbeResults, names: dict[str, str]) -> list[Chart]:
    """Return maps of all layers over timesteps, and over classes, for each part."""
    charts = []
    timesteps = [str(t) for t in results.grid.timesteps]
    for part in PARTS:
        own = [row for row in results.strengths if row.part == part]
        if not own:
            continue
        rows = [names[row.layer] for row in own]
        over_time = [[_rms(at) for at in row.rms] for row in own]
        label = f"{part}, root mean square over channels and classes"
        caption = f"Strength of the {part} in each layer; no colour means no change."
        figure = draw_heat_map(over_time, rows, timesteps, label, low=0)
        charts.append(Chart(f"{part.capitalize()} over timesteps", figure, caption=caption))
        if len(results.grid.classes) > 1:
            label = f"{part}, strength relative to the mean over classes, %"
            values = [_relative_to_mean(row) for row in own]
            figure = draw_heat_map(values, rows, results.grid.classes, label, diverging=True)
            caption = (
                f"Classes with a stronger (blue) or weaker (orange) {part} than the mean over the classes of the layer."
            )
            charts.append(Chart(f"{part.capitalize()} over classes", figure, caption=caption))
    return charts


def _relative_to_mean(row: Strength) -> list[float | None]:
    by_class = [_rms(of_class) for of_class in zip(*row.rms, strict=True)]
    mean = fmean(by_class)
    return [100 * (value / mean - 1) if mean else None for value in by_class]


def _rms(values: Iterable[float]) -> float:
    return sqrt(fmean(value * value for value in values))


def _chosen(results: ProbeResults) -> set[str]:
    """Return the layer that varies most in the encoder, the middle and the decoder."""
    totals = dict.fromkeys((layer.name for layer in results.layers), 0.0)
    for row in results.variance:
        totals[row.layer] += row.total
    depths = dict.fromkeys(layer.side for layer in results.layers)
    return {
        max((layer.name for layer in results.layers if layer.side == depth), key=totals.__getitem__)
        for depth in depths
    }


def _maps(
    results: ProbeResults, layers: Collection[str], kinds: Sequence[Callable[[Strength, ProbeGrid], Markup]]
) -> list[LayerMaps]:
    """Return all kinds of maps of all parts of some layers."""
    names = number_layers(results.layers)
    found = []
    for layer in results.layers:
        own = [row for row in results.strengths if row.layer == layer.name]
        if layer.name in layers and own:
            maps = [kind(row, results.grid) for row in own for kind in kinds]
            found.append(LayerMaps(f"{names[layer.name]} ({layer.name})", maps))
    return found


def _class_map(row: Strength, grid: ProbeGrid) -> Markup:
    values = list(map(list, zip(*row.rms, strict=True)))
    label = f"{row.part} by class: root mean square over channels"
    return to_svg(draw_heat_map(values, grid.classes, list(map(str, grid.timesteps)), label, low=0))


def _channel_map(row: Strength, grid: ProbeGrid) -> Markup:
    values = list(map(list, zip(*row.signed, strict=True)))
    names = [f"channel {channel}" for channel in row.channels]
    label = f"{row.part} by channel: mean over classes"
    return to_svg(draw_heat_map(values, names, list(map(str, grid.timesteps)), label, diverging=True))


def _variance(results: ProbeResults, names: dict[str, str]) -> list[Chart]:
    charts = []
    for part in PARTS:
        whole = pool_variance(results, part)
        if whole is None:
            continue
        bars = [("all layers", _three(whole))]
        bars += [(names[row.layer], _three(row)) for row in results.variance if row.part == part]
        figure = draw_stacked_bars(bars, SOURCES, f"variance of the {part}")
        caption = "A full bar is the total variance of the layer; without a bar, nothing varies."
        charts.append(Chart(f"Variance of the {part}", figure, SOURCES, caption))
    return charts


def _three(row: Variance) -> tuple[float, float, float]:
    return row.timestep, row.class_, row.interaction


def _frozen(results: ProbeResults) -> list[Chart]:
    """Return a chart for each kind of mean, with a line over sigma for each part; all layers together."""
    charts = []
    for over, words in FROZEN.items():
        own = [f for f in results.freezing if f.layer is None and f.over == over]
        if not own:
            continue
        series = []
        for freezing in own:
            rises = sorted(freezing.rises, key=lambda rise: rise.sigma)
            points = [(rise.sigma, 100 * rise.relative.value) for rise in rises]
            halves = [100 * _half(rise.relative) for rise in rises]
            name = _part(freezing, results)
            series.append(Series(name, LEGEND_STYLES[name], points, halves))
        figure = draw_lines(series, "noise level", "rise of the error, %", x_scale="log", y_scale="linear")
        caption = (
            "Rise of the denoising error at each sigma, in percent of the error there; 0 means no change. Bars are "
            "95 % intervals."
        )
        charts.append(Chart(f"{words.capitalize()}, all layers", figure, [line.name for line in series], caption))
    return charts


def _part(freezing: Freezing, results: ProbeResults) -> str:
    return _parts(results) if freezing.part == "both" else freezing.part


def _parts(results: ProbeResults) -> str:
    """Return the parts that the layers have."""
    return " and ".join(part for part in PARTS if any(part in layer.parts for layer in results.layers))


def _half(metric: Estimate) -> float:
    return 0.0 if metric.low is None or metric.high is None else (metric.high - metric.low) / 2


def _frozen_layers(results: ProbeResults, names: dict[str, str]) -> list[Chart]:
    """Return a chart for each kind of mean, with a row for each layer; mean over sigmas."""
    charts = []
    for over, words in FROZEN.items():
        rows: dict[str, list[Mark]] = {}
        parts: dict[str, int] = {}
        for freezing in results.freezing:
            if freezing.layer is not None and freezing.over == over:
                name = _part(freezing, results)
                parts[name] = LEGEND_STYLES[name]
                marks = rows.setdefault(freezing.layer, [])
                marks.append(_mark(name, freezing.relative, len(marks), 100))
        if rows:
            figure = draw_rows([Row(names[layer], marks, 0.0) for layer, marks in rows.items()], "rise of the error, %")
            caption = (
                "Rise of the error for each layer alone, in percent of the error at each sigma, mean over sigmas. The "
                "dashed line is 0. Bars are 95 % intervals without correction for multiple comparisons."
            )
            charts.append(Chart(f"{words.capitalize()}, in one layer", figure, list(parts), caption))
    return charts


def _swap(swap: Swap) -> Chart:
    rows = [
        Row(point.where, [_mark("classified as A", point.first), _mark("classified as B", point.second, line=1)])
        for point in swap.points
    ]
    caption = (
        f"The layers that are conditioned on class B while the others are conditioned on A, and the fraction of "
        f"{swap.samples:,} images that a reference classifier recognises as A and as B. Lines are 95 % intervals."
    )
    figure = draw_rows(rows, "fraction of images", limits=(0.0, 1.0))
    return Chart("Class swap", figure, ["classified as A", "classified as B"], caption)


def _mark(name: str, metric: Estimate, line: int = 0, factor: float = 1) -> Mark:
    ends = (None if end is None else factor * end for end in metric[:3])
    return Mark(LEGEND_STYLES[name], *ends, line=line, note=name)


def _sensitivity(results: ProbeResults) -> Chart | None:
    rows = sorted(results.sensitivity, key=lambda row: row.sigma)
    if not rows:
        return None
    differences = [(row.sigma, row.difference.value) for row in rows]
    answer = Series("change", LEGEND_STYLES["change"], differences, [_half(row.difference) for row in rows])
    error = Series("error", LEGEND_STYLES["error"], [(row.sigma, row.error) for row in rows])
    series = [answer, error]
    caption = (
        "Change of the predicted noise with another class (with 95 % intervals), and error of the predicted noise. "
        "Where the change is close to the error, the class matters much; far below it, hardly at all."
    )
    figure = draw_lines(series, "sigma", "root mean square of eps", x_scale="log")
    return Chart("Change with another class", figure, [line.name for line in series], caption)


def _separability(results: ProbeResults, names: dict[str, str]) -> Chart | None:
    if not results.separability:
        return None
    rows = [Row(names[row.layer], [Mark(0, row.accuracy)], row.chance) for row in results.separability]
    caption = (
        "How often the class is recognised from a layer's scale and shift at a timestep that was left out. The dashed "
        "line is the accuracy with permuted labels."
    )
    return Chart("Separability of classes", draw_rows(rows, "accuracy", limits=(0.0, 1.0)), caption=caption)


def _erasure(results: ProbeResults, names: dict[str, str]) -> Chart | None:
    rows = []
    for row in results.erasure:
        known = {"all": row.total, "timestep": row.timestep, "class": row.class_}
        parts = [(name, share) for name, share in known.items() if share is not None]
        if parts:
            marks = [Mark(LEGEND_STYLES[name], share, line=i, note=name) for i, (name, share) in enumerate(parts)]
            rows.append(Row(names[row.layer], marks, row.expected))
    if not rows:
        return None
    caption = (
        "The fraction of the variance of the shift that the norm subtracts again. The dashed line is the fraction for "
        "shifts that are independent between channels: 1 / (channels per group)."
    )
    figure = draw_rows(rows, "erased fraction", limits=(0.0, 1.0))
    return Chart("Erased by the norm", figure, ["all", "timestep", "class"], caption)


def _method(results: ProbeResults) -> list[tuple[str, str]]:
    model, grid = results.model, results.grid
    kind = {True: "held out from training", False: "the model was trained on them", None: "unknown whether held out"}
    found = [
        ("model", model.name),
        ("weights", model.weights),
        ("parameters", f"{model.parameters:,}"),
        ("norm", model.norm),
        ("conditioning", f"{model.conditioning}, in these layers: {model.condition_at}"),
        ("image size", f"{model.resolution} x {model.resolution} px"),
        ("classes", ", ".join(model.class_names) or "none"),
    ]
    if model.data is not None:
        found += [("real images", f"{model.images:,} of {model.data} ({kind[model.held_out]})")]
        found += [("data fingerprint", model.fingerprint or "none")]
    found += [
        ("intervals", "95 %, over images, assumed to be independent"),
        (
            "analysis of variance",
            "over these timesteps, nearly evenly spaced in the log signal-to-noise ratio, and the classes without the "
            "null class; the values logged during training are over 4 timesteps evenly spaced in t",
        ),
    ]
    levels = f"sigma {number(grid.sigmas[0])} to {number(grid.sigmas[-1])}"
    found += [("timesteps", f"{', '.join(map(str, grid.timesteps))} ({levels})")]
    if grid.classes != model.class_names:
        found += [("classes measured", ", ".join(grid.classes))]
    if results.swap is not None:
        accuracy = results.swap.classifier_accuracy
        found += [
            ("class swap", f"{results.swap.samples:,} images at each point, {results.swap.sampler}"),
            (
                "reference classifier",
                f"accuracy {percent(accuracy.value)} ({interval(accuracy._asdict())}) on new real images",
            ),
        ]
    return [*found, ("made by", f"ddpm {model.version}" + (f", commit {model.commit}" if model.commit else ""))]
