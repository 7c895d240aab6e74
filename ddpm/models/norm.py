"""The adaptive-normalization family: how the embedding of timestep and class enters a residual block.

To add a norm, see "Where to add things" in docs/design.md.
"""

import importlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.recomputed_norm import recomputed_norm

EPS = 1e-5
LARGE = 2**18           # number of values from which `recomputed_norm` takes no longer than the plain form

try:
    KERNELS = importlib.import_module("ddpm.models.fused") if find_spec("triton") else None
except ImportError:         # this is code that was exported with a model, and the package is not installed
    KERNELS = None


@cache
def check_kernels() -> None:
    """Disable the kernels, with a warning, if Triton lacks what it needs on this machine, such as a C compiler."""
    global KERNELS
    if KERNELS is not None and torch.cuda.is_available():
        missing = importlib.import_module("ddpm.models.compilation").find_missing_tool(torch.device("cuda"))
        if missing is not None:
            warnings.warn(f"norms are computed by torch's operators, which is slower: a kernel {missing}", stacklevel=2)
            KERNELS = None


def num_groups(channels: int, max_groups: int = 32, min_group_channels: int = 4) -> int:
    """Return the largest divisor of `channels` up to `max_groups` that leaves `min_group_channels` in each group.

    With one channel per group, GroupNorm erases everything that is added to a channel before it; with four, three
    quarters remain.
    """
    limit = max(1, min(max_groups, channels // min_group_channels))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, which here also accepts groups of a single value.

    `torch.nn.functional.group_norm` refuses those, but AdaIN has them where the image is one pixel.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Normalize h: (B, C, H, W) -> (B, C, H, W)."""
        return torch.group_norm(h, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


class RMSNorm(nn.GroupNorm):
    """Divide by the root mean square over all channels and pixels; no mean is subtracted (Zhang & Sennrich 2019).

    A subclass of GroupNorm with one group, so that it has a weight and a bias that `UNet.initialize` finds; the paper
    (arXiv 1910.07467) has no bias.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=EPS)

    def forward(self, h: Tensor) -> Tensor:
        """Normalize h: (B, C, H, W) -> (B, C, H, W)."""
        # In 16 bits, squares overflow and small summands are lost.
        mean_square = h.to(torch.promote_types(h.dtype, torch.float32)).square().mean(dim=(1, 2, 3), keepdim=True)
        h = (h * (mean_square + EPS).rsqrt()).to(h.dtype)                                               # (B, C, H, W)
        return h * self.weight[:, None, None] + self.bias[:, None, None]


@torch.compiler.assume_constant_result      # torch.compile cannot trace the question before torch 2.12
def has_autocast(device_type: str) -> bool:
    """Return whether a type of device has autocast; some, such as meta, have none."""
    return torch.amp.is_autocast_available(device_type)


def is_autocast(x: Tensor) -> bool:
    """Return whether autocast is on for the device of a tensor."""
    return has_autocast(x.device.type) and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which autocast is off for the device of a tensor."""
    return torch.autocast(x.device.type, enabled=False) if is_autocast(x) else nullcontext()


class Projection(nn.Linear):
    """A linear layer of an embedding, which autocast leaves in the type of its weight.

    It costs nothing next to convolutions, and a modulation in 16 bits would have two or three digits.
    """

    def forward(self, emb: Tensor) -> Tensor:
        """Project: (B, D) -> (B, D')."""
        with without_autocast(emb):
            return super().forward(emb.to(self.weight.dtype))


class AdaptiveNorm(nn.Module):
    """A normalization layer that is modulated by an embedding, a module (h, emb) -> h.

    Subclasses may have more parameters. They start with the values that the constructor gives them, which must be
    constants.

    Args:
        channels: C, the channels of h.
        emb_channels: D, the width of emb.
        groups: G, a divisor of C.

    Attributes:
        norm: normalization layer with a weight and a bias per channel.
        proj: projection of the embedding to `modulation`.
        modulation: outputs of `proj` in their order: ("scale", "shift"), ("scale",) or ("shift",). The scale multiplies
            as (1 + scale) and the shift is added; `summarize_modulation` and the probe rely on this.
        shift_before_norm: whether the shift is added before the norm, which partly erases it.
        match_parameters_of: the entry of NORMS whose parameter count a U-Net with this norm is widened to, or None.
    """

    modulation: ClassVar[tuple[str, ...]]
    shift_before_norm: ClassVar[bool] = False
    match_parameters_of: ClassVar[str | None] = None

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__()
        self.norm: nn.GroupNorm = GroupNorm(groups, channels, eps=EPS)
        self.proj = Projection(emb_channels, len(self.modulation) * channels)


class AdaGN(AdaptiveNorm):
    """Adaptive group normalization: (1 + scale(emb)) * GroupNorm(h) + shift(emb).

    Dhariwal & Nichol 2021, arXiv 2105.05233, section 3.1. GroupNorm keeps its own weight and bias.
    """

    modulation = ("scale", "shift")

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Normalize and modulate: (B, C, H, W), (B, D) -> (B, C, H, W)."""
        scale, shift = self.proj(emb)[:, :, None, None].chunk(2, dim=1)                                 # (B, C, 1, 1)
        return self.norm(h) * (1 + scale) + shift


class AdaGNScale(AdaptiveNorm):
    """AdaGN without its shift: (1 + scale(emb)) * GroupNorm(h)."""

    modulation = ("scale",)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Normalize and modulate: (B, C, H, W), (B, D) -> (B, C, H, W)."""
        scale = self.proj(emb)[:, :, None, None]                                                        # (B, C, 1, 1)
        return self.norm(h) * (1 + scale)


class AdaGNShift(AdaptiveNorm):
    """AdaGN without its scale: GroupNorm(h) + shift(emb). A shift after the norm is not erased by it."""

    modulation = ("shift",)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Normalize and modulate: (B, C, H, W), (B, D) -> (B, C, H, W)."""
        shift = self.proj(emb)[:, :, None, None]                                                        # (B, C, 1, 1)
        return self.norm(h) + shift


class AdaIN(AdaGN):
    """Adaptive instance normalization (Huang & Belongie 2017, arXiv 1703.06868): AdaGN with one group per channel.

    The shift follows the norm and is kept in full, unlike the shift of AdditiveGroupNorm with one channel per group.
    The relative strength of the channels is lost, and at a resolution of one pixel h is lost completely.
    """

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups=channels)


class AdaLN(AdaGN):
    """Adaptive layer normalization: AdaGN with one group (Wu & He 2018, arXiv 1803.08494, figure 2)."""

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups=1)


class AdaRMS(AdaGN):
    """Adaptive root-mean-square normalization: (1 + scale(emb)) * RMSNorm(h) + shift(emb)."""

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups)
        self.norm = RMSNorm(channels)


class AdditiveGroupNorm(AdaptiveNorm):
    """Plain GroupNorm of h + shift(emb): the embedding is added before the norm (Ho et al. 2020, appendix B).

    GroupNorm subtracts each group's mean, so only the differences of the shift within a group remain. This erases
    1 / (channels per group) of the variance of independent shifts: the whole variance with one channel per group, a
    quarter with four, the minimum of `num_groups`.
    """

    modulation = ("shift",)
    shift_before_norm = True

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Modulate and normalize: (B, C, H, W), (B, D) -> (B, C, H, W)."""
        shift = self.proj(emb)[:, :, None, None]                                                        # (B, C, 1, 1)
        return self.norm(h + shift)


class MatchedGroupNorm(AdditiveGroupNorm):
    """AdditiveGroupNorm in a U-Net whose embedding is widened until it has as many parameters as with AdaGN."""

    match_parameters_of = "adagn"


NORMS: dict[str, type[AdaptiveNorm]] = {
    "adagn": AdaGN,
    "groupnorm": AdditiveGroupNorm,
    "groupnorm_matched": MatchedGroupNorm,
    "adain": AdaIN,
    "adaln": AdaLN,
    "adarms": AdaRMS,
    "adagn_scale": AdaGNScale,
    "adagn_shift": AdaGNShift,
}


def normalize(
    norm: nn.Module, h: Tensor, emb: Tensor | None = None, *, silu: bool = True, dtype: torch.dtype | None = None
) -> Tensor:
    """Apply a norm, and then SiLU: (B, C, H, W) -> (B, C, H, W).

    On GPUs with Triton, one kernel computes the equations of this file together with SiLU (see `ddpm.models.fused`).
    In training on CPUs, one operator that stores less computes them if h is large (see `ddpm.models.recomputed_norm`).
    Otherwise, and for norms with a `forward` of their own or with hooks, they are computed as they stand here.

    Args:
        norm: a GroupNorm, or a module (h, emb) -> h such as the members of NORMS.
        h: images.
        emb: the embedding (B, D), for norms that take one.
        silu: whether SiLU follows.
        dtype: of the result; by default that of autocast, and without autocast that of h.
    """
    if dtype is None:
        mixed = is_autocast(h) and h.dtype != torch.float64
        dtype = torch.get_autocast_dtype(h.device.type) if mixed else h.dtype
    fused = _find_operator(norm, h)
    if fused is None:
        # In place only if norm(h) is a new tensor and nothing is differentiated; a trace may be differentiated later.
        in_place = _is_known(norm) and not torch.is_grad_enabled() and not torch.jit.is_tracing()
        h = norm(h) if emb is None else norm(h, emb)
        return (F.silu(h, inplace=in_place) if silu else h).to(dtype)
    if not isinstance(norm, AdaptiveNorm):
        return fused(
            h, norm.weight, norm.bias, None, norm.num_groups, norm.eps, dtype,
            center=not isinstance(norm, RMSNorm), silu=silu,
        )
    inner = norm.norm
    return fused(
        h, inner.weight, inner.bias, norm.proj(emb), inner.num_groups, inner.eps, dtype, parts=norm.modulation,
        before=norm.shift_before_norm, center=not isinstance(inner, RMSNorm), silu=silu,
    )


def _find_operator(norm: nn.Module, h: Tensor) -> Callable[..., Tensor] | None:
    """Return the function that computes a norm and SiLU as one operator; None for the equations of this file."""
    if not _is_known(norm):
        return None
    if h.is_cuda:
        return None if KERNELS is None or h.dtype == torch.float64 else KERNELS.modulated_norm
    full_precision = h.dtype in (torch.float32, torch.float64) and not is_autocast(h)
    if not (h.device.type == "cpu" and full_precision and torch.is_grad_enabled() and h.ndim == 4):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():         # they need torch's own operators
        return None
    large = h.numel() >= LARGE and h.is_contiguous(memory_format=torch.channels_last)
    return recomputed_norm if large else None


# What the operators compute. A subclass with another `forward` is another equation.
_EQUATIONS = tuple(
    norm.forward for norm in (GroupNorm, RMSNorm, AdaGN, AdaGNScale, AdaGNShift, AdditiveGroupNorm)
)


def _is_known(norm: nn.Module) -> bool:
    """Return whether a norm and its inner norm are those of this file, without hooks and with their own `forward`."""
    parts = (norm, norm.norm) if isinstance(norm, AdaptiveNorm) else (norm,)
    return not nn.modules.module._has_any_global_hook() and all(
        type(part).forward in _EQUATIONS
        and "forward" not in part.__dict__          # accelerate loads offloaded weights in a function of its own
        and not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
        and (isinstance(part, AdaptiveNorm) or (part.weight is not None and part.bias is not None))
        for part in parts
    )
