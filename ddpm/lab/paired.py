"""The chart of paired differences: what changes between two arms at equal seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ddpm.lab.axes import compact, linear, span
from ddpm.lab.charts import BOTTOM, WIDTH
from ddpm.lab.svg import as_text, child, drawing, write


class Paired(NamedTuple):
    """Differences of one arm from the baseline, a pair of runs for each seed.

    Attributes:
        name: of the arm.
        style: 0 to STYLES - 1, its colour.
        differences: seed -> the arm's figure minus the baseline's; one or more.
        mean: of the differences.
        low: lower end of the mean's interval; None where none is given.
        high: upper end.
    """

    name: str
    style: int
    differences: Mapping[int, float]
    mean: float
    low: float | None
    high: float | None


def difference_chart(rows: Sequence[Paired], label: str, better: str) -> str:
    """Differences from a baseline: under each arm's name a dot for each seed, and the mean with its interval.

    Args:
        rows: one or more arms.
        label: what is compared, with its unit.
        better: "lower" or "higher", which tells the two sides of 0 apart.

    Returns:
        An <svg> element.
    """
    step, margin, head = 46, 20, 26
    bottom = head + step * len(rows)
    ends = [end for row in rows for end in (row.mean, row.low, row.high) if end is not None]
    scale = linear(*span([0.0, *ends, *(value for row in rows for value in row.differences.values())]))
    svg = drawing(WIDTH, bottom + BOTTOM, f"{label} of each arm minus the baseline, by seed")

    def place(value: float) -> float:
        return margin + scale.place(value) * (WIDTH - 2 * margin)

    for tick in scale.ticks:
        child(svg, "path", {"class": "grid", "d": f"M{place(tick):.1f} {head}V{bottom}"})
        write(svg, place(tick), bottom + 16, compact(tick), "middle")
    child(svg, "path", {"class": "frame", "d": f"M{place(0):.1f} {head - 18}V{bottom}"})
    sides = ("better", "worse") if better == "lower" else ("worse", "better")
    write(svg, margin, head - 8, f"← {sides[0]}", "start")
    write(svg, WIDTH - margin, head - 8, f"{sides[1]} →", "end")
    write(svg, WIDTH / 2, bottom + 36, f"{label}, minus the baseline's", "middle", "axis")
    for i, row in enumerate(rows):
        top = head + step * i
        middle = top + 30
        write(svg, margin, top + 15, row.name, "start", "axis")
        group = child(svg, "g", {"class": f"series-{row.style}"})
        for seed, value in row.differences.items():
            dot = child(group, "circle", {"class": "faint", "cx": f"{place(value):.1f}", "cy": str(middle), "r": "4"})
            child(dot, "title").text = f"{row.name}, seed {seed}: {value:+.4g}"
        if row.low is not None and row.high is not None:
            a, b = place(row.low), place(row.high)
            shape = f"M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 6}v12M{b:.1f} {middle - 6}v12"
            child(group, "path", {"class": "bar thick", "d": shape})
        mean = child(group, "path", {"class": "mean", "d": f"M{place(row.mean):.1f} {middle - 7}l6 7l-6 7l-6 -7z"})
        child(mean, "title").text = f"{row.name}, mean: {row.mean:+.4g}"
    return as_text(svg)
