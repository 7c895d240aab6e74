"""The layers of the U-Net. All have the signature (h, emb) -> h, so that the U-Net can apply any of them."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.norm import EPS, AdaptiveNorm, GroupNorm, normalize, num_groups, without_autocast


class NoAttention(nn.Module):
    """The identity, in place of an attention layer at resolutions without attention."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return h: (B, C, H, W) -> (B, C, H, W)."""
        return h


def keep_resolution(h: Tensor) -> Tensor:
    """Return h: (B, C, H, W) -> (B, C, H, W)."""
    return h


def downsample(h: Tensor) -> Tensor:
    """Halve the resolution by 2x2 means: (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.avg_pool2d(h, 2)


def upsample(h: Tensor) -> Tensor:
    """Double the resolution by repeating pixels: (B, C, H, W) -> (B, C, 2H, 2W)."""
    with without_autocast(h):      # it would convert to float32, for copies of values
        return F.interpolate(h, scale_factor=2.0, mode="nearest")


def to_channels_last(h: Tensor) -> Tensor:
    """Store images in the memory format channels-last, in which convolutions are faster: (B, C, H, W) -> (B, C, H, W).

    Here and in `concatenate_channels`, the order of dimensions is written out because torch.compile (of torch 2.13)
    ignores memory formats on CPUs: it would store the result channels-first, and convert it for the next convolution.
    """
    return h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def concatenate_channels(h: Tensor, skip: Tensor) -> Tensor:
    """Concatenate images in channels-last order: (B, C, H, W), (B, C', H, W) -> (B, C + C', H, W)."""
    return torch.cat([h.permute(0, 2, 3, 1), skip.permute(0, 2, 3, 1)], dim=3).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Residual block whose second norm is conditioned on the embedding (Dhariwal & Nichol 2021, BigGAN style).

    Args:
        in_channels: C_in.
        channels: C_out.
        emb_channels: D.
        norm: an entry of NORMS, called with (C_out, D, groups).
        groups: number of groups as a function of the number of channels.
        dropout: probability, before the second convolution.
        resample: `keep_resolution`, `downsample` or `upsample`; applied before the first convolution and on the skip
            path.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        emb_channels: int,
        norm: type[AdaptiveNorm],
        groups: Callable[[int], int] = num_groups,
        dropout: float = 0.0,
        resample: Callable[[Tensor], Tensor] = keep_resolution,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups(in_channels), in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = norm(channels, emb_channels, groups(channels))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        self.resample = resample

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Apply the block: (B, C_in, H, W), (B, D) -> (B, C_out, H', W')."""
        residual = self.conv1(self.resample(normalize(self.norm1, h)))
        residual = self.conv2(self.dropout(normalize(self.norm2, residual, emb)))
        return self.skip(self.resample(h)) + residual


class SelfAttention(nn.Module):
    """Self-attention with N heads over the pixels, added to h.

    Args:
        channels: C.
        num_heads: N, a divisor of C.
        groups: number of groups of the norm as a function of C.
    """

    def __init__(self, channels: int, num_heads: int, groups: Callable[[int], int] = num_groups) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm(groups(channels), channels, eps=EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Attend: (B, C, H, W) -> (B, C, H, W)."""
        tokens = normalize(self.norm, h, silu=False).flatten(2).transpose(1, 2)                          # (B, HW, C)
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1))                                # (B, HW, 3, N, C/N)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                                          # (B, N, HW, C/N)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)                      # (B, HW, C)
        return h + self.proj(mixed).transpose(1, 2).unflatten(2, h.shape[2:])


class CrossAttention(nn.Module):
    """Cross-attention with N heads from the pixels to tokens of the class embedding, added to h.

    The class embedding is split into TOKENS tokens. With a single token the softmax would be constantly 1, and the
    layer would add the same vector at every pixel, whatever h is.

    Args:
        channels: C.
        emb_channels: D, of the class embedding; divisible by TOKENS.
        num_heads: N, a divisor of C.
        groups: number of groups of the norm as a function of C.
    """

    TOKENS = 4

    def __init__(
        self, channels: int, emb_channels: int, num_heads: int, groups: Callable[[int], int] = num_groups
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm(groups(channels), channels, eps=EPS)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(emb_channels // self.TOKENS, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, h: Tensor, classes: Tensor) -> Tensor:
        """Attend to the class: (B, C, H, W), (B, D) -> (B, C, H, W)."""
        pixels = normalize(self.norm, h, silu=False).flatten(2).transpose(1, 2)                          # (B, HW, C)
        q = self.q(pixels).unflatten(2, (self.num_heads, -1)).transpose(1, 2)                         # (B, N, HW, C/N)
        tokens = classes.unflatten(1, (self.TOKENS, -1))                                                # (B, 4, D/4)
        kv = self.kv(tokens).unflatten(2, (2, self.num_heads, -1))                                   # (B, 4, 2, N, C/N)
        k, v = kv.permute(2, 0, 3, 1, 4)                                                               # (B, N, 4, C/N)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)                      # (B, HW, C)
        return h + self.proj(mixed).transpose(1, 2).unflatten(2, h.shape[2:])


class Downsample(nn.Module):
    """Convolution of stride 2: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Halve the resolution: (B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(h)


class Upsample(nn.Module):
    """Nearest-neighbor upsampling followed by a convolution: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Double the resolution: (B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(upsample(h))


class Stage(nn.Module):
    """The layers of one resolution on one side of the U-Net.

    Args:
        side: `encoder`, `middle` or `decoder`.
        size: H = W in pixels.
        conditioned: whether timestep and class reach the norms of these layers.
        blocks: residual blocks.
        attentions: one self-attention or NoAttention per block.
        cross_attentions: one cross-attention or NoAttention per block.
        resample: the layer that leads to the next resolution; an empty list at the last one.
    """

    def __init__(
        self,
        side: str,
        size: int,
        conditioned: bool,
        blocks: list[nn.Module],
        attentions: list[nn.Module],
        cross_attentions: list[nn.Module],
        resample: list[nn.Module],
    ) -> None:
        super().__init__()
        self.side = side
        self.size = size
        self.conditioned = conditioned
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.cross_attentions = nn.ModuleList(cross_attentions)
        self.resample = nn.ModuleList(resample)

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
        """Yield each residual block with its self-attention and its cross-attention."""
        return zip(self.blocks, self.attentions, self.cross_attentions, strict=True)
