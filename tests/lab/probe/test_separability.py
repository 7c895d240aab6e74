"""Nearest centroids and permutations against scikit-learn, silhouettes against plain loops."""

import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from ddpm.lab.probe import separability as module
from ddpm.lab.probe.separability import measure_separability

T, K, D = 5, 4, 3


def vectors(spread: float, seed: int = 0) -> Tensor:
    """Draw classes around centers with standard deviation `spread`, with noise of deviation 1."""
    draws = torch.Generator().manual_seed(seed)
    centers = spread * torch.randn(1, K, D, generator=draws, dtype=torch.float64)
    return centers + torch.randn(T, K, D, generator=draws, dtype=torch.float64)


def left_out_accuracy(values: Tensor, labels: Tensor) -> float:
    """Leave one timestep out, with scikit-learn's classifier."""
    right = 0
    for t in range(T):
        others = [s for s in range(T) if s != t]
        fitted = NearestCentroid().fit(values[others].flatten(0, 1).numpy(), labels[others].flatten().numpy())
        right += int((fitted.predict(values[t].numpy()) == labels[t].numpy()).sum())
    return right / (T * K)


def silhouette(values: Tensor) -> float:
    """Compute the mean silhouette from its definition (Rousseeuw 1987), vector by vector."""
    found = []
    for t in range(T):
        for k in range(K):
            distance = [(values[:, c] - values[t, k]).norm(dim=1).sum() for c in range(K)]
            own, other = distance[k] / (T - 1), min(distance[c] / T for c in range(K) if c != k)
            found.append(float((other - own) / max(own, other)))
    return sum(found) / len(found)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_accuracy_is_that_of_scikit_learn_and_the_silhouette_follows_its_definition(spread: float) -> None:
    values, labels = vectors(spread), torch.arange(K).expand(T, K)
    found = measure_separability("layer", values, seed=0, permutations=9)
    assert found.accuracy == pytest.approx(left_out_accuracy(values, labels))
    assert found.silhouette == pytest.approx(silhouette(values))


def test_accuracy_with_permuted_labels_is_that_of_scikit_learn() -> None:
    values = vectors(1.0)
    order = torch.rand(6, T, K, generator=torch.Generator().manual_seed(0)).argsort(dim=2)              # (P, T, K)
    centered = values - values.mean(dim=(0, 1))
    found = module._accuracy(torch.einsum("tjd,skd->tjsk", centered, centered), order)
    # `order` maps classes to vectors; its inverse maps vectors to classes.
    assert found.tolist() == pytest.approx([left_out_accuracy(values, one.argsort(dim=1)) for one in order])


def test_distant_classes_are_separated_better_than_by_any_permutation() -> None:
    found = measure_separability("layer", vectors(100.0), seed=0)
    assert (found.accuracy, found.p_value, found.permutations) == (1, 1 / 1000, 999)
    assert found.chance == pytest.approx(1 / K, abs=0.05)
    assert found.silhouette > 0.9


def test_p_values_of_noise_are_valid() -> None:
    p = [measure_separability("layer", vectors(0.0, seed), seed, permutations=99).p_value for seed in range(60)]
    # At most 20 % should be at 0.2 or below; more than 21 of 60 would be 3 standard deviations above that.
    assert sum(value <= 0.2 for value in p) <= 21
    assert max(p) > 0.5


def test_without_any_difference_accuracy_is_chance() -> None:
    found = measure_separability("layer", torch.ones(T, K, D), seed=0, permutations=9)
    assert (found.accuracy, found.chance, found.p_value, found.silhouette) == (1 / K, 1 / K, 1, 0)


def test_the_same_seed_gives_the_same_result() -> None:
    assert measure_separability("layer", vectors(0.5), 3) == measure_separability("layer", vectors(0.5), 3)
