"""Samplers on the real timestep grid: from noise x_T to an image x_0.

A sampler knows a denoiser, a schedule and a list of timesteps, and nothing of networks or guidance.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm.schedule import NoiseSchedule, Prediction

Denoiser = Callable[[Tensor, Tensor, Tensor], Prediction]


def trailing(num_timesteps: int, num_steps: int) -> list[int]:
    """From T-1 down in equal strides, so that sampling starts at full noise (Lin et al. 2023, table 2)."""
    return [round((i + 1) * num_timesteps / num_steps) - 1 for i in reversed(range(num_steps))]


def leading(num_timesteps: int, num_steps: int) -> list[int]:
    """Down to 0 in equal whole strides, as ADM's `ddimN`; starts well short of T-1 for few steps."""
    return [i * (num_timesteps // num_steps) for i in reversed(range(num_steps))]


def linspace(num_timesteps: int, num_steps: int) -> list[int]:
    """From T-1 down to 0, both included; one step is T-1 alone."""
    return [round((num_timesteps - 1) * (1 - i / max(1, num_steps - 1))) for i in range(num_steps)]


SPACINGS = {"trailing": trailing, "leading": leading, "linspace": linspace}


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    labels: Tensor,
    timesteps: list[int],
    *,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    learned_variance: bool = False,
    on_step: Callable[[int, Tensor, Prediction], None] | None = None,
) -> Tensor:
    """Song et al. 2021, arXiv 2010.02502, equation 12, between neighbours of the given grid.

    Args:
        denoiser: (x_t, t, labels) -> Prediction; if it clips x_0, it re-derives eps.
        schedule: the forward process.
        x_T: standard normal, (B, C, H, W).
        labels: class ids, (B,).
        timesteps: falling, each in 0..T-1.
        eta: 0 is deterministic, 1 has the posterior's variance.
        noise: i -> standard normal of x_T's shape for step i; needed where eta > 0.
        learned_variance: draw with the network's variance where the prediction has one (with eta 1).
        on_step: called with (i, x_t, prediction) at each step, to look on.

    Returns:
        x_0, (B, C, H, W).
    """
    x = x_T
    for i, (t, after) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
        step = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        prediction = denoiser(x, step, labels)
        if on_step is not None:
            on_step(i, x, prediction)
        alpha_bar, alpha_bar_after = (float(schedule.alphas_cumprod[s]) if s >= 0 else 1.0 for s in (t, after))
        beta = 1 - alpha_bar / alpha_bar_after                  # of the step on this grid
        posterior_variance = beta * (1 - alpha_bar_after) / (1 - alpha_bar)
        sigma = eta * posterior_variance**0.5                   # equation 16
        direction = max(1 - alpha_bar_after - sigma**2, 0.0) ** 0.5
        x = alpha_bar_after**0.5 * prediction.x_0 + direction * prediction.eps
        if sigma > 0:
            std = sigma
            if learned_variance and prediction.variance is not None:
                std = beta ** (0.5 * prediction.variance) * posterior_variance ** (0.5 * (1 - prediction.variance))
            x = x + std * noise(i)
    return x


ddpm = partial(ddim, eta=1.0, learned_variance=True)
ddpm.__doc__ = "Ancestral sampling (Ho et al. 2020, algorithm 2): DDIM with eta 1, with the learned variance if any."

SAMPLERS = {"ddim": ddim, "ddpm": ddpm}
