"""The page of a probe: one self-contained HTML file, without scripts or network access."""

import numpy as np
from markupsafe import Markup

from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.text_table import interval, number
from ddpm.lab.charts import Mark, Row, Series, draw_heat_map, draw_lines, draw_rows, draw_stacked_bars, to_svg
from ddpm.lab.pages import template_environment
from ddpm.lab.probe.results import MeanAblation, ProbeResults, Strength
from ddpm.lab.probe.summary import FAILURES, MEANS, PARTS, SYMPTOMS, number_layers, percent, pool_variance, summarize

MAX_MAPS = 30           # with more layers than this, the page would take long to open with a map of each
SOURCES = ("timestep", "class", "interaction")
LEGEND_STYLES = {
    **{source: i for i, source in enumerate(SOURCES)},
    **{"scale and shift": 0, "scale": 3, "shift": 4},
    **{"classified as A": 0, "classified as B": 1, "change": 0, "error": 7, "all": 7},
}


def render_probe(results: ProbeResults) -> str:
    """Return the page."""
    charts = ProbeCharts(results)
    return template_environment().get_template("probe/probe.html.jinja").render(
        results=results,
        charts=charts,
        names=charts.names,
        verdict=summarize(results),
        most_varying=find_most_varying(results),
        max_maps=MAX_MAPS,
        means=MEANS,
        symptoms=SYMPTOMS,
        failures=FAILURES,
        sources=SOURCES,
        styles=LEGEND_STYLES,
        interval=interval,
        number=number,
        percent=percent,
    )


def find_most_varying(results: ProbeResults) -> set[str]:
    """Return the layer that varies most in the encoder, the middle and the decoder."""
    totals = {layer.name: 0.0 for layer in results.layers}
    for row in results.variance:
        totals[row.layer] += row.total
    found: dict[str, str] = {}
    for layer in sorted(results.layers, key=lambda layer: -totals[layer.name]):
        found.setdefault(layer.side, layer.name)
    return {*found.values()}


class ProbeCharts:
    """The charts of a probe, as SVG.

    Attributes:
        names: display name of each layer.
        parts: the parts that the layers have, "scale and shift" or one of them.
    """

    def __init__(self, results: ProbeResults) -> None:
        self.results = results
        self.names = number_layers(results.layers)
        self.parts = " and ".join(part for part in PARTS if any(part in layer.parts for layer in results.layers))
        self.timesteps = [str(t) for t in results.grid.timesteps]

    def draw_strength_over_timesteps(self, part: str) -> Markup:
        """Draw a map of the layers' strength, averaged over classes."""
        own = [row for row in self.results.strengths if row.part == part]
        values = np.sqrt(np.mean(np.square([row.rms for row in own]), axis=2))                          # (layers, T)
        label = f"{part}, root mean square over channels and classes"
        names = [self.names[row.layer] for row in own]
        return to_svg(draw_heat_map(values.tolist(), names, self.timesteps, label, low=0))

    def draw_strength_over_classes(self, part: str) -> Markup:
        """Draw a map of the layers' strength, averaged over timesteps and relative to the mean over classes."""
        own = [row for row in self.results.strengths if row.part == part]
        strength = np.sqrt(np.mean(np.square([row.rms for row in own]), axis=1))                        # (layers, K)
        with np.errstate(invalid="ignore"):     # a layer without modulation has no relative strength
            values = (100 * (strength / strength.mean(axis=1, keepdims=True) - 1)).round(9)     # no rounding noise
        label = f"{part}, strength relative to the mean over classes, %"
        names = [self.names[row.layer] for row in own]
        return to_svg(draw_heat_map(values.tolist(), names, self.results.grid.classes, label, diverging=True))

    def draw_classes(self, row: Strength) -> Markup:
        """Draw a map of one layer's strength over timesteps and classes."""
        values, label = np.transpose(row.rms).tolist(), f"{row.part} by class: root mean square over channels"
        return to_svg(draw_heat_map(values, self.results.grid.classes, self.timesteps, label, low=0))

    def draw_channels(self, row: Strength) -> Markup:
        """Draw a map of the channels of one layer that vary most."""
        names = [f"channel {channel}" for channel in row.channels]
        label = f"{row.part} by channel: mean over classes"
        return to_svg(draw_heat_map(np.transpose(row.signed).tolist(), names, self.timesteps, label, diverging=True))

    def draw_variance(self, part: str) -> Markup:
        """Draw the analysis of variance of all layers together and of each."""
        rows = [(self.names[row.layer], row) for row in self.results.variance if row.part == part]
        whole = pool_variance(self.results, part)
        assert whole is not None, part
        bars = [(name, (row.timestep, row.class_, row.interaction)) for name, row in [("all layers", whole), *rows]]
        return to_svg(draw_stacked_bars(bars, SOURCES, f"variance of the {part}"))

    def part_name(self, ablation: MeanAblation) -> str:
        """Return the name of the part that was replaced."""
        return self.parts if ablation.part == "both" else ablation.part

    def draw_rises(self, ablations: list[MeanAblation]) -> Markup:
        """Draw the rise of the error over sigma, with a line for each part that was replaced in all layers."""
        series = []
        for ablation in ablations:
            rises, name = sorted(ablation.rises, key=lambda rise: rise.sigma), self.part_name(ablation)
            points = [(rise.sigma, 100 * rise.relative.value) for rise in rises]
            series.append(Series(name, LEGEND_STYLES[name], points, [100 * _half(rise.relative) for rise in rises]))
        return to_svg(draw_lines(series, "sigma", "rise of the error, %", x_scale="log", y_scale="linear"))

    def draw_rises_of_layers(self, ablations: list[MeanAblation]) -> Markup:
        """Draw the mean rise of the error for each layer whose modulation was replaced alone."""
        rows = [Row(self.names[a.layer or ""], [_mark(self.part_name(a), a.relative, 0, 100)], 0.0) for a in ablations]
        return to_svg(draw_rows(rows, "rise of the error, %"))

    def draw_swap(self) -> Markup:
        """Draw how the images are classified for each set of swapped layers."""
        assert self.results.swap is not None
        rows = [
            Row(point.where, [_mark("classified as A", point.first, 0), _mark("classified as B", point.second, 1)])
            for point in self.results.swap.points
        ]
        return to_svg(draw_rows(rows, "fraction of images", limits=(0.0, 1.0)))

    def draw_sensitivity(self) -> Markup:
        """Draw the change of the prediction with another class, and its error, over sigma."""
        rows = sorted(self.results.sensitivity, key=lambda row: row.sigma)
        differences = [(row.sigma, row.difference.value) for row in rows]
        series = [
            Series("change", LEGEND_STYLES["change"], differences, [_half(row.difference) for row in rows]),
            Series("error", LEGEND_STYLES["error"], [(row.sigma, row.error) for row in rows]),
        ]
        return to_svg(draw_lines(series, "sigma", "root mean square of eps", x_scale="log"))

    def draw_separability(self) -> Markup:
        """Draw how often each layer's modulation reveals the class."""
        rows = [Row(self.names[row.layer], [Mark(0, row.accuracy)], row.chance) for row in self.results.separability]
        return to_svg(draw_rows(rows, "accuracy", limits=(0.0, 1.0)))

    def draw_erasure(self) -> Markup:
        """Draw the fraction of the shift that the norm erases in each layer where the shift varies."""
        rows = []
        for row in self.results.erasure:
            fractions = {"all": row.total, "timestep": row.timestep, "class": row.class_}
            known = [(name, fraction) for name, fraction in fractions.items() if fraction is not None]
            marks = [Mark(LEGEND_STYLES[name], value, line=i, note=name) for i, (name, value) in enumerate(known)]
            if marks:
                rows.append(Row(self.names[row.layer], marks, row.expected))
        return to_svg(draw_rows(rows, "erased fraction", limits=(0.0, 1.0)))


def _mark(name: str, metric: Estimate, line: int, factor: float = 1) -> Mark:
    low, high = (None if end is None else factor * end for end in (metric.low, metric.high))
    return Mark(LEGEND_STYLES[name], factor * metric.value, low, high, line, note=name)


def _half(metric: Estimate) -> float:
    return 0.0 if metric.low is None or metric.high is None else (metric.high - metric.low) / 2
