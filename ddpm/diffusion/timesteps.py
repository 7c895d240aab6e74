"""The timesteps that a sampler visits.

To add a spacing, a function (schedule, num_steps) -> decreasing timesteps, see "Where to add things" in docs/design.md.
"""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.names import lookup

# Images with a larger sigma are almost pure noise (Karras et al. 2022, table 1); spacings treat them as equal.
SIGMA_MAX = 80.0


def trailing(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Return timesteps from T-1 down in equal strides: sampling starts at full noise (Lin et al. 2023, table 2)."""
    T = schedule.num_timesteps
    return [round((i + 1) * T / num_steps) - 1 for i in reversed(range(num_steps))]


def leading(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Return timesteps down to 0 in equal integer strides, as ADM's `ddimN`; few steps start well below T-1."""
    return [i * (schedule.num_timesteps // num_steps) for i in reversed(range(num_steps))]


def linspace(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Return evenly spaced timesteps from T-1 to 0, both included; a single step is T-1."""
    return [round((schedule.num_timesteps - 1) * (1 - i / max(1, num_steps - 1))) for i in range(num_steps)]


def logsnr(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Return timesteps from T-1 to 0, evenly spaced in the log signal-to-noise ratio (Lu et al. 2022, section 3.4)."""
    return _nearest_to_even_spacing(schedule, num_steps, torch.log)


def karras(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Return timesteps from T-1 to 0, evenly spaced in the seventh root of sigma (Karras et al. 2022, equation 5)."""
    return _nearest_to_even_spacing(schedule, num_steps, lambda sigma: sigma ** (1 / 7))


def _nearest_to_even_spacing(schedule: NoiseSchedule, num_steps: int, scale: Callable[[Tensor], Tensor]) -> list[int]:
    """Return distinct timesteps whose scaled sigmas are nearest to evenly spaced values."""
    scaled = scale(schedule.sigmas.clamp(max=SIGMA_MAX))
    targets = torch.linspace(float(scaled[-1]), float(scaled[0]), num_steps, dtype=torch.float64)
    nearest = (scaled - targets[:, None]).abs().argmin(dim=1).tolist()
    grid = [schedule.num_timesteps - 1]
    for i in range(1, num_steps):       # below the previous timestep, and with room for the remaining ones
        grid.append(max(num_steps - 1 - i, min(nearest[i], grid[-1] - 1)))
    return grid


def timestep_grid(schedule: NoiseSchedule, num_steps: int, spacing: str) -> list[int]:
    """Return the timesteps that a sampler visits, in decreasing order.

    Raises:
        ValueError: for an unknown spacing, or a number of steps outside 1..T.
    """
    space = lookup(SPACINGS, spacing, "timestep_spacing")
    T = schedule.num_timesteps
    if not isinstance(num_steps, Integral):
        raise ValueError(f"steps: {num_steps!r} is not a whole number; allowed: 1 to {T}")
    if not 1 <= num_steps <= T:
        raise ValueError(f"steps: {num_steps} is out of range; the schedule allows 1 to {T}")
    return space(schedule, num_steps)


SPACINGS = {"trailing": trailing, "leading": leading, "linspace": linspace, "logsnr": logsnr, "karras": karras}
