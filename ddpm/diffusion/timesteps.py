"""Which timesteps a sampler visits. A new spacing is one function (schedule, n) -> falling timesteps, and an entry."""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.names import lookup

# Noise levels above this (Karras et al. 2022, table 1) are all but pure noise; spacings do not tell them apart.
MAX_NOISE_LEVEL = 80.0


def trailing(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """From T-1 down in equal strides, so that sampling starts at full noise (Lin et al. 2023, table 2)."""
    T = schedule.num_timesteps
    return [round((i + 1) * T / num_steps) - 1 for i in reversed(range(num_steps))]


def leading(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Down to 0 in equal whole strides, as ADM's `ddimN`; starts well short of T-1 for few steps."""
    return [i * (schedule.num_timesteps // num_steps) for i in reversed(range(num_steps))]


def linspace(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """From T-1 down to 0, both included; one step is T-1 alone."""
    return [round((schedule.num_timesteps - 1) * (1 - i / max(1, num_steps - 1))) for i in range(num_steps)]


def logsnr(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """From T-1 down to 0, nearly even in the logarithm of the signal-to-noise ratio (Lu et al. 2022, section 3.4)."""
    return _evenly(schedule, num_steps, lambda level: level.log())


def karras(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """From T-1 down to 0, nearly even in the seventh root of the noise level (Karras et al. 2022, equation 5)."""
    return _evenly(schedule, num_steps, lambda level: level ** (1 / 7))


def _evenly(schedule: NoiseSchedule, num_steps: int, scale: Callable[[Tensor], Tensor]) -> list[int]:
    """Distinct timesteps whose noise levels are nearest to even ones on a scale."""
    levels = scale(schedule.sigmas.clamp(max=MAX_NOISE_LEVEL))
    targets = torch.linspace(float(levels[-1]), float(levels[0]), num_steps, dtype=torch.float64)
    nearest = (levels - targets[:, None]).abs().argmin(dim=1).tolist()
    grid = [schedule.num_timesteps - 1]
    for i in range(1, num_steps):       # below the one before, and above as many as are still to come
        grid.append(max(num_steps - 1 - i, min(nearest[i], grid[-1] - 1)))
    return grid


def timestep_grid(schedule: NoiseSchedule, num_steps: int, spacing: str) -> list[int]:
    """The timesteps that a sampler visits, falling.

    Raises:
        ValueError: for an unknown spacing, or more steps than there are timesteps.
    """
    space = lookup(SPACINGS, spacing, "sample.timestep_spacing")
    T = schedule.num_timesteps
    if not isinstance(num_steps, Integral):
        raise ValueError(f"sample.steps: {num_steps!r} is no whole number")
    if not 1 <= num_steps <= T:
        raise ValueError(f"sample.steps: {num_steps} is out of range; the model has timesteps for 1 to {T}")
    return space(schedule, num_steps)


SPACINGS = {"trailing": trailing, "leading": leading, "linspace": linspace, "logsnr": logsnr, "karras": karras}
