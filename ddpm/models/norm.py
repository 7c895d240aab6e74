"""The adaptive-normalization family: how the embedding of timestep and class enters a residual block.

Each member of NORMS is a module (h, emb) -> h, called with (channels, emb_channels, groups), that has

- `norm`, an nn.GroupNorm with weight and bias of its own, and `proj`, the projection of the embedding;
- `parts`, what `proj` yields, in this order: `scale` enters as (1 + scale), `shift` is added;
- `shift_before_norm`, whether the shift is added before the norm, which erases a part of it;
- `parameters_of`, the member whose number of parameters a U-Net of this one is widened to, or None.

A new member is one class and one entry.
"""

from typing import ClassVar

import torch
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
        # Not by torch.nn.functional, which refuses groups of a single value.
        normalised = torch.group_norm(h, groups, eps=EPS, cudnn_enabled=torch.backends.cudnn.enabled)
        return torch.addcmul(offset, normalised, gain)
    batch, channels = h.shape[:2]

    def means(values: Tensor) -> Tensor:
        sums = values.sum(dim=(2, 3)).view(batch, groups, -1).sum(dim=2, keepdim=True)
        return sums / (h[0].numel() // groups)                                                          # (B, G, 1)

    mean = means(h).expand(-1, -1, channels // groups)                                                  # (B, G, C / G)
    centred = h - mean.reshape(batch, channels, 1, 1)
    scale = gain.reshape(-1, groups, channels // groups) * (means(centred * centred) + EPS).rsqrt()     # (B, G, C / G)
    return torch.addcmul(offset, centred, scale.view(batch, channels, 1, 1), out=centred)


def rms_norm(h: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """gain * h / RMS(h) + offset, the root mean square taken over all values of an image.

    Args:
        h: (B, C, H, W).
        gain, offset: (B, C, 1, 1) or (C, 1, 1).

    Returns:
        (B, C, H, W).
    """
    # Squares of 16-bit numbers overflow, or lose what small ones add.
    values = h.to(torch.promote_types(h.dtype, torch.float32))
    mean_square = values.square().mean(dim=(1, 2, 3), keepdim=True)                                     # (B, 1, 1, 1)
    # The product is rounded, not its factors: of h in the ten thousands, 1 / RMS alone has few digits in float16.
    return torch.addcmul(offset, h, (gain * (mean_square + EPS).rsqrt()).to(gain.dtype))


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

    parts: ClassVar[tuple[str, ...]] = ("scale", "shift")
    shift_before_norm: ClassVar[bool] = False
    parameters_of: ClassVar[str | None] = None

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.proj = nn.Linear(emb_channels, len(self.parts) * channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        return group_norm(h, self.norm.num_groups, *self.gain_and_offset(emb))

    def gain_and_offset(self, emb: Tensor) -> tuple[Tensor, Tensor]:
        """What the normalised image is multiplied by, and what is added then: (B, D) -> (B, C, 1, 1), or (C, 1, 1)."""
        modulation = self.proj(emb)[:, :, None, None].chunk(len(self.parts), dim=1)                     # (B, C, 1, 1)
        part = dict(zip(self.parts, modulation, strict=True))
        # The norm's own gain and bias join the modulation, so that the image is gone through once.
        gain, offset = self.norm.weight[:, None, None], self.norm.bias[:, None, None]                   # (C, 1, 1)
        if "scale" in part:
            gain, offset = (torch.addcmul(own, own, part["scale"]) for own in (gain, offset))
        if "shift" in part:
            offset = part["shift"] + offset
        return gain, offset


class AdaGNScale(AdaGN):
    """AdaGN without its shift: (1 + scale(emb)) * GroupNorm(h)."""

    parts = ("scale",)


class AdaGNShift(AdaGN):
    """AdaGN without its scale: GroupNorm(h) + shift(emb). After the norm, nothing of the shift is erased."""

    parts = ("shift",)


class AdaIN(AdaGN):
    """Adaptive instance normalization (Huang & Belongie 2017, arXiv 1703.06868): AdaGN with a group for each channel.

    The shift comes after the norm, so nothing of it is erased, unlike that of AdditiveGroupNorm in such groups. But how
    strong the channels are beside each other is lost, and at one pixel all of h is.

    Args:
        channels: C, of h.
        emb_channels: D, of emb.
        groups: not used.
    """

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups=channels)


class AdaLN(AdaGN):
    """Adaptive layer normalization: one group, of all channels and pixels (Wu & He 2018, arXiv 1803.08494, figure 2).

    Args:
        channels: C, of h.
        emb_channels: D, of emb.
        groups: not used.
    """

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups=1)


class AdaRMS(AdaLN):
    """Adaptive root-mean-square normalization: AdaLN that subtracts no mean (Zhang & Sennrich 2019, arXiv 1910.07467).

    Of `norm`, weight and bias are used; the paper has no bias, and here it is what the other members have.
    """

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        return rms_norm(h, *self.gain_and_offset(emb))


class AdditiveGroupNorm(nn.Module):
    """Plain GroupNorm of h + shift(emb), the embedding added before the norm (Ho et al. 2020, appendix B).

    GroupNorm subtracts each group's mean, so of the shift only what differs within a group remains: of the variance of
    independent shifts, 1 / (channels per group) is erased. That is all of it at one channel per group, and a quarter at
    four, the fewest that `num_groups` leaves.

    Args:
        channels: C, of h.
        emb_channels: D, of emb.
        groups: G, a divisor of C.
    """

    parts: ClassVar[tuple[str, ...]] = ("shift",)
    shift_before_norm: ClassVar[bool] = True
    parameters_of: ClassVar[str | None] = None

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=EPS)
        self.proj = nn.Linear(emb_channels, channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        return self.norm(h + self.proj(emb)[:, :, None, None])


class MatchedGroupNorm(AdditiveGroupNorm):
    """AdditiveGroupNorm in a U-Net whose embedding is widened until it has as many parameters as with AdaGN."""

    parameters_of = "adagn"


NORMS = {
    "adagn": AdaGN,
    "groupnorm": AdditiveGroupNorm,
    "groupnorm_matched": MatchedGroupNorm,
    "adain": AdaIN,
    "adaln": AdaLN,
    "adarms": AdaRMS,
    "adagn_scale": AdaGNScale,
    "adagn_shift": AdaGNShift,
}
