"""From seeds and class names to images, over any number of processes.

An image is a function of its seed, its class and the settings. Batches have one fixed size, the last being filled up,
so that the network sees the same shapes whatever is asked for.
"""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm.names import did_you_mean, lookup
from ddpm.randomness import Purpose, normal
from ddpm.sampling.samplers import SAMPLERS, SPACINGS, Denoiser, ddim
from ddpm.schedule import NoiseSchedule


def label_ids(labels: Sequence[str | int], class_names: Sequence[str]) -> list[int]:
    """Class ids of names, ids, or ids as text; a name goes before an id.

    Raises:
        ValueError: for an unknown name (the nearest is named) or an id out of range.
    """
    if len(labels) == 0:
        raise ValueError(f"classes: none given; known are {_listed(class_names)}")
    ids = {name: i for i, name in enumerate(class_names)}
    found = []
    for label in labels:
        if isinstance(label, str) and label in ids:
            found.append(ids[label])
        elif isinstance(label, int) or re.fullmatch(r"-?[0-9]+", label):
            if not 0 <= int(label) < len(class_names):
                raise ValueError(f"classes: id {label} is out of range; allowed are 0 to {len(class_names) - 1}")
            found.append(int(label))
        else:
            raise ValueError(
                f"classes: {label!r} is not a class{did_you_mean(label, class_names)}; known are {_listed(class_names)}"
            )
    return found


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def timestep_grid(num_timesteps: int, num_steps: int, spacing: str) -> list[int]:
    """The timesteps that a sampler visits, falling.

    Raises:
        ValueError: for an unknown spacing, or more steps than there are timesteps.
    """
    space = lookup(SPACINGS, spacing, "sample.spacing")
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"sample.steps: {num_steps} is out of range; the model has timesteps for 1 to {num_timesteps}")
    return space(num_timesteps, num_steps)


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    labels: Sequence[int],
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    device: torch.device | str,
    part: tuple[int, int] = (0, 1),
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    eta: float = 0.0,
    spacing: str = "trailing",
    batch_size: int = 100,
) -> Iterator[tuple[list[int], Tensor]]:
    """Draws images, batch by batch.

    Args:
        denoiser: guided and clipped as wanted.
        schedule: its schedule.
        labels: class id of each image.
        seeds: seed of each image, in [0, 2^63).
        shape: (C, H, W) of an image.
        device: of the network.
        part: (i, n) draws every n-th batch from the i-th on: the share of process i of n.
        sampler: an entry of SAMPLERS.
        num_steps: network evaluations per image.
        eta: noise of ddim, 0 to 1.
        spacing: an entry of SPACINGS.
        batch_size: images per network call.

    Yields:
        The images' places in `labels`, and the images, uint8 (B, C, H, W) on the CPU.

    Raises:
        ValueError: for an unknown setting, before anything is drawn.
    """
    run = lookup(SAMPLERS, sampler, "sample.sampler")
    options = {"eta": eta} if run is ddim else {}
    timesteps = timestep_grid(schedule.num_timesteps, num_steps, spacing)
    assert len(labels) == len(seeds), (len(labels), len(seeds))
    starts = range(0, len(labels), batch_size)[part[0] :: part[1]]
    for start in starts:
        places = list(range(start, min(start + batch_size, len(labels))))
        filled = places + [places[-1]] * (batch_size - len(places))
        seed = torch.tensor([seeds[i] for i in filled])
        label = torch.tensor([labels[i] for i in filled], device=device)
        x_T = normal(seed, Purpose.INITIAL_NOISE, torch.zeros_like(seed), shape).to(device)

        def noise(step: int, seed: Tensor = seed) -> Tensor:
            return normal(seed, Purpose.SAMPLER_NOISE, torch.full_like(seed, step), shape).to(device)

        x_0 = run(denoiser, schedule, x_T, label, timesteps, noise=noise, **options)
        yield places, to_uint8(x_0[: len(places)]).cpu()


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as grey levels 0..255."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
