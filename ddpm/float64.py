"""Where float64 is computed: on any device but those of Apple, which have none."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}       # types of devices


def float64_device(device: torch.device) -> torch.device:
    """Return the device itself, or the CPU if the device has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def to_float64(x: Tensor) -> Tensor:
    """Return a tensor in float64, on its device or on the CPU if the device has no float64."""
    return x.to(float64_device(x.device)).double()
