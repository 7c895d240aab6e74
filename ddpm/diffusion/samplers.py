"""Samplers: from noise x_T to an image x_0 over a list of timesteps.

A sampler gets a denoiser and a schedule; it does not know about networks or guidance. To add one, see "Where to add
things" in docs/design.md.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction
from ddpm.diffusion.solvers import dpm_solver, euler, heun, unipc


def _alpha_bar(schedule: NoiseSchedule, t: int) -> float:
    """Return the entry of `alphas_cumprod` at a timestep; at -1, where there is no noise, it is 1."""
    return float(schedule.alphas_cumprod[t]) if t >= 0 else 1.0


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
    """Apply equation 12 of DDIM (Song et al. 2021, arXiv 2010.02502) between consecutive timesteps.

    Args:
        denoiser: (x_t, t, labels) -> Prediction; if it clips x_0, it derives eps from the result.
        schedule: the forward process.
        x_T: standard normal, (B, C, H, W).
        labels: as the denoiser takes them.
        timesteps: decreasing, each in 0..T-1.
        eta: 0 is deterministic, 1 adds noise with the variance of the posterior.
        noise: i -> standard normal noise of x_T's shape for step i; required if eta > 0.
        learned_variance: use the variance of the prediction, if it has one (with eta 1).
        on_step: observer, called with (i, x_t, prediction) after evaluation i of the denoiser, counted from 0.

    Returns:
        x_0, (B, C, H, W).
    """
    x = x_T
    for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):          # from x_t to x_s, s < t
        t_batch = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        prediction = denoiser(x, t_batch, labels)
        if on_step is not None:
            on_step(i, x, prediction)
        alpha_bar_t, alpha_bar_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
        beta = 1 - alpha_bar_t / alpha_bar_s                    # of the step between these timesteps
        posterior_variance = beta * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        std = eta * posterior_variance**0.5                     # equation 16, sigma in the paper
        direction = max(1 - alpha_bar_s - std**2, 0.0) ** 0.5
        x = alpha_bar_s**0.5 * prediction.x_0 + direction * prediction.eps
        if std > 0:
            assert noise is not None
            if learned_variance and prediction.variance_fraction is not None:
                fraction = prediction.variance_fraction
                learned_std = beta ** (0.5 * fraction) * posterior_variance ** (0.5 * (1 - fraction))
                x = x + learned_std * noise(i)
            else:
                x = x + std * noise(i)
    return x


ddpm = partial(ddim, eta=1.0, learned_variance=True)
ddpm.__doc__ = "Ancestral sampling (Ho et al. 2020, algorithm 2): DDIM with eta 1 and the learned variance, if any."


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_0: Tensor,
    labels: Tensor,
    timesteps: list[int],
    iterations: int = 3,
) -> Tensor:
    """Return the noise from which `ddim` with eta 0 generates an image, by fixed-point iteration on each step.

    One iteration is the usual DDIM inversion (Song et al. 2021, section 5.4), which evaluates the denoiser at the
    previous point instead of x_t; further iterations (Pan et al. 2023, arXiv 2309.04907) converge to x_t.

    Args:
        denoiser: a denoiser that does not clip, because clipping cannot be inverted.
        schedule: the forward process.
        x_0: images, (B, C, H, W).
        labels: as the denoiser takes them.
        timesteps: the timesteps that `ddim` visits, decreasing.
        iterations: evaluations per timestep.

    Returns:
        x_T, (B, C, H, W).
    """
    x = x_0
    for s, t in zip([-1, *reversed(timesteps[1:])], reversed(timesteps), strict=True):      # from x_s to x_t, s < t
        t_batch = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        alpha_bar_t, alpha_bar_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
        signal_t, noise_t = alpha_bar_t**0.5, (1 - alpha_bar_t) ** 0.5          # factors of x_0 and eps in x_t
        signal_s, noise_s = alpha_bar_s**0.5, (1 - alpha_bar_s) ** 0.5
        x_t = x
        for _ in range(iterations):
            # Keep one of the denoiser's x_0 and eps and derive the other from x. The iteration converges fastest if
            # the one that is kept depends little on x_t: eps where there is little noise, x_0 where there is much.
            x_0_t, eps, _ = denoiser(x_t, t_batch, labels)
            if signal_s > noise_s:
                x_0_t = (x - noise_s * eps) / signal_s
            else:
                eps = (x - signal_s * x_0_t) / noise_s
            x_t = signal_t * x_0_t + noise_t * eps
        x = x_t
    return x


class Sampler(NamedTuple):
    """A sampler and its properties.

    Attributes:
        run: the function.
        order: order of convergence for smooth solutions: the error is proportional to num_steps ** -order.
        max_timesteps: budget of evaluations of the denoiser -> largest number of timesteps that keeps to it.
        takes_eta: whether the function has the option `eta`.
        stochastic: whether it draws noise with its default options.
    """

    run: Callable[..., Tensor]
    order: int
    max_timesteps: Callable[[int], int] = lambda evaluations: evaluations
    takes_eta: bool = False
    stochastic: bool = False


SAMPLERS = {
    "ddim": Sampler(ddim, order=1, takes_eta=True),
    "ddpm": Sampler(ddpm, order=1, stochastic=True),
    "dpmpp": Sampler(dpm_solver, order=2),
    "unipc": Sampler(unipc, order=2),
    "euler": Sampler(euler, order=1),
    "heun": Sampler(heun, order=2, max_timesteps=lambda evaluations: (evaluations + 1) // 2),
}
