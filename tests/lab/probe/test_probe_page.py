"""The page and the summary of a probe: golden files, and the conclusions that numbers must lead to."""

import base64
import re
from collections.abc import Callable
from io import BytesIO
from xml.etree import ElementTree

import pytest
from PIL import Image

from ddpm.evaluation.estimates import Estimate
from ddpm.lab.probe.probe_page import render_probe
from ddpm.lab.probe.results import (
    Erasure,
    Layer,
    MeanAblation,
    Model,
    ProbeGrid,
    ProbeResults,
    Rise,
    Sensitivity,
    Separability,
    Strength,
    Swap,
    SwapPoint,
    Symptoms,
    Variance,
)
from ddpm.lab.probe.summary import (
    bonferroni_interval,
    find_failures,
    number_layers,
    percent,
    pool_variance,
    summarize,
)

TIMESTEPS, CLASSES = [0, 300, 999], ["cat", "a <dog>"]
LAYERS = [
    Layer("down.0.blocks.0.norm2", "encoder", 8, 8, 2, ["scale", "shift"], False),
    Layer("mid.blocks.0.norm2", "middle", 4, 16, 4, ["scale", "shift"], False),
    Layer("up.0.blocks.0.norm2", "decoder", 4, 16, 4, ["scale", "shift"], False),
]
MEASURES = ("strengths", "variance", "symptoms", "separability", "mean_ablations", "sensitivity")
NAMES = [layer.name for layer in LAYERS]


def about(value: float) -> Estimate:
    return Estimate(value, max(0.0, value - 0.1), value + 0.1, 40)


def ablation(layer: str | None, part: str, over: str, rise: float, half: float = 0.01) -> MeanAblation:
    """Return a rise of an error of 0.5, which is three times as large at sigma 1 as at the other sigmas."""

    def estimate(value: float, error: float = 1.0) -> Estimate:
        return Estimate(value / error, (value - half) / error, (value + half) / error, 20)

    rises = [
        Rise(t, sigma, 0.5, estimate(times * rise), estimate(times * rise, 0.5))
        for t, sigma, times in zip(TIMESTEPS, (0.01, 1.0, 80.0), (1, 3, 1), strict=True)
    ]
    return MeanAblation(layer, part, over, rises, estimate(rise, 0.5))


def picture() -> str:
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def probed() -> ProbeResults:
    """Return a probe of three layers with round numbers."""
    pairs = [(name, part) for name in NAMES for part in ("scale", "shift")]
    grid = [[0.1, 0.2], [0.3, 0.1], [0.5, 0.4]]
    p_values = [0.01, 0.3, 0.02]
    differences = zip(TIMESTEPS, (0.01, 1.0, 80.0), (0.02, 0.25, 0.03), strict=True)
    points = [
        SwapPoint("nowhere", "resolutions", about(0.9), about(0.0)),
        SwapPoint("up to 4 px", "resolutions", about(0.1), about(0.8)),
        SwapPoint("everywhere", "resolutions", about(0.0), about(0.9)),
        SwapPoint("encoder", "side", about(0.6), about(0.3)),
        SwapPoint("middle", "side", about(0.8), about(0.1)),
        SwapPoint("decoder", "side", about(0.2), about(0.7)),
    ]
    return ProbeResults(
        model=Model("runs/small", "ab" * 32, 1234567, "adagn", "both", "all", 8, CLASSES, "digits", "cd" * 32, 20, True,
                    "python scripts/probe.py runs/small --images 20", "0.1", None),
        grid=ProbeGrid(TIMESTEPS, [0.01, 1.0, 80.0], CLASSES),
        layers=LAYERS,
        strengths=[Strength(name, part, grid, [[0.1, -0.2], [0.3, 0.1], [-0.5, 0.4]], [3, 1]) for name, part in pairs],
        variance=[Variance(name, part, 2.0, 0.5, 0.3, 0.2) for name, part in pairs],
        symptoms=[Symptoms(name, 0.0, 0.0, 0.0, 0.0) for name in NAMES],
        erasure=[],
        separability=[Separability(*row, 200, 0.4) for row in zip(NAMES, [0.9] * 3, [0.5] * 3, p_values, strict=True)],
        mean_ablations=[
            ablation(None, "both", "class", 0.1),
            ablation(None, "scale", "class", 0.05),
            ablation(None, "both", "timestep", 0.2),
            ablation(None, "both", "all", 0.3),
            *(ablation(name, "both", "class", rise) for name, rise in zip(NAMES, (0.0, 0.02, 0.04), strict=True)),
        ],
        sensitivity=[Sensitivity(t, sigma, about(d), 0.5) for t, sigma, d in differences],
        swap=Swap(points, 40, "ddim, 20 steps", Estimate(0.97, 0.95, 0.98, 300), ["cat to a <dog>"], picture()),
        left_out={},
    )


def bare(left_out: dict[str, str]) -> ProbeResults:
    """Return a probe without any measurement."""
    empty = {name: [] for name in (*MEASURES, "erasure")} | {"swap": None}
    model = probed().model._replace(data=None, fingerprint=None, images=0, held_out=None, class_names=[])
    return probed()._replace(model=model, grid=ProbeGrid([0, 999], [0.01, 80.0], ["none"]), left_out=left_out, **empty)


def summary_of(results: ProbeResults) -> str:
    return "\n".join(summarize(results))


def additive() -> ProbeResults:
    """Return a probe of a model that adds its shift before the norm."""
    layers = [layer._replace(parts=["shift"], shift_before_norm=True) for layer in LAYERS]
    erasure = [Erasure(NAMES[0], 4, 0.25, 0.2, 0.1, 0.3), Erasure(NAMES[1], 4, 0.25, 0.4, 0.3, None),
               Erasure(NAMES[2], 4, 0.25, None, None, None)]
    return probed()._replace(layers=layers, erasure=erasure)


def failed() -> ProbeResults:
    """Return a probe with every symptom of failure, and with a layer without a scale."""
    rows = [(0.02, 0.1, 0.0, 0.0), (0.25, 0.0, 0.4, 0.5), (None, None, 0.0, 0.75)]
    return probed()._replace(symptoms=[Symptoms(name, *row) for name, row in zip(NAMES, rows, strict=True)])


def unclear() -> ProbeResults:
    """Return a probe that shows nothing: no variance, no significant rise, no effect of the class swap."""
    still = [row._replace(total=0.0, timestep=0.0, class_=0.0, interaction=0.0) for row in probed().variance]
    stuck = [p._replace(first=Estimate(0.9, 0.8, 1.0), second=Estimate(0.0, 0.0, 0.1)) for p in probed().swap.points]
    rises = [ablation(None, "both", "class", 0.003), *(ablation(name, "both", "all", 0.011) for name in NAMES)]
    symptoms = [Symptoms(name, flips, 0.0, 0.0, None) for name, flips in zip(NAMES, (0.1, 0.3, 0.2), strict=True)]
    swap = probed().swap._replace(points=stuck)
    return probed()._replace(variance=still, mean_ablations=rises, swap=swap, symptoms=symptoms)


def many_layers() -> ProbeResults:
    layers = [LAYERS[0]._replace(name=f"down.{i}") for i in range(40)]
    rows = [probed().strengths[0]._replace(layer=layer.name) for layer in layers]
    variance = [probed().variance[0]._replace(layer=layer.name) for layer in layers]
    empty = {name: [] for name in MEASURES if name not in ("strengths", "variance")}
    return probed()._replace(layers=layers, strengths=rows, variance=variance, **empty)


PROBES = {
    "adagn": probed,
    "additive": additive,
    "failed": failed,
    "unclear": unclear,
    "bare": lambda: bare({"mean ablation": "no real images were given", "class swap": "the model has no classes"}),
}


def test_summaries(check_golden: Callable[[str, str], None]) -> None:
    check_golden("summaries.txt", "\n".join(f"{name}\n{summary_of(make())}\n" for name, make in PROBES.items()))


@pytest.mark.parametrize("name", ["adagn", "additive", "bare"])
def test_page(name: str, check_golden_page: Callable[[str, str], None], read_page: Callable[[str], object]) -> None:
    text = render_probe(PROBES[name]())
    read_page(text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    check_golden_page(f"{name}.html", text)


def test_the_summary_comes_first() -> None:
    content = render_probe(probed()).replace("\u00a0", " ")
    assert content.index(summarize(probed())[0]) < content.index("<h2>")
    assert summarize(bare({})) == []


@pytest.mark.parametrize("name", [*MEASURES, "swap"])
def test_any_one_measure_may_be_missing(name: str, read_page: Callable[[str], object]) -> None:
    without = probed()._replace(**{name: None if name == "swap" else []})
    read_page(render_probe(without))


def test_layers_are_weighted_by_their_variance_and_width() -> None:
    """Compare with the definition: sums of squares of all channels together."""
    rows = [Variance(NAMES[0], "scale", 3.0, 0.5, 0.25, 0.25), Variance(NAMES[1], "scale", 1.0, 0.1, 0.8, 0.1)]
    whole = pool_variance(probed()._replace(variance=rows), "scale")
    timestep = 8 * 3.0 * 0.5 + 16 * 1.0 * 0.1
    assert whole.timestep == pytest.approx(timestep / (8 * 3.0 + 16 * 1.0))
    assert whole.total == pytest.approx((8 * 3.0 + 16 * 1.0) / 24)
    assert whole.timestep + whole.class_ + whole.interaction == pytest.approx(1)
    assert pool_variance(probed()._replace(variance=rows), "shift") is None


def test_the_interval_is_wider_after_bonferroni_correction() -> None:
    """By tables, 0.025 / 10 of a normal distribution lies beyond 2.807 standard deviations."""
    half = 0.1 * 2.807 / 1.96
    found = bonferroni_interval(Estimate(0.5, 0.4, 0.6, 20), 10)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half, 20), abs=1e-4)
    assert bonferroni_interval(Estimate(0.5, 0.4, 0.6, 20), 1) == pytest.approx((0.5, 0.4, 0.6, 20))
    assert bonferroni_interval(Estimate(0.5), 10) == Estimate(0.5)


def test_the_summary_holds_the_numbers() -> None:
    text = summary_of(probed())
    for numbers in (
        ("50 %", "30 %", "20 %"),                                               # of the variance
        ("+60 %", "+58 % to +62 %", "+20 %", "+18 % to +22 %", "+180 %"),       # rises of the error
        ("4 px", "80 %", "decoder", "70 %"),                                    # class swap
        ("2 of 3 layers",),                                                     # separability
        ("3 decoder 4 px", "+8.0 %"),                                           # one layer alone
    ):
        assert any(all(number in line for number in numbers) for line in text.splitlines()), numbers


def test_the_largest_rise_of_several_has_a_wider_interval() -> None:
    text = summary_of(probed()._replace(mean_ablations=[ablation(None, "both", "class", 0.005)]))
    assert "+3.0 % (+1.0 % to +5.0 %)" in text              # the largest of 3
    text = summary_of(probed()._replace(mean_ablations=[ablation(None, "both", "class", 0.003)]))
    assert "+1.8 % (-0.2 % to +3.8 %)" in text


def test_no_layer_is_named_where_all_rises_may_be_zero() -> None:
    """Each rise is significant by itself, and none is after correction for three comparisons."""
    (line,) = (line for line in summary_of(probed()).splitlines() if "3 decoder 4 px" in line)
    rises = [ablation(name, "both", "all", 0.011) for name in NAMES]
    assert "3 decoder 4 px" in line and "3 decoder 4 px" not in summary_of(probed()._replace(mean_ablations=rises))


def test_a_modulation_that_does_not_vary_has_no_percentages() -> None:
    assert not any("%" in line for line in summary_of(unclear()).splitlines()[:1])


def test_a_swap_of_no_layers_is_not_reported() -> None:
    """A classifier that answers B although no layer is conditioned on B shows nothing about the network."""
    swap = probed().swap
    first = swap.points[0]._replace(first=about(0.0), second=about(0.9))
    text = summary_of(probed()._replace(swap=swap._replace(points=[first, *swap.points[1:]])))
    assert "up to 4 px" in text and "nowhere" not in text


def test_symptoms_are_listed_worst_first() -> None:
    found = failed()
    assert find_failures(found)["unmoved"] == [(NAMES[2], 0.75), (NAMES[1], 0.5)]
    (line,) = (line for line in summarize(found) if line.startswith("Symptoms of failure"))
    assert all(word in line for word in ("2 layers", "3 decoder 4 px", "75 %"))


def test_sign_flips_and_layers_that_are_not_conditioned_are_not_failures() -> None:
    assert find_failures(unclear()) == {}
    (line,) = (line for line in summary_of(unclear()).splitlines() if "2 middle 4 px" in line)
    assert "20 %" in line and "30 %" in line


def test_the_erasure_is_the_mean_over_layers_where_it_is_known() -> None:
    (line,) = (line for line in summary_of(additive()).splitlines() if "erases" in line)
    assert all(number in line for number in ("30 %", "25 %", "2 layers"))


def test_the_introduction_explains_the_modulation_of_this_network(check_golden: Callable[[str, str], None]) -> None:
    cases = {"both": ["scale"], "class": ["shift"], "cross_attention": ["scale", "shift"], "none": ["scale", "shift"]}
    text = ""
    for conditioning, parts in cases.items():
        model = probed().model._replace(conditioning=conditioning)
        found = bare({})._replace(layers=[layer._replace(parts=parts) for layer in LAYERS], model=model)
        (words,) = re.findall("<p>(This network.*?)</p>", render_probe(found), re.DOTALL)
        text += f"conditioning {conditioning}, {' and '.join(parts)}\n{' '.join(words.split())}\n\n"
    check_golden("introductions.txt", text)


def test_many_layers_keep_the_overview_and_leave_their_maps_out() -> None:
    content = render_probe(many_layers())
    assert "<details><summary>The other" not in content and " 39 layers" in content


def test_layers_have_short_names() -> None:
    assert list(number_layers(LAYERS).values()) == ["1 encoder 8 px", "2 middle 4 px", "3 decoder 4 px"]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0 %"), (1e-9, "less than 0.1 %"), (0.0123, "1.2 %"), (0.0999, "10 %"), (0.5, "50 %"), (12.0, "1,200 %")],
)
def test_percentages(fraction: float, text: str) -> None:
    assert percent(fraction) == text
