"""The optimizer, its learning rate, and the exponential moving average of the weights."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ddpm.config.sections import TrainConfig
from ddpm.training.timeline import Segment, StepSettings, Timeline

BETA_1 = 0.9        # of AdamW
MOMENTUM = 0.95     # of Muon
# As in Jordan et al., AdamW trains the first and the last layer, and embeddings. The embedding of timesteps is not one
# of them: it is a network, whose input is dense.
ADAMW_LAYERS = ("conv_in", "conv_out", "class_embed", "augment_embed")

_Model = TypeVar("_Model", bound=nn.Module)


def build_adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW for all parameters, fused on devices that support it."""
    return torch.optim.AdamW(model.parameters(), **_shared_options(model, config))


def build_muon(model: nn.Module, config: TrainConfig) -> "Muon":
    """Build Muon for the matrices between the first and the last layer, with AdamW for the rest."""
    parameters = dict(model.named_parameters())
    matrices = {n: p for n, p in parameters.items() if p.ndim >= 2 and n.partition(".")[0] not in ADAMW_LAYERS}
    others = [p for name, p in parameters.items() if name not in matrices]
    return Muon([*matrices.values()], others, **_shared_options(model, config))


def _shared_options(model: nn.Module, config: TrainConfig) -> dict[str, Any]:
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


class Muon(torch.optim.Optimizer):
    """Muon for matrices, and AdamW for other parameters (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    AdamW scales each entry of a step on its own. Muon takes the Nesterov momentum of a matrix, whose singular value
    decomposition is U S V^T, and steps by about U V^T, so that directions with small gradients are learned as fast as
    those with large ones. The weight of a convolution, (C_out, C_in, k, k), is the matrix (C_out, C_in * k * k).

    The step is scaled by 0.2 * sqrt(max(rows, columns)). Its entries then have a root mean square of about 0.2, as
    those of AdamW usually have, so that both can have one learning rate and one weight decay (Liu et al. 2025, arXiv
    2502.16982, section 2.2).

    Args:
        matrices: parameters of two or more dimensions, for Muon.
        others: parameters for AdamW.
        lr: learning rate of both.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both.
        fused: whether AdamW is fused.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (BETA_1, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        fused: bool = False,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": matrices, "momentum": MOMENTUM},
            {"params": others, "betas": betas, "eps": eps, "fused": fused},
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:     # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            The loss of the closure, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "momentum" in group:
                self._step_muon(group)
            else:
                self._step_adamw(group)
        return loss

    def _step_muon(self, group: dict[str, Any]) -> None:
        lr = group["lr"]
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[len(parameter), parameter[0].numel()].append(parameter)
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        for shape, weights in by_shape.items():         # together, because each of them is small
            gradients = [cast("Tensor", weight.grad) for weight in weights]
            averages = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(gradients, averages, group["momentum"])
            matrices = torch.stack([matrix.flatten(1) for matrix in nesterov])                  # (N, rows, columns)
            # In bfloat16, as in Jordan et al.; on CPUs in the type of the weight, because most are slower in bfloat16.
            steps = orthogonalize(matrices.bfloat16() if matrices.is_cuda else matrices)
            size = 0.2 * math.sqrt(max(shape))
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            for weight, step in zip(weights, steps, strict=True):
                weight.sub_(step.view(weight.shape), alpha=lr * size)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
        for weight in weights:
            state = self.state[weight]
            if not state:
                # Only a fused step is counted on the device of the weight.
                state["step"] = torch.zeros((), device=weight.device if group["fused"] else "cpu")
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        gradients = [cast("Tensor", weight.grad) for weight in weights]
        averages, squares, steps = (
            [self.state[weight][kind] for weight in weights] for kind in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = group["betas"]
        adamw(
            weights, gradients, averages, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
            eps=group["eps"], weight_decay=group["weight_decay"], fused=group["fused"], amsgrad=False, maximize=False,
        )


def count_moments(optimizer: torch.optim.Optimizer) -> int:
    """Return the number of values in the moments of an optimizer: one per entry with Muon, two with AdamW."""
    groups = optimizer.param_groups
    return sum((1 if "momentum" in group else 2) * p.numel() for group in groups for p in group["params"])


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return about U V^T for matrices U S V^T, by five Newton-Schulz iterations: (N, R, C) -> (N, R, C).

    Singular values of at least 0.003 times the Frobenius norm of their matrix become about 0.7 to 1.2, with the
    coefficients of Jordan et al. 2024, which were chosen for speed; smaller ones become smaller.
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
        if "betas" in group:
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
