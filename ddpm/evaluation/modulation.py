"""The modulated layers of a U-Net, and the scales and shifts that timestep and class produce there, without images."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

# A channel whose gain |1 + scale| stays below this is effectively off: at most a twentieth of the feature remains.
DEAD = 0.05


class ModulatedLayer(NamedTuple):
    """A layer whose norm is modulated.

    Attributes:
        name: as in `named_modules`, such as "down.0.blocks.0.norm2".
        depth: "encoder", "middle" or "decoder".
        resolution: of its output in pixels.
        norm: the module, a member of NORMS.
    """

    name: str
    depth: str
    resolution: int
    norm: nn.Module


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
    """Return all members of NORMS in a U-Net in the order of the forward pass, including resampling blocks."""
    return [layer for layers in _by_level(unet).values() for layer in layers]


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
    return {layer.name: embeddings[level].norms for level, layers in _by_level(unet).items() for layer in layers}


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
    T, K = len(timesteps), len(labels)
    inputs = projection_inputs(unet, timesteps.repeat_interleave(K), labels.repeat(T, *[1] * (labels.ndim - 1)))
    found = {}
    for layer in modulated_layers(unet):
        parts = layer.norm.proj(inputs[layer.name]).view(T, K, -1).chunk(len(layer.norm.parts), dim=2)  # (T, K, C)
        found[layer.name] = dict(zip(layer.norm.parts, parts, strict=True))
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


def _by_level(unet: UNet) -> dict[str, list[ModulatedLayer]]:
    """Return the modulated layers of each of `unet.levels`."""
    found = {}
    for level_name, level in unet.levels.items():
        # The norms of a resampling layer already see the next resolution.
        resampled = 2 * level.size if level.depth == "decoder" else level.size // 2
        found[level_name] = [
            ModulatedLayer(
                f"{level_name}.{name}", level.depth, resampled if name.startswith("resample.") else level.size, module
            )
            for name, module in level.named_modules()
            if isinstance(module, tuple(NORMS.values()))
        ]
    return found
