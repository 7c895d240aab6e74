"""The timestep embedding, and how timestep and class reach the layers.

The class embedding is a plain nn.Embedding; its last row is the null class, if there is one.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Return cosines and sines of t at geometric frequencies from 1 down to almost 1/10000: (B,) -> (B, channels).

    Cosines come first, as in the released ADM models; an odd last channel is zero.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies                                                           # (B, half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, channels % 2))


class TimestepEmbedding(nn.Module):
    """MLP of the sinusoids of t: (B,) -> (B, D).

    Args:
        channels: number of sinusoids.
        emb_channels: D.
    """

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear1 = nn.Linear(channels, emb_channels)
        self.linear2 = nn.Linear(emb_channels, emb_channels)

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps: (B,) -> (B, D)."""
        features = sinusoid(t, self.channels).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


class Conditioning(NamedTuple):
    """The paths of timestep and class into the layers.

    The adaptive norms get timestep * timestep embedding + classes * class embedding. An unused embedding is multiplied
    by 0, not omitted, because DistributedDataParallel expects a gradient of every parameter.

    Attributes:
        timestep: 1 if the adaptive norms get the timestep embedding, else 0.
        classes: 1 if the adaptive norms get the class embedding, else 0.
        cross_attention: whether cross-attention layers read the class embedding.
    """

    timestep: int
    classes: int
    cross_attention: bool = False


CONDITIONINGS = {
    "both": Conditioning(1, 1),
    "timestep": Conditioning(1, 0),
    "class": Conditioning(0, 1),
    "none": Conditioning(0, 0),
    "cross_attention": Conditioning(1, 0, cross_attention=True),
}


class StageEmbedding(NamedTuple):
    """The embeddings that condition the layers of one stage.

    Attributes:
        for_norms: input of the projections of the adaptive norms, (B, D).
        for_cross_attention: the class embedding, (B, D).
    """

    for_norms: Tensor
    for_cross_attention: Tensor
