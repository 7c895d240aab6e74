"""The training objective: what the network predicts, how errors are weighted, and the variational bound."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm.diffusion.schedule import NoiseSchedule, Prediction, split_output
from ddpm.float64 import to_float64
from ddpm.randomness import Purpose, bits


class Parameterization(NamedTuple):
    """The quantity that a network predicts.

    Attributes:
        target: (schedule, x_0, noise, t) -> the output of a perfect network, (B, C, H, W).
        decode: (schedule, output, x_t, t) -> Prediction.
        output_error_per_x_0_error: SNR -> squared error of the output, divided by the squared error of the x_0 that it
            implies.
    """

    target: Callable[[NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
    decode: Callable[[NoiseSchedule, Tensor, Tensor, Tensor], Prediction]
    output_error_per_x_0_error: Callable[[Tensor], Tensor]


def uniform_weight(snr: Tensor, output_error_per_x_0_error: Tensor) -> Tensor:
    """Return weight 1 on the squared error of the output (for eps this is L_simple of Ho et al. 2020)."""
    return torch.ones_like(snr)


def min_snr_weight(snr: Tensor, output_error_per_x_0_error: Tensor, gamma: float = 5.0) -> Tensor:
    """Return weight min(SNR, gamma) on the squared error of x_0 (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""
    return snr.clamp(max=gamma) / output_error_per_x_0_error


def uniform_timesteps(seed: int, position: Tensor, num_timesteps: int) -> Tensor:
    """Draw independent timesteps, uniform on 0..T-1: (B,) -> (B,)."""
    return (bits(seed, Purpose.TIMESTEP, position, 1)[:, 0] * num_timesteps) >> 32


def low_discrepancy_timesteps(seed: int, position: Tensor, num_timesteps: int) -> Tensor:
    """Draw timesteps along a golden-ratio sequence with a random start: (B,) -> (B,).

    Each timestep is uniform, and any sequence of consecutive positions covers 0..T-1 evenly, which reduces the variance
    of a batch's loss. Kingma et al. 2021, arXiv 2107.00630, appendix I.1, stratify each batch instead; this sequence
    does not depend on the batch size.
    """
    return (((_sequence_start(seed) + position * 0x9E3779B9) & 0xFFFFFFFF) * num_timesteps) >> 32


@cache
def _sequence_start(seed: int) -> int:
    return int(bits(seed, Purpose.TIMESTEP, torch.tensor([0]), 1))


PREDICTIONS = {
    "eps": Parameterization(lambda s, x_0, noise, t: noise, NoiseSchedule.from_eps, lambda snr: snr),
    "v": Parameterization(NoiseSchedule.velocity, NoiseSchedule.from_v, lambda snr: snr + 1),
    "x_0": Parameterization(lambda s, x_0, noise, t: x_0, NoiseSchedule.from_x_0, torch.ones_like),
}
WEIGHTINGS = {"uniform": uniform_weight, "min_snr": min_snr_weight}
TIMESTEP_SAMPLERS = {"uniform": uniform_timesteps, "low_discrepancy": low_discrepancy_timesteps}


def diffusion_loss(
    unet: Callable[[Tensor, Tensor, Tensor], Any],
    schedule: NoiseSchedule,
    x_0: Tensor,
    labels: Tensor,
    t: Tensor,
    noise: Tensor,
    prediction: str = "eps",
    weighting: str = "uniform",
) -> Tensor:
    """Return the loss of each sample: the weighted squared error, plus the hybrid term for a learned variance.

    Args:
        unet: (x_t, t, labels) -> an object with `.sample`, which has C channels, or 2C with a learned variance.
        schedule: the forward process.
        x_0: images in [-1, 1], (B, C, H, W).
        labels: class ids, including the null class for dropped labels, (B,).
        t: timesteps in 0..T-1, (B,).
        noise: standard normal, (B, C, H, W).
        prediction: an entry of PREDICTIONS.
        weighting: an entry of WEIGHTINGS.

    Returns:
        Losses (B,). The hybrid term is T / 1000 times the term of the bound at t, in bits per dimension. Its gradient
        does not reach the mean, so it trains only the variance (Nichol & Dhariwal 2021, equation 16, with the unit and
        factor of their code).
    """
    parameterization, weigh = PREDICTIONS[prediction], WEIGHTINGS[weighting]
    x_t = schedule.q_sample(x_0, t, noise)
    output, variance = split_output(unet(x_t, t, labels).sample, x_0.shape[1])
    snr = schedule.snr(t)
    error = (output.float() - parameterization.target(schedule, x_0, noise, t)).square().mean(dim=(1, 2, 3))  # (B,)
    loss = weigh(snr, parameterization.output_error_per_x_0_error(snr)) * error
    if variance is not None:
        frozen = parameterization.decode(schedule, output.detach().float(), x_t, t)
        bound = vlb_term(schedule, x_0, x_t, t, frozen._replace(variance_fraction=variance.float()))
        loss = loss + bound * schedule.num_timesteps / 1000
    return loss


class DiffusionLoss(nn.Module):
    """`diffusion_loss` of one network as a module, which can be wrapped for several processes and compiled whole.

    Args:
        unet: the network; it takes `augment_labels`.
        schedule, prediction, weighting: as in `diffusion_loss`.
    """

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, prediction: str, weighting: str) -> None:
        super().__init__()
        self.unet, self.schedule, self.prediction, self.weighting = unet, schedule, prediction, weighting

    def forward(
        self, x_0: Tensor, labels: Tensor, t: Tensor, noise: Tensor, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Return the losses (B,); `augment_labels` are labels of augmentation (B, L)."""
        unet = partial(self.unet, augment_labels=augment_labels)
        return diffusion_loss(unet, self.schedule, x_0, labels, t, noise, self.prediction, self.weighting)


def vlb_term(schedule: NoiseSchedule, x_0: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
    """Return one term of the variational bound (Ho et al. 2020, equation 5), in bits per dimension: (B,).

    For t > 0 this is the KL divergence of p(x_{t-1} | x_t) from q(x_{t-1} | x_t, x_0); for t = 0 it is the negative
    log-likelihood of x_0 under a Gaussian discretized to the 256 gray levels (section 3.3). The variance of p is the
    learned one, or beta_t if none is learned. The x_0 of the prediction is not clipped here.
    """
    device = x_0.device
    x_0, x_t = to_float64(x_0), to_float64(x_t)     # the divergence is a small difference of large numbers
    t = t.to(x_t.device)
    mean_q, log_variance_q = schedule.posterior_mean(x_0, x_t, t), schedule.posterior_log_variance(t)
    mean_p = schedule.posterior_mean(to_float64(prediction.x_0), x_t, t)
    fraction = 1.0 if prediction.variance_fraction is None else prediction.variance_fraction.to(x_t.device)
    log_variance_p = schedule.posterior_log_variance(t, fraction)
    divergence = 0.5 * (
        log_variance_p - log_variance_q - 1
        + (log_variance_q - log_variance_p).exp()
        + (mean_q - mean_p).square() * (-log_variance_p).exp()
    )
    decoder = -discretized_gaussian_log_likelihood(x_0, mean_p, 0.5 * log_variance_p)
    nats = torch.where(t[:, None, None, None] == 0, decoder, divergence)
    return nats.mean(dim=(1, 2, 3)).float().to(device) / math.log(2)


def prior_bound(schedule: NoiseSchedule, x_0: Tensor) -> Tensor:
    """Return the constant term of the bound, KL(q(x_T | x_0) || standard normal), in bits per dimension: (B,)."""
    signal_squared = float(schedule.alphas_cumprod[-1])
    variance = 1 - signal_squared
    nats = 0.5 * (variance + signal_squared * to_float64(x_0).square() - 1 - math.log(variance))
    return nats.mean(dim=(1, 2, 3)).float().to(x_0.device) / math.log(2)


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log probability of the bin of width 2/255 around x under a Gaussian, in nats; the end bins are open.

    The cumulative distribution function is the approximation of Page (1977, "Approximations to the cumulative normal
    function") that published bits per dimension use; its error is below 2e-4.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inverse_std = (-log_std).exp()
    upper, lower = cdf((x - mean + 1 / 255) * inverse_std), cdf((x - mean - 1 / 255) * inverse_std)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()
