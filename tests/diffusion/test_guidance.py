"""Guidance: what is added, what it costs, where it holds, and how far it is set back."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.guidance import clipped, null_labels, unet_denoiser, with_guidance
from ddpm.diffusion.samplers import ddim
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr


class TwoAnswers:
    """A network that adds the class id to its input, with a null class 3, and counts its calls."""

    calls = 0

    def __init__(self, variance: bool = False) -> None:
        self.variance = variance

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> "TwoAnswers":
        self.calls += 1
        answer = 0.1 * x_t + 0.2 * labels.view(-1, 1, 1, 1)
        self.sample = torch.cat([answer, torch.tanh(answer)], dim=1) if self.variance else answer
        return self


X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(5))
T = torch.tensor([10, 500, 800])
LABELS = torch.tensor([0, 1, 2])
COSINE = NoiseSchedule(SCHEDULES["cosine"](1000))


def test_guidance_of_1_is_the_denoiser_itself() -> None:
    denoiser = unet_denoiser(TwoAnswers(), COSINE, "eps")
    assert with_guidance(denoiser, COSINE, None, 1, clip=False) is denoiser


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_guided_eps(scale: float, variance: bool) -> None:
    network = TwoAnswers(variance)
    denoiser = unet_denoiser(network, COSINE, "eps")
    guided = with_guidance(denoiser, COSINE, 3, scale, clip=False)(X, T, LABELS)
    assert network.calls == 1       # both in one pass
    given, null = denoiser(X, T, LABELS), denoiser(X, T, torch.full_like(LABELS, 3))
    # Rounding of float32, and its growth by 1 / sqrt(alphas_cumprod) in x_0.
    torch.testing.assert_close(guided.eps, null.eps + scale * (given.eps - null.eps), rtol=0, atol=1e-6)
    torch.testing.assert_close(COSINE.q_sample(guided.x_0, T, guided.eps), X, rtol=0, atol=1e-5)
    if variance:
        torch.testing.assert_close(guided.variance_fraction, given.variance_fraction, rtol=0, atol=1e-7)
    else:
        assert guided.variance_fraction is None


def test_clipping_comes_after_guiding_and_rederives_eps() -> None:
    denoiser = unet_denoiser(TwoAnswers(variance=True), COSINE, "eps")
    free = with_guidance(denoiser, COSINE, 3, 3.0, clip=False)(X, T, LABELS)
    held = with_guidance(denoiser, COSINE, 3, 3.0)(X, T, LABELS)
    assert free.x_0.abs().max() > 1.5
    torch.testing.assert_close(held.x_0, free.x_0.clamp(-1, 1), rtol=0, atol=0)
    a = COSINE.alphas_cumprod[T].view(-1, 1, 1, 1).float()
    # float32, divided by the noise level of t = 10, which is 0.02.
    torch.testing.assert_close(held.eps, (X - a.sqrt() * held.x_0) / (1 - a).sqrt(), rtol=0, atol=1e-4)
    assert torch.equal(held.variance_fraction, free.variance_fraction)
    plain = clipped(denoiser, COSINE)(X, T, LABELS)
    assert torch.equal(plain.x_0, denoiser(X, T, LABELS).x_0.clamp(-1, 1))


def test_guidance_needs_a_null_class(refused) -> None:
    with refused("guidance_scale", "null class", "diffusion.class_dropout_prob", "--guide"):
        with_guidance(unet_denoiser(TwoAnswers(), COSINE, "eps"), COSINE, None, 2.0)


def test_unknown_prediction(refused) -> None:
    with refused("diffusion.prediction: 'epsilon'", "mean eps"):
        unet_denoiser(TwoAnswers(), COSINE, "epsilon")


def test_guidance_where_nothing_of_the_signal_is_left() -> None:
    """At zero terminal SNR, eps cannot be turned into x_0; guidance goes on."""
    process = NoiseSchedule(with_zero_terminal_snr(SCHEDULES["cosine"](10)))

    class Answers(torch.nn.Module):
        def forward(self, x_t, t, labels):
            return SimpleNamespace(sample=0.1 * x_t + 0.2 * labels[:, None, None, None])

    denoiser = with_guidance(unet_denoiser(Answers(), process, "v"), process, 3, 2.0)
    x_T = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_0 = ddim(denoiser, process, x_T, torch.tensor([0, 1]), list(range(9, -1, -1)))
    assert x_0.isfinite().all()


# ---------------------------------------------------------------------------------------- interval, rescaling, guides


class Counting:
    """A network that counts the images that it is shown."""

    def __init__(self, offset: float = 0.0) -> None:
        self.images, self.calls, self.offset = 0, 0, offset

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> SimpleNamespace:
        self.images += len(x_t)
        self.calls += 1
        return SimpleNamespace(sample=0.1 * x_t + 0.2 * labels.view(-1, 1, 1, 1) + self.offset)


def test_no_null_half_outside_the_interval() -> None:
    levels = COSINE.sigmas
    low, high = 0.3, 3.0
    inside = ((levels > low) & (levels <= high)).tolist()
    network, plain = Counting(), Counting()
    guided = with_guidance(unet_denoiser(network, COSINE, "eps"), COSINE, 3, 2.0, interval=[low, high], clip=False)
    always = with_guidance(unet_denoiser(Counting(), COSINE, "eps"), COSINE, 3, 2.0, clip=False)
    never = unet_denoiser(plain, COSINE, "eps")
    for step in range(0, 1000, 25):
        t = torch.full((3,), step)
        before = network.images
        found = guided(X, t, LABELS)
        assert network.images - before == (6 if inside[step] else 3)
        expected = (always if inside[step] else never)(X, t, LABELS)
        torch.testing.assert_close(found.x_0, expected.x_0, rtol=0, atol=1e-6)      # float32 rounding
    assert network.calls == 40


def test_the_interval_holds_for_each_image_of_a_batch() -> None:
    inside = int((COSINE.sigmas > 1).nonzero()[0])
    t = torch.tensor([0, inside, 999])
    guided = with_guidance(unet_denoiser(Counting(), COSINE, "eps"), COSINE, 3, 3.0, interval=[1, 5], clip=False)
    mixed = guided(X, t, LABELS)
    for i in range(3):
        alone = guided(X[i : i + 1], t[i : i + 1], LABELS[i : i + 1])
        torch.testing.assert_close(mixed.eps[i], alone.eps[0], rtol=0, atol=1e-6)   # float32 rounding


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_rescaling_sets_the_contrast_back(rescale: float) -> None:
    denoiser = unet_denoiser(lambda x, t, y: SimpleNamespace(sample=x * (1 + y.view(-1, 1, 1, 1))), COSINE, "x_0")
    given = denoiser(X, T, LABELS)
    free = with_guidance(denoiser, COSINE, 3, 2.5, clip=False)(X, T, LABELS)
    held = with_guidance(denoiser, COSINE, 3, 2.5, rescale=rescale, clip=False)(X, T, LABELS)
    spread = [p.x_0.std(dim=(1, 2, 3)) for p in (given, free, held)]
    torch.testing.assert_close(spread[2], rescale * spread[0] + (1 - rescale) * spread[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(COSINE.q_sample(held.x_0, T, held.eps), X, rtol=0, atol=1e-5)    # still one image


def test_autoguidance_goes_away_from_the_guide() -> None:
    network, guide = Counting(), Counting(offset=0.5)
    strong, weak = unet_denoiser(network, COSINE, "eps"), unet_denoiser(guide, COSINE, "eps")
    guided = with_guidance(strong, COSINE, None, 2.0, guide=weak, clip=False)(X, T, LABELS)
    assert (network.calls, guide.calls, network.images, guide.images) == (1, 1, 3, 3)
    a, b = strong(X, T, LABELS), weak(X, T, LABELS)
    torch.testing.assert_close(guided.eps, 2 * a.eps - b.eps, rtol=0, atol=1e-6)    # float32 rounding


def test_the_null_class_in_every_form() -> None:
    assert torch.equal(null_labels(torch.tensor([0, 2]), 3), torch.tensor([3, 3]))
    assert torch.equal(null_labels(torch.ones(2, 4), 3), torch.tensor([[0, 0, 0, 1.0]] * 2))
    assert torch.equal(null_labels(torch.ones(1, 2, 4), 3), torch.tensor([[[0, 0, 0, 1.0]] * 2]))
