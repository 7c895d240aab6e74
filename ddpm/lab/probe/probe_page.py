"""A probe as one HTML page that needs nothing else: no script, no other file, no network."""

from collections.abc import Callable, Collection, Iterable, Sequence
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from ddpm.evaluation.estimates import Figure
from ddpm.evaluation.text_table import interval, number
from ddpm.lab.axes import linear, logarithmic
from ddpm.lab.charts import Chart, Series, heat_map, legend, line_chart
from ddpm.lab.pages import template_environment
from ddpm.lab.probe.probe_charts import Dots, dots, stacked_bars
from ddpm.lab.probe.results import Freezing, Grid, Probed, Strength, Swap, Variance
from ddpm.lab.probe.summary import FAILURES, FROZEN, SIGNS, numbered, per_cent, shares, verdict

PARTS = ("scale", "shift")
MOST_MAPS = 30          # layers up to which each has its own maps; beyond, the page would take long to open
SOURCES = ("timestep", "class", "interaction")
STYLES = {
    **{source: i for i, source in enumerate(SOURCES)},
    **{"scale and shift": 0, "scale": 3, "shift": 4},
    **{"read as A": 0, "read as B": 1, "answer": 0, "error": 7, "all": 7},
}


class LayerMaps(NamedTuple):
    """The modulation of one layer.

    Attributes:
        title: of the layer, for people.
        maps: of each part.
    """

    title: str
    maps: Sequence[Markup]


def page(probed: Probed) -> str:
    """The whole page.

    Args:
        probed: what to show; what it left out is named with its reason.
    """
    templates = template_environment()
    templates.globals |= {"interval": interval, "number": number, "per_cent": per_cent}
    names = numbered(probed.layers)
    chosen = _chosen(probed)
    others = names.keys() - chosen
    return templates.get_template("probe/probe.html.jinja").render(
        probed=probed,
        names=names,
        styles=STYLES,
        parts=_parts(probed),
        signs=SIGNS,
        failures=FAILURES,
        verdict=verdict(probed),
        overview=_overview(probed, names),
        chosen=_maps(probed, chosen, (_class_map, _channel_map)),
        others=_maps(probed, others, (_class_map,)) if len(names) <= MOST_MAPS else [],
        left_out_maps=0 if len(names) <= MOST_MAPS else len(others),
        introduction=introduction(probed),
        variance=_variance(probed, names),
        frozen=_frozen(probed),
        frozen_layers=_frozen_layers(probed, names),
        swap=None if probed.swap is None else _swap(probed.swap),
        sensitivity=_sensitivity(probed),
        separability=_separability(probed, names),
        erasure=_erasure(probed, names),
        method=_method(probed),
    )


def introduction(probed: Probed) -> str:
    """What the modulation of this network is, for somebody who has never met it."""
    parts = _parts(probed).split(" and ")
    if any(layer.shift_before_norm for layer in probed.layers):
        how = "a shift is added to the activations, which are normalized after that"
    else:
        acts = {"scale": "multiplied by 1 + scale", "shift": "moved by a shift"}
        how = f"the activations are normalized, then {' and '.join(acts[part] for part in parts if part in acts)}"
    told = {
        "timestep": "the timestep",
        "class": "the class",
        "cross_attention": "the timestep (the class enters by cross-attention and not by the norms, so none of it "
        "depends on the class)",
    }
    source = told.get(probed.model.conditioning, "timestep and class")
    numbers = f"the numbers for it are computed from {source}, one for each channel"
    if probed.model.conditioning == "none":
        numbers = "the numbers for it, one for each channel, are constants: neither timestep nor class reaches them"
    return f"In each layer below, {how}; {numbers}. That is the modulation."


def _overview(probed: Probed, names: dict[str, str]) -> list[Chart]:
    """All layers over timesteps, and over classes, for each part."""
    charts = []
    timesteps = [str(t) for t in probed.grid.timesteps]
    for part in PARTS:
        own = [row for row in probed.strengths if row.part == part]
        if not own:
            continue
        rows = [names[row.layer] for row in own]
        over_time = [[_rms(at) for at in row.rms] for row in own]
        label = f"{part}, root mean square over channels and classes"
        caption = f"How strong the {part} is, layer by layer: the stronger the colour, the further from no change."
        svg = heat_map(over_time, rows, timesteps, label, low=0)
        charts.append(Chart(f"{part.capitalize()} over timesteps", Markup(svg), caption=caption))
        if len(probed.grid.classes) > 1:
            label = f"{part}, strength beside the layer's mean over classes, %"
            svg = heat_map([_beside_mean(row) for row in own], rows, probed.grid.classes, label, diverging=True)
            caption = (
                f"Which classes get a stronger (blue) or weaker (orange) {part} than the layer's classes on average."
            )
            charts.append(Chart(f"{part.capitalize()} over classes", Markup(svg), caption=caption))
    return charts


def _beside_mean(row: Strength) -> list[float | None]:
    by_class = [_rms(of_class) for of_class in zip(*row.rms, strict=True)]
    mean = fmean(by_class)
    return [100 * (value / mean - 1) if mean else None for value in by_class]


def _rms(values: Iterable[float]) -> float:
    return sqrt(fmean(value * value for value in values))


def _chosen(probed: Probed) -> set[str]:
    """Of each depth the layer that varies most."""
    totals = dict.fromkeys((layer.name for layer in probed.layers), 0.0)
    for row in probed.variance:
        totals[row.layer] += row.total
    depths = dict.fromkeys(layer.depth for layer in probed.layers)
    return {
        max((layer.name for layer in probed.layers if layer.depth == depth), key=totals.__getitem__) for depth in depths
    }


def _maps(
    probed: Probed, layers: Collection[str], kinds: Sequence[Callable[[Strength, Grid], str]]
) -> list[LayerMaps]:
    """Of the layers that are named, every kind of map of every part."""
    names = numbered(probed.layers)
    found = []
    for layer in probed.layers:
        own = [row for row in probed.strengths if row.layer == layer.name]
        if layer.name in layers and own:
            maps = [Markup(kind(row, probed.grid)) for row in own for kind in kinds]
            found.append(LayerMaps(f"{names[layer.name]} ({layer.name})", maps))
    return found


def _class_map(row: Strength, grid: Grid) -> str:
    values = list(map(list, zip(*row.rms, strict=True)))
    label = f"{row.part} by class: root mean square over channels"
    return heat_map(values, grid.classes, list(map(str, grid.timesteps)), label, low=0)


def _channel_map(row: Strength, grid: Grid) -> str:
    values = list(map(list, zip(*row.signed, strict=True)))
    names = [f"channel {channel}" for channel in row.channels]
    label = f"{row.part} by channel: mean over classes"
    return heat_map(values, names, list(map(str, grid.timesteps)), label, diverging=True)


def _variance(probed: Probed, names: dict[str, str]) -> list[Chart]:
    charts = []
    for part in PARTS:
        whole = shares(probed, part)
        if whole is None:
            continue
        bars = [("all layers", _three(whole))]
        bars += [(names[row.layer], _three(row)) for row in probed.variance if row.part == part]
        svg = Markup(stacked_bars(bars, SOURCES, f"variance of the {part}"))
        caption = "A full bar is all of a layer's variance; no bar: nothing varies there."
        lines = [(source, STYLES[source]) for source in SOURCES]
        charts.append(Chart(f"What the {part} varies with", svg, lines, caption))
    return charts


def _three(row: Variance) -> tuple[float, float, float]:
    return row.timestep, row.class_, row.interaction


def _frozen(probed: Probed) -> list[Chart]:
    """Of all layers together, by noise level: a chart for each mean, a line for each part."""
    charts = []
    for over, words in FROZEN.items():
        own = [f for f in probed.freezing if f.layer is None and f.over == over]
        if not own:
            continue
        series, ends = [], []
        for freezing in own:
            rises = sorted(freezing.rises, key=lambda rise: rise.noise_level)
            points = [(rise.noise_level, 100 * rise.relative.value) for rise in rises]
            halves = [100 * _half(rise.relative) for rise in rises]
            ends += [value + sign * half for (_, value), half in zip(points, halves, strict=True) for sign in (-1, 1)]
            name = _part(freezing, probed)
            series.append(Series(name, STYLES[name], points, halves))
        scale = linear(min(ends), max(ends))        # holds the intervals too
        svg = Markup(line_chart(series, "noise level", "rise of the error, %", logarithmic, lambda *_, s=scale: s))
        caption = (
            "How much worse the denoiser gets at each noise level, in per cent of its error there: 0 is as good as "
            "before. Bars are 95 % intervals."
        )
        charts.append(Chart(f"{words.capitalize()}, all layers", svg, legend(series), caption))
    return charts


def _part(freezing: Freezing, probed: Probed) -> str:
    return _parts(probed) if freezing.part == "both" else freezing.part


def _parts(probed: Probed) -> str:
    """What the layers have, in words."""
    return " and ".join(part for part in PARTS if any(part in layer.parts for layer in probed.layers))


def _half(figure: Figure) -> float:
    return 0.0 if figure.low is None or figure.high is None else (figure.high - figure.low) / 2


def _frozen_layers(probed: Probed, names: dict[str, str]) -> list[Chart]:
    """Layer by layer, mean over noise levels: a chart for each mean."""
    charts = []
    for over, words in FROZEN.items():
        rows: dict[str, list[tuple[int, Figure]]] = {}
        parts = {}
        for freezing in probed.freezing:
            if freezing.layer is not None and freezing.over == over:
                figure = Figure(*(None if end is None else 100 * end for end in freezing.relative[:3]))
                name = _part(freezing, probed)
                parts[name] = STYLES[name]
                rows.setdefault(freezing.layer, []).append((STYLES[name], figure))
        if rows:
            svg = dots([Dots(names[name], figures, 0.0) for name, figures in rows.items()], "rise of the error, %")
            caption = (
                "What each layer alone is worth: how much the error rises, in per cent of the error at each noise "
                "level, mean over noise levels. The dashed line is no rise. Bars are 95 % intervals of each by itself."
            )
            charts.append(Chart(f"{words.capitalize()}, in one layer", Markup(svg), list(parts.items()), caption))
    return charts


def _swap(swap: Swap) -> Chart:
    rows = [Dots(point.where, [(0, point.first), (1, point.second)]) for point in swap.points]
    caption = (
        f"Which depths are told class B while the rest are told A, and how many of {swap.samples:,} images a judge "
        "then reads as A and as B. Where the dots cross, the class is decided. Lines are 95 % intervals."
    )
    svg = Markup(dots(rows, "share of images read as", 0.0, 1.0))
    return Chart("Class swap by depth", svg, [("read as A", 0), ("read as B", 1)], caption)


def _sensitivity(probed: Probed) -> Chart | None:
    rows = sorted(probed.sensitivity, key=lambda row: row.noise_level)
    if not rows:
        return None
    differences = [(row.noise_level, row.difference.value) for row in rows]
    answer = Series("answer", STYLES["answer"], differences, [_half(row.difference) for row in rows])
    error = Series("error", STYLES["error"], [(row.noise_level, row.error) for row in rows])
    series = [answer, error]
    caption = (
        "How far the predicted noise moves when the network is told another class (with 95 % intervals), and how far "
        "it is from the true noise. Near the error, the class decides much; far below, next to nothing."
    )
    svg = Markup(line_chart(series, "noise level", "root mean square of eps", logarithmic))
    return Chart("Answer to another class", svg, legend(series), caption)


def _separability(probed: Probed, names: dict[str, str]) -> Chart | None:
    if not probed.separability:
        return None
    rows = [Dots(names[row.layer], [(0, Figure(row.accuracy))], row.chance) for row in probed.separability]
    caption = (
        "How often the class is read correctly from a layer's scale and shift at a timestep that was left out. The "
        "dashed line is what permuted labels give."
    )
    return Chart("Classes told apart", Markup(dots(rows, "accuracy", 0.0, 1.0)), caption=caption)


def _erasure(probed: Probed, names: dict[str, str]) -> Chart | None:
    rows = []
    for row in probed.erasure:
        known = {"all": row.total, "timestep": row.timestep, "class": row.class_}
        figures = [(STYLES[name], Figure(share)) for name, share in known.items() if share is not None]
        if figures:
            rows.append(Dots(names[row.layer], figures, row.expected))
    if not rows:
        return None
    caption = (
        "The share of the shift's variation that the norm's means take away again. The dashed line is the share for "
        "shifts that are independent from channel to channel: 1 / (channels per group)."
    )
    lines = [(name, STYLES[name]) for name in ("all", "timestep", "class")]
    return Chart("Erased by the norm", Markup(dots(rows, "erased share", 0.0, 1.0)), lines, caption)


def _method(probed: Probed) -> list[tuple[str, str]]:
    model, grid = probed.model, probed.grid
    kind = {True: "held out from training", False: "the model was trained on them", None: "not known whether held out"}
    found = [
        ("model", model.name),
        ("weights", model.weights),
        ("parameters", f"{model.parameters:,}"),
        ("norm", model.norm),
        ("conditioning", f"{model.conditioning}, at depths: {model.conditioned_depths}"),
        ("images of", f"{model.resolution} x {model.resolution} px"),
        ("classes", ", ".join(model.class_names) or "none"),
    ]
    if model.data is not None:
        found += [("real images", f"{model.images:,} of {model.data} ({kind[model.held_out]})")]
        found += [("data fingerprint", model.fingerprint or "none")]
    found += [
        ("intervals", "95 %, over images, which are taken as independent"),
        (
            "shares of the variance",
            "over these timesteps, nearly even in the log signal-to-noise ratio, and classes without the null class; "
            "those logged in training are over 4 timesteps even in t",
        ),
    ]
    levels = f"noise levels {number(grid.noise_levels[0])} to {number(grid.noise_levels[-1])}"
    found += [("timesteps", f"{', '.join(map(str, grid.timesteps))} ({levels})")]
    if grid.classes != model.class_names:
        found += [("classes looked at", ", ".join(grid.classes))]
    if probed.swap is not None:
        accuracy = probed.swap.judge_accuracy
        found += [
            ("class swap", f"{probed.swap.samples:,} images at each point, {probed.swap.sampler}"),
            ("judge", f"reads {per_cent(accuracy.value)} ({interval(accuracy._asdict())}) of new real images"),
        ]
    return [*found, ("made by", f"ddpm {model.version}" + (f", commit {model.commit}" if model.commit else ""))]
