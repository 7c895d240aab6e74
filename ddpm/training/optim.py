"""The optimizer, its learning rate, and the exponential moving average of the weights."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ddpm.config.sections import TrainConfig
from ddpm.training.timeline import Segment, StepSettings, Timeline

BETA_1 = 0.9        # of AdamW
MOMENTUM = 0.95     # of Muon
# The layers at the ends of a U-Net: their weights map between pixels or ids and features.
ENDS = ("conv_in", "conv_out", "class_embed", "augment_embed")

_Model = TypeVar("_Model", bound=nn.Module)


def build_adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW for all parameters, fused on devices that support it."""
    return torch.optim.AdamW(model.parameters(), **_adamw_options(model, config))


def build_muon(model: nn.Module, config: TrainConfig) -> "Muon":
    """Build Muon for the matrices between the first and the last layer, with AdamW for the rest."""
    parameters = dict(model.named_parameters())
    matrices = {n: p for n, p in parameters.items() if p.ndim >= 2 and n.partition(".")[0] not in ENDS}
    others = [p for name, p in parameters.items() if name not in matrices]
    return Muon([*matrices.values()], others, **_adamw_options(model, config))


def _adamw_options(model: nn.Module, config: TrainConfig) -> dict[str, Any]:
    return {
        "lr": config.learning_rate,
        "betas": (BETA_1, config.beta2),
        "weight_decay": config.weight_decay,
        "fused": next(model.parameters()).device.type in ("cpu", "cuda"),
    }


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": build_adamw,
    "muon": build_muon,
}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer for all parameters of a model."""
    return OPTIMIZERS[config.optimizer](model, config)


class Muon(torch.optim.AdamW):
    """Muon for matrices, and AdamW for other parameters (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    AdamW scales each entry of a step on its own. Muon takes the momentum of a matrix, U S V^T, and steps by U V^T, so
    that directions with small gradients are learned as fast as those with large ones. The weight of a convolution is
    the matrix (C_out, C_in * k * k).

    The step is scaled by 0.2 * sqrt(max(rows, columns)), which gives its entries the size that those of AdamW have, so
    that both can have one learning rate and one weight decay (Liu et al. 2025, arXiv 2502.16982, section 2.2).

    Args:
        matrices: parameters of two or more dimensions, for Muon.
        others: parameters for AdamW.
        options: of AdamW.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], **options: Any) -> None:
        groups: list[dict[str, Any]] = [{"params": matrices, "momentum": MOMENTUM}, {"params": others}]
        super().__init__(groups, **options)
        self._step_supports_amp_scaling = False         # a GradScaler skips steps itself

    @torch.no_grad()
    def step(self, closure: None = None) -> None:       # type: ignore[override]
        """Update all parameters that have a gradient."""
        matrices, _ = self.param_groups
        weights = [weight for weight in matrices["params"] if weight.grad is not None]
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None                          # so that AdamW leaves them alone
        super().step()
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        self._step_matrices(weights, matrices["lr"], matrices["weight_decay"], matrices["momentum"])

    def _step_matrices(self, weights: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        """Update the matrices; those of one shape together, because each of them is small."""
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
            nesterov = weight.grad.lerp(average, momentum).flatten(1)                              # (rows, columns)
            by_shape[nesterov.shape].append((weight, nesterov))
        for shape, members in by_shape.items():
            steps = 0.2 * math.sqrt(max(shape)) * orthogonalize(torch.stack([matrix for _, matrix in members]))
            for (weight, _), step in zip(members, steps, strict=True):
                weight.mul_(1 - lr * weight_decay).sub_(step.view(weight.shape), alpha=lr)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return about U V^T for matrices U S V^T, by five Newton-Schulz iterations: (N, R, C) -> (N, R, C).

    The singular values of the result are about 0.7 to 1.2, with the coefficients of Jordan et al. 2024, which were
    chosen for speed.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices                                                       # (N, R, C), R <= C
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT                                                                                 # (N, R, R)
        # a * x + (b * gram + c * gram @ gram) @ x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def set_options(optimizer: torch.optim.Optimizer, timeline: Timeline, step: int) -> None:
    """Set the options of an optimizer to those of step `step` (from 0)."""
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
