"""How well a layer's modulation predicts the class, compared with permuted labels."""

import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from ddpm.float64 import to_float64
from ddpm.lab.probe.results import Separability
from ddpm.randomness import Purpose, generator

PERMUTATIONS = 999      # the smallest p-value is one in a thousand
AT_ONCE = 100           # permutations in one batch; 60 MB at 20 timesteps and 20 classes


def measure_separability(layer: str, vectors: Tensor, seed: int, permutations: int = PERMUTATIONS) -> Separability:
    """Classify each (timestep, class) by the nearest centroid, the mean of a class over the other timesteps.

    The null hypothesis is that the labels are exchangeable within a timestep, so labels are permuted there.

    Args:
        layer: name of the layer.
        vectors: (T, K, D), the modulation, with T, K >= 2.
        seed: seed of the permutations.
        permutations: number of permutations.
    """
    T, K, _ = vectors.shape
    assert T > 1 and K > 1, (T, K)
    vectors = to_float64(vectors)
    centered = (vectors - vectors.mean(dim=(0, 1))).cpu()
    products = torch.einsum("tjd,skd->tjsk", centered, centered)                                          # (T, K, T, K)
    draws = generator(seed, Purpose.SUBSET, 0)
    # The vector that stands for each class at each timestep; the first row is the true assignment.
    order = torch.rand(permutations + 1, T, K, generator=draws).argsort(dim=2)                          # (P + 1, T, K)
    order[0] = torch.arange(K)
    accuracy = torch.cat([_accuracy(products, part) for part in order.split(AT_ONCE)])                  # (P + 1,)
    # Accuracies are means of zeros and ones, so equal counts compare equal.
    as_good = int((accuracy >= accuracy[0]).sum())
    chance, p_value = float(accuracy[1:].mean()), as_good / (permutations + 1)
    silhouette = silhouette_score(centered.flatten(0, 1).numpy(), torch.arange(K).repeat(T).numpy())
    return Separability(layer, float(accuracy[0]), chance, p_value, permutations, float(silhouette))


def _accuracy(products: Tensor, order: Tensor) -> Tensor:
    """Compute the accuracy of nearest centroids for each assignment of classes, from inner products.

    Args:
        products: (T, K, T, K), inner products of the vectors.
        order: (P, T, K), the vector that stands for each class.

    Returns:
        (P,).
    """
    T, K, _, _ = products.shape
    steps = torch.arange(T)
    # With the sum s_k of a class over all timesteps and its vector v at this timestep, the centroid is
    # (s_k - v) / (T - 1).
    own = products[steps, :, steps]                                                                     # (T, K, K)
    with_own = torch.stack([own[t][:, order[:, t]] for t in range(T)])                                  # (T, K, P, K)
    with_each = (products[:, :, t][..., order[:, t]] for t in range(T))                                 # (T, K, P, K)
    with_sum = sum(with_each, start=products.new_zeros(()))                                             # (T, K, P, K)
    rows = order.permute(1, 0, 2)[:, None]                                                              # (T, 1, P, K)
    v_sum, v_v = (of.gather(1, rows)[:, 0] for of in (with_sum, with_own))                              # (T, P, K)
    sum_sum = v_sum.sum(dim=0)                                                                          # (P, K)
    squared_norm = (sum_sum - 2 * v_sum + v_v) / (T - 1) ** 2                                           # (T, P, K)
    distance = squared_norm[:, None] - 2 * (with_sum - with_own) / (T - 1)                              # (T, K, P, K)
    found = distance.argmin(dim=3, keepdim=True)                                                        # (T, K, P, 1)
    of_class = found.expand(-1, -1, -1, K).gather(1, rows)[:, 0]                                        # (T, P, K)
    return (of_class == torch.arange(K)).double().mean(dim=(0, 2))
