"""Charts: the data that is drawn, and an SVG that is deterministic and takes its colors from the page."""

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from ddpm.lab.charts import (
    MAX_NAME_LENGTH,
    PALETTE,
    STYLES,
    WIDTH,
    Mark,
    Row,
    Series,
    draw_confusion_matrix,
    draw_heat_map,
    draw_lines,
    draw_rows,
    draw_stacked_bars,
    draw_strip,
    format_compactly,
    thin,
    to_svg,
)

LONG = "a class with <a name> & more than a hundred letters, " * 3 + "in full"
LINES = [
    Series("a <b> $x$", 0, [(1, 1.0), (10, 2.0), (100, 4.0)], band=[(0.5, 1.5), (1.0, 3.0), (4.0, 9.0)]),
    Series("b", 1, [(1, 3.0), (100, 8.0)], [4.0, 1.0]),
]
ROWS = [
    Row(LONG, [Mark(1, -2.0, alpha=0.5, note="seed 0"), Mark(1, 0.5, -4.0, 3.0, line=1, shape="D")], reference=0.0),
    Row("two", [Mark(2, 1.0)]),
]
CHARTS: dict[str, Callable[[], Figure]] = {
    "lines": lambda: draw_lines(LINES, "sigma", "error", x_scale="log"),
    "point": lambda: draw_lines([Series("a", 7, [(3.0, 0.0)])], "x", "y"),
    "many points": lambda: draw_lines([Series("a", 0, [(i, 1.0 + i) for i in range(300)])], "x", "y"),
    "rows": lambda: draw_rows(ROWS, "loss", limits=(0.0, 10.0), sides=("better", "worse")),
    "strip": lambda: draw_strip([Mark(0, 2.0, 1.0, 3.0), Mark(0, 5.0)], 0.5),
    "bars": lambda: draw_stacked_bars([("a", [0.5, 0.25, 0.25]), ("b", [0.0, 0.0, 0.0])], ["x", "y", "z"], "all"),
    "map": lambda: draw_heat_map([[1, 2], [None, 5], [math.nan, 3]], ["a", LONG, "d"], ["x", LONG], "share"),
    "diverging map": lambda: draw_heat_map([[-2, 1, 4]], ["a"], list("xyz"), "gain", diverging=True),
    "empty map": lambda: draw_heat_map([[None, math.nan]], ["a"], ["x", "y"], "share"),
    "equal map": lambda: draw_heat_map([[0.0, 0.0]], ["a"], ["x", "y"], "share", diverging=True),
    "confusion matrix": lambda: draw_confusion_matrix([[9, 1], [0, 0]], ["cat", LONG], 2),
}


@pytest.mark.parametrize("name", CHARTS)
def test_svg_is_deterministic_and_has_a_description_and_only_colors_of_the_page(name: str) -> None:
    with matplotlib.rc_context({"font.size": 30, "text.color": "red"}):         # settings of a user change nothing
        svg = to_svg(CHARTS[name]())
    assert svg == to_svg(CHARTS[name]())
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label")
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    drawn = re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)
    assert drawn and set(drawn) <= {"none", *(f"var(--{name})" for name in PALETTE)}
    assert "<style" not in svg and "font-family" not in svg and not re.search(r"\bnan\b", svg)
    identifiers = {element.get("id") for element in root.iter()} - {None}
    assert set(re.findall(r'(?:href="|url\()#(\w+)', svg)) <= identifiers


def test_lines_bands_and_intervals_are_those_given() -> None:
    axes = CHARTS["lines"]().axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    for series in LINES:
        assert lines[series.name] == [list(point) for point in series.points]
    band = axes.collections[0].get_paths()[0].vertices.tolist()
    assert {tuple(corner) for corner in band} >= {(1, 0.5), (1, 1.5), (10, 1), (10, 3), (100, 4), (100, 9)}
    (bars,) = (container[2][0].get_segments() for container in axes.containers)
    assert np.array(bars)[1].tolist() == [[100, 7], [100, 9]]
    low, high = axes.get_ylim()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log") and 0 < low <= 0.5 and high >= 9
    assert "<title>a &lt;b&gt; $x$: 2 at 10</title>" in to_svg(axes.figure)


@pytest.mark.parametrize(
    ("values", "scale"), [((1, 2.9), "linear"), ((1, 3), "log"), ((0, 9), "linear"), ((-1, 9), "linear")]
)
def test_an_axis_is_logarithmic_where_positive_values_span_a_factor_of_3(values: list[float], scale: str) -> None:
    series = [Series("a", 0, list(enumerate(values)))]
    assert draw_lines(series, "x", "y").axes[0].get_yscale() == scale
    assert draw_lines(series, "x", "y", y_scale="linear").axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("low", [1e-5, 0.02, 0.5, 640])
@pytest.mark.parametrize("factor", [1.05, 3, 20, 500, 1e7])
def test_ticks_are_few_and_their_labels_differ(low: float, factor: float) -> None:
    points = [(low, low), (low * factor, low * factor)]
    axes = draw_lines([Series("a", 0, points)], "x", "y", x_scale="log").axes[0]
    to_svg(axes.figure)
    for axis in (axes.xaxis, axes.yaxis):
        start, end = axis.get_view_interval()
        ticks = [tick for tick in axis.get_majorticklocs() if start <= tick <= end]
        assert 2 <= len(ticks) <= 9
        assert len({format_compactly(tick) for tick in ticks}) == len(ticks)


def test_marks_of_rows_are_at_their_values_on_one_axis_that_holds_all() -> None:
    axes = CHARTS["rows"]().axes[0]
    drawn = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() != "--"]
    assert drawn == [[-2], [-4, 3], [0.5], [1]] and axes.lines[0].get_xdata().tolist() == [0, 0]
    low, high = axes.get_xlim()
    assert low <= -4 and high >= 10
    svg = to_svg(axes.figure)
    assert "seed 0: -2</title>" in svg and svg.index(">better<") < svg.index(">worse<")
    heights = [line.get_ydata()[0] for line in axes.lines]
    assert heights[1] < heights[2] == heights[3] < heights[4]


def test_strips_share_an_axis_and_mark_the_reference() -> None:
    marks = [Mark(0, 2.0, 1.0, 3.0), Mark(0, 5.0, 4.0, 6.0)]
    first, second = (draw_strip([own, *marks], 0.5).axes[0] for own in marks)
    assert first.get_xlim() == second.get_xlim() and first.get_xlim()[0] < 0.5 and first.get_xlim()[1] > 6
    assert first.lines[1].get_xdata() == [0.5, 0.5] and first.lines[-1].get_xdata() == [2.0]
    assert len(draw_strip(marks, None).axes[0].lines) == len(first.lines) - 1
    low, high = draw_strip([Mark(0, -2.0)], 0.0).axes[0].get_xlim()
    assert low < -2 and high > 0


def test_bars_are_as_long_as_the_shares_and_follow_each_other() -> None:
    bars = CHARTS["bars"]().axes[0].patches
    of_first = [(bar.get_x(), bar.get_width()) for bar in bars[::2]]
    assert of_first == [(0, 0.5), (0.5, 0.25), (0.75, 0.25)] and not any(bar.get_width() for bar in bars[1::2])


def opacities(figure: Figure) -> list[float]:
    figure.draw_without_rendering()
    return figure.axes[0].collections[0].get_facecolor()[:, 3].tolist()


def test_heat_maps_shade_by_value_and_leave_unknown_cells_blank() -> None:
    # 64 shades from 0.05 to 1: half a step of rounding.
    assert opacities(CHARTS["map"]()) == pytest.approx([0.05, 0.2875, 0, 1, 0, 0.525], abs=0.01)
    below, above, strongest = CHARTS["diverging map"]().axes[0].collections[0].to_rgba([-2, 2, 4])
    assert below[3] == pytest.approx(above[3], abs=0.04) and strongest[3] == 1      # 32 shades on each side
    assert below[:3].tolist() != above[:3].tolist()
    assert opacities(CHARTS["confusion matrix"]()) == pytest.approx([1, 0.05 + 0.95 / 9, 0.05, 0.05], abs=0.01)
    assert [text.get_text() for text in CHARTS["confusion matrix"]().axes[0].texts][:4] == ["9", "1", "", ""]


def test_numbers_are_written_in_small_maps_only_and_large_maps_stay_small() -> None:
    small = draw_heat_map([[0.123, -4.0]], ["a"], ["x", "y"], "gain", diverging=True)
    assert [text.get_text() for text in small.axes[0].texts][:2] == ["0.12", "-4"]
    many = draw_heat_map([[1.0] * 10] * 21, ["a"] * 21, ["x"] * 10, "gain")        # there is room, but they are slow
    assert len(many.axes[0].texts) == 1
    rows, columns = [f"down.{i}.blocks.0.norm2" for i in range(40)], [f"class {j}" for j in range(50)]
    large = draw_heat_map([[i * j for j in range(50)] for i in range(40)], rows, columns, "size")
    width, height = 72 * large.get_size_inches()
    assert len(large.axes[0].texts) == 1 and width < 1000 and height < 800
    texts = [e for e in ElementTree.fromstring(to_svg(large)).iter("text") if (e.text or "") in rows]
    heights = sorted(float(e.get("y")) for e in texts)
    assert len(heights) == 40 and np.diff(heights).min() >= 12


@pytest.mark.parametrize("name", ["rows", "map", "confusion matrix"])
def test_long_names_are_cut_and_in_full_in_a_tooltip(name: str) -> None:
    figure = CHARTS[name]()
    root = ElementTree.fromstring(to_svg(figure))
    cut = f"{LONG[: MAX_NAME_LENGTH - 1]}…"
    groups = [g for g in root.iter("g") if (g.findtext("title") or "") == LONG]
    assert [g.findtext("text") for g in groups] == [cut] * (1 if name == "rows" else 2)
    assert float(root.get("width")) <= 1.5 * WIDTH


def test_every_series_looks_different() -> None:
    lines = draw_lines([Series(str(i), i, [(0, 1), (1, i)]) for i in range(STYLES)], "x", "y").axes[0].lines
    assert len({line.get_color() for line in lines}) == STYLES


def test_thinning_takes_means_and_keeps_the_mean() -> None:
    points = [(float(i), math.sin(i)) for i in range(1000)]
    kept, size = thin(points, maximum=250)
    assert size == 4 and len(kept) == 250
    assert kept[0] == (1.5, pytest.approx(sum(math.sin(i) for i in range(4)) / 4))
    assert sum(y for _, y in kept) / 250 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thin(points[:250], maximum=250) == (points[:250], 1) and thin([]) == ([], 1)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1000, "1000"), (25_000, "25k"), (1.5e6, "1.5M"), (2e9, "2G"),
                                             (0.02, "0.02"), (-40_000, "-40k"), (1e-5, "1e-05")])
def test_short_numbers(value: float, text: str) -> None:
    assert format_compactly(value) == text


def test_ticks_that_lie_close_together_differ() -> None:
    figure = draw_lines([Series("a", 0, [(1, 1.00001), (2, 1.00002), (3, 1.00003)])], "x", "y")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) > 2 and len(set(labels)) == len(labels), labels


def test_a_color_scale_around_zero_says_zero() -> None:
    figure = draw_heat_map([[-0.3, 0.1], [0.2, 0.3]], ["a", "b"], ["x", "y"], "shift", diverging=True)
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    assert "0" in labels and not [label for label in labels if "e-1" in label], labels
