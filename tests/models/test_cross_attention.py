"""Attention of the pixels to the tokens of a class, against its formula."""

import math

import torch
from torch import nn

from ddpm.models.blocks import CrossAttention


@torch.no_grad()
def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Weights of order 1 / sqrt(fan_in), so that nothing is zero and activations are of order 1."""
    draws = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=draws, dtype=torch.float64).to(p.dtype)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module


@torch.no_grad()
def test_cross_attention_is_its_formula() -> None:
    layer = randomized(CrossAttention(12, 20, 3).double(), seed=9)
    draws = torch.Generator().manual_seed(2)
    h = torch.randn(2, 12, 3, 5, generator=draws, dtype=torch.float64)
    classes = torch.randn(2, 20, generator=draws, dtype=torch.float64)
    expected = h.clone()
    for image in range(2):
        pixels = layer.norm(h)[image].flatten(1).T                                                      # (HW, C)
        q = pixels @ layer.q.weight.T + layer.q.bias
        kv = classes[image].view(4, 5) @ layer.kv.weight.T + layer.kv.bias                              # (4, 2C)
        mixed = torch.empty_like(q)
        for head in range(3):
            rows = slice(4 * head, 4 * head + 4)
            scores = (q[:, rows] @ kv[:, :12][:, rows].T / math.sqrt(4)).softmax(dim=1)                 # (HW, 4)
            mixed[:, rows] = scores @ kv[:, 12:][:, rows]
        expected[image] += (mixed @ layer.proj.weight.T + layer.proj.bias).T.view(12, 3, 5)
    torch.testing.assert_close(layer(h, classes), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_cross_attention_depends_on_the_pixel() -> None:
    """With a single token it would add the same vector everywhere."""
    layer = randomized(CrossAttention(16, 32, 2), seed=10)
    h = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    classes = torch.randn(1, 32, generator=torch.Generator().manual_seed(4))
    added = layer(h, classes) - h
    assert added.std(dim=(2, 3)).max() > 1e-2
    alike = layer(h, classes[:, :8].repeat(1, 4)) - h          # four equal tokens are as one
    assert alike.std(dim=(2, 3)).max() < 1e-5
