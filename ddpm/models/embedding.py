"""Embedding of the timestep. The class embedding is a plain nn.Embedding, whose last row is the null class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Cosines and sines of t at geometric frequencies from 1 down to 1/10000: (B,) -> (B, channels).

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
        """(B,) -> (B, D)."""
        features = sinusoid(t, self.channels).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))
