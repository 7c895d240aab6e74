"""Charts: scales against their definition, and points where they belong."""

import math
import re
from xml.etree import ElementTree

import pytest

from ddpm.analysis.charts import (
    HEIGHT,
    WIDTH,
    Series,
    compact,
    confusion_chart,
    fitting,
    interval_strip,
    line_chart,
    linear,
    logarithmic,
    thinned,
)

SPANS = [(0, 1), (640, 38400), (0.48, 0.81), (-3, 7), (5, 5), (0, 0), (1e-5, 90), (0.021, 0.023), (99.5, 99.9)]


# A logarithmic axis has only values above 0.
KINDS = [(kind, *span) for kind in (linear, fitting) for span in SPANS]
KINDS += [(logarithmic, *span) for span in SPANS if span[0] > 0]


@pytest.mark.parametrize(("kind", "low", "high"), KINDS)
def test_scales_hold_all_values_and_have_ticks_inside(kind, low: float, high: float) -> None:
    scale = kind(low, high)
    assert 0 <= scale.place(low) <= scale.place(high) <= 1
    assert (scale.place(scale.low), scale.place(scale.high)) == pytest.approx((0, 1), abs=1e-12)   # rounding
    assert 2 <= len(scale.ticks) <= 9
    assert all(-1e-9 <= scale.place(tick) <= 1 + 1e-9 for tick in scale.ticks)
    assert list(scale.ticks) == sorted(set(scale.ticks))
    assert len({compact(tick) for tick in scale.ticks}) == len(scale.ticks)


def test_equal_steps_and_equal_factors() -> None:
    line, log = linear(0, 10), logarithmic(0.01, 100)
    assert line.place(7) - line.place(4) == pytest.approx(line.place(3) - line.place(0))
    assert log.place(10) - log.place(1) == pytest.approx(log.place(0.1) - log.place(0.01))
    assert fitting(1, 2).place(1.5) == linear(1, 2).place(1.5)
    assert fitting(0.01, 100).place(1) == pytest.approx(0.5)
    assert fitting(-1, 100).place(0) == linear(-1, 100).place(0)


def test_thinning_takes_means_and_keeps_the_mean() -> None:
    points = [(float(i), math.sin(i)) for i in range(1000)]
    kept, together = thinned(points, most=250)
    assert together == 4 and len(kept) == 250
    assert kept[0] == (1.5, pytest.approx(sum(math.sin(i) for i in range(4)) / 4))
    assert sum(y for _, y in kept) / 250 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thinned(points[:250], most=250) == (points[:250], 1) and thinned([]) == ([], 1)


def placed(svg: str) -> list[tuple[float, float]]:
    circles = [element for element in ElementTree.fromstring(svg).iter() if element.tag == "circle"]
    return [(float(c.get("cx")), float(c.get("cy"))) for c in circles]


def test_points_are_placed_by_value() -> None:
    series = [Series("a", 0, [(0, 1), (50, 2), (100, 4)]), Series("b", 1, [(0, 4), (200, 8)])]
    svg = line_chart(series, "images seen", "loss", linear, logarithmic)
    (x0, y0), (x1, y1), (x2, y2), (_, y3), (x4, y4) = placed(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and x4 - x0 == pytest.approx(2 * (x2 - x0), abs=0.21)   # 0.1 px
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11) and y2 == y3 and y3 - y4 == pytest.approx(y0 - y1, abs=0.11)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in placed(svg))
    assert 'class="series-1"' in svg and "images seen" in svg and "a: 4 at 100" in svg


def test_bars_stay_inside_the_frame() -> None:
    """On a logarithmic axis an interval may reach below 0."""
    svg = line_chart([Series("a", 0, [(1, 0.1), (10, 10)], [0.5, 200.0])], "x", "y", logarithmic, logarithmic)
    bars = [e.get("d") for e in ElementTree.fromstring(svg).iter() if e.get("class") == "bar"]
    heights = [float(v) for bar in bars for v in re.search(r"M\S+ (\S+)V([\d.]+)", bar).groups()]
    assert len(bars) == 2 and all(0 <= height <= HEIGHT for height in heights)


@pytest.mark.parametrize("points", [[(3.0, 2.0)], [(0.0, 0.0), (0.0, 0.0)], [(i, 1.0 + i) for i in range(300)]])
def test_odd_lines(points: list[tuple[float, float]]) -> None:
    svg = line_chart([Series("a <b>", 0, points)], "x", "y")
    assert "nan" not in svg and "a &lt;b&gt;" in svg
    assert len(placed(svg)) == (0 if len(points) > 40 else len(points))


def test_strips_share_an_axis() -> None:
    values = [(2.0, 1.0, 3.0), (5.0, 4.0, 6.0)]
    first, second = (interval_strip([own, *values], 0, 0.5) for own in values)
    (a, _), (b, _) = placed(first)[0], placed(second)[0]
    assert b - a == pytest.approx(3 / 5.5 * (120 - 12), abs=0.11)      # from 0.5 to 6 over 108 pixels, to 0.1
    assert 'class="floor"' in first and 'class="floor"' not in interval_strip(values, 0, None)
    assert 'class="bar"' not in interval_strip([(1.0, None, None)], 0, None)


def test_confusions_are_shaded_by_share() -> None:
    svg = confusion_chart([[9, 1], [0, 0]], ["cat", "a very long name of a class"], 2)
    cells = [float(e.get("fill-opacity")) for e in ElementTree.fromstring(svg).iter() if e.get("class") == "cell"]
    assert cells == pytest.approx([0.04 + 0.54, 0.04 + 0.06, 0.04, 0.04])
    assert "cat read as a very long name of a class: 1 of 10" in svg and "a very long…" in svg


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1000, "1000"), (25_000, "25k"), (1.5e6, "1.5M"), (2e9, "2G"),
                                             (0.02, "0.02"), (-40_000, "-40k"), (1e-5, "1e-05")])
def test_short_numbers(value: float, text: str) -> None:
    assert compact(value) == text
