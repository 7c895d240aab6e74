"""The number of operations of a network."""

import json
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.models.unet import UNet

FORWARD_PASSES = 3      # forward passes with as many operations as a training step: backward has twice those of forward


def multiply_adds(unet: UNet) -> int:
    """Count the multiply-adds of one forward pass on one image, in convolutions, linear layers and attention."""
    options = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return _count_multiply_adds(json.dumps(options))


@cache      # because tracing takes half a second, and a program asks several times
def _count_multiply_adds(options: str) -> int:
    """Count the multiply-adds of a U-Net from its options, in JSON because the keys of a cache must be hashable."""
    with torch.device("meta"):          # shapes suffice
        unet = UNet(**json.loads(options))
        sample = torch.zeros(1, unet.config.in_channels, unet.config.resolution, unet.config.resolution)
    # The counter knows the matrix products of plain attention, but not every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(sample, 0, torch.zeros(1, dtype=torch.int64, device="meta"))
    return counter.get_total_flops() // 2
