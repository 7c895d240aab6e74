"""The fraction of an added shift that GroupNorm erases: closed forms, and the norm itself."""

import pytest
import torch
import torch.nn.functional as F

from ddpm.lab.probe.modulation_statistics import measure_erasure

T, K = 6, 5


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def independent(channels: int) -> torch.Tensor:
    return random(T, K, channels)


@pytest.mark.parametrize("per_group", [2, 4, 8])
def test_independent_shifts_lose_one_over_the_channels_of_a_group(per_group: int) -> None:
    channels = 512
    found = measure_erasure("layer", independent(channels), channels // per_group)
    assert (found.channels_per_group, found.expected) == (per_group, 1 / per_group)
    # The effect of the class has 4 x 512 independent values, so 0.05 is at least 4 standard deviations of its fraction.
    for fraction in (found.total, found.timestep, found.class_):
        assert fraction == pytest.approx(1 / per_group, abs=0.05)


def test_with_one_channel_per_group_everything_is_lost() -> None:
    """With one channel per group, GroupNorm of h + shift is GroupNorm of h for any shift."""
    shift = independent(16)
    assert measure_erasure("layer", shift, groups=16)[1:] == pytest.approx((1, 1, 1, 1, 1))
    h = random(1, 16, 4, 4)
    torch.testing.assert_close(F.group_norm(h + shift[0, 0, :, None, None], 16), F.group_norm(h, 16))


def test_the_erased_component_has_no_effect() -> None:
    """The output of the norm does not change without the mean of each group, and changes without the rest."""
    shift, h = independent(16)[2, 3], random(2, 16, 4, 4)
    means = shift.view(4, 4).mean(dim=1, keepdim=True).expand(4, 4).flatten()
    with_all = F.group_norm(h + shift[:, None, None], 4)
    torch.testing.assert_close(F.group_norm(h + (shift - means)[:, None, None], 4), with_all)
    assert (F.group_norm(h + means[:, None, None], 4) - with_all).abs().max() > 0.1


def test_effects_of_timestep_and_class_are_separate() -> None:
    """An effect that shifts whole groups is lost; one that shifts channels against each other is kept."""
    timestep = random(T, 1, 4, 1).expand(T, 1, 4, 4).flatten(2)
    against = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64).repeat(4)
    classes = random(1, K, 1) * against
    found = measure_erasure("layer", timestep + classes, groups=4)
    assert (found.timestep, found.class_) == (pytest.approx(1), pytest.approx(0, abs=1e-28))
    assert 0 < found.total < 1


def test_without_variation_nothing_is_erased() -> None:
    assert measure_erasure("layer", torch.ones(T, K, 8), 2)[3:] == (None, None, None)
