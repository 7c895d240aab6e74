"""Denoisers: the network as one, and wrappers that are one again. Guide first, then clip."""

import torch
from torch import Tensor, nn

from ddpm.names import lookup
from ddpm.objective import PREDICTIONS, split_output
from ddpm.sampling.samplers import Denoiser
from ddpm.schedule import NoiseSchedule, Prediction


def unet_denoiser(unet: nn.Module, schedule: NoiseSchedule, prediction: str) -> Denoiser:
    """The network as a denoiser.

    Args:
        unet: (x_t, t, labels) -> an object with `.sample`, (B, C or 2C, H, W).
        schedule: the one that it was trained with.
        prediction: what it predicts, an entry of PREDICTIONS.
    """
    decode = lookup(PREDICTIONS, prediction, "diffusion.prediction").decode

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        output, variance = split_output(unet(x_t, t, labels).sample.float(), x_t.shape[1])
        return decode(schedule, output, x_t, t)._replace(variance=variance)

    return denoise


def classifier_free(denoiser: Denoiser, null_label: int, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): null + scale * (class - null).

    Args:
        denoiser: the one to guide.
        null_label: id of the null class.
        scale: 1 leaves the denoiser as it is, and costs nothing; larger follows the class more.
    """
    if scale == 1:
        return denoiser

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        both = denoiser(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([labels, torch.full_like(labels, null_label)]))
        # Both views are guided, for one cannot be had from the other where the signal or the noise vanishes.
        x_0, eps = (null + scale * (given - null) for given, null in (both.x_0.chunk(2), both.eps.chunk(2)))
        return Prediction(x_0, eps, None if both.variance is None else both.variance.chunk(2)[0])

    return denoise


def clipped(denoiser: Denoiser, schedule: NoiseSchedule) -> Denoiser:
    """Clips x_0 to [-1, 1] and re-derives eps from it, so that the two stay views of one image."""

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        prediction = denoiser(x_t, t, labels)
        return schedule.from_x_0(prediction.x_0.clamp(-1, 1), x_t, t)._replace(variance=prediction.variance)

    return denoise


def with_guidance(
    denoiser: Denoiser, schedule: NoiseSchedule, null_label: int | None, scale: float, clip: bool = True
) -> Denoiser:
    """The denoiser, guided and then clipped.

    Raises:
        ValueError: if guidance is asked of a model that has no null class.
    """
    if scale != 1 and null_label is None:
        raise ValueError(
            "sample.guidance: the model was trained without a null class, so only 1 is possible; "
            "train with diffusion.label_dropout above 0"
        )
    guided = classifier_free(denoiser, null_label, scale)
    return clipped(guided, schedule) if clip else guided
