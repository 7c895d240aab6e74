"""Charts as SVG inside a page. Colours are the page's: a series is an element of class `series-N`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, HEIGHT = 550, 300                        # pixels; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 12, 44       # of the frame
STYLES = 8                                      # series that the page tells apart
MARKED = 40                                     # up to so many points each has a mark

Point = tuple[float, float]


class Series(NamedTuple):
    """A line.

    Attributes:
        name: for people.
        style: 0 to STYLES - 1, its colour and dashes.
        points: (x, y), x rising.
        half_widths: of the 95 % interval of each y; None for lines without.
    """

    name: str
    style: int
    points: Sequence[Point]
    half_widths: Sequence[float] | None = None


class Chart(NamedTuple):
    """A chart with its words, as the macro `chart` of base.html.jinja shows it.

    Attributes:
        title: for people.
        svg: the chart.
        lines: (name, style) of each series; empty where no key is needed.
        caption: a sentence; empty for none.
    """

    title: str
    svg: Markup
    lines: Sequence[tuple[str, int]] = ()
    caption: str = ""


class Scale(NamedTuple):
    """An axis.

    Attributes:
        place: value -> 0 to 1.
        ticks: values that are marked.
        low: at 0.
        high: at 1.
    """

    place: Callable[[float], float]
    ticks: Sequence[float]
    low: float
    high: float


def linear(low: float, high: float) -> Scale:
    """Equal steps; the ends are widened to ticks."""
    if low == high:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    ticks = [i * step for i in range(first, last + 1)]
    return Scale(lambda value: (value - low) / (high - low), ticks, low, high)


def logarithmic(low: float, high: float) -> Scale:
    """Equal factors; `low` must be above 0."""
    assert low > 0
    if low == high:
        low, high = low / 2, high * 2
    margin = (high / low) ** 0.04
    low, high = low / margin, high * margin
    a, b = math.log(low), math.log(high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [tick for tick in linear(low, high).ticks if low <= tick <= high]
    ticks = ticks[:: -(-len(ticks) // 8)]
    return Scale(lambda value: (math.log(value) - a) / (b - a), ticks, low, high)


def fitting(low: float, high: float) -> Scale:
    """Logarithmic where all is above 0 and spans a factor of 3 or more, else linear."""
    return logarithmic(low, high) if low > 0 and high / low >= 3 else linear(low, high)


def legend(series: Sequence[Series]) -> list[tuple[str, int]]:
    """Name and style of each line, once where a line is in several parts."""
    return list(dict.fromkeys((line.name, line.style) for line in series))


def thinned(points: Sequence[Point], most: int = 250) -> tuple[list[Point], int]:
    """Means of so many neighbouring points that at most `most` are left, and how many were taken together."""
    together = max(1, -(-len(points) // most))
    groups = [points[i : i + together] for i in range(0, len(points), together)]
    means = [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
    return means, together


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_scale: Callable[[float, float], Scale] = linear,
    y_scale: Callable[[float, float], Scale] = fitting,
) -> str:
    """Lines in one frame.

    Args:
        series: one or more, each with a point or more.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        x_scale: least and greatest value -> axis.
        y_scale: the same.

    Returns:
        An <svg> element.
    """
    x = x_scale(*_span(x for line in series for x, _ in line.points))
    y = y_scale(*_span(y for line in series for _, y in line.points))
    svg = _svg(WIDTH, HEIGHT, f"{y_label} over {x_label}: {', '.join(line.name for line in series)}")
    _frame(svg, x, y, x_label, y_label)

    def place(point: Point) -> Point:
        inside = min(max(y.place(max(point[1], y.low)), 0), 1)
        return LEFT + x.place(point[0]) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - inside * (HEIGHT - TOP - BOTTOM)

    for line in series:
        group = _child(svg, "g", {"class": f"series-{line.style}"})
        for (at, value), half in zip(line.points, line.half_widths or (), strict=line.half_widths is not None):
            (across, bottom), (_, top) = place((at, value - half)), place((at, value + half))
            shape = f"M{across:.1f} {bottom:.1f}V{top:.1f}M{across - 3:.1f} {top:.1f}h6M{across - 3:.1f} {bottom:.1f}h6"
            _child(group, "path", {"class": "bar", "d": shape})
        placed = [place(point) for point in line.points]
        _child(group, "path", {"class": "line", "d": "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in placed)})
        if len(placed) <= MARKED:
            for (a, b), point in zip(placed, line.points, strict=True):
                mark = _child(group, "circle", {"cx": f"{a:.1f}", "cy": f"{b:.1f}", "r": "2.6"})
                _child(mark, "title").text = f"{line.name}: {point[1]:.4g} at {compact(point[0])}"
    return _text(svg)


def interval_strip(values: Sequence[tuple[float, float | None, float | None]], style: int, floor: float | None) -> str:
    """A value and its interval on an axis that all of a figure's rows share.

    Args:
        values: (value, low, high); the first is drawn, all decide the axis.
        style: of the series.
        floor: marked by an upright line; None for none.
    """
    width, height, margin = 120, 18, 6
    known = [v for triple in values for v in triple if v is not None] + ([] if floor is None else [floor])
    low, high = _span(known)
    spread = high - low or 1.0
    svg = _svg(width, height, "value and interval")
    svg.set("class", "strip")

    def place(value: float) -> str:
        return f"{margin + (value - low) / spread * (width - 2 * margin):.1f}"

    middle = height / 2
    _child(svg, "path", {"class": "grid", "d": f"M{margin} {middle}H{width - margin}"})
    if floor is not None:
        _child(svg, "path", {"class": "floor", "d": f"M{place(floor)} 1V{height - 1}"})
    group = _child(svg, "g", {"class": f"series-{style}"})
    value, left, right = values[0]
    if left is not None and right is not None:
        shape = f"M{place(left)} {middle}H{place(right)}M{place(left)} 5v8M{place(right)} 5v8"
        _child(group, "path", {"class": "bar", "d": shape})
    _child(group, "circle", {"cx": place(value), "cy": str(middle), "r": "3.4"})
    return _text(svg)


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str], style: int) -> str:
    """Which class was asked for (rows) and which was read (columns), shaded by the share of the row."""
    cell, gap, letter = 30, 24, 6.5
    captions = [name if len(name) <= 12 else f"{name[:11]}…" for name in names]
    margin = gap + letter * max(map(len, captions)) + 8
    size = len(names) * cell
    svg = _svg(round(margin + size + 4), round(margin + size + 4), "confusion matrix")
    svg.set("class", f"confusion series-{style}")
    _label(svg, margin + size / 2, 12, "read as", "middle", "axis")
    turned = _label(svg, 12, margin + size / 2, "asked for", "middle", "axis")
    turned.set("transform", f"rotate(-90 12 {margin + size / 2:.0f})")
    for i, (row, caption) in enumerate(zip(matrix, captions, strict=True)):
        middle = margin + (i + 0.5) * cell
        _label(svg, margin - 6, middle + 4, caption, "end")
        above = _label(svg, middle + 4, margin - 6, caption, "start")
        above.set("transform", f"rotate(-90 {middle + 4:.1f} {margin - 6:.1f})")
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            left, top = margin + j * cell, margin + i * cell
            box = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": str(cell - 1), "height": str(cell - 1)}
            shade = _child(svg, "rect", {**box, "class": "cell", "fill-opacity": f"{0.04 + 0.6 * share:.3f}"})
            _child(shade, "title").text = f"{names[i]} read as {names[j]}: {count} of {sum(row)}"
            if count:
                _label(svg, left + (cell - 1) / 2, top + cell / 2 + 4, compact(count), "middle")
    return _text(svg)


def compact(value: float) -> str:
    """A number as short as it goes: 25k, 1.5M, 0.02."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.4g}"


def _frame(svg: ElementTree.Element, x: Scale, y: Scale, x_label: str, y_label: str) -> None:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y.ticks:
        height = bottom - y.place(tick) * (bottom - TOP)
        _child(svg, "path", {"class": "grid", "d": f"M{LEFT} {height:.1f}H{right}"})
        _label(svg, LEFT - 6, height + 4, compact(tick), "end")
    for tick in x.ticks:
        across = LEFT + x.place(tick) * (right - LEFT)
        _child(svg, "path", {"class": "grid", "d": f"M{across:.1f} {TOP}V{bottom}"})
        _label(svg, across, bottom + 16, compact(tick), "middle")
    _child(svg, "path", {"class": "frame", "d": f"M{LEFT} {TOP}V{bottom}H{right}"})
    _label(svg, (LEFT + right) / 2, HEIGHT - 8, x_label, "middle", "axis")
    middle = (TOP + bottom) / 2
    _label(svg, 12, middle, y_label, "middle", "axis").set("transform", f"rotate(-90 12 {middle:.0f})")


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= step * (1 - 1e-9))


def _span(values: Sequence[float] | Iterator[float]) -> Point:
    known = list(values)
    return min(known), max(known)


def _svg(width: int, height: int, label: str) -> ElementTree.Element:
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return ElementTree.Element("svg", {**size, "role": "img", "aria-label": label})


def _child(parent: ElementTree.Element, tag: str, attributes: dict[str, str] | None = None) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes or {})


def _label(
    svg: ElementTree.Element, x: float, y: float, text: str, anchor: str, kind: str = "tick"
) -> ElementTree.Element:
    label = _child(svg, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor})
    label.text = text
    return label


def _text(svg: ElementTree.Element) -> str:
    return ElementTree.tostring(svg, encoding="unicode")
