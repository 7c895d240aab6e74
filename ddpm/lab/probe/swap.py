"""Class swap: some layers of the network are conditioned on class B, the others on A; which class do images show?"""

from base64 import b64encode
from io import BytesIO
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.diffusion.sampling import batches, draw, to_uint8
from ddpm.diffusion.schedule import Denoiser, Prediction
from ddpm.evaluation.estimates import wilson_interval
from ddpm.evaluation.modulation import modulated_layers, projection_inputs
from ddpm.evaluation.reference_classifier import ReferenceClassifier
from ddpm.io.pictures import labeled_grid
from ddpm.lab.probe.results import Swap, SwapPoint
from ddpm.lab.probe.steering import steered
from ddpm.models.shape import SIDES
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

SAMPLER, STEPS, SPACING = "dpmpp", 10, "logsnr"
SHOWN_PAIRS = 8     # pairs of classes in the picture


class SwappedLayers(NamedTuple):
    """The layers that are conditioned on class B; all others are conditioned on A.

    Attributes:
        where: description.
        sizes: resolutions whose stages are conditioned on B.
        side: the entry of SIDES that is conditioned on B, instead of `sizes`.
    """

    where: str
    sizes: tuple[int, ...] = ()
    side: str | None = None


def list_swaps(unet: UNet, by_side: bool) -> list[SwappedLayers]:
    """Return the sets of layers to swap: from no resolution to all, beginning with the coarsest.

    Args:
        unet: the model.
        by_side: add encoder, middle and decoder, each alone; this needs a class that reaches the norms.
    """
    sizes = tuple(sorted({stage.size for stage in unet.stages.values()}))
    found = [SwappedLayers(f"up to {size} px", sizes[: i + 1]) for i, size in enumerate(sizes[:-1])]
    sides = [SwappedLayers(side, side=side) for side in SIDES] if by_side else []
    return [SwappedLayers("nowhere"), *found, SwappedLayers("everywhere", sizes), *sides]


def conditioned_on_pairs(denoiser: Denoiser, unet: UNet, swapped: SwappedLayers) -> Denoiser:
    """Wrap a denoiser so that its labels are pairs of ids (B, 2): class A, and class B for the swapped layers.

    Args:
        denoiser: calls the U-Net once (no guidance).
        unet: its U-Net.
        swapped: the layers that are conditioned on class B.
    """
    sizes = [stage.size for stage in unet.stages.values() if stage.side == "encoder"]                   # finest first
    coarse = torch.tensor([size in swapped.sizes for size in sizes])                                    # (L,)
    layers = [layer.name for layer in modulated_layers(unet) if layer.side == swapped.side]

    def denoise(x_t: Tensor, t: Tensor, pairs: Tensor) -> Prediction:
        first, second = pairs.unbind(1)
        if swapped.side is None:
            return denoiser(x_t, t, torch.where(coarse.to(pairs.device), second[:, None], first[:, None]))
        on_second = steered(denoiser, unet, layers, "both", lambda t, labels: projection_inputs(unet, t, second))
        return on_second(x_t, t, first)

    return denoise


def swap_classes(
    pipeline: ClassConditionalPipeline,
    classifier: ReferenceClassifier,
    classes: dict[int, int],
    samples: int,
    by_side: bool,
    seed: int,
    batch_size: int = 100,
) -> Swap:
    """Draw the same seeds and pairs of classes with each set of swapped layers, and classify the images.

    Args:
        pipeline: the model.
        classifier: a classifier that was trained on real images only.
        classes: id in the model -> id in the classifier, 2 classes or more; each is swapped with the next, the last
            with the first.
        samples: number of images of each class.
        by_side: see `list_swaps`.
        seed: seed of the first image; the others follow.
        batch_size: number of images per network call.
    """
    schedule, shape = pipeline.schedule, pipeline.unet.config
    pairs, expected = (
        torch.stack([ids, ids.roll(-1)], dim=1).repeat(samples, 1)                                      # (N, 2)
        for ids in (torch.tensor([*classes]), torch.tensor([*classes.values()]))
    )
    steps, batch_size = min(STEPS, schedule.num_timesteps), min(batch_size, len(pairs))
    points, rows = [], []
    swaps = list_swaps(pipeline.unet, by_side)
    for swapped in tqdm(swaps, "class swap", leave=False, dynamic_ncols=True, disable=None):
        drawn = [
            draw(
                conditioned_on_pairs(pipeline.denoiser(), pipeline.unet, swapped),
                schedule,
                pairs[indices],
                [seed + i for i in indices],
                (shape.in_channels, shape.resolution, shape.resolution),
                pipeline.device,
                sampler=SAMPLER,
                steps=steps,
                timestep_spacing=SPACING,
                batch_size=batch_size,
            )
            for indices in batches(len(pairs), batch_size)
        ]
        images = to_uint8(torch.cat(drawn)).cpu()
        found = classifier.extract(images)[1].argmax(dim=1)                                             # (N,)
        first, second = (wilson_interval(int((found == ids).sum()), len(pairs)) for ids in expected.T)
        points.append(SwapPoint(swapped.where, "resolutions" if swapped.side is None else "side", first, second))
        rows.append(list(images[: min(SHOWN_PAIRS, len(classes))]))
    picture = BytesIO()
    labeled_grid(rows, [point.where for point in points]).save(picture, "PNG")
    names = pipeline.class_names
    return Swap(
        points,
        len(pairs),
        f"{SAMPLER}, {steps} steps, {SPACING}, no guidance",
        classifier.accuracy,
        [f"{names[a]} to {names[b]}" for a, b in pairs[: len(rows[0])].tolist()],
        b64encode(picture.getvalue()).decode(),
    )
