"""Charts of the pages, drawn by matplotlib as SVG that takes its colors from the page, in light and in dark mode."""

import io
import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import colors, rc_context, style, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Name of a CSS variable -> its value in light and in dark mode. The series c0, c1, ... are based on the palette of
# Okabe and Ito, which people with any color vision can tell apart.
PALETTE = {
    "paper": ("#ffffff", "#16181b"), "wash": ("#f4f5f7", "#1f2226"), "rule": ("#d9dce1", "#363a40"),
    "soft": ("#646a73", "#a0a6af"), "ink": ("#1c1e21", "#e6e8eb"),
    "c0": ("#0072b2", "#56b4e9"), "c1": ("#d55e00", "#ff8a3c"), "c2": ("#00845f", "#2fc79a"),
    "c3": ("#b5558f", "#e59bc6"), "c4": ("#8a6d00", "#f0e442"), "c5": ("#3f97c9", "#8fa8ff"),
    "c6": ("#1c1e21", "#e6e8eb"), "c7": ("#7a7f87", "#a0a6af"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
NAMES = {light: name for name, light in LIGHT.items()}
SERIES = [light for name, light in LIGHT.items() if re.fullmatch(r"c\d", name)]
DASHES = [(), (8, 3), (2, 3), (9, 3, 2, 3)] * 2     # of each series, in pixels
STYLES = len(SERIES)                                # series that look different
MAX_MARKED_POINTS = 40                              # maximum number of points of a line for which each is marked
MAX_NUMBERED_CELLS = 200                            # maximum number of cells of a heat map with numbers, slow to draw
MAX_NAME_LENGTH = 24                                # characters of a name; longer ones are cut and have a tooltip
WIDTH = 400                                         # pixels; small, so that text stays legible on a phone
use_page_style = style.context(["default", {
    "font.size": 12, "axes.titlesize": 12, "text.parse_math": False, "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"], "axes.edgecolor": LIGHT["soft"], "axes.facecolor": "none", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LIGHT["rule"],
    "xtick.color": LIGHT["soft"], "ytick.color": LIGHT["soft"], "xtick.major.size": 0, "ytick.major.size": 0,
    "figure.facecolor": "none", "lines.linewidth": 1.8, "lines.markersize": 5.5, "lines.scale_dashes": False,
    "svg.fonttype": "none",
}])


class Series(NamedTuple):
    """A line of a chart.

    Attributes:
        name: shown to readers.
        style: 0 to STYLES - 1, selects color and dashes.
        points: (x, y), sorted by x.
        half_widths: half the 95 % interval of each y; None for a line without intervals.
        band: (low, high) at each x, which is shaded; None for a line without a band.
    """

    name: str
    style: int
    points: Sequence[tuple[float, float]]
    half_widths: Sequence[float] | None = None
    band: Sequence[tuple[float, float]] | None = None


class Mark(NamedTuple):
    """A value in a row, with its interval if both ends are known; `line` counts the lines of the row from the top."""

    style: int
    value: float
    low: float | None = None
    high: float | None = None
    line: int = 0
    shape: Literal["o", "D"] = "o"
    alpha: float = 1.0
    note: str = ""


class Row(NamedTuple):
    """A labeled row of values, and the reference value drawn as a dashed line."""

    name: str
    marks: Sequence[Mark]
    reference: float | None = None


class Chart(NamedTuple):
    """A figure with title, caption and legend (`names`), as the macro `chart` shows it."""

    title: str
    figure: Figure
    names: Sequence[str] = ()
    caption: str = ""

    @property
    def svg(self) -> Markup:
        """Return the figure as an <svg> element."""
        return to_svg(self.figure)


@use_page_style
def to_svg(figure: Figure) -> Markup:
    """Return a figure as an <svg> element whose colors are CSS variables; equal figures give equal text."""
    file = io.StringIO()
    # The ids of an element hash the salt, and must differ between the charts of a page.
    with rc_context({"svg.hashsalt": figure.get_label()}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    content = svg[svg.index("</defs>") + len("</defs>") :]      # without the style sheet, which would hold for the page
    content = re.sub(r'<g id="tooltip:([^"]*)">', r"<g><title>\1</title>", content)
    content = re.sub(r"\s*(<[^>]+>)\s*", lambda found: _adapt_tag(found[1]), content)
    opening = '<svg role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}">'
    return Markup(opening).format(figure.get_label(), width, height, width, height) + Markup(content)


def _adapt_tag(tag: str) -> str:
    """Return a tag without what a page has no use for, and with CSS variables for colors."""
    tag = re.sub(r' id="[\w.]+_\d+"| transform="rotate\(-0 [^"]*"|font-family: [^;"]*;? ?', "", " ".join(tag.split()))
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag.replace("xlink:href", "href"))
    return re.sub("#[0-9a-f]{6}", lambda color: f"var(--{NAMES[color[0]]})", tag)


@use_page_style
def draw_lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_scale: Literal["linear", "log"] = "linear",
    y_scale: Literal["linear", "log"] | None = None,
) -> Figure:
    """Draw lines into one frame; y_scale None is "log" where all y are positive and span a factor of 3 or more."""
    figure = _new_figure(f"{y_label} over {x_label}: {', '.join(line.name for line in series)}", WIDTH, 254)
    axes = _add_axes(figure, (70, WIDTH - 16), (10, 210))
    for name, number, points, _, band in series:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=SERIES[number], linestyle=(0, DASHES[number]), label=name)
        if band is not None:
            low, high = zip(*band, strict=True)
            axes.fill_between(x, low, high, color=SERIES[number], alpha=0.13, linewidth=0)
        for point in points if len(points) <= MAX_MARKED_POINTS else ():
            tooltip = f"tooltip:{name}: {point[1]:.4g} at {format_compactly(point[0])}"
            axes.plot(*point, "o", color=SERIES[number], gid=tooltip)
    lowest, highest = axes.dataLim.intervaly
    axes.set(xlabel=x_label, ylabel=y_label, xscale=x_scale)
    axes.set_yscale(y_scale or ("log" if 0 < 3 * lowest <= highest else "linear"))
    limits = axes.get_ylim()
    for _, number, points, half_widths, _ in series:
        if half_widths is not None:
            x, y = zip(*points, strict=True)
            axes.errorbar(x, y, half_widths, fmt="none", color=SERIES[number], capsize=3)
    if axes.get_yscale() == "log":      # intervals may reach below 0
        axes.set_ylim(limits)
    _set_ticks(axes.xaxis)
    _set_ticks(axes.yaxis)
    return figure


@use_page_style
def draw_rows(rows: Sequence[Row], label: str, limits: Sequence[float] = (), sides: Sequence[str] = ("", "")) -> Figure:
    """Draw values with intervals, a row for each name; the axis includes `limits`, `sides` are written at its ends."""
    tops = np.cumsum([0, *(18 + 7 * max(mark.line for mark in row.marks) for row in rows)])
    names = [row.name for row in rows]
    figure = _new_figure(label, WIDTH, tops[-1] + 66)
    axes = _add_axes(figure, (_text_width(names), WIDTH - 16), (24, 24 + tops[-1]))
    for row, top, bottom in zip(rows, tops, tops[1:], strict=False):
        if row.reference is not None:
            axes.plot([row.reference] * 2, [top, bottom], color=LIGHT["soft"], linestyle=(0, (3, 2)))
        for mark in row.marks:
            _draw_mark(axes, mark, top + 9 + 7 * mark.line, row.name)
    axes.update_datalim([(limit, 0) for limit in limits])
    axes.autoscale_view()
    axes.set(xlabel=label, ylim=(tops[-1], 0))
    axes.set_title(sides[0], loc="left")
    axes.set_title(sides[1], loc="right")
    axes.grid(axis="y", visible=False)
    _set_ticks(axes.xaxis, maximum=4)
    _set_names(axes.yaxis, (tops[1:] + tops[:-1]) / 2, names)
    return figure


@use_page_style
def draw_strip(marks: Sequence[Mark], reference: float | None) -> Figure:
    """Draw the first mark on an axis scaled to all marks, so that the strips of one metric have the same axis."""
    figure = _new_figure("value and interval", 120, 18)
    axes = _add_axes(figure, (0, 120), (0, 18))
    ends = [end for end in (*(end for mark in marks for end in mark[1:4]), reference) if end is not None]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 1.0
    axes.set(xlim=(low - margin, high + margin), ylim=(-1, 1))
    axes.set_axis_off()
    axes.axhline(0, color=LIGHT["rule"], linewidth=1)
    if reference is not None:
        axes.axvline(reference, color=LIGHT["soft"], linestyle=(0, (3, 2)))
    _draw_mark(axes, marks[0], 0, "")
    return figure


@use_page_style
def draw_stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], label: str) -> Figure:
    """Draw shares of a whole (0 to 1): a bar for each row, part i in the color of series i."""
    names = [name for name, _ in rows]
    height = 18 * len(rows)
    figure = _new_figure(label, WIDTH, height + 46)
    axes = _add_axes(figure, (_text_width(names), WIDTH - 16), (4, 4 + height))
    shares = np.array([shares for _, shares in rows])
    starts = shares.cumsum(axis=1) - shares
    for i, part in enumerate(parts):
        bars = axes.barh(range(len(rows)), shares[:, i], left=starts[:, i], height=0.72, color=SERIES[i])
        for bar, name, share in zip(bars, names, shares[:, i], strict=True):
            bar.set_gid(f"tooltip:{name}: {part} {share:.1%}")
    axes.set(xlabel=label, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_ticks([0, 0.5, 1], ["0%", "50%", "100%"])
    _set_names(axes.yaxis, range(len(rows)), names)
    return figure


@use_page_style
def draw_heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    diverging: bool = False,
    low: float | None = None,
    number: int = 0,
    texts: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draw a table as shades of one color, with a scale below and, if it is small, with numbers.

    Args:
        values: a row of cells for each name in `rows`; None and nan are left blank.
        rows: names, from the top.
        columns: names, from the left.
        label: what the values are, with their unit.
        diverging: whether values below 0 have another color, with equal shades at equal distances from 0.
        low: value of the faintest shade, 0 if diverging; None for the lowest value.
        number: number of the series whose color is used.
        texts: written into the cells; None for the values.
    """
    grid = np.ma.masked_invalid(np.array(values, dtype=float))
    known = grid.compressed()
    width, height = min(46.0, max(10.0, 560 / len(columns))), min(26.0, max(14.0, 480 / len(rows)))
    flat = all(7 * len(name) <= width for name in columns)
    left, top = _text_width(rows), 40 if flat else 24 + _text_width(columns)
    right, bottom = left + width * len(columns), top + height * len(rows)
    figure = _new_figure(label, max(right + 16, left + 240, left + 7 * len(label)), bottom + 42)
    axes = _add_axes(figure, (left, right), (top, bottom))
    lowest, highest = (known.min() if low is None else low, known.max()) if known.size else (0.0, 1.0)
    if diverging:
        highest = max(abs(lowest), abs(highest)) or 1.0
        lowest = -highest
    faint, strong = (colors.to_rgba(SERIES[number], alpha) for alpha in (0.05, 1.0))
    other = [colors.to_rgba(SERIES[1], alpha) for alpha in (1.0, 0.05)]
    stops = [(0, other[0]), (0.5, other[1]), (0.5, faint), (1, strong)] if diverging else [(0, faint), (1, strong)]
    shades = colors.LinearSegmentedColormap.from_list("shades", stops, N=64).with_extremes(bad=(*strong[:3], 0))
    norm = colors.Normalize(lowest, highest if highest > lowest else lowest + 1)
    mesh = axes.pcolormesh(grid, cmap=shades, norm=norm, edgecolors=LIGHT["paper"], linewidth=1, clip_on=False)
    numbered = width >= 34 and height >= 16 and (texts is not None or grid.size <= MAX_NUMBERED_CELLS)
    for (i, j), value in np.ma.ndenumerate(grid) if numbered else ():
        color = LIGHT["paper" if mesh.to_rgba(value)[3] > 0.6 else "ink"]
        text = f"{value:.2g}" if texts is None else texts[i][j]
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center_baseline", color=color, size=11)
    every = 1 if flat else math.ceil(14 / width)
    axes.xaxis.tick_top()
    _set_names(axes.xaxis, np.arange(len(columns))[::every] + 0.5, columns[::every], rotation=0 if flat else 90)
    _set_names(axes.yaxis, np.arange(len(rows)) + 0.5, rows)
    axes.set(ylim=(len(rows), 0))
    axes.annotate(label, (0, 1), (0, top - 16), "axes fraction", "offset points")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if known.size:
        scale = _add_axes(figure, (left, left + 216), (bottom + 12, bottom + 24))
        edges = np.linspace(lowest, norm.vmax or 0.0, 25)
        scale.pcolormesh(edges, [0, 1], [(edges[1:] + edges[:-1]) / 2], cmap=shades, norm=norm, antialiased=False)
        ends_and_middle = np.where(np.abs(edges) < 1e-9 * np.abs(edges).max(), 0.0, edges)[::12]     # rounding is 0
        scale.set_xticks(ends_and_middle, [f"{edge:.3g}" for edge in ends_and_middle])
        scale.set_yticks([])
        scale.spines[:].set_visible(False)
        scale.grid(visible=False)
    return figure


@use_page_style
def draw_confusion_matrix(matrix: Sequence[Sequence[int]], names: Sequence[str], number: int) -> Figure:
    """Draw the requested class (rows) and the predicted class (columns), shaded by the fraction of the row."""
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    counts = [[format_compactly(count) if count else "" for count in row] for row in matrix]
    label = "requested class (rows), predicted class (columns)"
    return draw_heat_map(shares, names, names, label, low=0, number=number, texts=counts)


def thin(points: Sequence[tuple[float, float]], maximum: int = 250) -> tuple[list[tuple[float, float]], int]:
    """Average groups of neighboring points so that at most `maximum` remain; also return the size of the groups."""
    size = max(1, -(-len(points) // maximum))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
    return means, size


def format_compactly(value: float, digits: int = 4) -> str:
    """Return a number in few characters, such as 25k, 1.5M or 0.02, with `digits` significant digits below 10,000."""
    for limit, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.{digits}g}"


def _new_figure(label: str, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)      # a pixel is a point, the unit of SVG
    figure.set_label(label)
    return figure


def _add_axes(figure: Figure, across: tuple[float, float], down: tuple[float, float]) -> Axes:
    """Add axes with these edges, in pixels from the left and from the top."""
    width, height = 72 * figure.get_size_inches()
    (left, right), (top, bottom) = across, down
    return figure.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))


def _draw_mark(axes: Axes, mark: Mark, y: float, name: str) -> None:
    color, words = SERIES[mark.style], format_compactly(mark.value)
    if mark.low is not None and mark.high is not None:
        axes.plot([mark.low, mark.high], [y, y], "|-", linewidth=1.3, markersize=6, color=color, alpha=mark.alpha)
        words += f" ({format_compactly(mark.low)} to {format_compactly(mark.high)})"
    tooltip = f"tooltip:{', '.join(filter(None, (name, mark.note)))}: {words}"
    axes.plot(mark.value, y, mark.shape, color=color, alpha=mark.alpha, gid=tooltip)


def _set_ticks(axis: Axis, maximum: int = 6) -> None:
    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and high >= 10 * low:
        subs = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
        axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=8))
    else:
        axis.set_major_locator(ticker.MaxNLocator(maximum, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(ticker.NullLocator())
    # Ticks that lie close together relative to their size need more digits to differ, such as 0.99998 and 1.00002.
    farthest, span = max(abs(low), abs(high)), abs(high - low)
    digits = 4 + max(0, math.ceil(math.log10(farthest / span))) if farthest and span else 4
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format_compactly(value, digits)))


def _set_names(axis: Axis, positions: ArrayLike, names: Sequence[str], rotation: float = 0) -> None:
    cut = [name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…" for name in names]
    axis.set_ticks(positions, cut, rotation=rotation)
    for text, name in zip(axis.get_ticklabels(), names, strict=True):
        if len(name) > MAX_NAME_LENGTH:
            text.set_gid(f"tooltip:{name}")


def _text_width(names: Sequence[str]) -> float:
    """Return the pixels that the longest of these names needs."""
    return 8 + 7.2 * min(MAX_NAME_LENGTH, max(map(len, names)))
