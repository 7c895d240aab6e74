"""The formula of each entry of NORMS, written with torch's functions."""

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.norm import EPS


def normalized(norm: str, layer: nn.Module, h: Tensor, groups: int) -> Tensor:
    """Return h as the norm normalizes it before weight and bias, computed by torch's functions.

    The layer is for norms whose statistics have parameters.
    """
    if norm == "adain":
        return F.instance_norm(h, eps=EPS)
    if norm == "adaln":
        return F.layer_norm(h, h.shape[1:], eps=EPS)
    if norm == "adarms":
        return F.rms_norm(h, h.shape[1:], eps=EPS)
    return F.group_norm(h, groups, eps=EPS)


def formula(norm: str, layer: nn.Module, h: Tensor, emb: Tensor, groups: int) -> Tensor:
    """Return the output of a norm, computed from its parameters with its formula."""
    projected = F.linear(emb, layer.proj.weight, layer.proj.bias)[:, :, None, None]                     # (B, PC, 1, 1)
    weight, bias = layer.norm.weight[:, None, None], layer.norm.bias[:, None, None]
    first, second = projected[:, : h.shape[1]], projected[:, h.shape[1] :]
    if norm in ("groupnorm", "groupnorm_matched"):
        return weight * normalized(norm, layer, h + first, groups) + bias
    plain = weight * normalized(norm, layer, h, groups) + bias
    if norm == "adagn_scale":
        return (1 + first) * plain
    if norm == "adagn_shift":
        return plain + first
    assert norm in ("adagn", "adain", "adaln", "adarms"), f"add the formula of {norm} to {__file__}"
    return (1 + first) * plain + second
