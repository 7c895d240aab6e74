"""Normalization, modulation by an embedding, and SiLU of images as one operator with kernels of its own.

    x = h + shift                       # a shift before the norm, or none
    x_hat = (x - mean) / std            # of each image and group; mean 0 for the root mean square
    z = (1 + scale) * (weight * x_hat + bias) + shift           # a shift after the norm, or none
    y = silu(z) or z

torch's operators read and write h about twenty times for this. Here forward reads h and writes y, and backward reads
h and the gradient and writes a gradient: everything between is computed again instead of stored. Statistics and sums
are in float32, whatever the type of h.

The plain form is `ddpm.models.norm`. The kernels are Triton's (`ddpm.models.norm_kernels`), which is imported at the
first call; registered operators are opaque to torch.compile, and known to it by shape.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

# Widths of tiles, unless groups are larger: 64 or 128 bytes of a pixel in 16 bits.
LANES = 32, 64
WHOLE = 32768       # values that a program reads twice, the second time from the cache, which other programs share
VALUES = 64         # of each thread of a program, so that the sums over threads cost little next to them
TILE = 16           # values of each thread at a time
MAX_WARPS = 8
# Registers of a thread, so that 32 or 16 warps run at the same time on a processor of a GPU.
FORWARD_REGISTERS, BACKWARD_REGISTERS = 64, 96


class Tiling(NamedTuple):
    """How the kernels divide an image.

    Attributes:
        whole: whether a program handles all pixels of its groups, so that h is read only once from memory.
        groups: groups of a program.
        lanes: channels of a tile, a power of 2; those beyond the groups are idle.
        pixels: pixels of a tile, a power of 2.
        rows: pixels of a program.
        chunks: programs that share the same groups of an image.
        warps: of a program.
        even: whether all tiles are full.
        shared: how many neighboring lanes surely have the same group, a power of 2.
    """

    whole: bool
    groups: int
    lanes: int
    pixels: int
    rows: int
    chunks: int
    warps: int
    even: bool
    shared: int

    @property
    def launches(self) -> int:
        """Kernels of a forward pass, and as many of a backward pass."""
        return 1 if self.whole else 2


def divide(pixels: int, channels: int, groups: int) -> Tiling:
    """Divide images among the programs of the kernels.

    Args:
        pixels: P, the pixels of an image, height times width.
        channels: C.
        groups: G, a divisor of C.
    """
    per_group, all_pixels = channels // groups, _power_of_2(pixels)
    narrow, wide = (max(lanes, _power_of_2(per_group)) for lanes in LANES)
    whole = all_pixels * narrow <= WHOLE
    lanes = narrow if whole and all_pixels * wide > WHOLE else wide
    blocks = -(-groups // (lanes // per_group))
    together = -(-groups // blocks)             # blocks of equal size
    lanes = _power_of_2(together * per_group)
    # With 8 sqrt(P) rows, the sums of all chunks, which each program reads, are at most 3 % of the bytes of its rows.
    rows = pixels if whole else _power_of_2(int(8 * math.sqrt(pixels)))
    warps = min(MAX_WARPS, max(1, _power_of_2(rows) * lanes // (32 * VALUES)))
    tile = max(1, min(_power_of_2(rows), 32 * warps * TILE // lanes))
    chunks = -(-pixels // rows)
    even = pixels % tile == 0 and together * per_group == lanes and channels % lanes == 0
    shared = lanes if together == 1 else per_group & -per_group
    return Tiling(whole, together, lanes, tile, rows, chunks, warps, even, shared)


def _power_of_2(number: int) -> int:
    """Return the smallest power of 2 that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def _grid(h: Tensor, groups: int, registers: int) -> tuple[Tiling, tuple[int, int], dict[str, int]]:
    """Return how an image is divided, the programs, and what all kernels are compiled for."""
    batch, channels = h.shape[:2]
    p = divide(h.shape[2:].numel(), channels, groups)
    sizes = {"WIDTH": p.groups * channels // groups, "BLOCK_P": p.pixels, "BLOCK_C": p.lanes, "EVEN": p.even}
    options = {"num_warps": p.warps, "enable_fp_fusion": True}
    options |= {} if torch.version.hip else {"maxnreg": registers}          # an option for GPUs of NVIDIA
    return p, (batch * -(-groups // p.groups), p.chunks), {**sizes, **options}


def on_device_of_first(act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs on the GPU of its first argument, because Triton uses the current GPU."""

    @wraps(act)
    def act_there(tensor: Tensor, *arguments: Any) -> Any:
        with torch.cuda.device_of(tensor):
            return act(tensor, *arguments)

    return act_there


@cache
def _kernels() -> Any:
    return importlib.import_module("ddpm.models.norm_kernels")


_COMMON = "Tensor weight, Tensor bias, Tensor? modulation"
_FORM = "int groups, bool center, bool scale, bool shift, bool before, bool silu"
torch.library.define(
    "ddpm::modulated_norm", f"(Tensor h, {_COMMON}, {_FORM}, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)"
)
torch.library.define(
    "ddpm::modulated_norm_backward",
    f"(Tensor grad, Tensor h, {_COMMON}, Tensor mean, Tensor rstd, {_FORM}) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("ddpm::modulated_norm")
def _empty_outputs(h, weight, bias, modulation, groups, center, scale, shift, before, silu, eps, dtype):  # type: ignore
    y = torch.empty_like(h, dtype=dtype, memory_format=torch.channels_last)
    return y, h.new_empty(len(h), groups, dtype=torch.float32), h.new_empty(len(h), groups, dtype=torch.float32)


@torch.library.register_fake("ddpm::modulated_norm_backward")
def _empty_grads(  # type: ignore
    grad, h, weight, bias, modulation, mean, rstd, groups, center, scale, shift, before, silu
):
    grad_modulation = h.new_empty(0) if modulation is None else torch.empty_like(modulation)
    grad_affine = h.new_empty(2, *h.shape[:2], dtype=torch.float32)
    return torch.empty_like(h, memory_format=torch.channels_last), grad_affine, grad_modulation


@on_device_of_first
def _forward(h, weight, bias, modulation, groups, center, scale, shift, before, silu, eps, dtype):  # type: ignore
    h = h.contiguous(memory_format=torch.channels_last)
    y, mean, rstd = _empty_outputs(
        h, weight, bias, modulation, groups, center, scale, shift, before, silu, eps, dtype
    )
    weight, bias = weight.contiguous(), bias.contiguous()
    modulation = weight if modulation is None else modulation.contiguous()
    kernels, channels, pixels = _kernels(), h.shape[1], h.shape[2:].numel()
    p, grid, sizes = _grid(h, groups, FORWARD_REGISTERS)
    form = channels // groups, int(center), int(scale), int(shift)
    kind = {"BEFORE": before, "SILU": silu, "SHARED": p.shared}
    if p.whole:
        kernels.forward_whole[grid](
            h, weight, bias, modulation, y, mean, rstd, pixels, channels, eps, *form, **kind, **sizes
        )
        return y, mean, rstd
    sums = h.new_empty(len(h), p.chunks, 2, channels, dtype=torch.float32)
    kernels.forward_sums[grid](h, sums, pixels, channels, p.rows, form[0], **sizes)
    kernels.forward_apply[grid](
        h, weight, bias, modulation, sums, y, mean, rstd, pixels, channels, eps, p.rows, *form,
        CHUNKS=_power_of_2(p.chunks), **kind, **sizes,
    )
    return y, mean, rstd


@on_device_of_first
def _backward(  # type: ignore
    grad, h, weight, bias, modulation, mean, rstd, groups, center, scale, shift, before, silu
):
    grad = grad.contiguous(memory_format=torch.channels_last)
    h = h.contiguous(memory_format=torch.channels_last)
    grad_h, grad_affine, grad_modulation = _empty_grads(
        grad, h, weight, bias, modulation, mean, rstd, groups, center, scale, shift, before, silu
    )
    weight, bias = weight.contiguous(), bias.contiguous()
    modulation = weight if modulation is None else modulation.contiguous()
    kernels, (batch, channels), pixels = _kernels(), h.shape[:2], h.shape[2:].numel()
    p, grid, sizes = _grid(h, groups, BACKWARD_REGISTERS)
    form = channels // groups, int(center), int(scale), int(shift)
    kind = {"BEFORE": before, "SILU": silu}
    inputs = grad, h, weight, bias, modulation, mean, rstd
    outputs = grad_h, grad_affine, grad_modulation
    numbers = pixels, channels, batch * channels
    if p.whole:
        kernels.backward_whole[grid](*inputs, *outputs, *numbers, *form, SHARED=p.shared, **kind, **sizes)
        return outputs
    sums = h.new_empty(batch, p.chunks, 3, channels, dtype=torch.float32)
    kernels.backward_sums[grid](
        *inputs, sums, pixels, channels, p.rows, form[0], int(scale), int(shift), **kind, **sizes
    )
    kernels.backward_apply[grid](
        *inputs, sums, *outputs, *numbers, p.rows, *form,
        SHARED=p.shared, CHUNKS=_power_of_2(p.chunks), **kind, **sizes,
    )
    return outputs


@torch.library.impl("ddpm::modulated_norm", "CompositeExplicitAutograd")
def _forward_of_operator(h, *arguments):  # type: ignore
    return _forward(h, *arguments)


@torch.library.impl("ddpm::modulated_norm_backward", "CompositeExplicitAutograd")
def _backward_of_operator(grad, *arguments):  # type: ignore
    return _backward(grad, *arguments)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    h, weight, bias, modulation, *form, _, _ = inputs
    ctx.set_materialize_grads(False)        # mean and rstd have none
    ctx.save_for_backward(h, weight, bias, modulation, *output[1:])
    ctx.form = form


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(torch.ops.ddpm.modulated_norm_backward, ctx, grad)


def _gradients(backward: Callable[..., tuple[Tensor, Tensor, Tensor]], ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    h, weight, bias, modulation, mean, rstd = ctx.saved_tensors
    grad_h, grad_affine, grad_modulation = backward(grad, h, weight, bias, modulation, mean, rstd, *ctx.form)
    grad_weight, grad_bias = grad_affine.sum(dim=1).to(weight.dtype)
    rest = (None,) * (len(ctx.form) + 2)
    return grad_h, grad_weight, grad_bias, None if modulation is None else grad_modulation, *rest


def _refuse(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError("second derivatives of norms need the plain form: set ddpm.models.norm.KERNELS = None")


torch.library.register_autograd("ddpm::modulated_norm", _differentiate, setup_context=_save)
torch.library.register_autograd("ddpm::modulated_norm_backward", _refuse)


class EagerNorm(torch.autograd.Function):
    """The operator without torch's dispatcher, which takes twice as long as this for an operator written in Python."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Compute y; the arguments are those of the operator."""
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the arguments."""
        return _gradients(_backward, ctx, grad)


def modulated_norm(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    groups: int,
    eps: float,
    dtype: torch.dtype,
    *,
    parts: tuple[str, ...] = (),
    before: bool = False,
    center: bool = True,
    silu: bool = True,
) -> Tensor:
    """Normalize, modulate and activate: (B, C, H, W) -> (B, C, H, W) in channels-last layout.

    Args:
        h: images in float32 or 16 bits; those in another layout are copied.
        weight, bias: of the norm, (C,).
        modulation: outputs of the projection of the embedding, (B, KC) for K parts, or None.
        groups: G, a divisor of C.
        eps: added to the variance.
        dtype: of the result.
        parts: ("scale", "shift"), ("scale",), ("shift",) or ().
        before: whether the shift is added before the norm.
        center: whether the mean is subtracted; without, the norm divides by the root mean square.
        silu: whether SiLU follows.
    """
    form = groups, center, "scale" in parts, "shift" in parts, before, silu
    # torch.compile and dispatch modes, such as those that count operators, need a registered operator.
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return torch.ops.ddpm.modulated_norm(h, weight, bias, modulation, *form, eps, dtype)[0]
    return EagerNorm.apply(h, weight, bias, modulation, *form, eps, dtype)
