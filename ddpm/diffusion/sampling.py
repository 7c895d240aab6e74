"""From seeds and labels to images.

An image is a function of its seed, its label and the settings. A batch has one fixed size, being filled up where fewer
images are asked for, so that the network sees the same shapes whatever is asked for.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.diffusion.timesteps import timestep_grid
from ddpm.names import lookup
from ddpm.randomness import Purpose, normal


class Walk(NamedTuple):
    """A place between two seeds.

    Attributes:
        start: seed at fraction 0.
        end: seed at fraction 1.
        fraction: in [0, 1].
    """

    start: int
    end: int
    fraction: float


Seed = int | Walk


def seeded_noise(seeds: Sequence[Seed], purpose: Purpose, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, (N, *shape) on the CPU: each image's is a function of its seed, purpose and step.

    Between two seeds it is cos(u pi/2) of one and sin(u pi/2) of the other: standard normal at each fraction u.
    """
    walks = [seed if isinstance(seed, Walk) else Walk(seed, seed, 0.0) for seed in seeds]

    def noise(ends: list[int]) -> Tensor:
        index = torch.full((len(ends),), step, dtype=torch.int64)
        return normal(torch.tensor(ends), purpose, index, shape)

    drawn = noise([w.start for w in walks])
    moved = [i for i, w in enumerate(walks) if w.start != w.end]
    if moved:
        other = noise([walks[i].end for i in moved])
        angle = torch.tensor([walks[i].fraction for i in moved], dtype=torch.float64) * (math.pi / 2)
        angle = angle.view(-1, *[1] * len(shape))
        drawn[moved] = (angle.cos() * drawn[moved].double() + angle.sin() * other.double()).float()
    return drawn


def plan_seeds(classes: Sequence[int], per_class: int, seed: int, num_classes: int) -> tuple[list[int], list[int]]:
    """Labels and seeds of some images of each class: all seeds differ, and none depends on what else is asked for."""
    labels = [c for c in classes for _ in range(per_class)]
    return labels, class_seeds(labels, seed, num_classes)


def class_seeds(labels: Sequence[int], seed: int, num_classes: int) -> list[int]:
    """The seed of each image: of the j-th of class c, `seed + j * num_classes + c`."""
    seen: Counter[int] = Counter()
    seeds = []
    for c in labels:
        seeds.append(seed + seen[c] * num_classes + c)
        seen[c] += 1
    return seeds


def check_drawing(schedule: NoiseSchedule, sampler: str, steps: int, timestep_spacing: str, eta: float) -> list[int]:
    """The timesteps that a sampler visits with a budget of `steps` evaluations.

    Raises:
        ValueError: for a name that is not known, or numbers that do not fit the sampler or the schedule.
    """
    entry = lookup(SAMPLERS, sampler, "sample.sampler")
    if not 0 <= eta <= 1:
        raise ValueError(f"sample.eta: {eta} is out of range; allowed: 0 to 1")
    if eta != 0 and not entry.takes_eta:
        able = ", ".join(name for name, other in SAMPLERS.items() if other.takes_eta)
        raise ValueError(f"sample.eta: {sampler} has none, so only 0 is possible; {able} takes it")
    timestep_grid(schedule, steps, timestep_spacing)         # the budget may not be larger than T either
    return timestep_grid(schedule, entry.points(steps), timestep_spacing)


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
    """Draws one batch of images.

    Args:
        denoiser: guided and clipped as wanted.
        schedule: its schedule.
        labels: of N images, N at most `batch_size`, as the denoiser takes them.
        seeds: of each image, in [0, 2^63) or between two of these.
        shape: (C, H, W) of an image.
        device: of the network.
        sampler: an entry of SAMPLERS.
        steps: network evaluations per image, at most.
        timestep_spacing: an entry of SPACINGS.
        eta: noise of ddim, 0 to 1.
        batch_size: images per network call; what is missing is filled up with the last image.
        x_T: (N, C, H, W), starts there instead of at the seeds' noise.

    Returns:
        (N, C, H, W) on the device, in [-1, 1] if the denoiser clips.

    Raises:
        ValueError: for an unknown setting, before anything is drawn.
        Diverged: if what is drawn is not finite.
    """
    timesteps = check_drawing(schedule, sampler, steps, timestep_spacing, eta)
    assert 0 < len(labels) == len(seeds) <= batch_size, (len(labels), len(seeds), batch_size)
    filled = [*range(len(labels)), *[len(labels) - 1] * (batch_size - len(labels))]
    all_seeds = [seeds[i] for i in filled]

    def noise(step: int) -> Tensor:
        return seeded_noise(all_seeds, Purpose.SAMPLER_NOISE, step, shape).to(device)

    start = seeded_noise(all_seeds, Purpose.INITIAL_NOISE, 0, shape) if x_T is None else x_T[filled]
    entry = SAMPLERS[sampler]
    options = {"eta": eta} if entry.takes_eta else {}
    x_0 = entry.run(denoiser, schedule, start.to(device), labels[filled].to(device), timesteps, noise=noise, **options)
    x_0 = x_0[: len(labels)]
    finite = x_0.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        raise Diverged(
            f"the model draws values that are not finite (of {int((~finite).sum())} of {len(x_0)} images, seed "
            f"{seeds[int(finite.int().argmin())]} first); its weights may be damaged: use an earlier checkpoint"
        )
    return x_0


def batches(count: int, batch_size: int, part: tuple[int, int] = (0, 1)) -> list[list[int]]:
    """Places 0..count-1 in batches of a fixed size, of which part (i, n) takes every n-th from the i-th on."""
    starts = range(0, count, batch_size)[part[0] :: part[1]]
    return [list(range(start, min(start + batch_size, count))) for start in starts]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as grey levels 0..255."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Grey levels 0..255 as images in [-1, 1]."""
    return images.float() / 127.5 - 1
