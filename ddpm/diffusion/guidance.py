"""Build denoisers: wrap the network as one, then add guidance and clipping.

Guidance is applied first and clipping second. A sampler gets the result and does not know about either.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.precision import PRECISIONS
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction, split_output
from ddpm.names import lookup

# (x_t, t, labels) -> the strong prediction to move towards, and the weak one to move away from.
Pair = Callable[[Tensor, Tensor, Tensor], tuple[Prediction, Prediction]]


def unet_denoiser(
    unet: nn.Module, schedule: NoiseSchedule, prediction: str, mixed_precision: str = "fp32"
) -> Denoiser:
    """Return the network as a denoiser of float32, whatever the precision in which the network computes.

    Args:
        unet: (x_t, t, labels) -> an object with `.sample`, (B, C or 2C, H, W).
        schedule: the schedule that the network was trained with.
        prediction: what the network predicts, an entry of PREDICTIONS.
        mixed_precision: precision in which the network computes, an entry of PRECISIONS.
    """
    decode = lookup(PREDICTIONS, prediction, "diffusion.prediction").decode
    dtype = lookup(PRECISIONS, mixed_precision, "mixed_precision")

    def denoise_with_unet(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        sample = x_t.to(getattr(unet, "dtype", x_t.dtype))
        with nullcontext() if dtype is None else torch.autocast(x_t.device.type, dtype):
            output = unet(sample, t, labels).sample
        # A copy, because the next call of a compiled network overwrites the output where it uses CUDA graphs. Always in
        # the same memory format, because each format of the next input would be compiled separately.
        output = output.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        output, variance = split_output(output, x_t.shape[1])
        return decode(schedule, output, x_t, t)._replace(variance_fraction=variance)

    return denoise_with_unet


def padded(denoiser: Denoiser, batch_size: int) -> Denoiser:
    """Return a denoiser that calls another one with batches of one size, padded with copies of the last image."""

    def denoise_padded(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        count = len(x_t)
        rows = torch.arange(batch_size, device=x_t.device).clamp(max=count - 1)
        x_0, eps, fraction = denoiser(x_t[rows], t[rows], labels[rows])
        return Prediction(x_0[:count], eps[:count], None if fraction is None else fraction[:count])

    return denoise_padded


def null_labels(labels: Tensor, null_label: int) -> Tensor:
    """Return the null class in the form of `labels`, which are ids or weights."""
    if not labels.is_floating_point():
        return torch.full_like(labels, null_label)
    weights = torch.zeros_like(labels)
    weights[..., null_label] = 1
    return weights


def with_and_without_class(denoiser: Denoiser, null_label: int) -> Pair:
    """Return a pair that calls the network once on a doubled batch, with the labels and with the null class."""

    def predict_pair(x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Prediction, Prediction]:
        both = denoiser(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([labels, null_labels(labels, null_label)]))
        (x_0, null_x_0), (eps, null_eps) = both.x_0.chunk(2), both.eps.chunk(2)
        fraction, null_fraction = (None, None) if both.variance_fraction is None else both.variance_fraction.chunk(2)
        return Prediction(x_0, eps, fraction), Prediction(null_x_0, null_eps, null_fraction)

    return predict_pair


def denoiser_and_guide(denoiser: Denoiser, guide: Denoiser) -> Pair:
    """Return the pair of autoguidance, a denoiser and a weaker one (Karras et al. 2024, arXiv 2406.02507)."""

    def predict_both(x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Prediction, Prediction]:
        return denoiser(x_t, t, labels), guide(x_t, t, labels)

    return predict_both


def guided(
    denoiser: Denoiser,
    pair: Pair,
    schedule: NoiseSchedule,
    scale: float,
    interval: Sequence[float] | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """Return a denoiser with guidance: weak + scale * (strong - weak).

    Args:
        denoiser: the denoiser to guide; called alone at timesteps without guidance.
        pair: returns the strong and the weak prediction.
        schedule: the denoiser's schedule.
        scale: guidance scale; 1 returns `denoiser` unchanged, larger values move further from the weak prediction.
        interval: guide only where sigma is in (low, high] (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        rescale: 0 to 1, how far the standard deviation of the guided x_0 is rescaled to that of the strong prediction
            (Lin et al. 2023, arXiv 2305.08891, section 3.4, applied to the image).

    Raises:
        ValueError: for an interval or a rescaling that is out of range.
    """
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
        raise ValueError(
            f"guidance_interval: {interval} is out of range; allowed: two increasing sigmas, such as [0.3, 3]"
        )
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale: {rescale} is out of range; allowed: 0 to 1")
    if scale == 1:
        return denoiser
    inside = None
    if interval is not None:
        inside = (schedule.sigmas > interval[0]) & (schedule.sigmas <= interval[1])

    def denoise_with_guidance(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        strength: float | Tensor = scale
        if inside is not None:
            is_guided = inside.to(t.device)[t]
            if not is_guided.any():
                return denoiser(x_t, t, labels)
            strength = torch.where(is_guided, scale, 1.0).to(x_t.dtype)[:, None, None, None]
        strong, weak = pair(x_t, t, labels)
        # Guide both x_0 and eps: one does not determine the other where the signal or the noise vanishes.
        x_0, eps = (w + strength * (s - w) for s, w in ((strong.x_0, weak.x_0), (strong.eps, weak.eps)))
        prediction = Prediction(x_0, eps)
        if rescale > 0:
            dims = (1, 2, 3)
            ratio = strong.x_0.std(dim=dims, keepdim=True) / x_0.std(dim=dims, keepdim=True)            # (B, 1, 1, 1)
            prediction = schedule.from_x_0(x_0 * (rescale * ratio + 1 - rescale), x_t, t)
        return prediction._replace(variance_fraction=strong.variance_fraction)

    return denoise_with_guidance


def clipped(denoiser: Denoiser, schedule: NoiseSchedule) -> Denoiser:
    """Return a denoiser that clips x_0 to [-1, 1] and derives eps from it, so that the two stay consistent."""

    def denoise_and_clip(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        prediction = denoiser(x_t, t, labels)
        x_0 = prediction.x_0.clamp(-1, 1)
        return schedule.from_x_0(x_0, x_t, t)._replace(variance_fraction=prediction.variance_fraction)

    return denoise_and_clip


def with_guidance(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    null_label: int | None,
    scale: float,
    *,
    guide: Denoiser | None = None,
    interval: Sequence[float] | None = None,
    rescale: float = 0.0,
    clip: bool = True,
) -> Denoiser:
    """Return the denoiser, guided and then clipped.

    Args:
        denoiser: the denoiser to guide.
        schedule: its schedule.
        null_label: id of the null class, or None if the model has none.
        scale: guidance scale; 1 disables guidance.
        guide: a weaker denoiser that takes the place of the null class in guidance.
        interval: range of sigmas with guidance, as in `guided`.
        rescale: as in `guided`.
        clip: whether to clip x_0.

    Raises:
        ValueError: if there is neither a null class nor a guide and the scale is not 1, and as in `guided`.
    """
    if guide is not None:
        denoiser = guided(denoiser, denoiser_and_guide(denoiser, guide), schedule, scale, interval, rescale)
    elif null_label is not None:
        denoiser = guided(denoiser, with_and_without_class(denoiser, null_label), schedule, scale, interval, rescale)
    elif scale != 1:
        raise ValueError(
            "guidance_scale: the model was trained without a null class, so only 1 is possible; "
            "train with diffusion.class_dropout_prob above 0, or give another model as --guide"
        )
    return clipped(denoiser, schedule) if clip else denoiser
