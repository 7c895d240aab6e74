"""diffusers' solvers of the probability-flow ODE behind the sampler signature.

The denoiser has guided and clipped, so a solver is given x_0 and does neither. Of a diffusers scheduler only the update
rule is used: timesteps and noise levels are those of the given grid and of this package's schedule, because schedulers
space them differently, each by defaults of its own, and one of them takes no timesteps at all.
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
from ddpm.diffusion.timesteps import MAX_NOISE_LEVEL


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
    """Runs a scheduler's update rule over a grid of timesteps.

    Args:
        make_scheduler: makes a fresh one, for they keep state; given `trained_betas` and such.
        denoiser: (x_t, t, labels) -> Prediction.
        schedule: the forward process.
        x_T: standard normal, (B, C, H, W).
        labels: as the denoiser takes them.
        timesteps: falling, each in 0..T-1.
        noise: not used; the solution of an ODE has none.
        on_step: called with (i, x_t, prediction) at each evaluation, to look on.

    Returns:
        x_0, (B, C, H, W).
    """
    scheduler = make_scheduler(
        num_train_timesteps=schedule.num_timesteps, trained_betas=schedule.betas.tolist(), prediction_type="sample"
    )
    # A solver of order 2 in one step evaluates each timestep but the first twice: to end a step and to begin the next.
    order = scheduler.order
    evaluated = torch.tensor(timesteps).repeat_interleave(order)[order - 1 :]
    levels = _bounded(schedule.sigmas.cpu()[timesteps]).float().repeat_interleave(order)[order - 1 :]
    scheduler.set_timesteps(len(timesteps), device=x_T.device)
    scheduler.timesteps = evaluated.to(x_T.device, scheduler.timesteps.dtype)
    scheduler.sigmas = torch.cat([levels, levels.new_zeros(1)])
    scheduler.set_begin_index(0)
    # Two of them work on x_t / signal, whose noise has the standard deviation `sigma`.
    scaled = isinstance(scheduler, EulerDiscreteScheduler | HeunDiscreteScheduler)
    x = x_T * float((levels[0] ** 2 + 1) ** 0.5) if scaled else x_T
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x, t)
        prediction = denoiser(x_t, torch.full((len(x),), int(evaluated[i]), dtype=torch.int64, device=x.device), labels)
        if on_step is not None:
            on_step(i, x_t, prediction)
        x = scheduler.step(prediction.x_0, t, x, return_dict=False)[0]
    return x


def _bounded(levels: Tensor) -> Tensor:
    """Lowers a first noise level that is infinite, or so high that a step from there to the next would be all error."""
    highest = max(MAX_NOISE_LEVEL, 1.5 * float(levels[1])) if len(levels) > 1 else MAX_NOISE_LEVEL
    return torch.cat([levels[:1].clamp(max=highest), levels[1:]])


dpm_solver = partial(solve, partial(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", solver_order=2))
dpm_solver.__doc__ = "DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."

unipc = partial(solve, partial(UniPCMultistepScheduler, solver_order=2))
unipc.__doc__ = "UniPC-2: predictor and corrector with one evaluation a step (Zhao et al. 2023, arXiv 2302.04867)."

euler = partial(solve, EulerDiscreteScheduler)
euler.__doc__ = "Euler's method in the noise level (Karras et al. 2022, section 3), which is DDIM with eta 0."

heun = partial(solve, HeunDiscreteScheduler)
heun.__doc__ = "Heun's method in the noise level (Karras et al. 2022, algorithm 1): 2 n - 1 evaluations."
