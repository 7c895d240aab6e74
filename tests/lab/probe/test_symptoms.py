"""Symptoms of failure and the strength of the modulation, on values that are constructed to show them."""

import pytest
import torch

from ddpm.lab.probe.modulation_statistics import SHOWN_CHANNELS, count_symptoms, measure_strength

T, K, C = 3, 2, 8
ONES = torch.ones(C)


def moving(*values: float) -> torch.Tensor:
    """Return channels at these values, moved a little by timestep and class."""
    wobble = 0.01 * torch.tensor([[[-1.0], [1.0]], [[1.0], [-1.0]], [[0.0], [0.0]]])                    # (T, K, 1)
    return torch.tensor(values) + wobble


def test_every_symptom_is_counted() -> None:
    scale = moving(0, -0.5, -1, -1, -1.5, 12, 0, 0)
    scale[..., 7] = 0.25                                    # constant
    found = count_symptoms("layer", {"scale": scale, "shift": torch.zeros(T, K, C)}, ONES, True)
    # Two channels vary around a gain of 0 and are below it a third of the time; one is always below it.
    assert found.flips == pytest.approx((1 + 2 / 3) / 8)
    assert (found.dead, found.exploding, found.unmoved) == (2 / 8, 1 / 8, 1 / 8)


def test_a_channel_that_is_active_at_one_timestep_is_not_dead() -> None:
    scale = moving(*[-1.0] * C)
    scale[1, 1, 3] = 0
    assert count_symptoms("layer", {"scale": scale}, ONES, True).dead == 7 / 8


def test_a_shift_alone_has_no_gain() -> None:
    found = count_symptoms("layer", {"shift": moving(0, 0, 0, 0, 0, 0, -11, 11)}, ONES, True)
    assert found == ("layer", None, None, 2 / 8, 0)


def test_untrained_modulation_moves_nothing() -> None:
    zeros = torch.zeros(T, K, C)
    assert count_symptoms("layer", {"scale": zeros, "shift": zeros}, ONES, True) == ("layer", 0, 0, 0, 1)
    # In a layer that is not conditioned, this is not a symptom of failure.
    assert count_symptoms("layer", {"scale": zeros, "shift": zeros}, ONES, False) == ("layer", 0, 0, 0, None)


def test_the_weight_of_the_norm_is_part_of_the_gain() -> None:
    """The weight can switch off or blow up a healthy scale; flips depend on 1 + scale alone."""
    weight = torch.tensor([0.0, 20.0, 0.5, -1.0, 1, 1, 1, 1])
    found = count_symptoms("layer", {"scale": moving(0, 0, 12, 0, 0, 0, 0, 0)}, weight, True)
    assert (found.flips, found.dead, found.exploding) == (0, 1 / 8, 1 / 8)


def test_strength_and_the_channels_that_vary_most() -> None:
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(T, K, 40, generator=draws, dtype=torch.float64) * torch.arange(1, 41)
    found = measure_strength("layer", "scale", values)
    assert torch.tensor(found.rms, dtype=torch.float64) == pytest.approx((values**2).mean(dim=2).sqrt().numpy())
    spread = values.flatten(0, 1).numpy().std(axis=0)
    assert found.channels == (-spread).argsort(kind="stable")[:SHOWN_CHANNELS].tolist()
    assert found.signed[2] == pytest.approx(values[2, :, found.channels].mean(dim=0).tolist())
    assert len(measure_strength("layer", "scale", values[..., :5]).channels) == 5
