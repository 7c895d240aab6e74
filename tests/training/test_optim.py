"""The averaged weights by closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from ddpm.config.sections import TrainConfig
from ddpm.training.optim import EMA


def weight_of_the_start(ema_half_life: float, ema_warmup: float, batches: list[int], seen: int = 0) -> float:
    """What is left of initial weights of 1 when the model's weights are 0 from the first step on."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    ema = EMA(model, ema_half_life, ema_warmup)
    nn.init.zeros_(model.weight)
    for batch in batches:
        seen += batch
        ema.update(seen, batch)
    return ema.model.weight.item()


@pytest.mark.parametrize("batches", [[64] * 50, [10, 500, 3, 64, 64]])
@pytest.mark.parametrize(("half_life", "warmup"), [(500_000, 0.05), (1000, 0.05), (100, 10.0), (1e9, 1.0)])
def test_weight_of_the_start_is_the_product_of_decays(half_life: float, warmup: float, batches: list[int]) -> None:
    expected, seen = 1.0, 0
    for batch in batches:
        seen += batch
        expected *= 0.5 ** (batch / min(half_life, warmup * seen))
    # A rounding of float64 for each update.
    assert weight_of_the_start(half_life, warmup, batches) == pytest.approx(expected, rel=1e-12)


def test_each_step_weighs_as_the_product_says() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    ema = EMA(model, 200.0, 0.5)
    values = torch.linspace(-1, 2, 30, dtype=torch.float64)
    expected = ema.model.weight.item()
    for step, value in enumerate(values, start=1):
        nn.init.constant_(model.weight, float(value))
        ema.update(16 * step, 16)
        decay = 0.5 ** (16 / min(200.0, 0.5 * 16 * step))
        expected = decay * expected + (1 - decay) * float(value)
    assert ema.model.weight.item() == pytest.approx(expected, rel=1e-12)        # float64


def test_a_short_run_forgets_its_start() -> None:
    train = TrainConfig()
    assert weight_of_the_start(train.ema_half_life, train.ema_warmup, [64] * 1000) < 0.01


@pytest.mark.parametrize("batch", [1, 50, 500])
def test_half_life_is_exact_after_the_warmup(batch: int) -> None:
    half_life, warmup = 1000.0, 0.5
    seen = 10_000       # warmup * seen is above the half-life
    left = weight_of_the_start(half_life, warmup, [batch] * (1000 // batch), seen)
    assert left == pytest.approx(0.5, rel=1e-12)      # float64


def test_decay_does_not_depend_on_how_images_are_batched() -> None:
    ema = EMA(nn.Linear(1, 1), 1000.0, 0.5)
    fine = math.prod(ema.decay(10_000 + i, 1) for i in range(1, 65))
    assert fine == pytest.approx(ema.decay(10_064, 64), rel=1e-12)      # float64
    decays = [ema.decay(seen, 64) for seen in range(64, 10_000, 64)]
    assert all(a <= b for a, b in pairwise(decays)) and min(decays) > 0 and max(decays) < 1


def test_the_copy_is_a_model_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    ema = EMA(model, 100.0, 1.0)
    assert not ema.model.training and model.training
    assert not any(p.requires_grad for p in ema.model.parameters()) and all(p.requires_grad for p in model.parameters())
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in ema.model.parameters():
            p.fill_(7.0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))       # moves the running statistics
    ema.update(8, 8)
    assert all(torch.equal(a, b) for a, b in zip(ema.model.buffers(), model.buffers(), strict=True))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.grad_fn is None for p in ema.model.parameters())
