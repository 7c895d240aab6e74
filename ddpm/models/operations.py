"""The number of operations of a network."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.models.unet import UNet

FORWARD_PASSES = 3      # forward passes with as many operations as a training step: backward has twice those of forward


def multiply_adds(unet: UNet) -> int:
    """Count the multiply-adds of one forward pass on one image, in convolutions, linear layers and attention."""
    c = unet.config
    with torch.device("meta"):          # shapes suffice
        twin = UNet(**{name: value for name, value in c.items() if not name.startswith("_")})
        sample = torch.zeros(1, c.in_channels, c.resolution, c.resolution)
    # The counter knows the matrix products of plain attention, but not every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin(sample, 0, torch.zeros(1, dtype=torch.int64, device="meta"))
    return counter.get_total_flops() // 2
