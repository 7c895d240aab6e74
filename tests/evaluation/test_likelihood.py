"""Bits per dimension and denoising errors: direct sums, published values, Gaussians in closed form."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm.data import load_data
from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.guidance import unet_denoiser
from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.schedule import SCHEDULES, Denoiser, NoiseSchedule, Prediction, with_zero_terminal_snr
from ddpm.evaluation import likelihood
from ddpm.evaluation.likelihood import (
    bits_per_dim,
    bound_curve,
    bound_terms,
    denoising_curve,
    denoising_errors,
    error_timesteps,
    strata,
)
from ddpm.io.pipelines import load_pipeline
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose, normal

pytestmark = pytest.mark.usefixtures("one_thread")


def some_images(count: int, shape: tuple[int, int, int] = (3, 4, 4)) -> tuple[Tensor, Tensor, Tensor]:
    """Return images that contain black and white, with labels and indices."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(-60, 316, (count, *shape), generator=draws).clamp(0, 255).to(torch.uint8)
    return images, torch.randint(0, 3, (count,), generator=draws), torch.arange(count) * 7 + 3


def guess(schedule: NoiseSchedule, variance: float | None) -> Denoiser:
    """Predict values, also outside [-1, 1], that depend on all arguments."""

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        x_0 = x_t * (1.1 + 0.1 * labels[:, None, None, None]) * schedule.alphas_cumprod[t].float()[:, None, None, None]
        fraction = None if variance is None else torch.full_like(x_0, variance)
        return schedule.from_x_0(x_0, x_t, t)._replace(variance_fraction=fraction)

    return denoise


def direct_bound(
    denoiser: Denoiser, schedule: NoiseSchedule, image: Tensor, label: Tensor, noise: Callable[[int], Tensor]
) -> list[float]:
    """Compute the T terms and the prior, in bits per dimension, from the betas (Ho et al. 2020, equations 5 to 7)."""
    beta, now = schedule.betas, torch.cumprod(1 - schedule.betas, dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), now[:-1]])
    smallest = beta * (1 - before) / (1 - now)
    smallest[0] = smallest[1]
    x_0 = image.double()[None] * 2 / 255 - 1
    terms = []
    for t in range(len(beta)):
        x_t = now[t].sqrt() * x_0 + (1 - now[t]).sqrt() * noise(t).double()
        found = denoiser(x_t.float(), torch.tensor([t]), label[None])
        fraction = torch.ones_like(x_0) if found.variance_fraction is None else found.variance_fraction.double()
        std = (0.5 * (fraction * beta[t].log() + (1 - fraction) * smallest[t].log())).exp()

        def mean(estimate: Tensor, t: int = t, x_t: Tensor = x_t) -> Tensor:
            return (before[t].sqrt() * beta[t] * estimate + (1 - beta[t]).sqrt() * (1 - before[t]) * x_t) / (1 - now[t])

        center = mean(found.x_0.double().clamp(-1, 1))
        if t == 0:
            upper, lower = ((x_0 + side / 255 - center) / std for side in (1, -1))
            upper[x_0 == 1], lower[x_0 == -1] = torch.inf, -torch.inf
            nats = -(page(upper) - page(lower)).clamp(min=1e-12).log()
        else:
            nats = kl_divergence(Normal(mean(x_0), smallest[t].sqrt()), Normal(center, std))
        terms.append(float(nats.mean()) / math.log(2))
    prior = kl_divergence(Normal(now[-1].sqrt() * x_0, (1 - now[-1]).sqrt()), Normal(0.0, 1.0))
    return [*terms, float(prior.mean()) / math.log(2)]


def page(z: Tensor) -> Tensor:
    """Return Page's approximation of the normal distribution function, as used for published bits per dimension."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def schedules(length: int) -> list:
    """Return all schedules, with and without zero terminal SNR."""
    found = []
    for name, betas in SCHEDULES.items():
        found.append(pytest.param(NoiseSchedule(betas(length)), id=name))
        found.append(pytest.param(NoiseSchedule(with_zero_terminal_snr(betas(length))), id=f"{name}, zero"))
    return found


# --------------------------------------------------------------------------------------------------------- the bound


@pytest.mark.parametrize("variance", [None, 0.3])
@pytest.mark.parametrize("schedule", schedules(30))
def test_all_timesteps_are_the_direct_sum(schedule: NoiseSchedule, variance: float | None) -> None:
    images, labels, indices = some_images(3)
    denoiser = guess(schedule, variance)
    found = bound_terms(denoiser, schedule, images, labels, indices, 30, seed=5)
    assert found.shape == (3, 31) and found.dtype == torch.float64
    for row, image, label, place in zip(found, images, labels, indices, strict=True):

        def noise(t: int, place: Tensor = place) -> Tensor:
            return normal(5, Purpose.EVALUATION_NOISE, (place << 32)[None] + t, (3, 4, 4))

        expected = torch.tensor(direct_bound(denoiser, schedule, image, label, noise), dtype=torch.float64)
        # x_t is float32 in the one, which the difference of two x_0 over the noise of the first timesteps magnifies.
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-9)


SPREAD = 0.25


def gaussian_denoiser(schedule: NoiseSchedule) -> Denoiser:
    """Return the exact reverse process of independent pixels from N(0, SPREAD^2), including its variance."""
    now = schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), now[:-1]])
    share = now.sqrt() * SPREAD**2 / (now * SPREAD**2 + 1 - now)
    left = SPREAD**2 * (1 - now) / (now * SPREAD**2 + 1 - now)          # variance of x_0 given x_t
    exact = schedule.posterior_variance + (before.sqrt() * schedule.betas / (1 - now)) ** 2 * left
    low = torch.cat([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]]).log()
    fraction = (exact.log() - low) / (schedule.betas.log() - low)

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        x_0 = (share[t][:, None, None, None] * x_t).float()
        variance = fraction[t][:, None, None, None].expand_as(x_t)
        return schedule.from_x_0(x_0, x_t, t)._replace(variance_fraction=variance)

    return denoise


def gaussian_images(count: int, side: int) -> Tensor:
    x_0 = SPREAD * torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("schedule", schedules(100))
def test_the_exact_reverse_process_needs_the_entropy(schedule: NoiseSchedule) -> None:
    images = gaussian_images(32, 32)
    none = torch.zeros(32, dtype=torch.int64)
    terms = bound_terms(gaussian_denoiser(schedule), schedule, images, none, torch.arange(32), 100, seed=0)
    x_0 = images.double() / 127.5 - 1
    model = Normal(torch.tensor(0.0, dtype=torch.float64), SPREAD)
    nats = -(model.cdf(x_0 + 1 / 255) - model.cdf(x_0 - 1 / 255)).log().mean(dim=(1, 2, 3))
    difference = terms.sum(dim=1) - nats / math.log(2)
    # Of the noise; and up to 2e-3 because the first term's Gaussian is as narrow as a gray level where beta_0 is small.
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(32) + 2e-3
    assert float(difference.std()) / math.sqrt(32) < 0.02 < 5 < float(bits_per_dim(terms).value)


@pytest.mark.parametrize("evaluations", [1, 7, 29])
@pytest.mark.parametrize("schedule", schedules(30))
def test_unbiased(schedule: NoiseSchedule, evaluations: int) -> None:
    image, label, _ = some_images(1)
    same, labels, indices = image.expand(2000, -1, -1, -1), label.expand(2000), torch.arange(2000)
    denoiser = guess(schedule, None)
    some = bound_terms(denoiser, schedule, same, labels, indices, evaluations, seed=1)
    every = bound_terms(denoiser, schedule, same, labels, indices, 30, seed=1)
    edges = strata(schedule, evaluations).tolist()
    expected = [every[:, a:b].sum(dim=1) for a, b in pairwise(edges)]
    difference = some - torch.stack([*expected, every[:, -1]], dim=1)           # alike where a stratum is one timestep
    # The same noise in both, so the draw of the timestep alone is left. Four and a half standard errors.
    assert (difference.mean(dim=0).abs() <= 4.5 * difference.std(dim=0) / math.sqrt(2000) + 1e-12).all()
    assert (difference.std(dim=0)[:-1] > 0).any()


@pytest.mark.parametrize("schedule", schedules(30))
def test_strata_cover_the_timesteps_once(schedule: NoiseSchedule) -> None:
    for count in range(1, 31):
        edges = strata(schedule, count)
        assert len(edges) == count + 1 and edges[0] == 0 and edges[-1] == 30 and (edges.diff() >= 1).all()
    assert torch.equal(edges, torch.arange(31))


@pytest.mark.parametrize("schedule", schedules(1000))
def test_strata_lessen_the_variance(schedule: NoiseSchedule, monkeypatch: pytest.MonkeyPatch) -> None:
    images = gaussian_images(1, 8).expand(400, -1, -1, -1)
    arguments = (images, torch.zeros(400, dtype=torch.int64), torch.arange(400), 20, 0)
    chosen = bound_terms(gaussian_denoiser(schedule), schedule, *arguments).sum(dim=1).std()
    monkeypatch.setattr(likelihood, "strata", lambda schedule, count: torch.arange(count + 1) * 1000 // count)
    equal = bound_terms(gaussian_denoiser(schedule), schedule, *arguments).sum(dim=1).std()
    assert chosen < 0.5 * equal


def measures() -> list:
    schedule = NoiseSchedule(SCHEDULES["cosine"](50))
    denoiser = guess(schedule, 0.5)
    return [
        pytest.param(lambda i, y, p, **k: bound_terms(denoiser, schedule, i, y, p, 9, **k), id="bound"),
        pytest.param(lambda i, y, p, **k: denoising_errors(denoiser, schedule, i, y, p, [0, 9, 49], **k), id="errors"),
    ]


@pytest.mark.parametrize("measure", measures())
def test_neither_batch_nor_order_matter(measure: Callable[..., Tensor]) -> None:
    images, labels, indices = some_images(10)
    whole = measure(images, labels, indices, seed=3)
    for batch_size in (1, 4, 25):
        scores = measure(images, labels, indices, seed=3, batch_size=batch_size)
        torch.testing.assert_close(scores, whole, rtol=1e-6, atol=0)
    alone = [measure(images[i:j], labels[i:j], indices[i:j], seed=3) for i, j in ((0, 1), (1, 7), (7, 10))]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-6, atol=0)      # float32 sums in another order
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = measure(images[order], labels[order], indices[order], seed=3)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-6, atol=0)
    for other in (measure(images, labels, indices, seed=4), measure(images, labels, indices + 1, seed=3)):
        assert (other != whole).any(dim=1).all()


def test_labels_may_be_weights() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](20))
    images, _, indices = some_images(4)
    weights = torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(0))
    received = []

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        received.append(labels)
        return Prediction(x_t, x_t)

    denoising_errors(denoiser, schedule, images, weights, indices, [3, 8, 11], seed=0)
    assert torch.equal(torch.cat(received), weights.repeat_interleave(3, dim=0))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", schedules(1000))
def test_finite_for_every_schedule_and_prediction(schedule: NoiseSchedule, prediction: str, factor: int) -> None:
    """The network is wrong everywhere; where no signal is left, eps does not determine x_0."""
    images, labels, indices = some_images(2)

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.cat([0.3 * x_t, 0.1 * x_t.clamp(-5, 5)], dim=1)[:, : 3 * factor])

    denoiser = unet_denoiser(network, schedule, prediction)
    for evaluations in (4, 1000):
        terms = bound_terms(denoiser, schedule, images, labels, indices, evaluations, seed=0)
        assert terms.isfinite().all() and bits_per_dim(terms).value > 0
    timesteps = error_timesteps(schedule)
    errors = denoising_errors(denoiser, schedule, images, labels, indices, timesteps, seed=0)
    assert errors.isfinite().all() and (errors > 0).all()
    assert all(math.isfinite(value) for point in denoising_curve(errors, schedule, timesteps) for value in point)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite(value: float) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](20))
    images, labels, indices = some_images(4)

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        x_0 = torch.zeros_like(x_t)
        x_0[t == 8, 0, 0, 0] = value
        return Prediction(x_0, x_t)

    with pytest.raises(Diverged, match=r"image 3 at timestep 8 [^\n]*use another model$"):
        denoising_errors(denoiser, schedule, images, labels, indices, [2, 8], seed=0)
    if math.isnan(value):
        with pytest.raises(ValueError, match=r"image 3 at timestep 8 "):
            bound_terms(denoiser, schedule, images, labels, indices, 20, seed=0)


def test_interval_and_curve() -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](200))
    terms = torch.rand(5000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)    # several blocks
    metric = bits_per_dim(terms)
    error = 1.96 * math.sqrt(5 / 12 / 5000)             # the sum of five uniform numbers
    assert metric.value == pytest.approx(2.5, abs=2 * error)
    assert metric.value == pytest.approx(float(terms.sum()) / 5000)
    assert metric.high - metric.value == pytest.approx(error, rel=0.05)         # the deviation of 5000, within 3 %
    assert metric.value - metric.low == pytest.approx(metric.high - metric.value)
    curve = bound_curve(terms, schedule)
    assert [(part.first, part.last) for part in curve] == [
        (a, b - 1) for a, b in zip(*(strata(schedule, 4)[i : i + 4].tolist() for i in (0, 1)), strict=True)
    ]
    assert sum(part.bits_per_dim for part in curve) + float(terms[:, 4].mean()) == pytest.approx(metric.value)
    for part, column in zip(curve, terms.T, strict=False):
        assert part.standard_error == pytest.approx(float(column.std()) / math.sqrt(5000))


# -------------------------------------------------------------------------------------------------- denoising errors


@pytest.mark.parametrize("schedule", schedules(1000))
def test_error_of_a_gaussian(schedule: NoiseSchedule) -> None:
    images, timesteps = gaussian_images(32, 32), error_timesteps(schedule)
    none = torch.zeros(32, dtype=torch.int64)
    errors = denoising_errors(gaussian_denoiser(schedule), schedule, images, none, torch.arange(32), timesteps, seed=0)
    assert errors.shape == (32, len(timesteps)) and errors.dtype == torch.float64
    for point in denoising_curve(errors, schedule, timesteps):
        a = float(schedule.alphas_cumprod[point.timestep])
        expected = SPREAD**2 * (1 - a) / (a * SPREAD**2 + 1 - a)
        assert abs(point.x_0_error - expected) < 4 * point.standard_error
        assert point.standard_error < 0.02 * expected           # a mean of 32,768 squares deviates by 0.8 %
        assert point.sigma == pytest.approx(math.sqrt((1 - a) / a), rel=1e-9)
        assert point.eps_error == pytest.approx(point.x_0_error * a / (1 - a), rel=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_eps_error_is_that_of_the_noise(prediction: str) -> None:
    """The error of a network that is off by 0.1 in its own unit, in units of x_0 and of eps."""
    schedule = NoiseSchedule(SCHEDULES["cosine"](100))
    images, labels, indices = some_images(2)
    timesteps = [5, 50, 90]
    x_0 = images.repeat_interleave(3, dim=0).float() / 127.5 - 1
    index = (indices.repeat_interleave(3) << 32) + torch.tensor(timesteps).repeat(2)
    noise = normal(9, Purpose.EVALUATION_NOISE, index, (3, 4, 4))

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=PREDICTIONS[prediction].target(schedule, x_0, noise, t) + 0.1)

    errors = denoising_errors(
        unet_denoiser(network, schedule, prediction), schedule, images, labels, indices, timesteps, seed=9
    )
    a = schedule.alphas_cumprod[timesteps]
    expected = 0.01 * {"x_0": torch.ones_like(a), "eps": (1 - a) / a, "v": 1 - a}[prediction]
    torch.testing.assert_close(errors, expected.expand(2, -1), rtol=1e-4, atol=0)           # float32
    found = [point.eps_error for point in denoising_curve(errors, schedule, timesteps)]
    torch.testing.assert_close(torch.tensor(found).double(), expected * a / (1 - a), rtol=1e-4, atol=0)


@pytest.mark.parametrize("length", [3, 10, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("zero", [False, True])
def test_error_timesteps(name: str, length: int, zero: bool) -> None:
    betas = SCHEDULES[name](length)
    schedule = NoiseSchedule(with_zero_terminal_snr(betas) if zero else betas)
    visible = int((schedule.sigmas <= 80).sum())
    for count in (1, 2, 10, 5000):
        timesteps = error_timesteps(schedule, count)
        assert len(timesteps) == min(count, visible) and all(isinstance(t, int) for t in timesteps)
        assert timesteps == sorted(set(timesteps)) and timesteps[0] >= 0 and timesteps[-1] == visible - 1
        assert schedule.sigmas[timesteps].isfinite().all()
    if length == 1000:
        steps = schedule.sigmas[error_timesteps(schedule)].log().diff()
        # As even as whole timesteps can be: those of the first levels are up to 1.5 apart.
        assert steps.max() < 2 * steps.mean() and steps.min() > 0.4 * steps.mean()


def test_error_timesteps_of_the_shortest_schedule() -> None:
    assert error_timesteps(NoiseSchedule(torch.tensor([0.5, 1.0]))) == [0]


# ----------------------------------------------------------------------------------------------------- a trained model


@pytest.mark.slow
def test_training_lowers_the_bound(digits_run: Path) -> None:
    data = load_data("digits")
    indices = torch.arange(0, len(data), 57)
    images, labels = data.__getitems__(indices)
    trained = load_pipeline(digits_run)
    fresh = ClassConditionalPipeline.from_parts(
        type(trained.unet).from_config(trained.unet.config).eval(), trained.schedule, trained.prediction,
        trained.class_names,
    )
    metrics, errors = [], []
    for pipeline in (trained, fresh):
        schedule, timesteps = pipeline.schedule, error_timesteps(pipeline.schedule)
        metrics.append(bits_per_dim(bound_terms(pipeline.denoiser(), schedule, images, labels, indices, 50, seed=0)))
        e = denoising_errors(pipeline.denoiser(clip=False), schedule, images, labels, indices, timesteps, seed=0)
        errors.append([point.eps_error for point in denoising_curve(e, schedule, timesteps)])
    print("bits per dimension, trained and untrained:", *metrics)
    print("error of eps:", *errors)
    assert metrics[0].value > 0 and metrics[0].high < metrics[1].low < math.inf
    assert all(a < b for a, b in zip(*errors, strict=True))

    def noise(t: int) -> Tensor:
        return normal(0, Purpose.EVALUATION_NOISE, (indices[:1] << 32) + t, tuple(images.shape[1:]))

    exact = bound_terms(trained.denoiser(), trained.schedule, images[:1], labels[:1], indices[:1], 1000, seed=0)[0]
    with torch.no_grad():
        direct = direct_bound(trained.denoiser(clip=False), trained.schedule, images[0], labels[0], noise)
    # float32 networks in batches of other sizes, divided by the noise of the first timesteps.
    torch.testing.assert_close(exact, torch.tensor(direct).double(), rtol=1e-3, atol=1e-6)
