"""Medians, quartiles, ratios, and rounds in which the sides alternate."""

import math

import pytest

from ddpm.devices import find_peak
from ddpm.lab.benchmark import rounds
from ddpm.lab.benchmark.rounds import compare_sides, time_alternately


def test_the_ratio_is_that_of_the_medians() -> None:
    found = compare_sides({"ours": [1.0, 2.0, 3.0, 100.0, 2.0], "diffusers": [9.0, 3.0, 5.0]})
    assert found == {
        "ours": {"median": 2.0, "quartiles": [2.0, 3.0], "count": 5},
        "diffusers": {"median": 5.0, "quartiles": [4.0, 7.0], "count": 3},
        "ratio": 2.5,
    }
    assert compare_sides({"ours": [4.0]}) == {"ours": {"median": 4.0, "quartiles": [4.0, 4.0], "count": 1}}
    assert "ratio" not in compare_sides({"ours": [1.0], "diffusers": []})


def test_sides_alternate_and_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(rounds, "BLOCK_SECONDS", 1e-9)      # one call per round
    monkeypatch.setattr(rounds, "WARM_UP_CALLS", (2, 2))
    found = time_alternately({side: lambda side=side: called.append(side) for side in "ab"}, 4, math.inf)
    assert "".join(called) == "aabb" + "abba" * 2
    assert found.warm_up == {"a": 2, "b": 2} and all(len(seconds) == 4 for seconds in found.seconds.values())


def test_rounds_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "WARM_UP_SECONDS", (60.0, 60.0))
    found = time_alternately({"a": lambda: None}, 1000, -math.inf)
    assert len(found.seconds["a"]) == rounds.MIN_ROUNDS and found.warm_up["a"] == rounds.WARM_UP_CALLS[0]


def test_peaks_of_gpus() -> None:
    assert find_peak("NVIDIA H100 80GB HBM3", "bf16") == find_peak("NVIDIA H200", "bf16") == 989.5e12
    assert find_peak("NVIDIA H100 PCIe", "fp16") == 756e12
    assert find_peak("NVIDIA A100-SXM4-80GB", "fp32") == 156e12
    assert find_peak("NVIDIA T4", "bf16") is None and find_peak(None, "fp32") is None
