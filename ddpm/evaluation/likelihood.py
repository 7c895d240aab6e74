"""What a denoiser is worth on images: its error at each noise level, and the variational bound in bits per dimension.

Timesteps and noise are functions of (seed, place of the image), so the numbers do not depend on batches or processes,
and two models of equally many timesteps are shown the same.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.objective import prior_bound, variational_bound
from ddpm.diffusion.sampling import from_uint8
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction
from ddpm.diffusion.timesteps import MAX_NOISE_LEVEL, logsnr
from ddpm.evaluation.chunks import blocks
from ddpm.evaluation.estimates import Figure, Table
from ddpm.evaluation.intervals import with_standard_error
from ddpm.randomness import Purpose, bits, normal

ROWS = 256      # images that the denoiser is shown at once

# (x_0, x_t, t, the denoiser's prediction) -> a number for each image
Score = Callable[[Tensor, Tensor, Tensor, Prediction], Tensor]


class ErrorPoint(NamedTuple):
    """The denoising error at one timestep.

    Attributes:
        timestep: which.
        noise_level: noise per signal, sqrt((1 - alphas_cumprod) / alphas_cumprod).
        x_0_error: mean squared error of x_0, for images in [-1, 1].
        standard_error: of `x_0_error`, over images.
        eps_error: mean squared error of the noise, which is SNR times `x_0_error` (0 to 1 for a good denoiser).
    """

    timestep: int
    noise_level: float
    x_0_error: float
    standard_error: float
    eps_error: float


class BoundPart(NamedTuple):
    """What some timesteps add to the bound.

    Attributes:
        first: the first timestep.
        last: the last.
        bits_per_dim: sum of their terms.
        standard_error: of `bits_per_dim`, over images.
    """

    first: int
    last: int
    bits_per_dim: float
    standard_error: float


def error_timesteps(schedule: NoiseSchedule, count: int = 10) -> list[int]:
    """Timesteps to measure the denoising error at: distinct, rising, nearly even in the log signal-to-noise ratio.

    From 0 to the last noise level up to MAX_NOISE_LEVEL: beyond it, as at zero terminal SNR, no image is to be seen.

    Args:
        schedule: of the model.
        count: how many; there are fewer where the schedule has fewer.
    """
    visible = int((schedule.noise_levels <= MAX_NOISE_LEVEL).sum())
    if visible < 2:
        return [0]
    return logsnr(NoiseSchedule(schedule.betas[:visible]), min(count, visible))[::-1]


def denoising_errors(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    places: Tensor,
    timesteps: Sequence[int],
    seed: int,
    rows: int = ROWS,
) -> Tensor:
    """Mean squared error of x_0 over the pixels of each image, at each of some timesteps.

    x_0 is the unit that all kinds of prediction share; it is compared as the denoiser gives it, so give one that does
    not clip. What is found does not depend on the other images, up to the network's rounding in batches of other sizes.

    Args:
        denoiser: to be measured.
        schedule: its schedule, of T timesteps.
        images: uint8 (B, C, H, W).
        labels: as the denoiser takes them, (B, ...).
        places: int64 (B,) in [0, 2^31), the index of each image, which with the seed decides its noise.
        timesteps: S of 0..T-1.
        seed: of the noise, in [0, 2^63).
        rows: images that the denoiser is shown at once.

    Returns:
        float64 (B, S), for images in [-1, 1].

    Raises:
        Diverged: if what the denoiser answers is not finite; names the first image and timestep.
    """

    def error(x_0: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        return (prediction.x_0.double() - x_0.double()).square().mean(dim=(1, 2, 3))

    t = torch.tensor(timesteps, device=images.device).expand(len(images), -1)                   # (B, S)
    return _scores(error, denoiser, schedule, from_uint8(images), labels, places, t, seed, rows)


def denoising_curve(errors: Table, schedule: NoiseSchedule, timesteps: Sequence[int]) -> list[ErrorPoint]:
    """The mean over images.

    Args:
        errors: (N, S) of `denoising_errors`, of two images or more.
        schedule: that of the denoiser.
        timesteps: those of the columns.
    """
    levels = schedule.noise_levels
    points = []
    for t, mean, standard_error in zip(timesteps, *_columns(errors), strict=True):
        level = float(levels[t])
        points.append(ErrorPoint(t, level, mean, standard_error, mean / level**2))
    return points


def eps_errors(errors: Tensor, levels: Sequence[float]) -> Tensor:
    """One number for each image: the squared error of the noise, averaged over the timesteps.

    Args:
        errors: of x_0, (B, S), as `denoising_errors` gives them.
        levels: noise levels of the S timesteps; the error of eps is that of x_0 divided by their squares.

    Returns:
        float64 (B,).
    """
    return (errors.double() / torch.tensor(levels, dtype=torch.float64, device=errors.device) ** 2).mean(dim=1)


def denoising_error(errors: Table, curve: Sequence[ErrorPoint]) -> Figure:
    """The mean over images of `eps_errors`, with an interval over them.

    Args:
        errors: (N, S) of `denoising_errors`, of two images or more.
        curve: of `denoising_curve`, which knows the noise levels.
    """
    levels = [point.noise_level for point in curve]
    return _mean(torch.cat([eps_errors(block, levels) for _, block in blocks(errors, "errors")]))


def strata(schedule: NoiseSchedule, count: int) -> Tensor:
    """Parts of the timesteps that share the bound about evenly.

    In the limit of many timesteps the bound is the integral of half the error of eps over the log signal-to-noise ratio
    (Kingma et al. 2021, arXiv 2107.00630, equation 17 with section 5.1), and that error is between 0 and 1 everywhere.
    So the strata are nearly even in it, down to where no image is to be seen.

    Args:
        schedule: of T timesteps.
        count: 1 to T.

    Returns:
        The first timestep of each stratum, and T: int64 (count + 1,).

    Raises:
        ValueError: for another count.
    """
    T = schedule.num_timesteps
    if not 1 <= count <= T:
        raise ValueError(f"bound_steps: {count} is out of range; the model has timesteps for 1 to {T}")
    rising = logsnr(schedule, min(count + 1, T))[::-1]
    return torch.tensor([*rising[:count], T])


def bound_terms(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    places: Tensor,
    evaluations: int,
    seed: int,
    rows: int = ROWS,
) -> Tensor:
    """The variational bound of each image, in parts whose sum is its bits per dimension (Ho et al. 2020, equation 5).

    Of each stratum of timesteps one is drawn for each image, and counts as often as there are timesteps in it. So the
    sum is unbiased, and with an evaluation for every timestep it is the whole sum. x_0 is clipped to [-1, 1], as for
    published bits per dimension. A variance that was learned is used; otherwise it is beta_t.

    Args:
        denoiser: to be measured.
        schedule: its schedule, of T timesteps.
        images: uint8 (B, C, H, W).
        labels: as the denoiser takes them, (B, ...).
        places: int64 (B,) in [0, 2^31), the index of each image, which with the seed decides its timesteps and noise.
        evaluations: number of strata S, 1 to T.
        seed: of the draws, in [0, 2^63).
        rows: images that the denoiser is shown at once.

    Returns:
        float64 (B, S + 1): the strata from the first timesteps to the last, and the divergence of the prior.

    Raises:
        ValueError: if there are not as many timesteps.
        Diverged: if what the denoiser answers is not finite.
    """
    starts = strata(schedule, evaluations).to(images.device)
    width = starts.diff()                                                                       # (S,)
    drawn = bits(seed, Purpose.EVALUATION_TIMESTEP, places, evaluations)                        # (B, S)
    t = starts[:-1] + ((drawn * width) >> 32)                                                   # (B, S)
    x_0 = from_uint8(images)

    def bound(x_0: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        prediction = prediction._replace(x_0=prediction.x_0.clamp(-1, 1))
        return variational_bound(schedule, x_0, x_t, t, prediction).double()

    terms = width * _scores(bound, denoiser, schedule, x_0, labels, places, t, seed, rows)      # (B, S)
    return torch.cat([terms, prior_bound(schedule, x_0).double()[:, None]], dim=1)              # (B, S + 1)


def bits_per_dim(terms: Table) -> Figure:
    """The mean over images of what `bound_terms` gave, (N, S + 1), with an interval over them; N is 2 or more."""
    return _mean(torch.cat([block.sum(dim=1) for _, block in blocks(terms, "terms")]))


def bound_curve(terms: Table, schedule: NoiseSchedule) -> list[BoundPart]:
    """Where the bits are: the mean over images of each stratum of `bound_terms`, (N, S + 1), without the prior."""
    starts = strata(schedule, terms.shape[1] - 1).tolist()
    means, errors = _columns(terms)
    return [
        BoundPart(first, end - 1, mean, error)
        for first, end, mean, error in zip(starts[:-1], starts[1:], means[:-1], errors[:-1], strict=True)
    ]


@torch.no_grad()
def _scores(
    score: Score,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_0: Tensor,
    labels: Tensor,
    places: Tensor,
    timesteps: Tensor,
    seed: int,
    rows: int,
) -> Tensor:
    """Scores of images (B, C, H, W) at their timesteps (B, S): float64 (B, S)."""
    of_pair = torch.arange(len(x_0), device=x_0.device).repeat_interleave(timesteps.shape[1])   # (B * S,)
    t_of_pair = timesteps.flatten()
    found = []
    for i, t in zip(of_pair.split(rows), t_of_pair.split(rows), strict=True):
        noise = normal(seed, Purpose.EVALUATION_NOISE, (places[i] << 32) + t, tuple(x_0.shape[1:]))
        x_t = schedule.q_sample(x_0[i], t, noise)
        values = score(x_0[i], x_t, t, denoiser(x_t, t, labels[i]))
        bad = ~values.isfinite()
        if bad.any():
            first = int(bad.int().argmax())
            raise Diverged(
                f"the denoiser's answer for image {int(places[i][first])} at timestep {int(t[first])} is not finite; "
                "its weights may be damaged, or it predicts eps where nothing of the signal is left: use another model"
            )
        found.append(values)
    return torch.cat(found).view(timesteps.shape)


def _mean(of_image: Tensor) -> Figure:
    """The mean of a number for each image, (N,)."""
    return with_standard_error(float(of_image.mean()), float(of_image.std()) / sqrt(len(of_image)))


def _columns(table: Table) -> tuple[list[float], list[float]]:
    """Mean of each column over N rows, and its standard error."""
    count = table.shape[0]
    mean = sum(block.sum(dim=0) for _, block in blocks(table, "errors")) / count                            # (S,)
    squares = sum((block - mean).square().sum(dim=0) for _, block in blocks(table, "errors"))
    return mean.tolist(), (squares / (count - 1) / count).sqrt().tolist()
