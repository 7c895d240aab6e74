"""Signs of failure (channels switched off, exploding, or moved by nothing), and sign flips, which are no failure."""

import torch
from torch import Tensor

from ddpm.evaluation.modulation import DEAD
from ddpm.lab.probe.results import Signs

# A normalised feature has unit variance. At ten times that, or ten standard deviations beside it, one channel outweighs
# a hundred others in the sum of squares that a convolution takes in.
EXPLODING = 10.0
# Standard deviation over timesteps and classes. What moves a feature by a thousandth of its own standard deviation
# makes no difference that could be seen in an image of 256 levels.
UNMOVED = 1e-3


def signs(layer: str, parts: dict[str, Tensor], weight: Tensor, reached: bool) -> Signs:
    """Counts them in one layer that modulates what its norm yields, features of unit variance.

    Args:
        layer: its name.
        parts: "scale" and "shift", as it has them -> (T, K, C).
        weight: (C,), of the norm; with 1 + scale it is the gain of a channel.
        reached: whether timestep or class are meant to reach the layer.
    """
    factor = 1 + parts["scale"] if "scale" in parts else None
    gain = None if factor is None else weight * factor
    sizes = torch.stack([gain if part == "scale" else values for part, values in parts.items()]).abs()  # (P, T, K, C)
    spread = torch.stack([*parts.values()]).std(dim=(1, 2), correction=0)                               # (P, C)
    return Signs(
        layer,
        None if factor is None else _share(factor < 0),
        None if gain is None else _share(gain.abs().amax(dim=(0, 1)) < DEAD),
        _share(sizes.amax(dim=(0, 1, 2)) > EXPLODING),
        _share(spread.amax(dim=0) < UNMOVED) if reached else None,
    )


def _share(condition: Tensor) -> float:
    return float(condition.double().mean())
