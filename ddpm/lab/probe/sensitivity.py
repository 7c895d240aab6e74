"""How much the class matters at each sigma: the distance between the predictions for two classes."""

from math import sqrt

import torch
from torch import Tensor

from ddpm.diffusion.sampling import from_uint8
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.evaluation.estimates import with_standard_error
from ddpm.float64 import to_float64
from ddpm.lab.probe.inputs import Images
from ddpm.lab.probe.results import Sensitivity
from ddpm.randomness import Purpose, normal


@torch.no_grad()
def measure_sensitivity(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    images: Images,
    others: Tensor,
    timesteps: list[int],
    seed: int,
    batch_size: int,
) -> list[Sensitivity]:
    """Measure |eps(x_t, t, c) - eps(x_t, t, c')| on noisy real images.

    Args:
        denoiser: without guidance or clipping.
        schedule: its schedule.
        images: N real images with their classes c, N >= 2. Their indices determine the noise together with the seed,
            as in `denoising_errors`.
        others: (N,), another class c' for each.
        timesteps: timesteps at which to measure.
        seed: seed of the noise.
        batch_size: number of images per network call.
    """
    x_0 = from_uint8(images.pixels)
    found = []
    for t in timesteps:
        differences, squares = [], []
        for part in torch.arange(len(x_0), device=x_0.device).split(batch_size):
            step = torch.full((len(part),), t, device=x_0.device)
            noise = normal(seed, Purpose.EVALUATION_NOISE, (images.indices[part] << 32) + t, tuple(x_0.shape[1:]))
            x_t = schedule.q_sample(x_0[part], step, noise)
            eps, other = (to_float64(denoiser(x_t, step, c[part]).eps) for c in (images.labels, others))
            differences.append((eps - other).square().mean(dim=(1, 2, 3)))
            squares.append((eps - to_float64(noise)).square().mean(dim=(1, 2, 3)))
        difference = torch.cat(differences)                                                             # (N,)
        root = sqrt(float(difference.mean()))
        deviation = float(difference.std()) / sqrt(len(difference))
        # The derivative of the root is 1 / (2 root) (delta method).
        estimate = with_standard_error(root, deviation / (2 * root) if root else 0.0, len(difference))
        error = float(torch.cat(squares).mean().sqrt())
        found.append(Sensitivity(t, float(schedule.sigmas[t]), estimate, error))
    return found


def other_classes(labels: Tensor, count: int) -> Tensor:
    """Return a different class for each image, cycling through all other classes.

    Args:
        labels: ids (N,) in 0..count-1.
        count: K >= 2.
    """
    step = 1 + torch.arange(len(labels), device=labels.device) % (count - 1)
    return (labels + step) % count
