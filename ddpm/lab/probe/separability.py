"""How well the modulation of a layer tells the class, and how well it would by chance."""

import torch
from torch import Tensor

from ddpm.lab.probe.results import Separability
from ddpm.randomness import Purpose, generator

PERMUTATIONS = 999      # the smallest p-value is one in a thousand
AT_ONCE = 100           # permutations; 60 MB at 20 timesteps and 20 classes


def separability(layer: str, vectors: Tensor, seed: int, permutations: int = PERMUTATIONS) -> Separability:
    """Finds each (timestep, class) by its nearest centroid, the means of the classes over the other timesteps.

    The null hypothesis is that it does not matter which vector of a timestep is which class: labels are permuted within
    each timestep.

    Args:
        layer: its name.
        vectors: (T, K, D), the modulation; T and K are 2 or more.
        seed: of the permutations.
        permutations: how many.
    """
    T, K, _ = vectors.shape
    assert T > 1 and K > 1, (T, K)
    centred = (vectors.double() - vectors.double().mean(dim=(0, 1))).cpu()
    products = torch.einsum("tjd,skd->tjsk", centred, centred)                                          # (T, K, T, K)
    draws = generator(seed, Purpose.SUBSET, 0)
    # Which vector of a timestep is taken for which class; the first are the true ones.
    order = torch.rand(permutations + 1, T, K, generator=draws).argsort(dim=2)                          # (P + 1, T, K)
    order[0] = torch.arange(K)
    accuracy = torch.cat([_accuracy(products, part) for part in order.split(AT_ONCE)])                  # (P + 1,)
    # Equal counts are equal: of a sum of 0s and 1s.
    as_good = int((accuracy >= accuracy[0]).sum())
    return Separability(
        layer,
        float(accuracy[0]),
        float(accuracy[1:].mean()),
        as_good / (permutations + 1),
        permutations,
        _silhouette(products),
    )


def _accuracy(products: Tensor, order: Tensor) -> Tensor:
    """Accuracy of nearest centroids for each assignment of classes, from inner products alone.

    Args:
        products: (T, K, T, K), of the vectors.
        order: (P, T, K), of which vector stands for which class.

    Returns:
        (P,).
    """
    T, K, _, _ = products.shape
    steps = torch.arange(T)
    # With the class's own sum over all timesteps, s_k, and its vector at this timestep, v: the centroid is
    # (s_k - v) / (T - 1).
    own = products[steps, :, steps]                                                                     # (T, K, K)
    with_own = torch.stack([own[t][:, order[:, t]] for t in range(T)])                                  # (T, K, P, K)
    with_sum = sum(products[:, :, t][..., order[:, t]] for t in range(T))                               # (T, K, P, K)
    rows = order.permute(1, 0, 2)[:, None]                                                              # (T, 1, P, K)
    v_sum, v_v = (of.gather(1, rows)[:, 0] for of in (with_sum, with_own))                              # (T, P, K)
    sum_sum = v_sum.sum(dim=0)                                                                          # (P, K)
    squared_norm = (sum_sum - 2 * v_sum + v_v) / (T - 1) ** 2                                           # (T, P, K)
    distance = squared_norm[:, None] - 2 * (with_sum - with_own) / (T - 1)                              # (T, K, P, K)
    found = distance.argmin(dim=3, keepdim=True)                                                        # (T, K, P, 1)
    of_class = found.expand(-1, -1, -1, K).gather(1, rows)[:, 0]                                        # (T, P, K)
    return (of_class == torch.arange(K)).double().mean(dim=(0, 2))


def _silhouette(products: Tensor) -> float:
    """Mean silhouette of the classes, by Euclidean distance; 0 for vectors that are all equal."""
    T, K, _, _ = products.shape
    gram = products.reshape(T * K, T * K)
    norms = gram.diag()
    distance = (norms[:, None] + norms - 2 * gram).clamp(min=0).sqrt()                                  # (TK, TK)
    distance.fill_diagonal_(0)
    to_class = distance.view(T, K, T, K).sum(dim=2)                                                     # (T, K, K)
    own = to_class.diagonal(dim1=1, dim2=2) / (T - 1)                                                   # (T, K)
    others = (to_class / T).masked_fill(torch.eye(K, dtype=torch.bool), torch.inf).amin(dim=2)          # (T, K)
    largest = torch.maximum(own, others)
    return float(torch.where(largest > 0, (others - own) / largest, 0).mean())
