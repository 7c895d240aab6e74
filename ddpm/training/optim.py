"""The optimizer, its learning rate, and the exponential moving average of the weights."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from ddpm.config.sections import TrainConfig
from ddpm.training.timeline import Segment, StepSettings, Timeline

BETA_1 = 0.9        # of AdamW

_Model = TypeVar("_Model", bound=nn.Module)


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """Build the configured AdamW, fused on devices that support it."""
    parameters = list(parameters)
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(BETA_1, config.beta2),
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def set_options(optimizer: torch.optim.Optimizer, timeline: Timeline, step: int) -> None:
    """Set the options of an AdamW to those of step `step` (from 0)."""
    settings = timeline.at(step).settings
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = learning_rate(timeline, step), settings.weight_decay
        group["betas"] = (BETA_1, settings.beta2)


def learning_rate(timeline: Timeline, step: int) -> float:
    """Return the learning rate of step `step` (from 0).

    Where the history changes the schedule, at step s, the rate moves from its value there to the new schedule: the
    weight of the new schedule grows linearly from 1 / warmup_steps at step s to 1 after warmup_steps steps.
    """
    return _blended_rate(timeline.schedule_changes(step), step)


def _blended_rate(segments: Sequence[Segment], step: int) -> float:
    """Return the learning rate of a step, from the last schedule and the rate that the earlier ones have led to.

    Args:
        segments: those that change the schedule, up to this step.
        step: the step.
    """
    *earlier, (first, _, settings) = segments
    rate, steps = scheduled_rate(settings, step), step - first + 1
    if not earlier or steps >= settings.warmup_steps:
        return rate
    before = _blended_rate(earlier, first)
    return before + (rate - before) * steps / settings.warmup_steps


def scheduled_rate(settings: StepSettings, step: int) -> float:
    """Return the rate of the configured schedule: linear warmup, then constant or a cosine decay towards 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def describe_unfinished_warmup(timeline: Timeline) -> list[str]:
    """Return one line if training ends within the warmup, or on the way to a changed schedule; none otherwise."""
    steps = timeline.segments[-1].settings.steps
    *earlier, (first, _, settings) = timeline.schedule_changes(steps)
    left, warmup = steps - first, settings.warmup_steps
    if left == 0 or warmup <= left:
        return []
    ends = f"the learning rate ends at {learning_rate(timeline, steps - 1):.2g}"
    if earlier:
        rest = f"{left} {'is' if left == 1 else 'are'} left"
        return [
            f"train.warmup_steps: within {warmup} steps the learning rate moves to its new schedule, but only {rest}, "
            f"so {ends}; use at most {left}, with --allow-change train.warmup_steps"
        ]
    return [
        f"train.warmup_steps: {warmup} steps of warmup do not end within {steps} steps, so {ends} instead of reaching "
        f"{settings.learning_rate:g}; use at most {steps}"
    ]


class EMA(Generic[_Model]):
    """An exponential moving average of a model's weights, with a half-life counted in images.

    Samples are drawn from this average. The half-life grows with the number of images seen, up to its final value, so
    that the initial weights do not dominate a short run (Karras et al. 2022, arXiv 2206.00364, appendix F.3, states
    the half-life in images).

    Args:
        model: the model to follow.
        half_life: in images.
        warmup: upper limit of the half-life as a fraction of the images seen so far.

    Attributes:
        model: the averaged copy, in evaluation mode.
    """

    def __init__(self, model: _Model, half_life: float, warmup: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life = half_life
        self.warmup = warmup
        self._averages: list[torch.Tensor] = [*self.model.parameters()]
        self._current: list[torch.Tensor] = [*model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    def decay(self, images_seen: int, batch_size: int) -> float:
        """Return the decay of the update that brings the number of images seen to `images_seen`."""
        return 0.5 ** (batch_size / min(self.half_life, self.warmup * images_seen))

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Move the average towards the model after an optimizer step on `batch_size` images."""
        torch._foreach_lerp_(self._averages, self._current, 1 - self.decay(images_seen, batch_size))
        for average, current in self._buffers:
            average.copy_(current)
