"""Samplers on Gaussian data, whose exact denoiser is known; grids, guidance, and draws that do not know their batch."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddpm.randomness import Purpose, normal
from ddpm.sampling.files import plan_seeds
from ddpm.sampling.guidance import classifier_free, clipped, unet_denoiser, with_guidance
from ddpm.sampling.images import draw, label_ids, timestep_grid, to_uint8
from ddpm.sampling.samplers import SAMPLERS, SPACINGS, ddim, ddpm, trailing
from ddpm.schedule import SCHEDULES, NoiseSchedule, Prediction, with_zero_terminal_snr

MEAN, STD = 0.3, 0.2        # of the data
ETAS = {"ddim": 0.0, "ddpm": 1.0}

# ------------------------------------------------------------------------------------------------------ Gaussian data


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
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", ETAS)
def test_mean_and_spread_follow_the_recursion(sampler: str, schedule: str, steps: int) -> None:
    noise_schedule = NoiseSchedule(SCHEDULES[schedule](1000))
    timesteps = trailing(1000, steps)
    x_0 = run(SAMPLERS[sampler], noise_schedule, timesteps, COUNT)
    mean, std = propagated(noise_schedule, timesteps, ETAS[sampler])
    # Four and a half standard errors of a mean and of a standard deviation.
    assert float(x_0.mean()) == pytest.approx(mean, abs=4.5 * std / math.sqrt(COUNT))
    assert float(x_0.std()) == pytest.approx(std, abs=4.5 * std / math.sqrt(2 * COUNT))


# With a finite number of steps every first-order sampler makes the data too narrow: by 0.4 to 1.9 % with 1000 steps, by
# 7 to 21 % with 50 (from the exact recursions); the rest is five standard errors of the sample.
@pytest.mark.parametrize(("steps", "narrower"), [(1000, 0.02), (50, 0.22)])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_mean_and_spread_are_those_of_the_data(sampler: str, schedule: str, steps: int, narrower: float) -> None:
    x_0 = run(SAMPLERS[sampler], NoiseSchedule(SCHEDULES[schedule](1000)), trailing(1000, steps), COUNT)
    error = 5 / math.sqrt(2 * COUNT)
    # Starting at N(0, 1) instead of the true x_T, of which 0.6 % of the image is left, costs the linear schedule 4e-4.
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=5 * STD / math.sqrt(COUNT) + 4e-4)
    assert 1 - narrower - error < float(x_0.std()) / STD < 1 + error


def test_more_steps_come_closer() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    for eta in (0.0, 1.0):
        gaps = [STD - float(run(ddim, schedule, trailing(1000, n), 2**16, eta=eta).std()) for n in (100, 400)]
        # First order: four times the steps, a quarter of the gap, of which the sample's standard error is 0.00055.
        assert 3 < gaps[0] / gaps[1] < 5, eta


@pytest.mark.parametrize("terminal", ["as it is", "zero SNR"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_pixel_follows_the_recursion(schedule: str, eta: float, terminal: str) -> None:
    betas = SCHEDULES[schedule](1000)
    noise_schedule = NoiseSchedule(with_zero_terminal_snr(betas) if terminal == "zero SNR" else betas)
    x_T = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64).view(2, 1, 1, 2)
    noise = torch.randn(50, 2, 1, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for spacing, n in (("trailing", 50), ("leading", 50), ("linspace", 20), ("trailing", 1)):
        timesteps = SPACINGS[spacing](1000, n)
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
    timesteps = trailing(1000, 50)
    for variance in (0.0, 0.4, 1.0):
        denoiser = exact_denoiser(schedule, variance)
        x_0 = ddpm(denoiser, schedule, x_T, torch.zeros(2), timesteps, noise=lambda i: noise[i])
        x = x_T
        for i, (a, b, s) in enumerate(affine_steps(schedule, timesteps, 1.0, variance)):
            x = a * x + b + s * noise[i]
        torch.testing.assert_close(x_0, x, rtol=0, atol=1e-10)      # rounding of float64


def test_ddim_with_eta_1_is_ddpm_and_eta_0_draws_nothing() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    timesteps = trailing(1000, 20)
    assert torch.equal(run(ddim, schedule, timesteps, 64, eta=1.0), run(ddpm, schedule, timesteps, 64))
    x_T, labels = torch.ones(1, 1, 2, 2), torch.zeros(1)
    silent = ddim(exact_denoiser(schedule), schedule, x_T, labels, timesteps)
    assert torch.equal(silent, ddim(exact_denoiser(schedule), schedule, x_T, labels, timesteps, noise=lambda i: 1 / 0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_can_look_on(sampler: str) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    timesteps, seen = trailing(1000, 5), []
    draws = torch.Generator().manual_seed(3)
    x_T = torch.randn(1, 1, 2, 2, generator=draws)
    SAMPLERS[sampler](exact_denoiser(schedule), schedule, x_T, torch.zeros(1), timesteps,
                      noise=lambda i: torch.randn(x_T.shape, generator=draws),
                      on_step=lambda i, x_t, prediction: seen.append((i, x_t, prediction)))
    assert [i for i, _, _ in seen] == list(range(5)) and torch.equal(seen[0][1], x_T)
    for (_, x_t, prediction), t in zip(seen, timesteps, strict=True):
        expected = exact_denoiser(schedule)(x_t, torch.tensor([t]), torch.zeros(1))
        assert torch.equal(prediction.x_0, expected.x_0)


# ------------------------------------------------------------------------------------------------------------- grids

GRIDS = [(T, n) for T in range(2, 60) for n in range(1, T + 1)]
GRIDS += [(T, n) for T in (999, 1000, 4000) for n in (1, 2, 3, 7, 10, 33, 50, 333, 666, 998, 999, 1000, 4000) if n <= T]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_fall_through_distinct_timesteps(spacing: str) -> None:
    for T, n in GRIDS:
        grid = timestep_grid(T, n, spacing)
        assert len(grid) == n and all(type(t) is int for t in grid), (T, n)
        assert all(a > b for a, b in pairwise(grid)), (T, n)
        assert grid[0] <= T - 1 and grid[-1] >= 0, (T, n)
    assert timestep_grid(1000, 1000, spacing) == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_grids_that_start_at_full_noise(spacing: str) -> None:
    for T, n in GRIDS:
        assert timestep_grid(T, n, spacing)[0] == T - 1, (T, n)


def test_grids_by_example() -> None:
    assert timestep_grid(1000, 4, "trailing") == [999, 749, 499, 249]
    assert timestep_grid(1000, 4, "leading") == [750, 500, 250, 0]
    assert timestep_grid(1000, 4, "linspace") == [999, 666, 333, 0]
    assert {a - b for a, b in pairwise(trailing(1000, 30))} == {33, 34}


@pytest.mark.parametrize("n", [0, -1, 11])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_of_impossible_length(spacing: str, n: int) -> None:
    with pytest.raises(ValueError, match=rf"^sample\.steps: {n} .*1 to 10$"):
        timestep_grid(10, n, spacing)


def test_unknown_spacing() -> None:
    with pytest.raises(ValueError, match=r"^sample\.spacing: 'trailin' is not one of .*did you mean trailing\?$"):
        timestep_grid(10, 5, "trailin")


# ------------------------------------------------------------------------------------------------------------- draws

SHAPE = (2, 3, 5)       # 30 numbers: no multiple of a vector register or of Philox' four words


class Toy:
    """A denoiser that answers each row by itself and remembers what it was shown, by label."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.seen: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        for row, step, label in zip(x_t, t, labels, strict=True):
            self.seen[int(label), int(step)] = row.clone()
        x_0 = (0.5 * x_t + labels.view(-1, 1, 1, 1) / 16).clamp(-1, 1)
        return self.schedule.from_x_0(x_0, x_t, t)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_does_not_know_its_batch(sampler: str, eta: float) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    labels, seeds = list(range(8)), [5, 0, 2**40, 7, 2**62, 1, 2, 3]
    outcomes = []
    for batch_size in (8, 4, 1, 3):     # 1 x 8, 2 x 4, 8 x 1, and one that leaves a rest
        toy = Toy(schedule)
        images = torch.cat([images for _, images in draw(toy, schedule, labels, seeds, SHAPE, "cpu", sampler=sampler,
                                                         num_steps=6, eta=eta, batch_size=batch_size)])
        outcomes.append((toy.seen, images))
    first_seen, first_images = outcomes[0]
    assert len(first_seen) == 8 * 6 and first_images.shape == (8, *SHAPE) and first_images.dtype == torch.uint8
    for seen, images in outcomes[1:]:
        assert seen.keys() == first_seen.keys()
        assert all(torch.equal(x_t, first_seen[place]) for place, x_t in seen.items())
        assert torch.equal(images, first_images)


def test_an_image_is_its_seed_and_class() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))

    def images(labels: list[int], seeds: list[int]) -> Tensor:
        return torch.cat([x for _, x in draw(Toy(schedule), schedule, labels, seeds, SHAPE, "cpu", sampler="ddpm",
                                             num_steps=5, batch_size=4)])

    several = images([0, 1, 2, 0, 1], [10, 11, 12, 13, 14])
    assert torch.equal(several[[4, 0]], images([1, 0], [14, 10]))
    assert not torch.equal(several[0], several[3])
    same = images([3, 3], [9, 9])
    assert torch.equal(same[0], same[1])


def test_noise_is_that_of_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(denoiser, schedule, x_T, labels, timesteps, noise, **options) -> Tensor:
        seen.extend([x_T, *(noise(i) for i in range(len(timesteps)))])
        return x_T

    monkeypatch.setitem(SAMPLERS, "spy", spy)
    list(draw(Toy(COSINE), COSINE, [0, 1], [4, 9], SHAPE, "cpu", sampler="spy", num_steps=3, batch_size=2))
    seeds = torch.tensor([4, 9])
    expected = [normal(seeds, Purpose.INITIAL_NOISE, torch.zeros(2, dtype=torch.int64), SHAPE)]
    expected += [normal(seeds, Purpose.SAMPLER_NOISE, torch.tensor([i, i]), SHAPE) for i in range(3)]
    assert all(torch.equal(found, x) for found, x in zip(seen, expected, strict=True))
    assert len({tuple(row.flatten().tolist()) for x in seen for row in x}) == 8     # none of them twice


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_parts_make_the_whole(processes: int) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    labels, seeds = [i % 3 for i in range(10)], list(range(100, 110))

    def part(i: int, n: int) -> list[tuple[list[int], Tensor]]:
        return list(draw(Toy(schedule), schedule, labels, seeds, SHAPE, "cpu", (i, n), num_steps=3, batch_size=3))

    whole = torch.cat([images for _, images in part(0, 1)])
    found = {}
    for i in range(processes):
        for places, images in part(i, processes):
            assert len(places) == len(images) and not found.keys() & set(places)
            found.update(zip(places, images, strict=True))
    assert sorted(found) == list(range(10))
    assert all(torch.equal(image, whole[place]) for place, image in found.items())


def test_the_network_always_sees_full_batches() -> None:
    schedule, sizes = NoiseSchedule(SCHEDULES["cosine"](1000)), set()
    toy = Toy(schedule)

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        sizes.add((len(x_t), len(t), len(labels)))
        return toy(x_t, t, labels)

    drawn = list(draw(denoise, schedule, [0] * 5, list(range(5)), SHAPE, "cpu", num_steps=2, batch_size=4))
    assert sizes == {(4, 4, 4)} and [len(images) for _, images in drawn] == [4, 1]


@pytest.mark.parametrize(("options", "expected"), [
    ({"sampler": "dim"}, r"^sample\.sampler: 'dim' is not one of .*did you mean ddim\?$"),
    ({"spacing": "linspac"}, r"^sample\.spacing: 'linspac' is not one of .*did you mean linspace\?$"),
    ({"num_steps": 1001}, r"^sample\.steps: 1001 is out of range"),
])
def test_unknown_settings_draw_nothing(options: dict, expected: str) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    toy = Toy(schedule)
    with pytest.raises(ValueError, match=expected):
        next(draw(toy, schedule, [0], [0], SHAPE, "cpu", **options))
    assert not toy.seen


def test_grey_levels() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


# ---------------------------------------------------------------------------------------------------------- guidance


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
    assert classifier_free(denoiser, 3, 1.0) is denoiser
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
        torch.testing.assert_close(guided.variance, given.variance, rtol=0, atol=1e-7)
    else:
        assert guided.variance is None


def test_clipping_comes_after_guiding_and_rederives_eps() -> None:
    denoiser = unet_denoiser(TwoAnswers(variance=True), COSINE, "eps")
    free = with_guidance(denoiser, COSINE, 3, 3.0, clip=False)(X, T, LABELS)
    held = with_guidance(denoiser, COSINE, 3, 3.0)(X, T, LABELS)
    assert free.x_0.abs().max() > 1.5
    torch.testing.assert_close(held.x_0, free.x_0.clamp(-1, 1), rtol=0, atol=0)
    a = COSINE.alphas_cumprod[T].view(-1, 1, 1, 1).float()
    # float32, divided by the noise level of t = 10, which is 0.02.
    torch.testing.assert_close(held.eps, (X - a.sqrt() * held.x_0) / (1 - a).sqrt(), rtol=0, atol=1e-4)
    assert torch.equal(held.variance, free.variance)
    plain = clipped(denoiser, COSINE)(X, T, LABELS)
    assert torch.equal(plain.x_0, denoiser(X, T, LABELS).x_0.clamp(-1, 1))


def test_guidance_needs_a_null_class() -> None:
    with pytest.raises(ValueError, match=r"^sample\.guidance: .*null class") as error:
        with_guidance(unet_denoiser(TwoAnswers(), COSINE, "eps"), COSINE, None, 2.0)
    assert "\n" not in str(error.value)


def test_unknown_prediction() -> None:
    with pytest.raises(ValueError, match=r"^diffusion\.prediction: 'epsilon' is not one of .*did you mean eps\?$"):
        unet_denoiser(TwoAnswers(), COSINE, "epsilon")


# ------------------------------------------------------------------------------------------------- classes and seeds

NAMES = ["cat", "dog", "Horse", "7"]


def test_labels_by_name_and_id() -> None:
    assert label_ids(["dog", 0, "2", "cat", "cat"], NAMES) == [1, 0, 2, 0, 0]
    assert label_ids(["7"], NAMES) == [3]       # a name goes before an id


@pytest.mark.parametrize(("labels", "expected"), [
    ([], r"^classes: none given; known are cat, dog, Horse, 7$"),
    (["horze"], r"^classes: 'horze' is not a class; did you mean Horse\?; known are cat, dog, Horse, 7$"),
    (["zebrafish"], r"^classes: 'zebrafish' is not a class; known are"),
    ([4], r"^classes: id 4 is out of range; allowed are 0 to 3$"),
    ([-1], r"^classes: id -1 is out of range"),
    (["9"], r"^classes: id 9 is out of range"),
    (["-1"], r"^classes: id -1 is out of range"),
    ([""], r"^classes: '' is not a class"),
    (["--1"], r"^classes: '--1' is not a class"),
    (["²"], r"^classes: '²' is not a class"),
])
def test_wrong_labels(labels: list, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        label_ids(labels, NAMES)


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(ValueError, match=r"c0, .*, c19 and 980 more$"):
        label_ids(["zzz"], [f"c{i}" for i in range(1000)])


def test_seeds_are_unique_and_know_nothing_of_other_classes() -> None:
    labels, seeds = plan_seeds(range(10), 7, 1000, 10)
    assert labels == [c for c in range(10) for _ in range(7)]
    assert len(set(seeds)) == 70 and min(seeds) == 1000
    alone, few = plan_seeds([4], 3, 1000, 10), plan_seeds([8, 4], 7, 1000, 10)
    assert alone[1] == seeds[28:31] and few == ([8] * 7 + [4] * 7, seeds[56:63] + seeds[28:35])
    assert plan_seeds([0], 2, 5, 1) == ([0, 0], [5, 6])


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
