"""Normalization, modulation by an embedding, and SiLU of images as one operator that stores little, for CPUs.

    x = h + shift                       # a shift before the norm, or none
    x_hat = (x - mean) / std            # of each image and group; mean 0 for the root mean square
    z = (1 + scale) * (weight * x_hat + bias) + shift           # a shift after the norm, or none
    y = silu(z) or z

For the backward pass the plain form, `ddpm.models.norm`, stores x, z, and what is between them. Here only x is stored:
in each channel of an image, z is a multiple of x plus a constant, which costs little to compute again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = (2, 3)         # the dimensions of pixels


def recomputed_norm(
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

    The arguments are those of `ddpm.models.fused.modulated_norm`, which computes the same on GPUs.
    """
    part = {} if modulation is None else dict(zip(parts, modulation.chunk(len(parts), dim=1), strict=True))
    form = groups, eps, before, center, silu
    return _RecomputedNorm.apply(h, weight, bias, part.get("scale"), part.get("shift"), *form).to(dtype)


class _RecomputedNorm(torch.autograd.Function):
    """The operator.

    Numbers of an image and channel have the shape (B, G, C/G), which is broadcast: a size is 1 where all are equal.
    """

    @staticmethod
    def forward(  # type: ignore
        ctx, h, weight, bias, scale, shift, groups, eps, before, center, silu
    ):
        x = (h + _on_pixels(shift) if before else h).contiguous(memory_format=torch.channels_last)      # (B, C, H, W)
        if center:
            (batch, channels), pixels = x.shape[:2], x.shape[2:].numel()
            z, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, pixels, groups, eps)
            mean, rstd = mean[:, :, None], rstd[:, :, None]                                             # (B, G, 1)
        else:
            rstd = (x.square().mean(dim=(1, 2, 3), keepdim=True) + eps).rsqrt()
            z = (x * rstd).mul_(weight[:, None, None]).add_(bias[:, None, None])
            rstd = rstd.flatten(2)                                                                      # (B, 1, 1)
            mean = torch.zeros_like(rstd)
        factor, offset = _group(weight[None], groups), _group(bias[None], groups)       # z = factor * x_hat + offset
        if scale is not None:
            factor, offset = factor * (1 + _group(scale, groups)), offset * (1 + _group(scale, groups))
            z.mul_(1 + _on_pixels(scale))
        if shift is not None and not before:
            offset = offset + _group(shift, groups)
            z.add_(_on_pixels(shift))
        slope = factor * rstd                                                           # z = slope * x + constant
        constant = offset - slope * mean
        ctx.save_for_backward(x, weight, bias, scale, mean, rstd, factor, slope, constant)
        ctx.form = shift is not None, before, center, silu
        return F.silu(z, inplace=True) if silu else z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments of `forward`.

        Raises:
            RuntimeError: if these gradients would need gradients themselves.
        """
        if torch.is_grad_enabled():
            raise RuntimeError("second derivatives of norms need the plain form: set ddpm.models.norm.LARGE = math.inf")
        x, weight, bias, scale, mean, rstd, factor, slope, constant = ctx.saved_tensors
        has_shift, before, center, silu = ctx.form
        groups, count = slope.shape[1], x[0].numel() // slope.shape[1]      # count of the values in a group

        grad_z = grad
        if silu:
            z = torch.addcmul(_on_pixels(constant), x, _on_pixels(slope))
            grad_z = torch.ops.aten.silu_backward.grad_input(grad, z, grad_input=z)
        grad_sum = _group(grad_z.sum(PIXELS), groups)
        product_sum = rstd * (_group((grad_z * x).sum(PIXELS), groups) - mean * grad_sum)   # of grad_z * x_hat

        # grad_x = rstd * (grad_x_hat - mean(grad_x_hat) - x_hat * mean(grad_x_hat * x_hat)), with means over a group
        # and grad_x_hat = factor * grad_z. This is slope * grad_z - a * x - b.
        a = rstd.square() * (factor * product_sum).sum(2, keepdim=True) / count                         # (B, G, 1)
        b = -a * mean
        if center:
            b = b + rstd * (factor * grad_sum).sum(2, keepdim=True) / count
        grad_x = torch.addcmul(_on_pixels(-b.expand_as(slope)), x, _on_pixels(-a.expand_as(slope)))
        grad_x.addcmul_(grad_z, _on_pixels(slope))

        grad_shift = grad_scale = None
        if has_shift:
            grad_shift = grad_x.sum(PIXELS) if before else grad_sum.flatten(1)
        grad_weight, grad_bias = product_sum, grad_sum                                                  # (B, G, C/G)
        if scale is not None:
            grad_scale = (_group(weight, groups) * product_sum + _group(bias, groups) * grad_sum).flatten(1)
            gain = 1 + _group(scale, groups)
            grad_weight, grad_bias = gain * product_sum, gain * grad_sum
        grad_weight, grad_bias = grad_weight.sum(0).flatten(), grad_bias.sum(0).flatten()               # (C,)
        return grad_x, grad_weight, grad_bias, grad_scale, grad_shift, None, None, None, None, None


def _group(values: Tensor, groups: int) -> Tensor:
    """Divide channels into groups: (..., C) -> (..., G, C/G)."""
    return values.unflatten(-1, (groups, -1))


def _on_pixels(values: Tensor) -> Tensor:
    """Add dimensions for pixels: (B, G, C/G) or (B, C) -> (B, C, 1, 1)."""
    return values.flatten(1)[:, :, None, None]
