"""Statistics of one layer's modulation: strength, variance, symptoms of failure, and what GroupNorm erases."""

import torch
from torch import Tensor

from ddpm.evaluation.modulation import DEAD, effects
from ddpm.float64 import to_float64
from ddpm.lab.probe.results import Erasure, Strength, Symptoms, Variance

SHOWN_CHANNELS = 16     # channels whose values are recorded individually
# A normalized feature has unit variance. At ten times that, or ten standard deviations away from it, one channel
# outweighs a hundred others in the sum of squares that enters a convolution.
EXPLODING = 10.0
# Standard deviation over timesteps and classes. Moving a feature by a thousandth of its own standard deviation makes no
# visible difference in an image of 256 gray levels.
UNMOVED = 1e-3


def measure_strength(layer: str, part: str, values: Tensor) -> Strength:
    """Compute the root mean square over channels at every timestep and class, and find the channels that vary most.

    Args:
        layer: name of the layer.
        part: "scale" or "shift".
        values: (T, K, C).
    """
    values = to_float64(values).cpu()
    spread = values.flatten(0, 1).var(dim=0, correction=0)                                              # (C,)
    channels = spread.argsort(descending=True, stable=True)[:SHOWN_CHANNELS]
    rms = values.square().mean(dim=2).sqrt()                                                            # (T, K)
    return Strength(layer, part, rms.tolist(), values[..., channels].mean(dim=1).tolist(), channels.tolist())


def analyze_variance(layer: str, part: str, values: Tensor) -> Variance:
    """Compute the fractions of the variance that timestep, class and their interaction explain, over all channels.

    If the projection saw timestep plus class through linear maps only, the interaction would be 0. In this U-Net it
    comes from the SiLU between them.

    Args:
        layer: name of the layer.
        part: "scale" or "shift".
        values: (T, K, C).
    """
    values = to_float64(values)
    sums = [float(effect.expand_as(values).square().sum()) for effect in effects(values)[1:]]
    total = sum(sums)
    fractions = [one / total if total > 0 else 0.0 for one in sums]
    return Variance(layer, part, total / values.numel(), *fractions)


def count_symptoms(layer: str, parts: dict[str, Tensor], weight: Tensor, reached: bool) -> Symptoms:
    """Count sign flips and symptoms of failure in a layer that modulates the output of its norm.

    Args:
        layer: name of the layer.
        parts: (T, K, C) values of "scale" and "shift", as far as the layer has them.
        weight: (C,), the weight of the norm; times 1 + scale it is the gain of a channel.
        reached: whether timestep or class are meant to reach the layer.
    """
    gain = {"scale": weight * (1 + parts["scale"])} if "scale" in parts else {}
    sizes = torch.stack([*(parts | gain).values()]).abs()                                               # (P, T, K, C)
    spread = torch.stack([*parts.values()]).std(dim=(1, 2), correction=0)                               # (P, C)
    return Symptoms(
        layer,
        _fraction(1 + parts["scale"] < 0) if gain else None,
        _fraction(gain["scale"].abs().amax(dim=(0, 1)) < DEAD) if gain else None,
        _fraction(sizes.amax(dim=(0, 1, 2)) > EXPLODING),
        _fraction(spread.amax(dim=0) < UNMOVED) if reached else None,
    )


def measure_erasure(layer: str, shift: Tensor, groups: int) -> Erasure:
    """Compute how much of a shift that is added before GroupNorm is lost.

    The norm subtracts the mean of each group, and with it the component of the shift that all channels of a group have
    in common. Shifts that are independent between channels, with equal variance, lose 1 / (channels per group) on
    average: everything, if a group is one channel. The effect of the norm's division depends on the image and is not
    counted.

    Args:
        layer: name of the layer.
        shift: (T, K, C), over timesteps and classes.
        groups: G of the norm, a divisor of C.
    """
    shift = to_float64(shift)
    mean, timestep, class_, _ = effects(shift)
    per_group = shift.shape[2] // groups
    fractions = [_erased(values, groups) for values in (shift - mean, timestep, class_)]
    return Erasure(layer, per_group, 1 / per_group, *fractions)


def _erased(values: Tensor, groups: int) -> float | None:
    """Return the fraction of the squares of values (..., C) that is in the group means; None if all are 0."""
    grouped = values.unflatten(-1, (groups, -1))                                                    # (..., G, C / G)
    squares = float(grouped.square().sum())
    means = grouped.mean(dim=-1, keepdim=True).expand_as(grouped)
    return float(means.square().sum()) / squares if squares > 0 else None


def _fraction(condition: Tensor) -> float:
    return float(to_float64(condition).mean())
