"""Charts with a row for each thing that is told apart: layers, or depths. Narrow enough for a telephone."""

from collections.abc import Sequence
from typing import NamedTuple

from ddpm.evaluation.estimates import Figure
from ddpm.lab.axes import compact, linear, span
from ddpm.lab.svg import as_text, child, drawing, write

WIDTH, RIGHT, TOP, BOTTOM = 330, 18, 4, 40      # pixels, of the frame
LETTER, GAP = 7.2, 6                            # width of a letter of a row's name; between it and the frame
BAR, ROW, STEP = 13, 18, 6                      # heights: of a bar, of a row with one value, of each further value


class Dots(NamedTuple):
    """A row of values, one below the other.

    Attributes:
        name: for people.
        figures: (style, value with its interval).
        mark: a value to compare them with, marked by an upright line; None for none.
    """

    name: str
    figures: Sequence[tuple[int, Figure]]
    mark: float | None = None


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], label: str) -> str:
    """Shares of a whole: a bar for each row, part i in the colour of series i.

    Args:
        rows: name, and a share (0 to 1) for each of `parts`; one or more.
        parts: names.
        label: what the whole is.

    Returns:
        An <svg> element.
    """
    left = _left([name for name, _ in rows])
    height = TOP + ROW * len(rows) + BOTTOM
    svg = drawing(WIDTH, height, label)
    svg.set("class", "rows")
    for share in (0.0, 0.5, 1.0):
        across = left + share * (WIDTH - RIGHT - left)
        child(svg, "path", {"class": "grid", "d": f"M{across:.1f} {TOP}V{height - BOTTOM}"})
        write(svg, across, height - BOTTOM + 15, f"{share:.0%}", "middle")
    for i, (name, shares) in enumerate(rows):
        top = TOP + ROW * i + (ROW - BAR) / 2
        write(svg, left - GAP, top + BAR - 2, name, "end")
        at = float(left)
        for style, (part, share) in enumerate(zip(parts, shares, strict=True)):
            width = share * (WIDTH - RIGHT - left)
            group = child(svg, "g", {"class": f"series-{style}"})
            box = {"x": f"{at:.2f}", "y": f"{top:.1f}", "width": f"{width:.2f}", "height": str(BAR)}
            child(child(group, "rect", {**box, "class": "cell"}), "title").text = f"{name}: {part} {share:.1%}"
            at += width
    write(svg, (left + WIDTH - RIGHT) / 2, height - 8, label, "middle", "axis")
    return as_text(svg)


def dots(rows: Sequence[Dots], label: str, low: float | None = None, high: float | None = None) -> str:
    """Values and their intervals on one axis.

    Args:
        rows: from the top; one or more, each with a value or more.
        label: what the values are, with their unit.
        low: that the axis reaches at least; None for what the values need.
        high: the same at the other end.

    Returns:
        An <svg> element.
    """
    ends = [end for row in rows for _, figure in row.figures for end in _known(figure)]
    ends += [end for end in (low, high, *(row.mark for row in rows)) if end is not None]
    scale = linear(*span(ends))
    left = _left([row.name for row in rows])
    heights = [ROW + STEP * (len(row.figures) - 1) for row in rows]
    height = TOP + sum(heights) + BOTTOM
    svg = drawing(WIDTH, height, label)
    svg.set("class", "rows")

    def place(value: float) -> float:
        return left + scale.place(value) * (WIDTH - RIGHT - left)

    every = -(-len(scale.ticks) // max(2, (WIDTH - RIGHT - left) // 32))
    for tick in scale.ticks[::every]:
        child(svg, "path", {"class": "grid", "d": f"M{place(tick):.1f} {TOP}V{height - BOTTOM}"})
        write(svg, place(tick), height - BOTTOM + 15, compact(tick), "middle")
    top = float(TOP)
    for row, tall in zip(rows, heights, strict=True):
        write(svg, left - GAP, top + tall / 2 + 4, row.name, "end")
        if row.mark is not None:
            child(svg, "path", {"class": "floor", "d": f"M{place(row.mark):.1f} {top + 2:.1f}V{top + tall - 2:.1f}"})
        for i, (style, figure) in enumerate(row.figures):
            middle = top + ROW / 2 + STEP * i
            group = child(svg, "g", {"class": f"series-{style}"})
            if figure.low is not None and figure.high is not None:
                a, b = place(figure.low), place(figure.high)
                child(group, "path", {"class": "bar", "d": f"M{a:.1f} {middle:.1f}H{b:.1f}"})
            dot = child(group, "circle", {"cx": f"{place(figure.value):.1f}", "cy": f"{middle:.1f}", "r": "3.2"})
            child(dot, "title").text = f"{row.name}: {_words(figure)}"
        top += tall
    write(svg, (left + WIDTH - RIGHT) / 2, height - 8, label, "middle", "axis")
    return as_text(svg)


def _left(names: Sequence[str]) -> int:
    return round(LETTER * max(map(len, names))) + GAP


def _known(figure: Figure) -> list[float]:
    return [end for end in (figure.value, figure.low, figure.high) if end is not None]


def _words(figure: Figure) -> str:
    interval = "" if figure.low is None else f" ({compact(figure.low)} to {compact(figure.high)})"
    return compact(figure.value) + interval
