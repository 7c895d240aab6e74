"""Generation of images from seeds and labels.

An image is a function of its seed, its label and the settings. Smaller batches are padded to the batch
size, so that the shapes that the network sees do not depend on the number of requested images.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.diffusion.timesteps import timestep_grid
from ddpm.float64 import float64_device
from ddpm.names import lookup
from ddpm.randomness import Purpose, normal


class BetweenSeeds(NamedTuple):
    """A point on the path between two seeds.

    Attributes:
        start: seed at fraction 0.
        end: seed at fraction 1.
        fraction: in [0, 1].
    """

    start: int
    end: int
    fraction: float


PIXELS_PER_CPU_CALL = 2**15
Seed = int | BetweenSeeds


def noise_source(
    seeds: Sequence[Seed], shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> Callable[[Purpose, int], Tensor]:
    """Return a function (purpose, step) -> standard normal noise (N, *shape), drawn on a device.

    The noise of an image depends on its seed, the purpose and the step. It is equal on all devices up to the rounding
    of log and cos.

    Between two seeds the noise is interpolated spherically: at fraction u it is cos(u pi/2) times the noise of one plus
    sin(u pi/2) times that of the other, which is standard normal at every u.

    Args:
        seeds: N seeds in [0, 2^63), or points between two of them.
        shape: of the noise of one image.
        device: of the noise.
    """
    place = float64_device(torch.device(device))
    walks = [seed if isinstance(seed, BetweenSeeds) else BetweenSeeds(seed, seed, 0.0) for seed in seeds]
    moved = [i for i, w in enumerate(walks) if w.start != w.end]
    # Moved to the device only once: a transfer waits until the device has finished all other work.
    starts, ends, rows = (
        torch.tensor(values, dtype=torch.int64, device=place)
        for values in ([w.start for w in walks], [walks[i].end for i in moved], moved)
    )
    angle = torch.tensor([walks[i].fraction for i in moved], dtype=torch.float64, device=place) * (math.pi / 2)
    angle = angle.view(-1, *[1] * len(shape))

    def draw_noise(purpose: Purpose, step: int) -> Tensor:
        def at(seeds: Tensor) -> Tensor:
            return normal(seeds, purpose, torch.full_like(seeds, step), shape)

        drawn = at(starts)
        if moved:
            drawn[rows] = (angle.cos() * drawn[rows].double() + angle.sin() * at(ends).double()).float()
        return drawn.to(device)

    return draw_noise


def seeded_noise(seeds: Sequence[Seed], purpose: Purpose, step: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of `noise_source` for one purpose and step, (N, *shape) on the CPU."""
    return noise_source(seeds, shape)(purpose, step)


def plan_seeds(classes: Sequence[int], per_class: int, seed: int, num_classes: int) -> tuple[list[int], list[int]]:
    """Return labels and seeds for `per_class` images of each class, as in `class_seeds`."""
    labels = [c for c in classes for _ in range(per_class)]
    return labels, class_seeds(labels, seed, num_classes)


def class_seeds(labels: Sequence[int], seed: int, num_classes: int) -> list[int]:
    """Return the seed of each image: `seed + j * num_classes + c` for the j-th image of class c.

    All seeds differ, and none depends on the other requested images. Without classes, where `num_classes` is 0 and all
    labels are 0, this is `seed + j`.
    """
    seen: Counter[int] = Counter()
    seeds = []
    for c in labels:
        seeds.append(seed + seen[c] * max(num_classes, 1) + c)
        seen[c] += 1
    return seeds


def plan_timesteps(schedule: NoiseSchedule, sampler: str, steps: int, timestep_spacing: str, eta: float) -> list[int]:
    """Return the timesteps that a sampler visits with at most `steps` evaluations of the denoiser.

    Raises:
        ValueError: for an unknown name, or a number that the sampler or the schedule does not allow.
    """
    entry = lookup(SAMPLERS, sampler, "sampler")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: {eta} is out of range; allowed: 0 to 1")
    if eta != 0 and not entry.takes_eta:
        able = ", ".join(name for name, other in SAMPLERS.items() if other.takes_eta)
        raise ValueError(f"eta: the sampler {sampler} has none, so only 0 is possible; use the sampler {able}")
    timestep_grid(schedule, steps, timestep_spacing)        # `steps` may not exceed T for any sampler
    return timestep_grid(schedule, entry.max_timesteps(steps), timestep_spacing)


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    labels: Tensor,
    seeds: Sequence[Seed],
    shape: tuple[int, int, int],
    device: torch.device | str,
    *,
    sampler: str = "ddim",
    steps: int = 50,
    timestep_spacing: str = "trailing",
    eta: float = 0.0,
    batch_size: int = 100,
    x_T: Tensor | None = None,
) -> Tensor:
    """Generate one batch of images.

    Args:
        denoiser: the denoiser, with guidance and clipping if desired.
        schedule: its schedule.
        labels: labels of N <= `batch_size` images, as the denoiser takes them.
        seeds: one seed per image, in [0, 2^63), or a point between two of them.
        shape: (C, H, W) of an image.
        device: device of the network.
        sampler: an entry of SAMPLERS.
        steps: maximum number of evaluations of the denoiser per image.
        timestep_spacing: an entry of SPACINGS.
        eta: noise added by ddim, 0 to 1.
        batch_size: images per network call; a smaller batch is padded with copies of its last image.
        x_T: initial noise (N, C, H, W); by default that of the seeds.

    Returns:
        Images (N, C, H, W) on the device, in [-1, 1] if the denoiser clips.

    Raises:
        ValueError: for invalid settings, before the network is called.
        Diverged: if an image is not finite.
    """
    timesteps = plan_timesteps(schedule, sampler, steps, timestep_spacing, eta)
    assert 0 < len(labels) == len(seeds) <= batch_size, (len(labels), len(seeds), batch_size)
    padded = [*range(len(labels)), *[len(labels) - 1] * (batch_size - len(labels))]
    noise = noise_source([seeds[i] for i in padded], shape, device)
    start = noise(Purpose.INITIAL_NOISE, 0) if x_T is None else x_T[padded].to(device)
    entry = SAMPLERS[sampler]
    options: dict[str, Any] = {"eta": eta} if entry.takes_eta else {}
    options["noise"] = partial(noise, Purpose.SAMPLER_NOISE)
    x_0 = entry.run(denoiser, schedule, start, labels[padded].to(device), timesteps, **options)
    x_0 = x_0[: len(labels)]
    finite = x_0.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        raise Diverged(
            f"the model generates values that are not finite ({int((~finite).sum())} of {len(x_0)} images, the first "
            f"with seed {seeds[int(finite.int().argmin())]}); its weights may be damaged; use an earlier checkpoint"
        )
    return x_0


def images_per_call(resolution: int, device: torch.device, most: int = 100) -> int:
    """Return a number of images per network call that suits the device: `most`, or fewer larger images on a CPU.

    On a CPU, calls are slower per image as soon as the tensors of a layer exceed its caches. docs/measurements.md has
    the times: calls of 8 images at 64x64 take half the time per image of calls of 100.

    Args:
        resolution: height and width of the images, in pixels.
        device: device of the network.
        most: the largest number.

    Returns:
        A number from 4 to `most`.
    """
    return most if device.type != "cpu" else max(4, min(most, PIXELS_PER_CPU_CALL // resolution**2))


def batches(count: int, batch_size: int) -> list[list[int]]:
    """Return the indices 0..count-1 in batches; the last batch may be smaller."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def to_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to gray levels 0..255."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert gray levels 0..255 to images in [-1, 1]."""
    return images.float() / 127.5 - 1
