"""Denoising error at each sigma, and the variational bound in bits per dimension.

Timesteps and noise are functions of (seed, index of the image), so results do not depend on batches or processes, and
two models with equally many timesteps are evaluated on the same noisy images.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.objective import prior_bound, vlb_term
from ddpm.diffusion.sampling import from_uint8
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction
from ddpm.diffusion.timesteps import SIGMA_MAX, logsnr
from ddpm.evaluation.estimates import Estimate, mean_estimate
from ddpm.float64 import to_float64
from ddpm.randomness import Purpose, bits, normal

DENOISER_BATCH_SIZE = 256         # at most; see `images_per_call`

# (x_0, x_t, t, the denoiser's prediction) -> one number per image
Score = Callable[[Tensor, Tensor, Tensor, Prediction], Tensor]


class ErrorPoint(NamedTuple):
    """The denoising error at one timestep.

    Attributes:
        timestep: the timestep.
        sigma: sigma, sqrt((1 - alphas_cumprod) / alphas_cumprod).
        x_0_error: mean squared error of x_0, for images in [-1, 1].
        standard_error: of `x_0_error`, over images.
        eps_error: mean squared error of the noise, SNR times `x_0_error` (0 to 1 for a good denoiser).
    """

    timestep: int
    sigma: float
    x_0_error: float
    standard_error: float
    eps_error: float


class BoundPart(NamedTuple):
    """Contribution of a range of timesteps to the bound.

    Attributes:
        first: the first timestep.
        last: the last timestep.
        bits_per_dim: sum of their terms.
        standard_error: of `bits_per_dim`, over images.
    """

    first: int
    last: int
    bits_per_dim: float
    standard_error: float


def error_timesteps(schedule: NoiseSchedule, count: int = 10) -> list[int]:
    """Return the timesteps at which to measure the denoising error.

    They are distinct, sorted, nearly even in the log signal-to-noise ratio, and go from 0 to the last sigma up to
    SIGMA_MAX; beyond it, as at zero terminal SNR, nothing of the image is visible.

    Args:
        schedule: the model's noise schedule.
        count: number of timesteps; fewer if the schedule has fewer.
    """
    visible = int((schedule.sigmas <= SIGMA_MAX).sum())
    if visible < 2:
        return [0]
    return logsnr(NoiseSchedule(schedule.betas[:visible]), min(count, visible))[::-1]


def denoising_errors(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    timesteps: Sequence[int],
    seed: int,
    batch_size: int = DENOISER_BATCH_SIZE,
) -> Tensor:
    """Return the mean squared error of x_0 over the pixels of each image, at each of the timesteps.

    x_0 is the scale on which all prediction types can be compared; use a denoiser that does not clip it. Results do not
    depend on the other images, up to the rounding of the network in batches of other sizes.

    Args:
        denoiser: the denoiser to measure.
        schedule: its noise schedule, with T timesteps.
        images: uint8 (B, C, H, W).
        labels: in the denoiser's format, (B, ...).
        indices: int64 (B,) in [0, 2^31), the index of each image; with the seed it determines the noise.
        timesteps: S of 0..T-1.
        seed: of the noise, in [0, 2^63).
        batch_size: batch size of the denoiser.

    Returns:
        float64 (B, S), for images in [-1, 1].

    Raises:
        Diverged: if the denoiser's output is not finite; names the first image and timestep.
    """

    def error(x_0: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        return (to_float64(prediction.x_0) - to_float64(x_0)).square().mean(dim=(1, 2, 3))

    t = torch.tensor(timesteps).to(images.device).expand(len(images), -1)                   # (B, S)
    return _scores(error, denoiser, schedule, from_uint8(images), labels, indices, t, seed, batch_size)


def denoising_curve(errors: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int]) -> list[ErrorPoint]:
    """Average the errors over the images.

    Args:
        errors: (N, S) from `denoising_errors`, N at least 2.
        schedule: the denoiser's noise schedule.
        timesteps: of the columns.
    """
    columns = zip(timesteps, schedule.sigmas[list(timesteps)].tolist(), *_columns(errors), strict=True)
    return [ErrorPoint(t, sigma, mean, error, mean / sigma**2) for t, sigma, mean, error in columns]


def eps_errors(errors: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the squared error of the noise for each image, averaged over the timesteps.

    Args:
        errors: of x_0, (B, S), from `denoising_errors`.
        sigmas: of the S timesteps; the error of eps is that of x_0 divided by sigma^2.

    Returns:
        float64 (B,).
    """
    return (errors.double() / torch.tensor(sigmas, dtype=torch.float64, device=errors.device) ** 2).mean(dim=1)


def strata(schedule: NoiseSchedule, count: int) -> Tensor:
    """Divide the timesteps into ranges with nearly equal contributions to the bound.

    In the limit of many timesteps the bound is the integral of half the error of eps over the log signal-to-noise ratio
    (Kingma et al. 2021, arXiv 2107.00630, equation 17 with section 5.1), and that error is always between 0 and 1. So
    the strata are nearly even in the log SNR, down to where nothing of the image is visible.

    Args:
        schedule: with T timesteps.
        count: 1 to T.

    Returns:
        The first timestep of each stratum, and T: int64 (count + 1,).
    """
    T = schedule.num_timesteps
    assert 1 <= count <= T
    rising = logsnr(schedule, min(count + 1, T))[::-1]
    return torch.tensor([*rising[:count], T])


def bound_terms(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    evaluations: int,
    seed: int,
    batch_size: int = DENOISER_BATCH_SIZE,
) -> Tensor:
    """Estimate the variational bound of each image, as terms that sum to its bits per dimension.

    This is equation 5 of Ho et al. 2020. One timestep per stratum is drawn for each image, weighted by the size of the
    stratum. So the sum is unbiased, and exact with one evaluation per timestep. As for published bits per dimension,
    x_0 is clipped to [-1, 1]. A learned variance is used; otherwise the variance is beta_t.

    Args:
        denoiser: the denoiser to measure.
        schedule: its noise schedule, with T timesteps.
        images: uint8 (B, C, H, W).
        labels: in the denoiser's format, (B, ...).
        indices: int64 (B,) in [0, 2^31), the index of each image; with the seed it determines timesteps and noise.
        evaluations: number of strata S, 1 to T.
        seed: of the random numbers, in [0, 2^63).
        batch_size: batch size of the denoiser.

    Returns:
        float64 (B, S + 1): the strata in order of timesteps, and the divergence of the prior.

    Raises:
        Diverged: if the denoiser's output is not finite.
    """
    starts = strata(schedule, evaluations).to(images.device)
    width = starts.diff()                                                                       # (S,)
    drawn = bits(seed, Purpose.EVALUATION_TIMESTEP, indices, evaluations)                        # (B, S)
    t = starts[:-1] + ((drawn * width) >> 32)                                                   # (B, S)
    x_0 = from_uint8(images)

    def bound(x_0: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        prediction = prediction._replace(x_0=prediction.x_0.clamp(-1, 1))
        return to_float64(vlb_term(schedule, x_0, x_t, t, prediction))

    scores = _scores(bound, denoiser, schedule, x_0, labels, indices, t, seed, batch_size)      # (B, S)
    prior = to_float64(prior_bound(schedule, x_0))[:, None]                                     # (B, 1)
    return torch.cat([width.to(scores.device) * scores, prior], dim=1)                          # (B, S + 1)


def bits_per_dim(terms: Tensor) -> Estimate:
    """Return the mean over images of the sums of `bound_terms`, (N, S + 1) with N at least 2, with an interval."""
    return mean_estimate(terms.sum(dim=1))


def bound_curve(terms: Tensor, schedule: NoiseSchedule) -> list[BoundPart]:
    """Return the mean over images of each stratum of `bound_terms`, (N, S + 1), without the prior."""
    starts = strata(schedule, terms.shape[1] - 1)
    ranges = zip(starts[:-1].tolist(), (starts[1:] - 1).tolist(), *_columns(terms[:, :-1]), strict=True)
    return [BoundPart(*part) for part in ranges]


@torch.no_grad()
def _scores(
    score: Score,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_0: Tensor,
    labels: Tensor,
    indices: Tensor,
    timesteps: Tensor,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Return the scores of images (B, C, H, W) at their timesteps (B, S): float64 (B, S)."""
    of_pair = torch.arange(len(x_0), device=x_0.device).repeat_interleave(timesteps.shape[1])   # (B * S,)
    found = []
    for i, t in zip(of_pair.split(batch_size), timesteps.flatten().split(batch_size), strict=True):
        noise = normal(seed, Purpose.EVALUATION_NOISE, (indices[i] << 32) + t, tuple(x_0.shape[1:]))
        x_t = schedule.q_sample(x_0[i], t, noise)
        values = score(x_0[i], x_t, t, denoiser(x_t, t, labels[i]))
        bad = ~values.isfinite()
        if bad.any():
            first = int(bad.int().argmax())
            raise Diverged(
                f"the denoiser's output for image {int(indices[i][first])} at timestep {int(t[first])} is not finite; "
                "its weights may be damaged, or it predicts eps where no signal is left: use another model"
            )
        found.append(values)
    return torch.cat(found).view(timesteps.shape)


def _columns(values: Tensor) -> tuple[list[float], list[float]]:
    """Return the mean of each column over N rows, and its standard error."""
    count = len(values)
    mean = values.sum(dim=0) / count                                                                    # (S,)
    squares = (values - mean).square().sum(dim=0)
    return mean.tolist(), (squares / (count - 1) / count).sqrt().tolist()
