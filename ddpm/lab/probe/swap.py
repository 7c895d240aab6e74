"""Class swap: some layers of the network are conditioned on class B, the others on A; which class do images show?"""

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion.sampling import batches, draw, to_uint8
from ddpm.diffusion.schedule import Denoiser, Prediction
from ddpm.evaluation.estimates import wilson_interval
from ddpm.evaluation.modulation import modulated_layers, projection_inputs
from ddpm.evaluation.reference_classifier import ReferenceClassifier
from ddpm.io.pictures import labelled_grid
from ddpm.lab.probe.results import Swap, SwapPoint
from ddpm.lab.probe.steering import steered
from ddpm.models.shape import SIDES
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

SAMPLER, STEPS, SPACING = "dpmpp", 10, "logsnr"
SHOWN_PAIRS = 8     # pairs of classes in the picture


class Place(NamedTuple):
    """The layers that are conditioned on class B.

    Attributes:
        where: description.
        kind: "levels" or "section".
        levels: resolutions whose blocks are conditioned on B; everything else is conditioned on A.
        section: the entry of SIDES that is conditioned on B; None if `kind` is "levels".
    """

    where: str
    kind: str
    levels: tuple[int, ...]
    section: str | None


def swap_places(unet: UNet, by_section: bool) -> list[Place]:
    """Return the sets of layers to swap: from no resolution to all, beginning with the coarsest.

    Args:
        unet: the model.
        by_section: add encoder, middle and decoder, each alone; this needs a class that reaches the norms.
    """
    sizes = sorted(level.size for level in unet.down)
    found = [Place("nowhere", "levels", (), None)]
    found += [Place(f"up to {sizes[k]} px", "levels", tuple(sizes[: k + 1]), None) for k in range(len(sizes) - 1)]
    found.append(Place("everywhere", "levels", tuple(sizes), None))
    if by_section:
        found += [Place(section, "section", (), section) for section in SIDES]
    return found


def swapped_denoiser(denoiser: Denoiser, unet: UNet, place: Place) -> Denoiser:
    """Wrap a denoiser so that its labels are pairs of ids (B, 2): class A, and class B for some layers.

    Args:
        denoiser: calls the U-Net once (no guidance).
        unet: its U-Net.
        place: the layers that are conditioned on class B.
    """
    coarse = torch.tensor([level.size in place.levels for level in unet.down])                          # (L,)
    layers = [layer.name for layer in modulated_layers(unet) if layer.side == place.section]

    def denoise(x_t: Tensor, t: Tensor, pairs: Tensor) -> Prediction:
        first, second = pairs.unbind(1)
        if place.section is None:
            return denoiser(x_t, t, torch.where(coarse.to(pairs.device), second[:, None], first[:, None]))
        on_second = steered(denoiser, unet, layers, "both", lambda t, labels: projection_inputs(unet, t, second))
        return on_second(x_t, t, first)

    return denoise


def swap_classes(
    pipeline: ClassConditionalPipeline,
    classifier: ReferenceClassifier,
    classes: list[int],
    read_as: list[int],
    samples: int,
    by_section: bool,
    seed: int,
    batch_size: int = 100,
    done: Callable[[], None] = lambda: None,
) -> Swap:
    """Draw the same seeds and pairs of classes with each set of swapped layers, and classify the images.

    Args:
        pipeline: the model.
        classifier: a classifier that was trained on real images only.
        classes: ids of the model's classes, 2 or more; each is swapped with the next, the last with the first.
        read_as: the classifier's ids of the same classes.
        samples: images of each class.
        by_section: see `swap_places`.
        seed: seed of the first image; the others follow.
        batch_size: images per network call.
        done: called after each set of layers, to show progress.
    """
    unet, schedule = pipeline.unet, pipeline.schedule
    first = torch.tensor(classes * samples)                                                             # (N,)
    pairs = torch.stack([first, torch.tensor((classes[1:] + classes[:1]) * samples)], dim=1)            # (N, 2)
    answers = torch.tensor(read_as)
    expected = torch.stack([answers, answers.roll(-1)], dim=1).repeat(samples, 1)                       # (N, 2)
    shape = (unet.config.in_channels, unet.config.resolution, unet.config.resolution)
    steps, batch_size = min(STEPS, schedule.num_timesteps), min(batch_size, len(pairs))
    shown = min(SHOWN_PAIRS, len(classes))
    points, rows = [], []
    for place in swap_places(unet, by_section):
        denoiser = swapped_denoiser(pipeline.denoiser(), unet, place)
        drawn = [
            draw(
                denoiser,
                schedule,
                pairs[at],
                [seed + i for i in at],
                shape,
                pipeline.device,
                sampler=SAMPLER,
                steps=steps,
                timestep_spacing=SPACING,
                batch_size=batch_size,
            )
            for at in batches(len(pairs), batch_size)
        ]
        images = to_uint8(torch.cat(drawn)).cpu()
        read = classifier.extract(images)[1].argmax(dim=1)
        counts = (read[:, None] == expected).sum(dim=0).tolist()
        points.append(SwapPoint(place.where, place.kind, *(wilson_interval(count, len(pairs)) for count in counts)))
        rows.append(list(images[:shown]))
        done()
    names = pipeline.class_names
    return Swap(
        points,
        len(pairs),
        f"{SAMPLER}, {steps} steps, {SPACING}, no guidance",
        classifier.accuracy,
        [f"{names[a]} to {names[b]}" for a, b in pairs[:shown].tolist()],
        _picture(rows, [point.where for point in points]),
    )


def _picture(rows: list[list[Tensor]], names: list[str]) -> str:
    file = BytesIO()
    labelled_grid(rows, names).save(file, "PNG")
    return b64encode(file.getvalue()).decode()
