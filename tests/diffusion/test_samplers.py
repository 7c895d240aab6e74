"""Samplers on Gaussian data, whose exact denoiser is known."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.samplers import SAMPLERS, ddim, ddpm, invert
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, Prediction, with_zero_terminal_snr
from ddpm.diffusion.timesteps import SPACINGS, timestep_grid, trailing

MEAN, STD = 0.3, 0.2        # of the data
ETAS = {"ddim": 0.0, "ddpm": 1.0}
BETAS = {name: make(1000) for name, make in SCHEDULES.items()}
PROCESSES = {name: NoiseSchedule(betas) for name, betas in BETAS.items()}
PROCESSES |= {f"{name}, zero terminal SNR": NoiseSchedule(with_zero_terminal_snr(b)) for name, b in BETAS.items()}


def gain(alpha_bar: float) -> float:
    """d E[x_0 | x_t] / d x_t, by Bayes' rule for two Gaussians."""
    return math.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)


def exact_denoiser(schedule: NoiseSchedule, variance: float | None = None) -> Callable[..., Prediction]:
    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        alpha_bar = float(schedule.alphas_cumprod[t[0]])
        x_0 = MEAN + gain(alpha_bar) * (x_t - math.sqrt(alpha_bar) * MEAN)
        eps = (x_t - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)
        return Prediction(x_0, eps, None if variance is None else torch.full_like(x_t, variance))

    return denoise


def affine_steps(
    schedule: NoiseSchedule, timesteps: list[int], eta: float, variance: float = 0.0
) -> Iterator[tuple[float, float, float]]:
    """(a, b, s) of each step x -> a x + b + s noise.

    Eta 1 by the posterior of the thinned-out chain (Ho et al. 2020, equations 6 and 7), others by equations 12 and 16
    of Song et al. 2021.
    """
    alphas_cumprod = schedule.alphas_cumprod.tolist()
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        now, then = alphas_cumprod[t], 1.0 if after is None else alphas_cumprod[after]
        beta = 1 - now / then
        posterior_variance = beta * (1 - then) / (1 - now)
        if eta == 1:
            of_x_0, of_x_t = math.sqrt(then) * beta / (1 - now), math.sqrt(1 - beta) * (1 - then) / (1 - now)
            std = beta ** (variance / 2) * posterior_variance ** ((1 - variance) / 2) if posterior_variance else 0.0
        else:
            std = eta * math.sqrt(posterior_variance)
            of_x_t = math.sqrt(max(1 - then - std**2, 0)) / math.sqrt(1 - now)
            of_x_0 = math.sqrt(then) - of_x_t * math.sqrt(now)
        k = gain(now)
        yield of_x_0 * k + of_x_t, of_x_0 * MEAN * (1 - k * math.sqrt(now)), std


def propagated(schedule: NoiseSchedule, timesteps: list[int], eta: float) -> tuple[float, float]:
    mean, variance = 0.0, 1.0
    for a, b, s in affine_steps(schedule, timesteps, eta):
        mean, variance = a * mean + b, a * a * variance + s * s
    return mean, math.sqrt(variance)


def run(sampler: Callable, schedule: NoiseSchedule, timesteps: list[int], count: int, **options: float) -> Tensor:
    """x_0 from `count` independent pixels."""
    draws = torch.Generator().manual_seed(0)
    x_T = torch.randn(1, 1, 1, count, generator=draws)
    labels = torch.zeros(1, dtype=torch.int64)

    def noise(i: int) -> Tensor:
        return torch.randn(x_T.shape, generator=draws)

    return sampler(exact_denoiser(schedule), schedule, x_T, labels, timesteps, noise=noise, **options)


COUNT = 2**16


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("sampler", ETAS)
def test_mean_and_spread_follow_the_recursion(sampler: str, steps: int) -> None:
    for schedule in SCHEDULES:
        noise_schedule = NoiseSchedule(SCHEDULES[schedule](1000))
        timesteps = trailing(noise_schedule, steps)
        x_0 = run(SAMPLERS[sampler].run, noise_schedule, timesteps, COUNT)
        mean, std = propagated(noise_schedule, timesteps, ETAS[sampler])
        # Four and a half standard errors of a mean and of a standard deviation.
        assert float(x_0.mean()) == pytest.approx(mean, abs=4.5 * std / math.sqrt(COUNT))
        assert float(x_0.std()) == pytest.approx(std, abs=4.5 * std / math.sqrt(2 * COUNT))


# With a finite number of steps every first-order sampler makes the data too narrow: by 0.4 to 1.9 % with 1000 steps, by
# 7 to 21 % with 50 (from the exact recursions); the rest is five standard errors of the sample.
@pytest.mark.parametrize(("steps", "narrower"), [(1000, 0.02), (50, 0.22)])
@pytest.mark.parametrize("sampler", ETAS)
def test_mean_and_spread_are_those_of_the_data(sampler: str, steps: int, narrower: float) -> None:
    for schedule in SCHEDULES:
        noise_schedule = NoiseSchedule(SCHEDULES[schedule](1000))
        x_0 = run(SAMPLERS[sampler].run, noise_schedule, trailing(noise_schedule, steps), COUNT)
        error = 5 / math.sqrt(2 * COUNT)
        # Starting at N(0, 1) instead of the true x_T, of which 0.6 % of the image is left, costs the linear one 4e-4.
        assert float(x_0.mean()) == pytest.approx(MEAN, abs=5 * STD / math.sqrt(COUNT) + 4e-4)
        assert 1 - narrower - error < float(x_0.std()) / STD < 1 + error


def test_more_steps_come_closer() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    for eta in (0.0, 1.0):
        gaps = [STD - float(run(ddim, schedule, trailing(schedule, n), 2**16, eta=eta).std()) for n in (100, 400)]
        # First order: four times the steps, a quarter of the gap, of which the sample's standard error is 0.00055.
        assert 3 < gaps[0] / gaps[1] < 5, eta


@pytest.mark.parametrize("process", PROCESSES)
def test_each_pixel_follows_the_recursion(process: str) -> None:
    noise_schedule = PROCESSES[process]
    x_T = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64).view(2, 1, 1, 2)
    noise = torch.randn(50, 2, 1, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grids = (("trailing", 50), ("leading", 50), ("linspace", 20), ("trailing", 1))
    for eta, (spacing, n) in product([0.0, 0.3, 0.7, 1.0], grids):
        timesteps = SPACINGS[spacing](noise_schedule, n)
        denoiser = exact_denoiser(noise_schedule)
        x_0 = ddim(denoiser, noise_schedule, x_T, torch.zeros(2), timesteps, eta=eta, noise=lambda i: noise[i])
        x = x_T
        for i, (a, b, s) in enumerate(affine_steps(noise_schedule, timesteps, eta)):
            x = a * x + b + s * noise[i]
        # Rounding of float64 (2^-53), where a square root is taken of a difference that is 0 but for it.
        torch.testing.assert_close(x_0, x, rtol=0, atol=1e-8)


def test_ddpm_draws_with_the_learned_variance() -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))
    x_T = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    noise = torch.randn(50, 2, 1, 1, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    timesteps = trailing(schedule, 50)
    for variance in (0.0, 0.4, 1.0):
        denoiser = exact_denoiser(schedule, variance)
        x_0 = ddpm(denoiser, schedule, x_T, torch.zeros(2), timesteps, noise=lambda i: noise[i])
        x = x_T
        for i, (a, b, s) in enumerate(affine_steps(schedule, timesteps, 1.0, variance)):
            x = a * x + b + s * noise[i]
        torch.testing.assert_close(x_0, x, rtol=0, atol=1e-10)      # rounding of float64


def test_ddim_with_eta_1_is_ddpm_and_eta_0_draws_nothing() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    timesteps = trailing(schedule, 20)
    assert torch.equal(run(ddim, schedule, timesteps, 64, eta=1.0), run(ddpm, schedule, timesteps, 64))
    x_T, labels = torch.ones(1, 1, 2, 2), torch.zeros(1)
    silent = ddim(exact_denoiser(schedule), schedule, x_T, labels, timesteps)
    assert torch.equal(silent, ddim(exact_denoiser(schedule), schedule, x_T, labels, timesteps, noise=lambda i: 1 / 0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_can_look_on(sampler: str) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    entry, seen = SAMPLERS[sampler], []
    timesteps = trailing(schedule, 5)
    draws = torch.Generator().manual_seed(3)
    x_T = torch.randn(1, 1, 2, 2, generator=draws)
    shown = []

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        shown.append((x_t, int(t[0])))
        return exact_denoiser(schedule)(x_t, t, labels)

    entry.run(denoiser, schedule, x_T, torch.zeros(1), timesteps,
              noise=lambda i: torch.randn(x_T.shape, generator=draws),
              on_step=lambda i, x_t, prediction: seen.append((i, x_t, prediction)))
    assert [i for i, _, _ in seen] == list(range(len(shown)))
    torch.testing.assert_close(seen[0][1], x_T, rtol=1e-6, atol=0)      # float32: some scale it and back
    for (_, x_t, prediction), (given, t) in zip(seen, shown, strict=True):
        assert torch.equal(x_t, given)
        assert torch.equal(prediction.x_0, exact_denoiser(schedule)(x_t, torch.tensor([t]), torch.zeros(1)).x_0)


# ----------------------------------------------------------------------------------------------------------- solvers

DETERMINISTIC = [name for name, entry in SAMPLERS.items() if not entry.stochastic]


def affine(sampler: str, schedule: NoiseSchedule, timesteps: list[int]) -> tuple[float, float, int]:
    """What a deterministic sampler makes of N(0, 1), exactly: it is affine in x_T here. Mean, spread, evaluations."""
    calls = []
    x_T = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    x_0 = SAMPLERS[sampler].run(exact_denoiser(schedule), schedule, x_T, torch.zeros(2), timesteps,
                                on_step=lambda *args: calls.append(args))
    low, high = x_0.flatten().tolist()
    return low, high - low, len(calls)


# Largest relative error of the spread, of the three schedules, by evaluations. Not sampled, so without sampling error;
# first order: ddim and euler halve it with twice the steps. Where timesteps are evenly spaced the last step, from the
# finest noise level to none, dominates; spaced by log SNR, second order shows. Heun has half as many timesteps, and 5
# of them are too few for it.
TOLERANCES = {
    ("ddim", "trailing"): (0.53, 0.31, 0.14),
    ("euler", "trailing"): (0.53, 0.31, 0.14),
    ("dpmpp", "trailing"): (0.51, 0.27, 0.08),
    ("unipc", "trailing"): (0.51, 0.26, 0.08),
    ("heun", "trailing"): (0.74, 0.48, 0.17),
    ("ddim", "logsnr"): (0.24, 0.13, 0.05),
    ("euler", "logsnr"): (0.24, 0.13, 0.05),
    ("dpmpp", "logsnr"): (0.04, 0.02, 0.005),
    ("unipc", "logsnr"): (0.06, 0.02, 0.005),
    ("heun", "logsnr"): (1.30, 0.20, 0.025),
}


@pytest.mark.parametrize(("sampler", "spacing"), TOLERANCES)
def test_solvers_on_gaussian_data(sampler: str, spacing: str) -> None:
    for name, noise_schedule in PROCESSES.items():
        for budget, tolerance in zip((10, 20, 50), TOLERANCES[sampler, spacing], strict=True):
            timesteps = timestep_grid(noise_schedule, SAMPLERS[sampler].max_timesteps(budget), spacing)
            mean, std, evaluations = affine(sampler, noise_schedule, timesteps)
            assert budget - 1 <= evaluations <= budget
            # Of the linear schedule 0.6 % is left at t = 999.
            assert mean == pytest.approx(MEAN, abs=0.003), (name, budget)
            assert std == pytest.approx(STD, rel=tolerance), (name, budget)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_convergence_at_the_declared_order(sampler: str) -> None:
    order = SAMPLERS[sampler].order
    for schedule in SCHEDULES:
        noise_schedule = NoiseSchedule(SCHEDULES[schedule](1000))
        results = [affine(sampler, noise_schedule, timestep_grid(noise_schedule, n, "logsnr")) for n in (20, 80, 500)]
        (_, coarse, _), (_, fine, _), (mean, limit, _) = results
        # Four times the timesteps reduce the distance from 500 timesteps by 4^order, and by 10 % more because these are
        # not infinitely many.
        assert abs(coarse - limit) > 4**order * abs(fine - limit), schedule
        # With 500 timesteps the spread is off by 1 % at first order. At second order 0.3 % to 0.42 % remain, nearly all
        # of it from the last step, from the finest sigma to none. It is the same for every sampler; half is added.
        error = 0.012 if order == 1 else 0.006
        assert mean == pytest.approx(MEAN, abs=0.003) and limit == pytest.approx(STD, rel=error), schedule


@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_euler_is_ddim(schedule: str, spacing: str) -> None:
    """Euler's method in the noise level is DDIM; where the first level is not lowered, to float32 rounding."""
    betas = SCHEDULES[schedule](1000)
    noise_schedule = NoiseSchedule(betas[: int((NoiseSchedule(betas).sigmas <= 80).sum())])     # none is lowered
    x_T = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    for n in (1, 2, 7, 30):
        timesteps = timestep_grid(noise_schedule, n, spacing)
        args = (exact_denoiser(noise_schedule), noise_schedule, x_T, torch.zeros(4), timesteps)
        torch.testing.assert_close(SAMPLERS["euler"].run(*args), ddim(*args), rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_evaluations_keep_to_the_budget(sampler: str) -> None:
    schedule, max_timesteps = NoiseSchedule(SCHEDULES["cosine"](1000)), SAMPLERS[sampler].max_timesteps
    for budget in (1, 2, 3, 4, 9, 10, 33):
        _, _, evaluations = affine(sampler, schedule, trailing(schedule, max_timesteps(budget)))
        assert evaluations == next(n for n in range(1, budget + 1) if max_timesteps(n) == max_timesteps(budget))


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_samplers_keep_no_state(sampler: str) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    timesteps = trailing(schedule, 6)
    assert affine(sampler, schedule, timesteps) == affine(sampler, schedule, timesteps)


# --------------------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_inversion_finds_the_noise(schedule: str) -> None:
    """An image that DDIM drew goes back to its noise, and the more exactly the more iterations there are."""
    noise_schedule = NoiseSchedule(SCHEDULES[schedule](1000))
    x_T = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    denoiser, labels, timesteps = exact_denoiser(noise_schedule), torch.zeros(2), trailing(noise_schedule, 50)
    x_0 = ddim(denoiser, noise_schedule, x_T, labels, timesteps)
    found = (invert(denoiser, noise_schedule, x_0, labels, timesteps, n) for n in (1, 3, 60))
    errors = [float((noise - x_T).abs().max()) for noise in found]
    assert errors[0] > 2 * errors[1] > 100 * errors[2] and errors[2] < 1e-4
