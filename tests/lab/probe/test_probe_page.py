"""The page of a probe: its sentences against what the numbers say, its charts, and that it needs nothing else."""

import base64
import math
import re
from io import BytesIO
from xml.etree import ElementTree

import pytest
from PIL import Image

from ddpm.evaluation.estimates import Figure
from ddpm.lab.probe.probe_charts import Dots, dots, stacked_bars
from ddpm.lab.probe.probe_page import page
from ddpm.lab.probe.results import (
    Erasure,
    Freezing,
    Grid,
    Layer,
    Model,
    Probed,
    Rise,
    Sensitivity,
    Separability,
    Signs,
    Strength,
    Swap,
    SwapPoint,
    Variance,
)
from ddpm.lab.probe.summary import failing, failure, numbered, of_many, per_cent, shares, verdict

TIMESTEPS, CLASSES = [0, 300, 999], ["cat", "a <dog>"]
LAYERS = [
    Layer("down.0.blocks.0.norm2", "encoder", 8, 8, 2, ["scale", "shift"], False),
    Layer("mid.blocks.0.norm2", "middle", 4, 16, 4, ["scale", "shift"], False),
    Layer("up.0.blocks.0.norm2", "decoder", 4, 16, 4, ["scale", "shift"], False),
]
MEASURES = ("strengths", "variance", "signs", "separability", "freezing", "sensitivity")
NAMES = [layer.name for layer in LAYERS]


def about(value: float) -> Figure:
    return Figure(value, max(0.0, value - 0.1), value + 0.1, 40)


def freezing(layer: str | None, part: str, over: str, rise: float, half: float = 0.01) -> Freezing:
    """A rise of an error of 0.5, at noise level 1 three times that of the others."""

    def figure(value: float, error: float = 1.0) -> Figure:
        return Figure(value / error, (value - half) / error, (value + half) / error, 20)

    rises = [
        Rise(t, sigma, 0.5, figure(times * rise), figure(times * rise, 0.5))
        for t, sigma, times in zip(TIMESTEPS, (0.01, 1.0, 80.0), (1, 3, 1), strict=True)
    ]
    return Freezing(layer, part, over, rises, figure(rise, 0.5))


def picture() -> str:
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def probed() -> Probed:
    """A probe of three layers, in round numbers."""
    pairs = [(name, part) for name in NAMES for part in ("scale", "shift")]
    grid = [[0.1, 0.2], [0.3, 0.1], [0.5, 0.4]]
    p_values = [0.01, 0.3, 0.02]
    differences = zip(TIMESTEPS, (0.01, 1.0, 80.0), (0.02, 0.25, 0.03), strict=True)
    points = [
        SwapPoint("nowhere", "levels", about(0.9), about(0.0)),
        SwapPoint("up to 4 px", "levels", about(0.1), about(0.8)),
        SwapPoint("everywhere", "levels", about(0.0), about(0.9)),
        SwapPoint("encoder", "section", about(0.6), about(0.3)),
        SwapPoint("middle", "section", about(0.8), about(0.1)),
        SwapPoint("decoder", "section", about(0.2), about(0.7)),
    ]
    return Probed(
        model=Model("runs/small", "ab" * 32, 1234567, "adagn", "both", "all", 8, CLASSES, "digits", "cd" * 32, 20, True,
                    "python scripts/probe.py runs/small --images 20", "0.1", None),
        grid=Grid(TIMESTEPS, [0.01, 1.0, 80.0], CLASSES),
        layers=LAYERS,
        strengths=[Strength(name, part, grid, [[0.1, -0.2], [0.3, 0.1], [-0.5, 0.4]], [3, 1]) for name, part in pairs],
        variance=[Variance(name, part, 2.0, 0.5, 0.3, 0.2) for name, part in pairs],
        signs=[Signs(name, 0.0, 0.0, 0.0, 0.0) for name in NAMES],
        erasure=[],
        separability=[Separability(*row, 200, 0.4) for row in zip(NAMES, [0.9] * 3, [0.5] * 3, p_values, strict=True)],
        freezing=[
            freezing(None, "both", "class", 0.1),
            freezing(None, "scale", "class", 0.05),
            freezing(None, "both", "timestep", 0.2),
            freezing(None, "both", "all", 0.3),
            *(freezing(name, "both", "class", rise) for name, rise in zip(NAMES, (0.0, 0.02, 0.04), strict=True)),
        ],
        sensitivity=[Sensitivity(t, sigma, about(d), 0.5) for t, sigma, d in differences],
        swap=Swap(points, 40, "ddim, 20 steps", Figure(0.97, 0.95, 0.98, 300), ["cat to a <dog>"], picture()),
        left_out={},
    )


def bare(left_out: dict[str, str]) -> Probed:
    """A probe of which everything is left out that needs images, classes or a modulation."""
    empty = {name: [] for name in (*MEASURES, "erasure")} | {"swap": None}
    model = probed().model._replace(data=None, fingerprint=None, images=0, held_out=None, class_names=[])
    return probed()._replace(model=model, grid=Grid([0, 999], [0.01, 80.0], ["none"]), left_out=left_out, **empty)


def said(found: Probed) -> str:
    return "\n".join(verdict(found))


def test_the_page_needs_nothing_else() -> None:
    content = page(probed())
    assert content.lower().count("<script") == 0 and "Content-Security-Policy" in content
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[^\s"')>]+""", content)
    assert not outside
    assert "a <dog>" not in content and "a &lt;dog&gt;" in content          # names are text
    assert not re.search(r"\b(nan|inf|None)\b", content)
    for svg in re.findall(r"<svg.*?</svg>", content, re.DOTALL):
        ElementTree.fromstring(svg)


def test_verdict_comes_first_and_everything_has_its_place() -> None:
    content = page(probed()).replace("\u00a0", " ")
    assert content.index(verdict(probed())[0]) < content.index("<h2>")
    for heading in (
        "What the modulation varies with", "What the modulation is worth", "Where the class acts",
        "Where the class is felt", "Maps of scale and shift", "Signs of failure, and changes of sign",
        "How it was measured",
    ):
        assert f"<h2>{heading}</h2>" in content, heading
    assert probed().model.command in content and probed().model.weights in content
    assert "What the norm erases" not in content


def test_what_was_left_out_is_named_with_its_reason() -> None:
    content = page(bare({"freezing": "no real images were given.", "swap": "the model has no classes."}))
    assert "no real images were given." in content and "the model has no classes." in content
    assert verdict(bare({})) == []
    for heading in ("Where the class acts", "Maps of scale and shift", "Signs of failure, and changes of sign"):
        assert f"<h2>{heading}</h2>" not in content


@pytest.mark.parametrize("name", [*MEASURES, "swap"])
def test_any_one_measure_may_be_missing(name: str) -> None:
    without = probed()._replace(**{name: None if name == "swap" else []})
    assert "<h2>How it was measured</h2>" in page(without)


def test_shares_weigh_layers_by_their_variance_and_width() -> None:
    """Against the definition: sums of squares of all channels together."""
    rows = [Variance(NAMES[0], "scale", 3.0, 0.5, 0.25, 0.25), Variance(NAMES[1], "scale", 1.0, 0.1, 0.8, 0.1)]
    whole = shares(probed()._replace(variance=rows), "scale")
    timestep = 8 * 3.0 * 0.5 + 16 * 1.0 * 0.1
    assert whole.timestep == pytest.approx(timestep / (8 * 3.0 + 16 * 1.0))
    assert whole.total == pytest.approx((8 * 3.0 + 16 * 1.0) / 24)
    assert whole.timestep + whole.class_ + whole.interaction == pytest.approx(1)
    assert shares(probed()._replace(variance=rows), "shift") is None


def test_the_interval_of_the_largest_of_many_is_wider() -> None:
    """0.025 / 10 of a normal distribution is beyond 2.807 standard deviations, by tables."""
    half = 0.1 * 2.807 / 1.96
    assert of_many(Figure(0.5, 0.4, 0.6, 20), 10) == pytest.approx((0.5, 0.5 - half, 0.5 + half, 20), abs=1e-4)
    assert of_many(Figure(0.5, 0.4, 0.6, 20), 1) == pytest.approx((0.5, 0.4, 0.6, 20))
    assert of_many(Figure(0.5), 10) == Figure(0.5)


def test_the_verdict_says_what_the_numbers_say() -> None:
    text = said(probed())
    assert "50 % follows the timestep, 30 % the class and 20 % their interaction" in text
    assert "with the class averaged away by +60 % (+58 % to +62 %) at noise level 1 and by +20 % (+18 % to +22" in text
    assert "on average over 3 noise levels that count alike" in text
    assert "with both averaged away by +180 %" in text and "not told from 0" not in text
    assert "told another class up to 4 px, it reads 80 % as that class" in text
    assert "the decoder counts most (70 %" in text
    assert "noise level 1:" in text and "50 % of its error" in text
    assert "in 2 of 3 layers" in text
    assert "Signs of failure: none found in 3 layers." in text


def test_a_rise_that_could_be_none_is_called_so() -> None:
    text = said(probed()._replace(freezing=[freezing(None, "both", "class", 0.005)]))
    assert "by +3.0 % (+1.0 % to +5.0 %) at noise level 1 and" in text          # the largest of 3
    text = said(probed()._replace(freezing=[freezing(None, "both", "class", 0.003)]))
    assert "by +1.8 % (-0.2 % to +3.8 %) at noise level 1 (not told from 0)" in text


def test_a_modulation_that_does_not_vary_is_called_so() -> None:
    still = [row._replace(total=0.0, timestep=0.0, class_=0.0, interaction=0.0) for row in probed().variance]
    text = said(probed()._replace(variance=still))
    assert "The scale is the same over 3 timesteps (nearly even" in text and "follows" not in text


def test_the_layer_that_is_worth_most_is_named() -> None:
    text = said(probed())
    assert "3 decoder 4 px is worth most: with the class averaged away there alone, the error changes by +8.0 %" in text
    assert "the largest of 3, and so on the high side; 2 of them can be told" in text
    # Each rise could be told from 0 by itself, and of three none can.
    none = [freezing(name, "both", "all", 0.011) for name in NAMES]
    assert "No single layer is missed" in said(probed()._replace(freezing=none))


def test_a_swap_that_changes_nothing_is_called_so() -> None:
    swap = probed().swap
    stuck = [p._replace(first=Figure(0.9, 0.8, 1.0), second=Figure(0.0, 0.0, 0.1)) for p in swap.points]
    text = said(probed()._replace(swap=swap._replace(points=stuck)))
    assert "everywhere, it reads no more than 0 % as that class" in text and "no section alone decides" in text


def test_where_nothing_is_told_another_class_nothing_has_turned() -> None:
    """A judge that reads B before B is told says nothing of the network."""
    swap = probed().swap
    first = swap.points[0]._replace(first=about(0.0), second=about(0.9))
    text = said(probed()._replace(swap=swap._replace(points=[first, *swap.points[1:]])))
    assert "told another class up to 4 px" in text and "nowhere" not in text


def test_failure_signs_are_listed_worst_first() -> None:
    rows = [(0.02, 0.0, 0.0, 0.0), (0.25, 0.0, 0.0, 0.5), (None, None, 0.0, 0.75)]
    signs = [Signs(name, *row) for name, row in zip(NAMES, rows, strict=True)]
    found = probed()._replace(signs=signs)
    assert failing(found) == {"unmoved": [(NAMES[2], 0.75), (NAMES[1], 0.5)]}
    assert "(2 layers, most in 3 decoder 4 px: 75 %)" in failure(found) and "none found" not in failure(found)
    assert "no scale" in page(found)


def test_sign_flips_and_what_is_not_reached_are_no_failure() -> None:
    signs = [Signs(name, flips, 0.0, 0.0, None) for name, flips in zip(NAMES, (0.1, 0.3, 0.2), strict=True)]
    text = said(probed()._replace(signs=signs))
    assert "in 20 % of cases on average over 3 layers (most in 2 middle 4 px: 30 %)" in text
    assert "Signs of failure: none found in 3 layers." in text
    assert "not reached" in page(probed()._replace(signs=signs))


def test_an_additive_model_has_its_erasure() -> None:
    layers = [layer._replace(parts=["shift"], shift_before_norm=True) for layer in LAYERS]
    erasure = [Erasure(NAMES[0], 4, 0.25, 0.2, 0.1, 0.3), Erasure(NAMES[1], 4, 0.25, 0.4, 0.3, None),
               Erasure(NAMES[2], 4, 0.25, None, None, None)]
    found = probed()._replace(layers=layers, erasure=erasure)
    assert "erases 30 % of its variation on average over 2 layers (25 % expected" in said(found)
    assert "<h2>What the norm erases</h2>" in page(found)
    assert "a shift is added to the activations, which are normalized after that" in page(found)
    assert "<h2>Maps of shift</h2>" in page(found)


@pytest.mark.parametrize(
    ("parts", "conditioning", "words"),
    [
        (["scale"], "both", "then multiplied by 1 + scale; the numbers for it are computed from timestep and class,"),
        (["shift"], "class", "then moved by a shift; the numbers for it are computed from the class,"),
        (["scale", "shift"], "cross_attention", "from the timestep (the class enters by cross-attention"),
        (["scale", "shift"], "none", "multiplied by 1 + scale and moved by a shift; the numbers for it, one for each"),
    ],
)
def test_the_introduction_is_of_this_network(parts: list[str], conditioning: str, words: str) -> None:
    model = probed().model._replace(conditioning=conditioning)
    assert words in page(probed()._replace(layers=[layer._replace(parts=parts) for layer in LAYERS], model=model))


def test_many_layers_keep_the_overview_and_leave_their_maps_out() -> None:
    layers = [LAYERS[0]._replace(name=f"down.{i}") for i in range(40)]
    rows = [probed().strengths[0]._replace(layer=layer.name) for layer in layers]
    variance = [probed().variance[0]._replace(layer=layer.name) for layer in layers]
    empty = {name: [] for name in MEASURES if name not in ("strengths", "variance")}
    found = probed()._replace(layers=layers, strengths=rows, variance=variance, **empty)
    content = page(found)
    assert "The maps of the other 39 layers are left out" in content and "The other 39 layers" not in content


def test_layers_have_short_names() -> None:
    assert list(numbered(LAYERS).values()) == ["1 encoder 8 px", "2 middle 4 px", "3 decoder 4 px"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1e-9, "less than 0.1 %"), (0.0123, "1.2 %"), (0.0999, "10 %"), (0.5, "50 %"), (12.0, "1,200 %")],
)
def test_shares_in_words(share: float, text: str) -> None:
    assert per_cent(share) == text


def test_bars_are_as_long_as_the_shares() -> None:
    svg = stacked_bars([("a", [0.5, 0.25, 0.25]), ("b", [0.0, 0.0, 0.0])], ["x", "y", "z"], "all")
    boxes = [e for e in ElementTree.fromstring(svg).iter() if e.tag == "rect"]
    widths, starts = ([float(e.get(key)) for e in boxes] for key in ("width", "x"))
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.02) and widths[3:] == [0, 0, 0]      # to 0.01 px
    assert starts[1] == pytest.approx(starts[0] + widths[0], abs=0.02)
    assert starts[2] == pytest.approx(starts[1] + widths[1], abs=0.02)


def test_dots_stand_at_their_values_on_one_axis() -> None:
    rows = [Dots("a", [(0, Figure(0.0, -0.5, 0.5)), (1, Figure(1.0))], 0.5), Dots("long name", [(0, Figure(0.5))])]
    root = ElementTree.fromstring(dots(rows, "share"))
    a, b, c = (float(e.get("cx")) for e in root.iter() if e.tag == "circle")
    assert c - a == pytest.approx(b - c, abs=0.21)                                              # to 0.1 px
    (floor,) = (e.get("d") for e in root.iter() if e.get("class") == "floor")
    assert float(re.match(r"M([\d.]+)", floor)[1]) == pytest.approx(c, abs=0.11)
    (bar,) = (e.get("d") for e in root.iter() if e.get("class") == "bar")
    left, right = map(float, re.match(r"M([\d.]+) [\d.]+H([\d.]+)", bar).groups())
    assert (left + right) / 2 == pytest.approx(a, abs=0.11) and math.isclose(right - a, c - a, abs_tol=0.21)
