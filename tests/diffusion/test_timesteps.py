"""Grids of timesteps."""

from functools import cache
from itertools import pairwise

import pytest

from ddpm.diffusion.schedule import NoiseSchedule, cosine, with_zero_terminal_snr
from ddpm.diffusion.timesteps import SPACINGS, timestep_grid, trailing


@cache
def process(T: int) -> NoiseSchedule:
    return NoiseSchedule(cosine(T))


GRIDS = [(T, n) for T in range(2, 60) for n in range(1, T + 1)]
GRIDS += [(T, n) for T in (999, 1000, 4000) for n in (1, 2, 3, 7, 10, 33, 50, 333, 666, 998, 999, 1000, 4000) if n <= T]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_fall_through_distinct_timesteps(spacing: str) -> None:
    for T, n in GRIDS:
        grid = timestep_grid(process(T), n, spacing)
        assert len(grid) == n and all(type(t) is int for t in grid), (T, n)
        assert all(a > b for a, b in pairwise(grid)), (T, n)
        assert grid[0] <= T - 1 and grid[-1] >= 0, (T, n)
    assert timestep_grid(process(1000), 1000, spacing) == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "logsnr", "karras"])
def test_grids_that_start_at_full_noise(spacing: str) -> None:
    for T, n in GRIDS:
        assert timestep_grid(process(T), n, spacing)[0] == T - 1, (T, n)


def test_grids_by_example() -> None:
    assert timestep_grid(process(1000), 4, "trailing") == [999, 749, 499, 249]
    assert timestep_grid(process(1000), 4, "leading") == [750, 500, 250, 0]
    assert timestep_grid(process(1000), 4, "linspace") == [999, 666, 333, 0]
    assert {a - b for a, b in pairwise(trailing(process(1000), 30))} == {33, 34}


@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_of_impossible_length(spacing: str, refused) -> None:
    for n in (0, -1, 11):
        with refused(f"steps: {n}", "1 to 10"):
            timestep_grid(process(10), n, spacing)


def test_unknown_spacing(refused) -> None:
    with refused("timestep_spacing: 'trailin'", "mean trailing"):
        timestep_grid(process(10), 5, "trailin")


@pytest.mark.parametrize("terminal", ["as it is", "zero SNR"])
def test_grids_that_are_even_on_a_scale(terminal: str) -> None:
    betas = cosine(1000)
    schedule = NoiseSchedule(with_zero_terminal_snr(betas) if terminal == "zero SNR" else betas)
    levels = schedule.sigmas.clamp(max=80)
    for spacing, scale in (("logsnr", lambda x: x.log()), ("karras", lambda x: x ** (1 / 7))):
        grid = timestep_grid(schedule, 20, spacing)
        gaps = -scale(levels[grid]).diff()
        # Timesteps are whole, so strides differ; by more where neighboring noise levels lie far apart, at both ends.
        assert grid[-1] == 0 and float(gaps[2:-2].max() / gaps[2:-2].min()) < 1.3, spacing
