"""Losses by closed forms, the variational bound against the published reference and against torch.distributions."""

import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm.diffusion.guidance import clipped, unet_denoiser
from ddpm.diffusion.objective import (
    PREDICTIONS,
    TIMESTEP_SAMPLERS,
    WEIGHTINGS,
    diffusion_loss,
    discretized_gaussian_log_likelihood,
    low_discrepancy_timesteps,
    prior_bound,
    split_output,
    vlb_term,
)
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, Prediction, with_zero_terminal_snr
from ddpm.io.adm import from_adm

GOLDEN = Path(__file__).parents[1] / "golden"
LINEAR = NoiseSchedule(SCHEDULES["linear"](1000))

# --------------------------------------------------------------------------------------------------------- the bound


def test_bound_equals_the_reference() -> None:
    _, expected = read("vlb_linear_adm_scale_shift_32")
    metadata, network = read("adm_scale_shift_32")
    weights = {name.removeprefix("model."): t for name, t in network.items() if name.startswith("model.")}
    denoiser = clipped(
        unet_denoiser(from_adm(weights, **json.loads(metadata["unet_config"])), LINEAR, "eps"), LINEAR
    )
    x_0 = expected["x_0"]
    for t, noise, bpd in zip(expected["t"], expected["noise"], expected["vb_bpd"], strict=True):
        step = t.expand(len(x_0))
        x_t = LINEAR.q_sample(x_0, step, noise)
        with torch.no_grad():
            found = vlb_term(LINEAR, x_0, x_t, step, denoiser(x_t, step, expected["y"]))
        # What the golden files promise; and the reference's own rounding, where a term of 8e-7 bits is a difference of
        # float32 numbers near 1.
        torch.testing.assert_close(found, bpd, rtol=1e-4, atol=2**-24)
    torch.testing.assert_close(prior_bound(LINEAR, x_0), expected["prior_bpd"], rtol=1e-4, atol=0)      # as promised


@pytest.mark.parametrize("variance", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_bound_is_the_divergence_of_two_gaussians(name: str, variance: float | None) -> None:
    schedule = NoiseSchedule(SCHEDULES[name](1000))
    t = torch.tensor([1, 2, 50, 500, 900, 999])
    x_0, noise = images(6)
    x_t = schedule.q_sample(x_0, t, noise)
    guess = (x_0 + 0.1 * noise).clamp(-1, 1)
    fraction = None if variance is None else torch.full_like(x_0, variance)
    prediction = schedule.from_x_0(guess, x_t, t)._replace(variance_fraction=fraction)
    found = vlb_term(schedule, x_0, x_t, t, prediction)
    # From the betas alone, by equations 6 and 7 of Ho et al. 2020.
    betas = schedule.betas
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    beta, now, before = (table.view(-1, 1, 1, 1) for table in (betas[t], alphas_cumprod[t], alphas_cumprod[t - 1]))

    def mean(image: Tensor) -> Tensor:
        return (before.sqrt() * beta * image + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - now)

    posterior_variance = beta * (1 - before) / (1 - now)
    f = 1.0 if variance is None else variance
    log_variance = f * beta.log() + (1 - f) * posterior_variance.log()
    nats = kl_divergence(
        Normal(mean(x_0), posterior_variance.sqrt()), Normal(mean(guess), (0.5 * log_variance).exp())
    )
    expected = nats.mean(dim=(1, 2, 3)) / math.log(2)
    # The result is float32; terms near 1 cancel in float64.
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-12)


def test_bound_of_a_perfect_prediction_is_0() -> None:
    t = torch.arange(1, 1000, 111)
    x_0, noise = images(len(t))
    x_t = LINEAR.q_sample(x_0, t, noise)
    perfect = Prediction(x_0, noise, torch.zeros_like(x_0))
    torch.testing.assert_close(vlb_term(LINEAR, x_0, x_t, t, perfect), torch.zeros(len(t)), rtol=0, atol=1e-15)


def test_first_term_is_the_likelihood_of_a_gray_level() -> None:
    # Page's approximation is within 2e-4 of the exact probability, so levels worth 0.02 or more are within 2 %.
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64).view(1, 1, 16, 16)
    for mean, std in ((0.1, 0.02), (-0.99, 0.01), (1.0, 0.01)):
        found = discretized_gaussian_log_likelihood(
            levels, torch.full_like(levels, mean), torch.tensor(math.log(std), dtype=torch.float64)
        ).exp()
        assert float(found.sum()) == pytest.approx(1, abs=256e-12)      # each is at least 1e-12
        exact = Normal(mean, std)
        upper, lower = exact.cdf(levels + 1 / 255), exact.cdf(levels - 1 / 255)
        upper[levels == 1], lower[levels == -1] = 1, 0
        torch.testing.assert_close(found, upper - lower, rtol=0, atol=4e-4)
    t = torch.tensor([0])
    x_0 = levels[..., :8, :8]
    x_t = LINEAR.q_sample(x_0, t, torch.ones_like(x_0))
    bits = vlb_term(LINEAR, x_0, x_t, t, Prediction(x_0 + 0.01, torch.ones_like(x_0)))
    std = 0.5 * LINEAR.betas[0].log()
    expected = -discretized_gaussian_log_likelihood(x_0, x_0 + 0.01, std).mean() / math.log(2)
    assert float(bits) == pytest.approx(float(expected), rel=1e-6)      # float32


def test_prior_is_the_divergence_from_a_standard_normal() -> None:
    for name in SCHEDULES:
        schedule = NoiseSchedule(SCHEDULES[name](1000))
        x_0, _ = images(3)
        a = float(schedule.alphas_cumprod[-1])
        nats = kl_divergence(Normal(math.sqrt(a) * x_0, math.sqrt(1 - a)), Normal(torch.zeros_like(x_0), 1.0))
        # The result is float32, and a difference of float64 numbers near 1.
        torch.testing.assert_close(prior_bound(schedule, x_0), nats.mean(dim=(1, 2, 3)).float() / math.log(2),
                                   rtol=1e-6, atol=1e-15)


def test_prior_of_zero_terminal_snr_is_0() -> None:
    schedule = NoiseSchedule(with_zero_terminal_snr(LINEAR.betas))
    assert torch.equal(prior_bound(schedule, images(3)[0]), torch.zeros(3))


# ---------------------------------------------------------------------------------------------------------- the loss


class Outputs(torch.nn.Module):
    """A network that answers with a given tensor, and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> SimpleNamespace:
        self.asked = (x_t, t, labels)
        return SimpleNamespace(sample=self.answer)


T = torch.tensor([0, 1, 250, 500, 998])
LABELS = torch.tensor([3, 1, 4, 1, 5])


def target(prediction: str, schedule: NoiseSchedule, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1).to(x_0.dtype)
    return {"eps": noise, "x_0": x_0, "v": a.sqrt() * noise - (1 - a).sqrt() * x_0}[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_has_no_loss(prediction: str) -> None:
    for schedule, weighting in product(SCHEDULES, WEIGHTINGS):
        process = NoiseSchedule(SCHEDULES[schedule](1000))
        x_0, noise = (x.float() for x in images(5))
        network = Outputs(target(prediction, process, x_0, noise, T))
        loss = diffusion_loss(network, process, x_0, LABELS, T, noise, prediction, weighting)
        assert loss.shape == (5,) and loss.dtype == torch.float32
        torch.testing.assert_close(loss, torch.zeros(5), rtol=0, atol=1e-11)        # the square of float32's rounding
        x_t, t, labels = network.asked
        assert torch.equal(x_t, process.q_sample(x_0, T, noise)) and torch.equal(t, T) and torch.equal(labels, LABELS)


def uniform(snr: Tensor, prediction: str) -> Tensor:
    return torch.ones_like(snr)


def min_snr(snr: Tensor, prediction: str) -> Tensor:
    """Hang et al. 2023, equations 8 to 10: the weight min(SNR, 5) of x_0, as it reads for each output."""
    return snr.clamp(max=5) / {"x_0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[prediction]


@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_loss_by_its_closed_form(prediction: str) -> None:
    for schedule, weight in product(SCHEDULES, [uniform, min_snr]):
        process = NoiseSchedule(SCHEDULES[schedule](1000))
        x_0, noise = (x.float() for x in images(5))
        answer = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
        loss = diffusion_loss(Outputs(answer), process, x_0, LABELS, T, noise, prediction, weight.__name__)
        a = process.alphas_cumprod[T]
        error = (answer - target(prediction, process, x_0, noise, T)).double().square().mean(dim=(1, 2, 3))
        expected = weight(a / (1 - a), prediction) * error
        torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0)       # float32 sums of 48 numbers


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_min_snr_weighs_x_0_alike_whatever_is_predicted(schedule: str) -> None:
    process = NoiseSchedule(SCHEDULES[schedule](1000))
    x_0, noise = (x.float() for x in images(5))
    x_t, off = process.q_sample(x_0, T, noise), 0.1
    wrong = process.from_x_0(x_0 + off, x_t, T)
    answers = {"x_0": wrong.x_0, "eps": wrong.eps, "v": process.velocity(wrong.x_0, wrong.eps, T)}
    a = process.alphas_cumprod[T]
    expected = (a / (1 - a)).clamp(max=5) * off**2
    for prediction, answer in answers.items():
        loss = diffusion_loss(Outputs(answer), process, x_0, LABELS, T, noise, prediction, "min_snr")
        # float32: where the signal is 1e-3 and less, the error of 0.1 in x_0 is read off the fifth digit of eps.
        torch.testing.assert_close(loss, expected.float(), rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("prediction", [p for p in PREDICTIONS if p != "eps"])
def test_loss_is_finite_where_nothing_is_left(prediction: str) -> None:
    for schedule, weighting, factor in product(SCHEDULES, WEIGHTINGS, [1, 2]):
        process = NoiseSchedule(with_zero_terminal_snr(SCHEDULES[schedule](1000)))
        t = torch.tensor([0, 1, 500, 998, 999])
        x_0, noise = (x.float() for x in images(5))
        answer = torch.randn(5, factor * 3, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
        loss = diffusion_loss(Outputs(answer), process, x_0, LABELS, t, noise, prediction, weighting)
        loss.sum().backward()
        assert loss.isfinite().all() and answer.grad.isfinite().all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_hybrid_term_trains_the_variance_alone(prediction: str) -> None:
    for schedule in SCHEDULES:
        process = NoiseSchedule(SCHEDULES[schedule](1000))
        t = torch.tensor([0, 1, 250, 500, 999])
        x_0, noise = (x.float() for x in images(5))
        draws = torch.Generator().manual_seed(3)
        near = target(prediction, process, x_0, noise, t) + 0.01 * torch.randn(x_0.shape, generator=draws)
        variance = torch.rand(x_0.shape, generator=draws) - 0.5
        both, alone = (x.clone().requires_grad_() for x in (torch.cat([near, variance], dim=1), near))
        loss = diffusion_loss(Outputs(both), process, x_0, LABELS, t, noise, prediction)
        simple = diffusion_loss(Outputs(alone), process, x_0, LABELS, t, noise, prediction)
        loss.sum().backward()
        simple.sum().backward()
        assert torch.equal(both.grad[:, :3], alone.grad)
        assert both.grad[:, 3:].isfinite().all() and (both.grad[:, 3:].abs().amax(dim=(1, 2, 3)) > 0).all()
        x_t = process.q_sample(x_0, t, noise)
        decoded = PREDICTIONS[prediction].decode(process, near, x_t, t)._replace(variance_fraction=(variance + 1) / 2)
        bound = vlb_term(process, x_0, x_t, t, decoded)
        # Bits, T / 1000 = 1 times; float32.
        torch.testing.assert_close(loss.detach(), simple.detach() + bound, rtol=1e-5, atol=1e-9)


def test_hybrid_term_grows_with_the_length_of_the_chain() -> None:
    x_0, noise = (x.float() for x in images(5))
    t = torch.tensor([1, 2, 3, 4, 5])
    for length in (100, 4000):
        process = NoiseSchedule(SCHEDULES["cosine"](length))
        answer = torch.cat([noise, torch.zeros_like(noise)], dim=1)
        loss = diffusion_loss(Outputs(answer), process, x_0, LABELS, t, noise, "eps")
        x_t = process.q_sample(x_0, t, noise)
        half = torch.full_like(x_0, 0.5)
        prediction = process.from_eps(noise, x_t, t)._replace(variance_fraction=half)
        bound = vlb_term(process, x_0, x_t, t, prediction)
        torch.testing.assert_close(loss, bound * length / 1000, rtol=1e-5, atol=0)       # float32


def test_variance_fraction() -> None:
    variance = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 1, 1)
    output = torch.cat([torch.full((2, 3, 1, 1), 7.0), variance], dim=1)
    prediction, fraction = split_output(output, 3)
    assert torch.equal(prediction, output[:, :3]) and fraction[0].flatten().tolist() == [0.0, 0.5, 1.0]
    assert split_output(output, 6) == (output, None)


def test_half_precision_outputs_give_float32_losses() -> None:
    x_0, noise = (x.float() for x in images(5))
    loss = diffusion_loss(Outputs(noise.bfloat16()), LINEAR, x_0, LABELS, T, noise, "eps")
    assert loss.dtype == torch.float32 and loss.max() < 1e-4        # the square of bfloat16's rounding, 2^-9


# --------------------------------------------------------------------------------------------------------- timesteps


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_timesteps_are_uniform_along_a_run(name: str) -> None:
    for length in (2, 10, 1000):
        t = TIMESTEP_SAMPLERS[name](0, torch.arange(50_000), length)
        assert t.shape == (50_000,) and t.dtype == torch.int64 and t.min() == 0 and t.max() == length - 1
        assert chi_square(torch.bincount(t, minlength=length)) < limit(length - 1)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_timesteps_of_one_position_are_uniform_over_seeds(name: str) -> None:
    for position in (0, 12_345, 2**40):
        at = torch.tensor([position])
        t = torch.cat([TIMESTEP_SAMPLERS[name](seed, at, 10) for seed in range(500)])
        assert chi_square(torch.bincount(t, minlength=10)) < limit(9)


@pytest.mark.parametrize("name", TIMESTEP_SAMPLERS)
def test_timesteps_do_not_know_their_batch(name: str) -> None:
    draw = TIMESTEP_SAMPLERS[name]
    position = torch.cat([torch.arange(100), torch.tensor([2**32 - 1, 2**32, 2**40, 2**62])])
    for seed in (0, 2**32, 2**63 - 1):
        whole = draw(seed, position, 1000)
        assert whole.min() >= 0 and whole.max() < 1000
        for size in (1, 7):
            assert torch.equal(torch.cat([draw(seed, part, 1000) for part in position.split(size)]), whole)
        order = torch.randperm(len(position), generator=torch.Generator().manual_seed(0))
        assert torch.equal(draw(seed, position[order], 1000), whole[order])
    assert not torch.equal(draw(0, position, 1000), draw(2**32, position, 1000))


def test_low_discrepancy_covers() -> None:
    # By the three-gap theorem, N points of a golden-ratio sequence leave no gap above 2.62 / N.
    for seed in range(20):
        for first in (0, 999, 2**40):
            for length in (10, 50, 1000):
                run = torch.arange(first, first + math.ceil(2.62 * length))
                assert len(low_discrepancy_timesteps(seed, run, length).unique()) == length
    # The mean timestep of 64 independent draws has a standard deviation of 289 / 8 = 36; here less than a quarter.
    batches = low_discrepancy_timesteps(0, torch.arange(64 * 500), 1000).double().view(500, 64).mean(dim=1)
    assert float(batches.std()) < 9


# ------------------------------------------------------------------------------------------------------------- tools


def images(count: int) -> tuple[Tensor, Tensor]:
    """Images and noise, float64 (count, 3, 4, 4)."""
    draws = torch.Generator().manual_seed(0)
    x_0 = torch.rand(count, 3, 4, 4, generator=draws, dtype=torch.float64) * 2 - 1
    return x_0, torch.randn(count, 3, 4, 4, generator=draws, dtype=torch.float64)


def read(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}        # noqa: SIM118 (not a mapping)
        metadata = file.metadata()
    return metadata, {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def limit(freedom: int) -> float:
    """Mean and four standard deviations of a chi-square variable, of which its skewness leaves one in 1000 above."""
    return freedom + 4 * math.sqrt(2 * freedom)
