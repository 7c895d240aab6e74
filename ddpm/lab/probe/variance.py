"""What the modulation varies with: two-way analysis of variance over timestep and class."""

from torch import Tensor

from ddpm.evaluation.modulation import effects
from ddpm.lab.probe.results import Variance


def variance(layer: str, part: str, values: Tensor) -> Variance:
    """Shares of the variance that timestep, class and their interaction explain, channels summed.

    Where the projection sees timestep plus class and nothing but linear maps lie between, the interaction is 0. In this
    U-Net a SiLU lies between, which is where an interaction comes from.

    Args:
        layer: its name.
        part: "scale" or "shift".
        values: (T, K, C).
    """
    values = values.double()
    sums = [float(of.expand_as(values).square().sum()) for of in effects(values)[1:]]
    total = sum(sums)
    shares = [of / total if total > 0 else 0.0 for of in sums]
    return Variance(layer, part, total / values.numel(), *shares)
