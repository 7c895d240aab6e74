"""Exponential moving average of the weights, which is the model that samples are drawn from."""

import copy

import torch
from torch import nn


class EMA:
    """Averages a model's parameters with a half-life that is counted in images.

    The half-life grows with the images seen, up to its final value, so that a short run is not dominated by its initial
    weights (Karras et al. 2022, arXiv 2206.00364, appendix F.3, states the half-life in images).

    Args:
        model: the model to follow.
        half_life: in images.
        warmup: the half-life is at most this fraction of the images seen.

    Attributes:
        model: the averaged copy, in evaluation mode.
    """

    def __init__(self, model: nn.Module, half_life: float, warmup: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life = half_life
        self.warmup = warmup

    def decay(self, images_seen: int, batch_size: int) -> float:
        """Weight of the old average in an update that brings the images seen to `images_seen`."""
        return 0.5 ** (batch_size / min(self.half_life, self.warmup * images_seen))

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, batch_size: int) -> None:
        """Moves the average towards `model` after an optimizer step on `batch_size` images."""
        weight = 1 - self.decay(images_seen, batch_size)
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
