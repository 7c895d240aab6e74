"""Charts as SVG inside a page. Colours are the page's: a series is an element of class `series-N`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from ddpm.lab.axes import Scale, compact, fitting, linear, span
from ddpm.lab.svg import as_text, child, drawing, write

WIDTH, HEIGHT = 550, 300                        # pixels; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 12, 44       # of the frame
STYLES = 8                                      # series that the page tells apart
LONGEST, LONGEST_ROW = 12, 24                   # letters of a name beside a table of counts, and beside a heat map
MARKED = 40                                     # up to so many points each has a mark

Point = tuple[float, float]


class Series(NamedTuple):
    """A line.

    Attributes:
        name: for people.
        style: 0 to STYLES - 1, its colour and dashes.
        points: (x, y), x rising.
        half_widths: of the 95 % interval of each y; None for lines without.
        band: (low, high) at each x, shaded; None for lines without.
    """

    name: str
    style: int
    points: Sequence[Point]
    half_widths: Sequence[float] | None = None
    band: Sequence[Point] | None = None


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
    x = x_scale(*span(x for line in series for x, _ in line.points))
    y = y_scale(*span([*(y for line in series for _, y in line.points), *_ends(series)]))
    svg = drawing(WIDTH, HEIGHT, f"{y_label} over {x_label}: {', '.join(line.name for line in series)}")
    _frame(svg, x, y, x_label, y_label)

    def place(point: Point) -> Point:
        inside = min(max(y.place(max(point[1], y.low)), 0), 1)
        return LEFT + x.place(point[0]) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - inside * (HEIGHT - TOP - BOTTOM)

    for line in series:
        group = child(svg, "g", {"class": f"series-{line.style}"})
        for (at, value), half in zip(line.points, line.half_widths or (), strict=line.half_widths is not None):
            (across, bottom), (_, top) = place((at, value - half)), place((at, value + half))
            shape = f"M{across:.1f} {bottom:.1f}V{top:.1f}M{across - 3:.1f} {top:.1f}h6M{across - 3:.1f} {bottom:.1f}h6"
            child(group, "path", {"class": "bar", "d": shape})
        placed = [place(point) for point in line.points]
        if line.band is not None:
            ends = list(zip(line.points, line.band, strict=True))
            around = [place((at, low)) for (at, _), (low, _) in ends]
            around += [place((at, high)) for (at, _), (_, high) in reversed(ends)]
            shape = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in around) + "Z"
            child(group, "path", {"class": "band", "d": shape})
        child(group, "path", {"class": "line", "d": "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in placed)})
        if len(placed) <= MARKED:
            for (a, b), point in zip(placed, line.points, strict=True):
                mark = child(group, "circle", {"cx": f"{a:.1f}", "cy": f"{b:.1f}", "r": "2.6"})
                child(mark, "title").text = f"{line.name}: {point[1]:.4g} at {compact(point[0])}"
    return as_text(svg)


def interval_strip(values: Sequence[tuple[float, float | None, float | None]], style: int, floor: float | None) -> str:
    """A value and its interval on an axis that all of a figure's rows share.

    Args:
        values: (value, low, high); the first is drawn, all decide the axis.
        style: of the series.
        floor: marked by an upright line; None for none.
    """
    width, height, margin = 120, 18, 6
    known = [v for triple in values for v in triple if v is not None] + ([] if floor is None else [floor])
    low, high = span(known)
    spread = high - low or 1.0
    svg = drawing(width, height, "value and interval")
    svg.set("class", "strip")

    def place(value: float) -> str:
        return f"{margin + (value - low) / spread * (width - 2 * margin):.1f}"

    middle = height / 2
    child(svg, "path", {"class": "grid", "d": f"M{margin} {middle}H{width - margin}"})
    if floor is not None:
        child(svg, "path", {"class": "floor", "d": f"M{place(floor)} 1V{height - 1}"})
    group = child(svg, "g", {"class": f"series-{style}"})
    value, left, right = values[0]
    if left is not None and right is not None:
        shape = f"M{place(left)} {middle}H{place(right)}M{place(left)} 5v8M{place(right)} 5v8"
        child(group, "path", {"class": "bar", "d": shape})
    child(group, "circle", {"cx": place(value), "cy": str(middle), "r": "3.4"})
    return as_text(svg)


def _short(name: str, most: int) -> str:
    """A name that leaves a chart its width; where it is cut, a <title> says all of it."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str], style: int) -> str:
    """Which class was asked for (rows) and which was read (columns), shaded by the share of the row."""
    cell, gap, letter = 30, 24, 6.5
    captions = [_short(name, LONGEST) for name in names]
    margin = gap + letter * max(map(len, captions)) + 8
    size = len(names) * cell
    svg = drawing(round(margin + size + 4), round(margin + size + 4), "confusion matrix")
    svg.set("class", f"confusion series-{style}")
    write(svg, margin + size / 2, 12, "read as", "middle", "axis")
    turned = write(svg, 12, margin + size / 2, "asked for", "middle", "axis")
    turned.set("transform", f"rotate(-90 12 {margin + size / 2:.0f})")
    for i, (row, caption) in enumerate(zip(matrix, captions, strict=True)):
        middle = margin + (i + 0.5) * cell
        write(svg, margin - 6, middle + 4, caption, "end")
        above = write(svg, middle + 4, margin - 6, caption, "start")
        above.set("transform", f"rotate(-90 {middle + 4:.1f} {margin - 6:.1f})")
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            left, top = margin + j * cell, margin + i * cell
            box = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": str(cell - 1), "height": str(cell - 1)}
            shade = child(svg, "rect", {**box, "class": "cell", "fill-opacity": f"{0.04 + 0.6 * share:.3f}"})
            child(shade, "title").text = f"{names[i]} read as {names[j]}: {count} of {sum(row)}"
            if count:
                write(svg, left + (cell - 1) / 2, top + cell / 2 + 4, compact(count), "middle")
    return as_text(svg)


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    diverging: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """A table as shades. A page shows it inside `.wide`, where it keeps its size and scrolls.

    Args:
        values: a row of cells for each name in `rows`; None and nan are left blank.
        rows: names, from the top.
        columns: names, from the left.
        label: what the values are, with their unit.
        diverging: one colour below 0 and another above it, with equal shades at equal distances.
        low: value of the faintest shade, 0 if diverging; None for the least there is.
        high: value of the strongest; None for the greatest there is. Values beyond the ends are shaded as the ends.

    Returns:
        An <svg> element: numbers in the cells where there is room for them, and a scale below.
    """
    width = min(46.0, max(10.0, 560 / len(columns)))
    height = min(26.0, max(13.0, 480 / len(rows)))
    letter, gap, head = 6.8, 6, 24
    left = gap + letter * min(LONGEST_ROW, max(map(len, rows)))
    flat = all(letter * len(name) <= width for name in columns)
    top = head + (14 if flat else letter * min(LONGEST_ROW, max(map(len, columns))))
    every = 1 if flat else math.ceil(14 / width)
    right, bottom = left + gap + width * len(columns), top + gap + height * len(rows)
    known = [value for row in values for value in row if _known(value)]
    shade, least, greatest = _shades(known, diverging, low, high)
    svg = drawing(math.ceil(max(right + 14, left + 240)), math.ceil(bottom + 56), label)
    svg.set("class", "map")
    write(svg, left + gap, 14, label, "start", "axis")
    for j, name in enumerate(columns):
        middle = left + gap + (j + 0.5) * width
        if flat:
            write(svg, middle, top, name, "middle")
        elif j % every == 0:
            turned = _caption(svg, middle + 4, top, name, "start")
            turned.set("transform", f"rotate(-90 {middle + 4:.1f} {top:.1f})")
    for i, (row, name) in enumerate(zip(values, rows, strict=True)):
        y = top + gap + i * height
        _caption(svg, left, y + height / 2 + 4, name, "end")
        for j, (value, column) in enumerate(zip(row, columns, strict=True)):
            if not _known(value):
                continue
            x, kind, strength = left + gap + j * width, *shade(value)
            _cell(svg, x, y, width - 1, height - 1, kind, strength, f"{name}, {column}: {value:.4g}")
            if width >= 34 and height >= 16:
                text = write(svg, x + (width - 1) / 2, y + height / 2 + 4, f"{value:.2g}", "middle", "number")
                text.set("class", "number strong" if strength > 0.6 else "number")
    for i in range(24 if known else 0):
        value = least + (i + 0.5) / 24 * (greatest - least)
        _cell(svg, left + gap + 9 * i, bottom + 14, 9, 12, *shade(value))
    for at in (0.0, 0.5, 1.0) if known else ():
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[at]
        write(svg, left + gap + 216 * at, bottom + 42, f"{least + at * (greatest - least):.3g}", anchor)
    return as_text(svg)


def _shades(
    known: Sequence[float], diverging: bool, low: float | None, high: float | None
) -> tuple[Callable[[float], tuple[str, float]], float, float]:
    """Value -> kind and strength (0 to 1) of its shade, and the values at the ends of the scale."""
    ends = [*known, *(end for end in (low, high) if end is not None)] or [0.0]
    if diverging:
        given = [abs(end) for end in (low, high) if end is not None]
        limit = max(given or map(abs, ends)) or 1.0
        return lambda value: ("below" if value < 0 else "above", min(1.0, abs(value) / limit)), -limit, limit
    least, greatest = min(ends) if low is None else low, max(ends) if high is None else high
    spread = (greatest - least) or 1.0
    return lambda value: ("above", min(1.0, max(0.0, (value - least) / spread))), least, least + spread


def _cell(
    svg: ElementTree.Element,
    x: float,
    y: float,
    width: float,
    height: float,
    kind: str,
    strength: float,
    title: str | None = None,
) -> None:
    box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    cell = child(svg, "rect", {**box, "class": kind, "fill-opacity": f"{0.05 + 0.95 * strength:.3f}"})
    if title is not None:
        child(cell, "title").text = title


def _caption(svg: ElementTree.Element, x: float, y: float, name: str, anchor: str) -> ElementTree.Element:
    label = write(svg, x, y, _short(name, LONGEST_ROW), anchor)
    if len(name) > LONGEST_ROW:
        child(label, "title").text = name
    return label


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ends(series: Sequence[Series]) -> Iterator[float]:
    """What the bands of some lines reach to."""
    return (end for line in series for ends in line.band or () for end in ends)


def _frame(svg: ElementTree.Element, x: Scale, y: Scale, x_label: str, y_label: str) -> None:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in y.ticks:
        height = bottom - y.place(tick) * (bottom - TOP)
        child(svg, "path", {"class": "grid", "d": f"M{LEFT} {height:.1f}H{right}"})
        write(svg, LEFT - 6, height + 4, compact(tick), "end")
    for tick in x.ticks:
        across = LEFT + x.place(tick) * (right - LEFT)
        child(svg, "path", {"class": "grid", "d": f"M{across:.1f} {TOP}V{bottom}"})
        write(svg, across, bottom + 16, compact(tick), "middle")
    child(svg, "path", {"class": "frame", "d": f"M{LEFT} {TOP}V{bottom}H{right}"})
    write(svg, (LEFT + right) / 2, HEIGHT - 8, x_label, "middle", "axis")
    middle = (TOP + bottom) / 2
    write(svg, 12, middle, y_label, "middle", "axis").set("transform", f"rotate(-90 12 {middle:.0f})")
