"""Noise schedules against the published reference, and the algebra of the forward process against Bayes' rule."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr

GOLDEN = Path(__file__).parents[1] / "golden" / "schedules_1000.safetensors"
LENGTHS = (2, 10, 1000, 4000)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_equals_the_reference(name: str) -> None:
    for table in ("betas", "alphas_cumprod", "posterior_variance"):
        schedule = NoiseSchedule(SCHEDULES[name](1000))
        # float64 throughout; a product of 1000 factors keeps 13 digits.
        torch.testing.assert_close(getattr(schedule, table), load_file(GOLDEN)[f"{name}.{table}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_properties(name: str) -> None:
    for T, terminal in product(LENGTHS, ["as it is", "zero SNR"]):
        betas = SCHEDULES[name](T)
        assert betas.shape == (T,) and betas.dtype == torch.float64
        schedule = NoiseSchedule(with_zero_terminal_snr(betas) if terminal == "zero SNR" else betas)
        a = schedule.alphas_cumprod
        assert schedule.num_timesteps == T and a.dtype == torch.float64
        assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()
        assert (a.diff() < 0).all() and a[0] < 1 and a[-1] >= 0
        assert schedule.posterior_variance[0] == 0
        assert (schedule.posterior_variance[1:] > 0).all() and (schedule.posterior_variance <= schedule.betas).all()
        snr = schedule.snr(torch.arange(T))
        assert (snr.diff() < 0).all() and snr.isfinite().all()
        lower, upper = (schedule.posterior_log_variance(torch.arange(T), f).flatten() for f in (0.0, 1.0))
        assert lower.isfinite().all() and upper.isfinite().all()
        assert (lower[1:] <= upper[1:]).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_little_of_the_image_is_left(name: str) -> None:
    for T in (1000, 4000):
        assert math.sqrt(float(NoiseSchedule(SCHEDULES[name](T)).alphas_cumprod[-1])) < 0.01


def test_a_longer_chain_is_the_same_process() -> None:
    for name, make in SCHEDULES.items():
        coarse, fine = (NoiseSchedule(make(T)).alphas_cumprod for T in (1000, 4000))
        # Cosine and sigmoid by construction, up to the clamp at the end; linear up to the second order of a beta.
        torch.testing.assert_close(coarse[:-1], fine[3::4][:-1], rtol=0, atol=1e-3 if name == "linear" else 1e-9)


def test_sigmoid_by_its_closed_form() -> None:
    a = NoiseSchedule(SCHEDULES["sigmoid"](1000)).alphas_cumprod
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    start, end = (torch.tensor(x, dtype=torch.float64).sigmoid() for x in (-3.0, 3.0))
    expected = (end - (6 * u - 3).sigmoid()) / (end - start)
    torch.testing.assert_close(a[:-1], expected[:-1], rtol=0, atol=1e-12)       # float64; the last beta is clamped
    assert float(a[499]) == pytest.approx(0.5, abs=1e-12)
    torch.testing.assert_close(a[:999] + a[:999].flip(0), torch.ones(999, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr(name: str) -> None:
    for T in LENGTHS:
        before = NoiseSchedule(SCHEDULES[name](T))
        after = NoiseSchedule(with_zero_terminal_snr(before.betas))
        assert after.alphas_cumprod[-1] == 0 and after.betas[-1] == 1
        assert float(after.alphas_cumprod[0]) == pytest.approx(float(before.alphas_cumprod[0]), abs=1e-15)     # 2^-53
        root, old = after.alphas_cumprod.sqrt(), before.alphas_cumprod.sqrt()
        # An affine map of the square roots; float64, and the square root of 1e-16 near zero.
        torch.testing.assert_close(root, (old - old[-1]) * old[0] / (old[0] - old[-1]), rtol=0, atol=1e-8)


def test_betas_that_are_not_variances(refused) -> None:
    for betas in ([], [0.1], [0.1, 1.1], [0.0, 0.1], [-0.1, 0.1], [1.0, 0.1], [0.1, math.nan], [[0.1, 0.2]]):
        with refused("betas"):
            NoiseSchedule(torch.tensor(betas))


# ----------------------------------------------------------------------------------------------- the forward process


@pytest.mark.parametrize("name", SCHEDULES)
def test_q_sample_has_the_moments_of_the_chain(name: str) -> None:
    schedule = NoiseSchedule(SCHEDULES[name](10))
    t = torch.arange(10)
    one, zero = (torch.full((10, 1, 1, 1), value, dtype=torch.float64) for value in (1.0, 0.0))
    signal, noise = schedule.q_sample(one, t, zero).flatten(), schedule.q_sample(zero, t, one).flatten()
    mean, variance = 1.0, 0.0
    for step, beta in enumerate(schedule.betas.tolist()):       # equation 2 of Ho et al. 2020, step by step
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert float(signal[step]) == pytest.approx(mean, abs=1e-14)        # float64
        assert float(noise[step]) == pytest.approx(math.sqrt(variance), abs=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_by_brute_force(name: str) -> None:
    schedule = NoiseSchedule(SCHEDULES[name](1000))
    grid = torch.linspace(-10, 10, 400_001, dtype=torch.float64)      # 5e-5 apart; the narrowest posterior is 5e-3 wide

    def log_density(mean: Tensor | float, variance: float, x: Tensor | float) -> Tensor:
        return -((x - mean) ** 2) / (2 * variance)

    for t, x_0, x_t in [(1, 0.5, 0.48), (1, -0.9, 0.3), (10, 0.2, -1.0), (500, -0.7, 1.5), (998, 1.0, -2.0)]:
        before, beta = float(schedule.alphas_cumprod[t - 1]), float(schedule.betas[t])
        log_posterior = log_density(math.sqrt(before) * x_0, 1 - before, grid)
        log_posterior = log_posterior + log_density(math.sqrt(1 - beta) * grid, beta, x_t)
        weight = (log_posterior - log_posterior.max()).exp()
        weight = weight / weight.sum()
        mean = float((weight * grid).sum())
        variance = float((weight * (grid - mean) ** 2).sum())
        image = (torch.full((1, 1, 1, 1), x, dtype=torch.float64) for x in (x_0, x_t))
        # Sums of a smooth density over a fine grid converge faster than any power; what is left is float64's rounding.
        assert float(schedule.posterior_mean(*image, torch.tensor([t]))) == pytest.approx(mean, abs=1e-9)
        assert float(schedule.posterior_variance[t]) == pytest.approx(variance, rel=1e-7)
        assert float(schedule.posterior_log_variance(torch.tensor([t]))) == pytest.approx(math.log(variance), abs=1e-7)


def test_posterior_at_0_is_the_image() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    x_0, x_t = torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), -4.0)
    assert torch.equal(schedule.posterior_mean(x_0, x_t, torch.tensor([0])), x_0)
    second = schedule.posterior_log_variance(torch.tensor([1]))
    assert torch.equal(schedule.posterior_log_variance(torch.tensor([0])), second)     # the first, 0, has no logarithm


def test_log_variance_between_its_bounds() -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))
    t = torch.tensor([1, 500, 999])
    lower, upper = schedule.posterior_variance[t].log(), schedule.betas[t].log()
    fraction = torch.full((3, 1, 1, 1), 0.25)
    found = schedule.posterior_log_variance(t, fraction).flatten()
    torch.testing.assert_close(found, 0.75 * lower + 0.25 * upper, rtol=0, atol=1e-14)      # float64


# -------------------------------------------------------------------------------------------------------- conversions


# Rounding of float32 and float64, a few times over. x_0 is read off signal x_0 and eps off sigma eps, and signal
# may be as small as 1e-9; so these products are compared.
@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_round_trip(name: str) -> None:
    for T, (dtype, tolerance) in product(LENGTHS, [(torch.float32, 2e-6), (torch.float64, 4e-15)]):
        schedule = NoiseSchedule(SCHEDULES[name](T))
        t = torch.tensor([0, T // 3, T // 2, T - 1])
        draws = torch.Generator().manual_seed(0)
        x_0 = torch.rand(4, 3, 5, 5, generator=draws, dtype=torch.float64).mul(2).sub(1).to(dtype)
        noise = torch.randn(4, 3, 5, 5, generator=draws, dtype=torch.float64).to(dtype)
        x_t, v = schedule.q_sample(x_0, t, noise), schedule.velocity(x_0, noise, t)
        alphas_cumprod = schedule.alphas_cumprod[t].view(4, 1, 1, 1)
        signal, sigma = alphas_cumprod.sqrt().to(dtype), (1 - alphas_cumprod).sqrt().to(dtype)
        for prediction in (
            schedule.from_eps(noise, x_t, t),
            schedule.from_x_0(x_0, x_t, t),
            schedule.from_v(v, x_t, t),
        ):
            assert prediction.x_0.dtype == prediction.eps.dtype == dtype and prediction.variance_fraction is None
            torch.testing.assert_close(signal * prediction.x_0, signal * x_0, rtol=0, atol=tolerance)
            torch.testing.assert_close(sigma * prediction.eps, sigma * noise, rtol=0, atol=tolerance)
            again = schedule.q_sample(prediction.x_0, t, prediction.eps)
            torch.testing.assert_close(again, x_t, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_where_nothing_is_left(name: str) -> None:
    schedule = NoiseSchedule(with_zero_terminal_snr(SCHEDULES[name](1000)))
    t = torch.tensor([999])
    x_0, noise = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), -1.5)
    x_t = schedule.q_sample(x_0, t, noise)
    assert torch.equal(x_t, noise) and torch.equal(schedule.velocity(x_0, noise, t), -x_0)
    for prediction in (schedule.from_v(-x_0, x_t, t), schedule.from_x_0(x_0, x_t, t)):
        assert torch.equal(prediction.x_0, x_0) and torch.equal(prediction.eps, noise)
    assert schedule.snr(t).item() == 0


def test_velocity_is_a_rotation() -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))
    t = torch.arange(0, 1000, 37)
    draws = torch.Generator().manual_seed(1)
    x_0, noise = (torch.randn(len(t), 1, 2, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    x_t, v = schedule.q_sample(x_0, t, noise), schedule.velocity(x_0, noise, t)
    torch.testing.assert_close(x_t**2 + v**2, x_0**2 + noise**2, rtol=1e-12, atol=1e-14)      # float64


def test_snr() -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))
    t = torch.tensor([0, 500, 999])
    a = schedule.alphas_cumprod[t]
    torch.testing.assert_close(schedule.snr(t), (a / (1 - a)).float(), rtol=1e-6, atol=0)      # float32
