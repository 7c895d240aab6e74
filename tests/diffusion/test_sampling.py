"""From seeds and labels to images: what an image depends on, and what it does not."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.guidance import unet_denoiser, with_guidance
from ddpm.diffusion.samplers import SAMPLERS, Sampler
from ddpm.diffusion.sampling import (
    BetweenSeeds,
    batches,
    draw,
    from_uint8,
    images_per_call,
    plan_seeds,
    seeded_noise,
    to_uint8,
)
from ddpm.diffusion.schedule import SCHEDULES, Denoiser, NoiseSchedule, Prediction
from ddpm.models.unet import UNet
from ddpm.randomness import Purpose, normal

COSINE = NoiseSchedule(SCHEDULES["cosine"](1000))
SHAPE = (2, 3, 5)       # 30 numbers: no multiple of a vector register or of Philox' four words


class Toy:
    """A denoiser that answers each row by itself and remembers what it was shown, by label."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.seen: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        before = Counter((label, step) for label, step, _ in self.seen)       # earlier evaluations at this timestep
        for row, step, label in zip(x_t, t.tolist(), labels.tolist(), strict=True):
            self.seen[label, step, before[label, step]] = row.clone()
        x_0 = (0.5 * x_t + labels.view(-1, 1, 1, 1) / 16).clamp(-1, 1)
        return self.schedule.from_x_0(x_0, x_t, t)


def drawn(denoiser: Denoiser, schedule: NoiseSchedule, labels: Tensor, seeds: list, size: int, **kw) -> Tensor:
    """All images, batch after batch."""
    return torch.cat([
        to_uint8(draw(denoiser, schedule, labels[at], [seeds[i] for i in at], SHAPE, "cpu", batch_size=size, **kw))
        for at in batches(len(labels), size)
    ])


@pytest.mark.parametrize(("sampler", "eta"), [*((name, 0.0) for name in SAMPLERS), ("ddim", 0.5)])
def test_noise_does_not_know_its_batch(sampler: str, eta: float) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    labels, seeds = torch.arange(8), [5, 0, 2**40, 7, 2**62, 1, 2, 3]
    outcomes = []
    for batch_size in (8, 4, 1, 3):     # 1 x 8, 2 x 4, 8 x 1, and one that leaves a rest
        toy = Toy(schedule)
        images = drawn(toy, schedule, labels, seeds, sampler=sampler, steps=7, eta=eta, size=batch_size)
        outcomes.append((toy.seen, images))
    first_seen, first_images = outcomes[0]
    timesteps = SAMPLERS[sampler].max_timesteps(7)
    assert 8 * timesteps <= len(first_seen) <= 8 * 7
    assert first_images.shape == (8, *SHAPE) and first_images.dtype == torch.uint8
    for seen, images in outcomes[1:]:
        assert seen.keys() == first_seen.keys()
        assert all(torch.equal(x_t, first_seen[place]) for place, x_t in seen.items())
        assert torch.equal(images, first_images)


def test_an_image_is_its_seed_and_class() -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))

    def images(labels: list[int], seeds: list[int]) -> Tensor:
        return drawn(Toy(schedule), schedule, torch.tensor(labels), seeds, 4, sampler="ddpm", steps=5)

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

    monkeypatch.setitem(SAMPLERS, "spy", Sampler(spy, order=1))
    drawn(Toy(COSINE), COSINE, torch.tensor([0, 1]), [4, 9], 2, sampler="spy", steps=3)
    seeds = torch.tensor([4, 9])
    expected = [normal(seeds, Purpose.INITIAL_NOISE, torch.zeros(2, dtype=torch.int64), SHAPE)]
    expected += [normal(seeds, Purpose.SAMPLER_NOISE, torch.tensor([i, i]), SHAPE) for i in range(3)]
    assert all(torch.equal(found, x) for found, x in zip(seen, expected, strict=True))
    assert len({tuple(row.flatten().tolist()) for x in seen for row in x}) == 8     # none of them twice


def test_the_last_batch_has_the_rest() -> None:
    assert batches(10, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and batches(3, 3) == [[0, 1, 2]] and not batches(0, 3)


def test_the_network_always_sees_full_batches() -> None:
    schedule, sizes = NoiseSchedule(SCHEDULES["cosine"](1000)), set()
    toy = Toy(schedule)

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        sizes.add((len(x_t), len(t), len(labels)))
        return toy(x_t, t, labels)

    images = drawn(denoise, schedule, torch.zeros(5, dtype=torch.int64), list(range(5)), 4, steps=2)
    assert sizes == {(4, 4, 4)} and len(images) == 5


@pytest.mark.parametrize(("options", "expected"), [
    ({"sampler": "dim"}, ("sampler: 'dim'", "mean ddim")),
    ({"timestep_spacing": "linspac"}, ("timestep_spacing: 'linspac'", "mean linspace")),
    ({"steps": 1001}, ("steps: 1001", "1 to 1000")),
    ({"steps": 1001, "sampler": "heun"}, ("steps: 1001", "1 to 1000")),
    ({"steps": 0}, ("steps: 0", "1 to 1000")),
    ({"eta": 0.5, "sampler": "dpmpp"}, ("eta", "dpmpp", "0", "ddim")),
])
def test_unknown_settings_draw_nothing(options: dict, expected: tuple[str, ...], refused) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    toy = Toy(schedule)
    with refused(*expected):
        draw(toy, schedule, torch.tensor([0]), [0], SHAPE, "cpu", **options)
    assert not toy.seen


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float, refused) -> None:
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))

    def broken(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        x_0 = torch.where(labels.view(-1, 1, 1, 1) == 2, value, 0.1) * torch.ones_like(x_t)
        return schedule.from_x_0(x_0, x_t, t)

    with refused("1 of 3 images", "seed 8", kind=Diverged):
        draw(broken, schedule, torch.tensor([0, 2, 1]), [7, 8, 9], SHAPE, "cpu", sampler="ddim", steps=3, batch_size=4)


def test_gray_levels() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
    assert torch.equal(to_uint8(from_uint8(levels.to(torch.uint8))), levels.to(torch.uint8))


def test_seeds_are_unique_and_know_nothing_of_other_classes() -> None:
    labels, seeds = plan_seeds(range(10), 7, 1000, 10)
    assert labels == [c for c in range(10) for _ in range(7)]
    assert len(set(seeds)) == 70 and min(seeds) == 1000
    alone, few = plan_seeds([4], 3, 1000, 10), plan_seeds([8, 4], 7, 1000, 10)
    assert alone[1] == seeds[28:31] and few == ([8] * 7 + [4] * 7, seeds[56:63] + seeds[28:35])
    assert plan_seeds([0], 2, 5, 1) == ([0, 0], [5, 6])


# -------------------------------------------------------------------------------------------------- a real network


def network_images(batch_size: int, indices: list[list[int]], sampler: str, guidance: float) -> Tensor:
    """Images of a small U-Net with random weights, for requests of given indices, put in order."""
    unet = UNet(resolution=8, in_channels=1, out_channels=1, num_classes=4, channels=16, channel_mult=(1, 2),
                num_res_blocks=1, attention_resolutions=(4,), head_channels=16)
    draws = torch.Generator().manual_seed(0)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / math.sqrt(p[0].numel() if p.ndim > 1 else 25)
    denoiser = with_guidance(unet_denoiser(unet.eval(), COSINE, "v"), COSINE, 4, guidance)
    labels, seeds = torch.arange(8) % 4, [7 * i for i in range(8)]
    found = {}
    for request in indices:
        for part in batches(len(request), batch_size):
            at = [request[i] for i in part]
            images = draw(denoiser, COSINE, labels[at], [seeds[i] for i in at], (1, 8, 8), "cpu", sampler=sampler,
                          steps=8, batch_size=batch_size)
            found.update(zip(at, to_uint8(images), strict=True))
    return torch.stack([found[i] for i in range(8)])


@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pixels_are_equal_at_the_fixed_batch_and_near_otherwise(sampler: str, guidance: float) -> None:
    eight_by_one, two_by_four = [[i] for i in range(8)], [[0, 1, 2, 3], [4, 5, 6, 7]]
    whole, shuffled = [list(range(8))], [[5, 0, 7, 2], [6, 3, 1, 4]]
    reference = network_images(8, whole, sampler, guidance)
    assert len(set(reference.flatten(1).sum(1).tolist())) > 4       # of which no two are alike
    for indices in (eight_by_one, two_by_four, shuffled):
        assert torch.equal(network_images(8, indices, sampler, guidance), reference)
    for batch_size, indices in ((1, eight_by_one), (4, two_by_four), (3, whole)):
        other = network_images(batch_size, indices, sampler, guidance)
        assert int((other.int() - reference.int()).abs().max()) <= 1, batch_size


# ------------------------------------------------------------------------------------------------------------- walks


def test_a_walk_is_normal_noise_all_the_way() -> None:
    ends = seeded_noise([1, 2], Purpose.INITIAL_NOISE, 0, (64, 64))
    walk = seeded_noise([BetweenSeeds(1, 2, u) for u in (0, 0.25, 0.5, 1)], Purpose.INITIAL_NOISE, 0, (64, 64))
    assert torch.equal(walk[0], ends[0])
    torch.testing.assert_close(walk[3], ends[1], rtol=0, atol=1e-6)     # cos(pi / 2) is 6e-17
    torch.testing.assert_close(walk[2], (ends[0] + ends[1]) / math.sqrt(2), rtol=0, atol=1e-6)
    for noise in walk:      # 4,096 numbers: standard errors 0.016 and 0.011
        assert abs(float(noise.mean())) < 0.06 and float(noise.std()) == pytest.approx(1, abs=0.045)
    mixed = seeded_noise([3, BetweenSeeds(1, 2, 0.25), BetweenSeeds(5, 5, 0.7)], Purpose.SAMPLER_NOISE, 4, (3,))
    assert torch.equal(mixed[[0, 2]], seeded_noise([3, 5], Purpose.SAMPLER_NOISE, 4, (3,)))
    assert torch.equal(mixed[1:2], seeded_noise([BetweenSeeds(1, 2, 0.25)], Purpose.SAMPLER_NOISE, 4, (3,)))


def test_images_per_call_suit_the_device() -> None:
    """On a CPU the calls for larger images are smaller, on other devices they are not, and none is empty."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    sizes = (2, 8, 16, 17, 28, 32, 64, 100, 256, 1024)
    calls = [images_per_call(size, cpu) for size in sizes]
    assert calls[:3] == [100, 100, 100]             # up to 16x16 as on every device
    assert calls == sorted(calls, reverse=True) and calls[-1] == 4
    assert {images_per_call(size, cuda) for size in sizes} == {100}
    assert images_per_call(8, cpu, most=256) == 256
