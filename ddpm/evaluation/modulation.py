"""The modulated layers of a U-Net, and the scales and shifts that timestep and class produce there, without images."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.models.norm import AdaptiveNorm
from ddpm.models.unet import UNet

# A channel whose gain |1 + scale| stays below this is effectively off: at most a twentieth of the feature remains.
DEAD = 0.05
# Maximum numbers of timesteps and classes in `summarize_modulation`, both evenly spaced.
TIMESTEPS, CLASSES = 4, 10


class ModulatedLayer(NamedTuple):
    """A layer whose norm is modulated.

    Attributes:
        name: as in `named_modules`, such as "down.0.blocks.0.norm2".
        side: "encoder", "middle" or "decoder".
        resolution: of its output in pixels.
        norm: the layer itself.
    """

    name: str
    side: str
    resolution: int
    norm: AdaptiveNorm


class Effects(NamedTuple):
    """Decomposition of values over timestep and class: mean + timestep + class_ + interaction.

    Attributes:
        mean: (1, 1, C), over everything.
        timestep: (T, 1, C), main effect of the timestep, averaged over classes.
        class_: (1, K, C), main effect of the class, averaged over timesteps.
        interaction: (T, K, C), the remainder.
    """

    mean: Tensor
    timestep: Tensor
    class_: Tensor
    interaction: Tensor


def modulated_layers(unet: UNet) -> list[ModulatedLayer]:
    """Return all adaptive norms of a U-Net in the order of the forward pass, including resampling blocks."""
    return [layer for layers in _by_stage(unet).values() for layer in layers]


@torch.no_grad()
def projection_inputs(unet: UNet, timesteps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the input of each modulated layer's projection in a forward pass.

    Args:
        unet: the model.
        timesteps: (B,).
        labels: classes in the U-Net's format, (B, ...).

    Returns:
        Layer name -> (B, D); layers with equal inputs share one tensor.
    """
    embeddings = unet.embeddings(timesteps, labels)
    return {layer.name: embeddings[stage].for_norms for stage, layers in _by_stage(unet).items() for layer in layers}


def projection_input_grid(unet: UNet, timesteps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the input of each modulated layer's projection at all pairs of a timestep and a class.

    Args:
        unet: the model.
        timesteps: (T,).
        labels: classes in the U-Net's format, (K, ...).

    Returns:
        Layer name -> (T, K, D); layers with equal inputs share one tensor.
    """
    T, K = len(timesteps), len(labels)
    found = projection_inputs(unet, timesteps.repeat_interleave(K), labels.repeat(T, *[1] * (labels.ndim - 1)))
    grids = {id(embs): embs.view(T, K, -1) for embs in found.values()}
    return {name: grids[id(embs)] for name, embs in found.items()}


@torch.no_grad()
def modulations(unet: UNet, timesteps: Tensor, labels: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return scale and shift of each modulated layer at the given timesteps and classes.

    Args:
        unet: the model.
        timesteps: (T,).
        labels: (K,) class ids, optionally with the null class; or weights of the class embeddings (K, rows).

    Returns:
        Layer name -> "scale" or "shift" -> (T, K, C). The norm multiplies by 1 + scale and adds shift.
    """
    inputs = projection_input_grid(unet, timesteps, labels)
    found = {}
    for layer in modulated_layers(unet):
        rows = inputs[layer.name].flatten(0, 1)                                                         # (T * K, D)
        outputs = layer.norm.proj(rows).view(len(timesteps), len(labels), -1)                           # (T, K, ...)
        parts = outputs.chunk(len(layer.norm.modulation), dim=2)                                        # (T, K, C)
        found[layer.name] = dict(zip(layer.norm.modulation, parts, strict=True))
    return found


def effects(values: Tensor) -> Effects:
    """Decompose values into the main effects of timestep and class and their interaction.

    The four terms are orthogonal, so their sums of squares add up (two-way analysis of variance with one value per
    cell; Fisher 1925).

    Args:
        values: (T, K, C).
    """
    mean = values.mean(dim=(0, 1), keepdim=True)                                                        # (1, 1, C)
    timestep = values.mean(dim=1, keepdim=True) - mean                                                  # (T, 1, C)
    class_ = values.mean(dim=0, keepdim=True) - mean                                                    # (1, K, C)
    return Effects(mean, timestep, class_, values - mean - timestep - class_)


def _by_stage(unet: UNet) -> dict[str, list[ModulatedLayer]]:
    """Return the modulated layers of each of `unet.stages`."""
    found = {}
    for stage_name, stage in unet.stages.items():
        # The norms of a resampling layer already see the next resolution.
        resampled = 2 * stage.size if stage.side == "decoder" else stage.size // 2
        found[stage_name] = [
            ModulatedLayer(
                f"{stage_name}.{name}", stage.side, resampled if name.startswith("resample.") else stage.size, module
            )
            for name, module in stage.named_modules()
            if isinstance(module, AdaptiveNorm)
        ]
    return found


@torch.no_grad()
def summarize_modulation(unet: UNet, num_timesteps: int) -> dict[str, float | None]:
    """Summarize the modulation at a few timesteps and classes in numbers that training logs.

    Each operation treats all layers together, and the numbers are fetched at once, so this costs little compared with a
    training step.

    Args:
        unet: the model, not wrapped.
        num_timesteps: T.

    Returns:
        Name -> number, or None for a number that is not finite. For each part that the model has, "scale" or "shift":

        - `modulation/PART_rms`: root mean square over all channels of all layers;
        - `modulation/PART_rms_least` and `modulation/PART_rms_most`: the same for the weakest and the strongest layer;
        - `modulation/PART_timestep`, `modulation/PART_class` and `modulation/PART_interaction`: fractions of the
          variance that these explain, mean over layers (0 in a layer where nothing varies).

        With a scale:

        - `modulation/flips`: fraction of all timesteps, classes and channels with 1 + scale < 0;
        - `modulation/dead`: fraction of channels with |1 + scale| < DEAD at all of these timesteps and classes.
    """
    device, classes = unet.class_embed.weight.device, max(unet.config.num_classes, 1)
    timesteps = torch.linspace(0, num_timesteps - 1, min(TIMESTEPS, num_timesteps)).round().long()
    labels = torch.linspace(0, classes - 1, min(CLASSES, classes)).round().long()
    layers = [*modulations(unet, timesteps.to(device), labels.to(device)).values()]
    numbers: dict[str, Tensor] = {}
    for part in dict.fromkeys(part for parts in layers for part in parts):
        values = [parts[part].float() for parts in layers if part in parts]
        numbers |= {f"{part}_{name}": number for name, number in _summarize_part(values).items()}
        if part == "scale":
            gain = 1 + torch.cat(values, dim=2)                                                         # (T, K, sum C)
            # Comparisons with nan are False, which would count as healthy.
            unknown = torch.where(gain.isfinite().all(), 0.0, math.nan)
            numbers["flips"] = (gain < 0).float().mean() + unknown
            numbers["dead"] = (gain.abs().amax(dim=(0, 1)) < DEAD).float().mean() + unknown
    found = zip(numbers, torch.stack([*numbers.values()]).tolist(), strict=True)
    return {f"modulation/{name}": number if math.isfinite(number) else None for name, number in found}


def _summarize_part(values: list[Tensor]) -> dict[str, Tensor]:
    """Compute the strength and the explained variance of one part, from its values in each layer, (T, K, C)."""
    joined, widths = torch.cat(values, dim=2), [v.shape[2] for v in values]                             # (T, K, sum C)
    _, *explained = effects(joined)
    squares = torch.stack([term.expand_as(joined).square().sum(dim=(0, 1)) for term in (joined, *explained)])
    # Sum the parts of a split: a scattered sum would add in a different order every time on a GPU.
    of_layer = torch.stack([part.sum(dim=1) for part in squares.split(widths, dim=1)])                  # (layers, 4)
    counts = torch.tensor(widths, device=joined.device) * joined[..., 0].numel()
    rms = (of_layer[:, 0] / counts).sqrt()
    total = of_layer[:, 1:].sum(dim=1, keepdim=True)
    fractions = torch.where(total == 0, 0, of_layer[:, 1:] / total).mean(dim=0)         # nan if the total is nan
    strength = {"rms": joined.square().mean().sqrt(), "rms_least": rms.min(), "rms_most": rms.max()}
    return strength | dict(zip(("timestep", "class", "interaction"), fractions, strict=True))
