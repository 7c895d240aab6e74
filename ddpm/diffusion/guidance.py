"""Denoisers: the network as one, and wrappers that are one again. Guide first, then clip; samplers know of neither."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule, Prediction, split_output
from ddpm.names import lookup

# (x_t, t, labels) -> what is to be followed, and what is to be left behind.
Pair = Callable[[Tensor, Tensor, Tensor], tuple[Prediction, Prediction]]


def unet_denoiser(unet: nn.Module, schedule: NoiseSchedule, prediction: str) -> Denoiser:
    """The network as a denoiser.

    Args:
        unet: (x_t, t, labels) -> an object with `.sample`, (B, C or 2C, H, W); in any precision, here it is float32.
        schedule: the one that it was trained with.
        prediction: what it predicts, an entry of PREDICTIONS.
    """
    decode = lookup(PREDICTIONS, prediction, "diffusion.prediction").decode

    def denoise_with_unet(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        given = x_t.to(getattr(unet, "dtype", x_t.dtype))
        output, variance = split_output(unet(given, t, labels).sample.float(), x_t.shape[1])
        return decode(schedule, output, x_t, t)._replace(variance_fraction=variance)

    return denoise_with_unet


def null_labels(labels: Tensor, null_label: int) -> Tensor:
    """The null class in the form of `labels`: ids or weights."""
    if not labels.is_floating_point():
        return torch.full_like(labels, null_label)
    weights = torch.zeros_like(labels)
    weights[..., null_label] = 1
    return weights


def with_and_without_class(denoiser: Denoiser, null_label: int | None) -> Pair:
    """One network call on a doubled batch: the labels, and the null class."""

    def predict_pair(x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Prediction, Prediction]:
        both = denoiser(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([labels, null_labels(labels, null_label)]))
        halves = [(None, None) if view is None else view.chunk(2) for view in both]
        return Prediction(*(first for first, _ in halves)), Prediction(*(second for _, second in halves))

    return predict_pair


def with_and_by_guide(denoiser: Denoiser, guide: Denoiser) -> Pair:
    """The denoiser beside a weaker one on the same labels (autoguidance, Karras et al. 2024, arXiv 2406.02507)."""

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
    """Guidance: weak + scale * (strong - weak).

    Args:
        denoiser: the one to guide; called alone where there is nothing to guide.
        pair: gives strong and weak.
        schedule: its schedule.
        scale: 1 leaves the denoiser as it is, and costs nothing; larger goes further from the weak one.
        interval: guides only where the noise level is in (low, high] (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        rescale: 0 to 1, how far the standard deviation of each x_0 is set back to that of the strong one (Lin et al.
            2023, arXiv 2305.08891, section 3.4, on the image).

    Raises:
        ValueError: for an interval or a rescaling that is none.
    """
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
        raise ValueError(f"guidance_interval: {interval} is out of range; allowed: two rising levels, as [0.3, 3]")
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale: {rescale} is out of range; allowed: 0 to 1")
    if scale == 1:
        return denoiser
    inside = None
    if interval is not None:
        levels = schedule.sigmas
        inside = (levels > interval[0]) & (levels <= interval[1])

    def denoise_with_guidance(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        strength = scale
        if inside is not None:
            guides = inside.to(t.device)[t]
            if not guides.any():
                return denoiser(x_t, t, labels)
            strength = torch.where(guides, scale, 1.0).to(x_t.dtype)[:, None, None, None]
        strong, weak = pair(x_t, t, labels)
        # Both views are guided, for one cannot be had from the other where the signal or the noise vanishes.
        x_0, eps = (b + strength * (a - b) for a, b in ((strong.x_0, weak.x_0), (strong.eps, weak.eps)))
        prediction = Prediction(x_0, eps)
        if rescale > 0:
            dims = (1, 2, 3)
            ratio = strong.x_0.std(dim=dims, keepdim=True) / x_0.std(dim=dims, keepdim=True)            # (B, 1, 1, 1)
            prediction = schedule.from_x_0(x_0 * (rescale * ratio + 1 - rescale), x_t, t)
        return prediction._replace(variance_fraction=strong.variance_fraction)

    return denoise_with_guidance


def clipped(denoiser: Denoiser, schedule: NoiseSchedule) -> Denoiser:
    """Clips x_0 to [-1, 1] and re-derives eps from it, so that the two stay views of one image."""

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
    """The denoiser, guided and then clipped.

    Args:
        denoiser: the one to guide.
        schedule: its schedule.
        null_label: id of the null class; None where the model has none.
        scale: of guidance; 1 is none.
        guide: a weaker denoiser to be guided away from, instead of the null class.
        interval: of noise levels, as in `guided`.
        rescale: as in `guided`.
        clip: whether to clip x_0.

    Raises:
        ValueError: if guidance is asked of a model that has no null class, and no guide is given.
    """
    if scale != 1 and guide is None and null_label is None:
        raise ValueError(
            "sample.guidance_scale: the model was trained without a null class, so only 1 is possible; "
            "train with diffusion.class_dropout_prob above 0, or give another model as --guide"
        )
    pair = with_and_by_guide(denoiser, guide) if guide is not None else with_and_without_class(denoiser, null_label)
    denoiser = guided(denoiser, pair, schedule, scale, interval, rescale)
    return clipped(denoiser, schedule) if clip else denoiser
