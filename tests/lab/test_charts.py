"""Charts: scales against their definition, and points where they belong."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from ddpm.lab.axes import compact, fitting, linear, logarithmic
from ddpm.lab.charts import (
    HEIGHT,
    WIDTH,
    Series,
    confusion_chart,
    heat_map,
    interval_strip,
    line_chart,
    thinned,
)
from ddpm.lab.paired import Paired, difference_chart

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


def elements(svg: str, kind: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if kind in e.get("class", "").split()]


def test_a_band_reaches_from_low_to_high_and_the_axis_holds_it() -> None:
    line = Series("a", 0, [(0, 1), (10, 1), (20, 2)], band=[(0.5, 1), (0, 3), (2, 2)])
    svg = line_chart([line], "x", "y", linear, linear)
    (shape,) = (e.get("d") for e in elements(svg, "band"))
    corners = [tuple(map(float, corner.split())) for corner in shape[1:-1].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = placed(svg)
    unit = (y0 - y2) / 1.0                          # pixels of one unit of y
    wanted = [(x0, y0 + unit / 2), (x1, y1 + unit), (x2, y2), (x2, y2), (x1, y1 - 2 * unit), (x0, y0)]
    assert corners == [pytest.approx(corner, abs=0.25) for corner in wanted]        # all are rounded to 0.1 pixels
    assert all(0 <= y <= HEIGHT for _, y in corners)
    assert not elements(line_chart([Series("a", 0, [(0, 1), (1, 2)])], "x", "y"), "band")


PAIRED = [
    Paired("wide <b>", 1, {0: -2.0, 4: 1.0, 9: -0.5}, -0.5, -4.0, 3.0),
    Paired("two", 2, {0: 0.5, 4: 1.5}, 1.0, None, None),
]


def test_paired_differences_are_placed_by_value_on_one_axis() -> None:
    svg = difference_chart(PAIRED, "loss", "lower")
    (a, b, c, d, e) = (x for x, _ in placed(svg))
    pixel = (b - a) / 3                                                             # of one unit
    assert [c - a, d - a, e - a] == pytest.approx([1.5 * pixel, 2.5 * pixel, 3.5 * pixel], abs=0.15)
    zero = float(re.match(r"M(\S+) ", elements(svg, "frame")[0].get("d")).group(1))
    assert zero == pytest.approx(a + 2 * pixel, abs=0.15)
    (bar,) = (e.get("d") for e in elements(svg, "bar"))                             # the second has no interval
    left, right = map(float, re.match(r"M(\S+) \d+H([\d.]+)M", bar).groups())
    assert (left, right) == pytest.approx((zero - 4 * pixel, zero + 3 * pixel), abs=0.3)
    means = [float(re.match(r"M(\S+) ", e.get("d")).group(1)) for e in elements(svg, "mean")]
    assert means == pytest.approx([zero - pixel / 2, zero + pixel], abs=0.2)
    assert "wide &lt;b&gt;, seed 4: +1" in svg and svg.index("two, seed") > svg.index("wide")
    assert all(0 <= x <= WIDTH for x, _ in placed(svg))


@pytest.mark.parametrize(("better", "sides"), [("lower", ["← better", "worse →"]), ("higher", ["← worse", "better →"])])
def test_which_side_is_better_is_named(better: str, sides: list[str]) -> None:
    texts = [e.text for e in ElementTree.fromstring(difference_chart(PAIRED, "loss", better)).iter() if e.text]
    assert [text for text in texts if "better" in text or "worse" in text] == sides


def test_equal_arms_have_a_chart() -> None:
    """Runs that are equal to the last bit, as those of an arm without effect at equal seeds."""
    svg = difference_chart([Paired("a", 0, {0: 0.0, 1: 0.0, 2: 0.0}, 0.0, 0.0, 0.0)], "loss", "lower")
    assert "nan" not in svg and len({x for x, _ in placed(svg)}) == 1


def cells(svg: str) -> dict[str, tuple[str, float]]:
    """Title of each cell -> its kind and opacity."""
    rects = [e for e in ElementTree.fromstring(svg).iter() if e.tag == "rect" and len(e)]
    return {e[0].text: (e.get("class"), float(e.get("fill-opacity"))) for e in rects}


def test_a_heat_map_shades_by_value() -> None:
    found = cells(heat_map([[1, 2], [None, 5], [math.nan, 3]], ["a", "b & c", "d"], ["x", "y"], "share"))
    shades = {"a, x: 1": 0.05, "a, y: 2": 0.2875, "b & c, y: 5": 1.0, "d, y: 3": 0.525}
    assert found == {title: ("above", pytest.approx(shade, abs=1e-3)) for title, shade in shades.items()}


def test_a_diverging_heat_map_has_equal_shades_at_equal_distances() -> None:
    found = cells(heat_map([[-2, 1, 2, -1, 0, 4]], ["a"], list("uvwxyz"), "gain", diverging=True))
    shade = {title.split(": ")[1]: look for title, look in found.items()}
    assert shade["-2"] == ("below", shade["2"][1]) and shade["-1"] == ("below", shade["1"][1])
    assert shade["4"] == ("above", 1.0) and shade["0"][1] == 0.05 and shade["1"][1] < shade["2"][1]


def test_the_ends_of_a_heat_map_can_be_given() -> None:
    found = cells(heat_map([[-1, 0.5, 7]], ["a"], list("xyz"), "share", low=0.0, high=1.0))
    assert [look[1] for look in found.values()] == pytest.approx([0.05, 0.525, 1.0], abs=1e-3)
    found = cells(heat_map([[-1, 2]], ["a"], list("xy"), "gain", diverging=True, low=-4.0, high=4.0))
    assert [look[1] for look in found.values()] == pytest.approx([0.05 + 0.95 / 4, 0.05 + 0.95 / 2], abs=1e-3)


def texts_beside(svg: str, kind: str) -> list[tuple[float, float, str]]:
    return [(float(e.get("x")), float(e.get("y")), e.text) for e in elements(svg, kind)]


def test_a_large_heat_map_keeps_its_words_apart() -> None:
    rows, columns = [f"down.{i}.blocks.0.norm2" for i in range(40)], [f"class {j}" for j in range(50)]
    svg = heat_map([[i * j for j in range(50)] for i in range(40)], rows, columns, "size")
    assert len(cells(svg)) == 2000 and not elements(svg, "number")
    ticks = texts_beside(svg, "tick")
    heights = sorted(y for _, y, text in ticks if text in rows)
    across = sorted(x for x, _, text in ticks if text in columns)
    assert len(heights) == 40 and min(b - a for a, b in pairwise(heights)) >= 12
    assert len(across) >= 20 and min(b - a for a, b in pairwise(across)) >= 12
    width, height = (float(ElementTree.fromstring(svg).get(key)) for key in ("width", "height"))
    assert all(0 <= x <= width and 0 <= y <= height for x, y, _ in ticks) and width < 1000 and height < 800


def test_a_long_name_is_cut_and_told_in_full() -> None:
    name = "a class of a hundred letters " * 4
    svg = heat_map([[1.0]], [name], ["x"], "share")
    assert float(ElementTree.fromstring(svg).get("width")) < 450
    (cut,) = (e for e in ElementTree.fromstring(svg).iter("text") if (e.text or "").startswith("a class"))
    assert len(cut.text) == 24 and cut.text.endswith("…") and cut.find("title").text == name


def test_a_small_heat_map_has_its_numbers() -> None:
    svg = heat_map([[0.123, -4.0]], ["a"], ["encoder at 32x32", "middle"], "gain", diverging=True)
    assert [e.text for e in elements(svg, "number")] == ["0.12", "-4"]


@pytest.mark.parametrize("values", [[[3.0, 3.0]], [[0.0, 0.0]], [[None, math.nan]]])
@pytest.mark.parametrize("diverging", [False, True])
def test_heat_maps_of_nothing_and_of_one_value(values: list[list[float | None]], diverging: bool) -> None:
    svg = heat_map(values, ["a"], ["x", "y"], "share", diverging)
    assert "nan" not in svg and len(cells(svg)) == sum(v is not None and math.isfinite(v) for v in values[0])


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1000, "1000"), (25_000, "25k"), (1.5e6, "1.5M"), (2e9, "2G"),
                                             (0.02, "0.02"), (-40_000, "-40k"), (1e-5, "1e-05")])
def test_short_numbers(value: float, text: str) -> None:
    assert compact(value) == text
