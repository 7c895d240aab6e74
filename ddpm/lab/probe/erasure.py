"""How much of a shift that is added before GroupNorm is lost: the norm subtracts each group's mean, and so the part of
the shift that a group's channels share."""

from torch import Tensor

from ddpm.evaluation.modulation import effects
from ddpm.lab.probe.results import Erasure


def erasure(layer: str, shift: Tensor, groups: int) -> Erasure:
    """The share of a shift's variation that is the same throughout a group.

    Shifts that are independent from channel to channel, of equal variance, lose 1 / (channels per group) on average:
    with one channel per group everything. What the norm's division changes is not counted: it depends on the image.

    Args:
        layer: its name.
        shift: (T, K, C), over timesteps and classes.
        groups: G of the norm, a divisor of C.
    """
    shift = shift.double()
    mean, timestep, class_, _ = effects(shift)
    per_group = shift.shape[2] // groups
    shares = [_erased(of, groups) for of in (shift - mean, timestep, class_)]
    return Erasure(layer, per_group, 1 / per_group, *shares)


def _erased(values: Tensor, groups: int) -> float | None:
    """Share of the squares of values (..., C) that is in the means of groups; None where all are 0."""
    grouped = values.unflatten(-1, (groups, -1))                                                    # (..., G, C / G)
    squares = float(grouped.square().sum())
    means = grouped.mean(dim=-1, keepdim=True).expand_as(grouped)
    return float(means.square().sum()) / squares if squares > 0 else None
