"""diffusers' solvers of the probability-flow ODE as samplers.

A solver gets the x_0 of a denoiser that has already guided and clipped. Only the update rule of a diffusers scheduler
is used. Timesteps and sigmas come from the given grid and from this package's schedule, because each scheduler spaces
them by its own defaults, and not every scheduler accepts timesteps.
"""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction
from ddpm.diffusion.timesteps import SIGMA_MAX


@torch.no_grad()
def solve(
    make_scheduler: Callable[..., SchedulerMixin],
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    labels: Tensor,
    timesteps: list[int],
    *,
    noise: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, Tensor, Prediction], None] | None = None,
) -> Tensor:
    """Apply a scheduler's update rule over a grid of timesteps.

    Args:
        make_scheduler: constructor of the scheduler; a new one is made for each call because schedulers keep state.
        denoiser: (x_t, t, labels) -> Prediction.
        schedule: the forward process.
        x_T: standard normal, (B, C, H, W).
        labels: as the denoiser takes them.
        timesteps: decreasing, each in 0..T-1.
        noise: not used, because an ODE is deterministic.
        on_step: observer, called with (i, x_t, prediction) after evaluation i of the denoiser, counted from 0.

    Returns:
        x_0, (B, C, H, W).
    """
    scheduler = make_scheduler(
        num_train_timesteps=schedule.num_timesteps, trained_betas=schedule.betas.tolist(), prediction_type="sample"
    )
    # A single-step solver of order 2 evaluates each timestep except the first twice: at the end of a step and at the
    # start of the next one.
    order = scheduler.order
    evaluated = torch.tensor(timesteps).repeat_interleave(order)[order - 1 :]
    sigmas = _limit_first(schedule.sigmas.cpu()[timesteps]).float().repeat_interleave(order)[order - 1 :]
    scheduler.set_timesteps(len(timesteps), device=x_T.device)
    scheduler.timesteps = evaluated.to(x_T.device, scheduler.timesteps.dtype)
    scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    scheduler.set_begin_index(0)
    # These two work on x_t / sqrt(alpha_bar), whose noise has the standard deviation sigma.
    scaled = isinstance(scheduler, EulerDiscreteScheduler | HeunDiscreteScheduler)
    x = x_T * float((sigmas[0] ** 2 + 1) ** 0.5) if scaled else x_T
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x, t)
        prediction = denoiser(x_t, torch.full((len(x),), int(evaluated[i]), dtype=torch.int64, device=x.device), labels)
        if on_step is not None:
            on_step(i, x_t, prediction)
        x = scheduler.step(prediction.x_0, t, x, return_dict=False)[0]
    return x


def _limit_first(sigmas: Tensor) -> Tensor:
    """Lower a first sigma that is infinite, or so large that the first step would have a large error."""
    limit = max(SIGMA_MAX, 1.5 * float(sigmas[1])) if len(sigmas) > 1 else SIGMA_MAX
    return torch.cat([sigmas[:1].clamp(max=limit), sigmas[1:]])


dpm_solver = partial(solve, partial(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", solver_order=2))
dpm_solver.__doc__ = "DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."

unipc = partial(solve, partial(UniPCMultistepScheduler, solver_order=2))
unipc.__doc__ = "UniPC-2: predictor and corrector with one evaluation per step (Zhao et al. 2023, arXiv 2302.04867)."

euler = partial(solve, EulerDiscreteScheduler)
euler.__doc__ = "Euler's method in sigma (Karras et al. 2022, section 3); equals DDIM with eta 0."

heun = partial(solve, HeunDiscreteScheduler)
heun.__doc__ = "Heun's method in sigma (Karras et al. 2022, algorithm 1); 2 n - 1 evaluations for n timesteps."
