"""How strong the modulation is, and what it looks like."""

from torch import Tensor

from ddpm.lab.probe.results import Strength

SHOWN = 16      # channels whose values are kept one by one


def strength(layer: str, part: str, values: Tensor) -> Strength:
    """Root mean square over channels at every timestep and class, and the channels that vary most.

    Args:
        layer: its name.
        part: "scale" or "shift".
        values: (T, K, C).
    """
    values = values.double().cpu()
    spread = values.flatten(0, 1).var(dim=0, correction=0)                                              # (C,)
    channels = spread.argsort(descending=True, stable=True)[:SHOWN]
    rms = values.square().mean(dim=2).sqrt()                                                            # (T, K)
    return Strength(layer, part, rms.tolist(), values[..., channels].mean(dim=1).tolist(), channels.tolist())
