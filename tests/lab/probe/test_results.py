"""A probe as JSON and back."""

import json

import pytest

from ddpm.evaluation.estimates import Estimate
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
    from_json,
    to_json,
)

METRIC = Estimate(0.5, 0.25, 0.75, 8)
PROBED = ProbeResults(
    Model("runs/é", "ab", 5, "adagn", "both", "all", 8, ["a", "b"], "digits", "cd", 4, False, "probe.py", "1", None),
    ProbeGrid([0, 9], [0.01, 3.0], ["a", "b"]),
    [Layer("mid.blocks.0.norm2", "middle", 8, 8, 2, ["scale", "shift"], False)],
    [Strength("mid.blocks.0.norm2", "scale", [[1.0, 2.0], [3.0, 4.0]], [[1.0], [2.0]], [3])],
    [Variance("mid.blocks.0.norm2", "scale", 2.0, 0.5, 0.25, 0.25)],
    [Symptoms("mid.blocks.0.norm2", None, None, 0.0, 1.0)],
    [Erasure("mid.blocks.0.norm2", 4, 0.25, None, None, None)],
    [Separability("mid.blocks.0.norm2", 0.9, 0.5, 0.01, 999, -0.5)],
    [MeanAblation(None, "both", "all", [Rise(9, 3.0, 0.5, METRIC, METRIC)], METRIC)],
    [Sensitivity(9, 3.0, METRIC, 0.5)],
    Swap([SwapPoint("nowhere", "resolutions", METRIC, METRIC)], 8, "dpmpp", METRIC, ["a to b"], "iVBO"),
    {"erasure": "why not"},
)


@pytest.mark.parametrize("probed", [PROBED, PROBED._replace(swap=None)], ids=["with a swap", "without a swap"])
def test_results_survive_writing_and_reading(probed: ProbeResults) -> None:
    """No list is empty, so every kind of record is read into its own type."""
    read = from_json(to_json(probed))
    assert read == probed
    assert type(read.mean_ablations[0].rises[0].rise) is Estimate and type(read.model) is Model
    assert read.swap is None or type(read.swap.points[0]) is SwapPoint


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', json.dumps({**json.loads(to_json(PROBED)), "format": 0})]
)
def test_another_file_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.*scripts/probe\.py.*$"):
        from_json(text)
