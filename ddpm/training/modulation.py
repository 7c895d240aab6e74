"""A few numbers of the modulation while a model trains, so that a dying or exploding one shows as it happens."""

import math

import torch
from torch import Tensor

from ddpm.evaluation.modulation import DEAD, effects, modulations
from ddpm.models.unet import UNet

TIMESTEPS = 4       # at even distances,
CLASSES = 10        # and at most so many classes, at even distances too


@torch.no_grad()
def watch(unet: UNet, num_timesteps: int) -> dict[str, float | None]:
    """What the modulation does at a few timesteps and classes.

    All layers go through each operation together, and the numbers are fetched at once: it costs little beside a step.

    Args:
        unet: the model, not wrapped.
        num_timesteps: T.

    Returns:
        For each part that the model has, "scale" or "shift": `modulation/PART_rms`, root mean square over all channels
        of all layers, `modulation/PART_rms_least` and `_most`, those of the weakest and the strongest layer, and
        `modulation/PART_timestep`, `_class` and `_interaction`, the shares of the variance over timesteps and classes
        that these explain, mean over layers (0 in a layer where nothing varies). With a scale: `modulation/flips`, the
        share of 1 + scale below 0, and `modulation/dead`, that of channels whose |1 + scale| is below
        `ddpm.evaluation.modulation.DEAD` at all of these timesteps and classes. None is a number that is not finite.
    """
    device, classes = unet.class_embed.weight.device, max(unet.config.num_classes, 1)
    timesteps = torch.linspace(0, num_timesteps - 1, min(TIMESTEPS, num_timesteps)).round().long()
    labels = torch.linspace(0, classes - 1, min(CLASSES, classes)).round().long()
    layers = [*modulations(unet, timesteps.to(device), labels.to(device)).values()]
    numbers: dict[str, Tensor] = {}
    for part in dict.fromkeys(part for parts in layers for part in parts):
        values = [parts[part].float() for parts in layers if part in parts]
        numbers |= {f"{part}_{name}": number for name, number in _numbers(values).items()}
        if part == "scale":
            gain = 1 + torch.cat(values, dim=2)                                                         # (T, K, sum C)
            # A comparison with nan is False, which would count as healthy.
            unknown = torch.where(gain.isfinite().all(), 0.0, math.nan)
            numbers["flips"] = (gain < 0).float().mean() + unknown
            numbers["dead"] = (gain.abs().amax(dim=(0, 1)) < DEAD).float().mean() + unknown
    found = torch.stack([*numbers.values()]).tolist() if numbers else []
    return {
        f"modulation/{name}": number if math.isfinite(number) else None
        for name, number in zip(numbers, found, strict=True)
    }


def _numbers(values: list[Tensor]) -> dict[str, Tensor]:
    """Strength and shares of one part, from its values in each layer, (T, K, C)."""
    joined, widths = torch.cat(values, dim=2), [v.shape[2] for v in values]                             # (T, K, sum C)
    _, *explained = effects(joined)
    squares = torch.stack([of.expand_as(joined).square().sum(dim=(0, 1)) for of in (joined, *explained)])
    # Split and summed, not scattered: on a GPU that would add up in another order every time.
    of_layer = torch.stack([part.sum(dim=1) for part in squares.split(widths, dim=1)])                  # (layers, 4)
    counts = torch.tensor(widths, device=joined.device) * joined[..., 0].numel()
    rms = (of_layer[:, 0] / counts).sqrt()
    total = of_layer[:, 1:].sum(dim=1, keepdim=True)
    shares = torch.where(total == 0, 0, of_layer[:, 1:] / total).mean(dim=0)     # nan where total is
    strength = {"rms": joined.square().mean().sqrt(), "rms_least": rms.min(), "rms_most": rms.max()}
    return strength | dict(zip(("timestep", "class", "interaction"), shares, strict=True))
