"""The optimizer and its learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ddpm.config.sections import TrainConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """The configured AdamW, fused where the parameters' device has that."""
    parameters = list(parameters)
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the optimizer step number `step` (from 0): linear warm-up, then constant or a cosine towards 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
