"""The timestep embedding, and how timestep and class reach the layers.

The class embedding is a plain nn.Embedding; its last row is the null class, if there is one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Return cosines and sines of t at geometric frequencies from 1 down to 1/10000: (B,) -> (B, channels).

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
    """The path of timestep and class into the layers.

    Attributes:
        to_norms: (timestep embedding, class embedding) -> embedding for the adaptive norms, before its SiLU; the shapes
            broadcast to (..., D).
        cross_attention: whether cross-attention layers read the class embedding.
    """

    to_norms: Callable[[Tensor, Tensor], Tensor]
    cross_attention: bool = False


def _both(time: Tensor, classes: Tensor) -> Tensor:
    return time + classes


# An unused embedding is multiplied by 0, not omitted: DistributedDataParallel expects a gradient of every parameter.


def _timestep(time: Tensor, classes: Tensor) -> Tensor:
    return time + 0 * classes


def _class(time: Tensor, classes: Tensor) -> Tensor:
    return 0 * time + classes


def _none(time: Tensor, classes: Tensor) -> Tensor:
    return 0 * time + 0 * classes


CONDITIONINGS = {
    "both": Conditioning(_both),
    "timestep": Conditioning(_timestep),
    "class": Conditioning(_class),
    "none": Conditioning(_none),
    "cross_attention": Conditioning(_timestep, cross_attention=True),
}


class StageEmbedding(NamedTuple):
    """The embeddings that condition the layers of one stage.

    Attributes:
        norms: input of the projections of the adaptive norms, (B, D).
        classes: class embedding for cross-attention, (B, D).
    """

    norms: Tensor
    classes: Tensor
