"""The adaptive-normalization family: how the embedding of timestep and class enters a residual block.

Each member is a module (h, emb) -> h that owns its projection of the embedding. A new member is one class and one entry
in NORMS.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


def num_groups(channels: int, max_groups: int = 32, min_group_channels: int = 4) -> int:
    """The largest divisor of `channels` that is at most `max_groups` and leaves `min_group_channels` in each group.

    With one channel per group, GroupNorm erases whatever is added to a channel before it; four keep three quarters.
    """
    limit = max(1, min(max_groups, channels // min_group_channels))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


def group_norm(h: Tensor, groups: int, gain: Tensor, offset: Tensor) -> Tensor:
    """gain * GroupNorm(h) + offset, going through the image as few times as can be.

    Args:
        h: (B, C, H, W).
        groups: G, a divisor of C.
        gain, offset: (B, C, 1, 1) or (C, 1, 1).

    Returns:
        (B, C, H, W).
    """
    if not _by_sums(h):
        return torch.addcmul(offset, F.group_norm(h, groups, eps=EPS), gain)
    batch, channels = h.shape[:2]

    def means(values: Tensor) -> Tensor:
        sums = values.sum(dim=(2, 3)).view(batch, groups, -1).sum(dim=2, keepdim=True)
        return sums / (h[0].numel() // groups)                                                          # (B, G, 1)

    mean = means(h).expand(-1, -1, channels // groups)                                                  # (B, G, C / G)
    centred = h - mean.reshape(batch, channels, 1, 1)
    scale = gain.reshape(-1, groups, channels // groups) * (means(centred * centred) + EPS).rsqrt()     # (B, G, C / G)
    return torch.addcmul(offset, centred, scale.view(batch, channels, 1, 1), out=centred)


def _by_sums(h: Tensor) -> bool:
    """Whether plain sums are faster than torch's kernel: up to 3 times for small groups, on a CPU, in this layout."""
    usual = h.device.type == "cpu" and h.dtype in (torch.float32, torch.float64) and not torch.is_grad_enabled()
    return usual and h.is_contiguous(memory_format=torch.channels_last)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, with the fast way of `group_norm` where there is one."""

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not _by_sums(h):
            return super().forward(h)
        return group_norm(h, self.num_groups, self.weight[:, None, None], self.bias[:, None, None])


class AdaGN(nn.Module):
    """Adaptive group normalization: (1 + scale(emb)) * GroupNorm(h) + shift(emb).

    Dhariwal & Nichol 2021, arXiv 2105.05233, section 3.1. GroupNorm keeps its own weight and bias.

    Args:
        channels: C, of h.
        emb_channels: D, of emb.
        groups: G, a divisor of C.
    """

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.proj = nn.Linear(emb_channels, 2 * channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        scale, shift = self.proj(emb)[:, :, None, None].chunk(2, dim=1)                                 # (B, C, 1, 1)
        weight, bias = self.norm.weight[:, None, None], self.norm.bias[:, None, None]                   # (C, 1, 1)
        # The norm's own gain and bias join the modulation, so that the image is gone through once.
        gain, offset = torch.addcmul(weight, weight, scale), shift + torch.addcmul(bias, bias, scale)
        return group_norm(h, self.norm.num_groups, gain, offset)


class AdditiveGroupNorm(nn.Module):
    """Plain GroupNorm of h + shift(emb), the embedding added before the norm (Ho et al. 2020, appendix B).

    GroupNorm subtracts each group's mean, so of the shift only what differs within a group remains.

    Args:
        channels: C, of h.
        emb_channels: D, of emb.
        groups: G, a divisor of C.
    """

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=EPS)
        self.proj = nn.Linear(emb_channels, channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        return self.norm(h + self.proj(emb)[:, :, None, None])


NORMS = {"adagn": AdaGN, "groupnorm": AdditiveGroupNorm}
