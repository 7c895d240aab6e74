"""Two-way analysis of variance of the modulation: closed forms, and least squares with dummy variables."""

import numpy as np
import pytest
import torch

from ddpm.lab.probe.modulation_statistics import analyze_variance

T, K, C = 6, 5, 4


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def test_a_linear_projection_of_timestep_plus_class_has_no_interaction() -> None:
    timestep, classes, weight, bias = random(T, 1, 8), random(1, K, 8).flip(1), random(8, C), random(C)
    found = analyze_variance("layer", "scale", (timestep + classes) @ weight + bias)
    assert found.interaction < 1e-28        # squares of rounding errors of float64
    assert found.timestep > 0.1 and found.class_ > 0.1
    curved = analyze_variance("layer", "scale", torch.nn.functional.silu(timestep + classes) @ weight + bias)
    assert curved.interaction > 0.01


def test_random_values_agree_with_least_squares() -> None:
    values = random(T, K, C)
    flat = values.numpy().reshape(T * K, C)
    t, c = np.repeat(np.arange(T), K), np.tile(np.arange(K), T)
    one, of_t, of_c = np.ones((T * K, 1)), np.eye(T)[t], np.eye(K)[c]

    def residual(*columns: np.ndarray) -> float:
        X = np.hstack(columns)
        return float(((flat - X @ np.linalg.lstsq(X, flat, rcond=None)[0]) ** 2).sum())

    null, both = residual(one), residual(one, of_t, of_c)
    found = analyze_variance("layer", "shift", values)
    assert found.timestep == pytest.approx((null - residual(one, of_t)) / null)
    assert found.class_ == pytest.approx((null - residual(one, of_c)) / null)
    assert found.interaction == pytest.approx(both / null)
    assert found.total == pytest.approx(flat.var(axis=0).mean())
    assert (found.layer, found.part) == ("layer", "shift")


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_without_variation_everything_is_zero(value: float) -> None:
    assert analyze_variance("layer", "scale", torch.full((T, K, C), value))[2:] == (0, 0, 0, 0)


@pytest.mark.parametrize(("shape", "expected"), [((T, 1, C), "timestep"), ((1, K, C), "class_")])
def test_a_factor_with_one_value_explains_nothing(shape: tuple[int, int, int], expected: str) -> None:
    found = analyze_variance("layer", "scale", random(*shape))
    assert getattr(found, expected) == pytest.approx(1)
    assert found.timestep + found.class_ + found.interaction == pytest.approx(1)
