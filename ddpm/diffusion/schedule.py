"""The noise schedule of a discrete-time diffusion process: q(x_t | x_0), its posterior, and x_0, eps and v."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.float64 import float64_device


class Prediction(NamedTuple):
    """The output of a denoiser at x_t: the same prediction as x_0 and as eps.

    The two satisfy x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps; alpha_bar is the entry of `alphas_cumprod`.

    Attributes:
        x_0: the denoised image, (B, C, H, W).
        eps: the noise, (B, C, H, W).
        variance_fraction: with a learned variance, the position in [0, 1] of the log variance of x_{t-1} between its
            lower bound (the posterior variance) and its upper bound (beta_t), (B, C, H, W); otherwise None.
    """

    x_0: Tensor
    eps: Tensor
    variance_fraction: Tensor | None = None


# (x_t, t, labels) -> Prediction. Labels are class ids or class weights, as UNet.forward takes them.
Denoiser = Callable[[Tensor, Tensor, Tensor], Prediction]


def split_output(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split a network output (B, C or 2C, H, W) into the prediction and the variance fraction (None if not learned).

    A variance output v in [-1, 1] stands for the fraction (v + 1) / 2, as in the released ADM models.
    """
    if output.shape[1] == channels:
        return output, None
    assert output.shape[1] == 2 * channels, (output.shape, channels)
    prediction, variance = output.chunk(2, dim=1)
    return prediction, (variance + 1) / 2


class NoiseSchedule:
    """Tables of the forward process with T steps (Ho et al. 2020, arXiv 2006.11239, section 2).

    The tables are float64; their values are converted to the dtype of the images that they are applied to.

    Args:
        betas: T forward variances, each in (0, 1]; only the last may be 1 (zero terminal SNR).

    Attributes:
        betas, alphas_cumprod: float64 (T,).
        posterior_variance: variance of q(x_{t-1} | x_t, x_0), equation 7, float64 (T,); the first entry is 0.

    Raises:
        ValueError: if `betas` are not such numbers.
    """

    def __init__(self, betas: Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas <= 1)).all() or (betas[:-1] == 1).any():
            raise ValueError("betas: allowed are two or more numbers in (0, 1), of which the last may be 1")
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        self.posterior_variance = betas * (1 - previous) / (1 - self.alphas_cumprod)
        self._moved = self._tables = {
            "sqrt_alpha_bar": self.alphas_cumprod.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - self.alphas_cumprod).sqrt(),
            "snr": self.alphas_cumprod / (1 - self.alphas_cumprod),
            "posterior_x_0": previous.sqrt() * betas / (1 - self.alphas_cumprod),
            "posterior_x_t": (1 - betas).sqrt() * (1 - previous) / (1 - self.alphas_cumprod),
            "log_beta": betas.log(),
            # The first entry is 0, so its logarithm is replaced by that of the second (Nichol & Dhariwal 2021).
            "log_posterior_variance": torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]).log(),
        }

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps T."""
        return len(self.betas)

    @property
    def sigmas(self) -> Tensor:
        """The sigma of Karras et al. 2022 (arXiv 2206.00364) for images in [-1, 1]; infinite at zero SNR.

        This is sqrt((1 - alphas_cumprod) / alphas_cumprod), float64 (T,).
        """
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @staticmethod
    def _widest(device: torch.device) -> torch.dtype:
        """Return the widest type of numbers that a device has."""
        return torch.float64 if float64_device(device) == device else torch.float32

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Move the tables to a device, which otherwise happens when they are first used there."""
        self._moved = {name: x.to(device, self._widest(device)) for name, x in self._tables.items()}
        return self

    def _coefficient(self, table: str, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the entries of a table at t, (B, 1, 1, 1), after moving all tables to the device of t if necessary."""
        if self._moved[table].device != t.device:
            self.to(t.device)
        return self._moved[table][t].to(dtype)[:, None, None, None]                                    # (B, 1, 1, 1)

    def _sqrt_alpha_bars(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t, the factors of x_0 and of the noise in x_t."""
        return self._coefficient("sqrt_alpha_bar", t, dtype), self._coefficient("sqrt_one_minus_alpha_bar", t, dtype)

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0), equation 4: (B, C, H, W), (B,), (B, C, H, W) -> (B, C, H, W)."""
        sqrt_alpha_bar, sqrt_one_minus_alpha_bar = self._sqrt_alpha_bars(t, x_0.dtype)
        return sqrt_alpha_bar * x_0 + sqrt_one_minus_alpha_bar * noise

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod): (B,) -> (B,)."""
        return self._coefficient("snr", t, torch.float32).flatten()

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0), equation 7."""
        of_x_0, of_x_t = (self._coefficient(table, t, x_t.dtype) for table in ("posterior_x_0", "posterior_x_t"))
        return of_x_0 * x_0 + of_x_t * x_t

    def posterior_log_variance(self, t: Tensor, fraction: Tensor | float = 0.0) -> Tensor:
        """Return the log variance of x_{t-1} given x_t, interpolated from the posterior's (0) to that of beta_t (1).

        Nichol & Dhariwal 2021, arXiv 2102.09672, equation 15, in float64 where the device has it.
        """
        dtype = self._widest(t.device)
        upper, lower = (self._coefficient(table, t, dtype) for table in ("log_beta", "log_posterior_variance"))
        return fraction * upper + (1 - fraction) * lower

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, arXiv 2202.00512, app. D)."""
        sqrt_alpha_bar, sqrt_one_minus_alpha_bar = self._sqrt_alpha_bars(t, x_0.dtype)
        return sqrt_alpha_bar * noise - sqrt_one_minus_alpha_bar * x_0

    def from_eps(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Interpret a network output as the noise."""
        sqrt_alpha_bar, sqrt_one_minus_alpha_bar = self._sqrt_alpha_bars(t, eps.dtype)
        return Prediction((x_t - sqrt_one_minus_alpha_bar * eps) / sqrt_alpha_bar, eps)

    def from_x_0(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Interpret a network output as the clean image; also derives eps from a changed x_0."""
        sqrt_alpha_bar, sqrt_one_minus_alpha_bar = self._sqrt_alpha_bars(t, x_0.dtype)
        return Prediction(x_0, (x_t - sqrt_alpha_bar * x_0) / sqrt_one_minus_alpha_bar)

    def from_v(self, v: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """Interpret a network output as the velocity."""
        sqrt_alpha_bar, sqrt_one_minus_alpha_bar = self._sqrt_alpha_bars(t, v.dtype)
        x_0 = sqrt_alpha_bar * x_t - sqrt_one_minus_alpha_bar * v
        return Prediction(x_0, sqrt_one_minus_alpha_bar * x_t + sqrt_alpha_bar * v)


def _from_alpha_bar(alpha_bar: Callable[[float], float], num_timesteps: int, max_beta: float = 0.999) -> Tensor:
    betas = [1 - alpha_bar((t + 1) / num_timesteps) / alpha_bar(t / num_timesteps) for t in range(num_timesteps)]
    return torch.tensor(betas, dtype=torch.float64).clamp(max=max_beta)


def linear(num_timesteps: int) -> Tensor:
    """Return betas from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T for other T (Ho et al. 2020, section 4)."""
    scale = 1000 / num_timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine(num_timesteps: int) -> Tensor:
    """Return betas whose alphas_cumprod is a squared cosine (Nichol & Dhariwal 2021, equation 17), at most 0.999."""
    return _from_alpha_bar(lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, num_timesteps)


def sigmoid(num_timesteps: int) -> Tensor:
    """Return betas, at most 0.999, whose alphas_cumprod is a sigmoid from -3 to 3.

    Chen 2023, arXiv 2301.10972, algorithm 1.
    """
    start, end = -3.0, 3.0

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def alpha_bar(u: float) -> float:
        return (logistic(end) - logistic(start + u * (end - start))) / (logistic(end) - logistic(start))

    return _from_alpha_bar(alpha_bar, num_timesteps)


def with_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that its last entry is 0 and its first is unchanged.

    Lin et al. 2023, arXiv 2305.08891, algorithm 1.
    """
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas_cumprod = root**2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas


SCHEDULES = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}
