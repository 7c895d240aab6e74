"""Nearest neighbors in feature space, and the fidelity and diversity metrics based on them."""

import torch
from torch import Tensor

from ddpm.evaluation.estimates import Estimate, wilson_interval, with_standard_error
from ddpm.evaluation.feature_tables import Table, iterate_blocks

NEIGHBORS = 5              # as in Naeem et al. 2020; Kynkäänniemi et al. used 3
SAME = 1e-13                # relative to the squared norms; smaller squared distances are below float32 resolution
TIES = 1e-9                 # relative; equal distances from different blocks differ by rounding


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared Euclidean distances, exactly 0 between equal rows: float64 (N, D), (M, D) -> (N, M)."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)                                              # (N, M)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < norms.mul_(SAME), 0)


def nearest(queries: Table, rows: Table, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of each query.

    Args:
        queries: (N, D).
        rows: (M, D), read once per block of queries.
        k: 1 to M, or to M - 1 with `own`.
        own: int64 (N,), the index of each query among the rows. A query is not its own neighbor; it is excluded by
            index, so an equal row at another index counts.

    Returns:
        Squared distances, float64 (N, k), sorted; and indices of the rows, int64 (N, k).
    """
    assert 1 <= k <= rows.shape[0] - (own is not None)
    found = []
    for first, x in iterate_blocks(queries):
        # Starts empty and grows to k columns in the first blocks.
        best, indices = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        for start, y in iterate_blocks(rows):
            squared = squared_distances(x, y)
            if own is not None:
                column = own[first : first + len(x)].to(x.device) - start
                inside = ((column >= 0) & (column < len(y))).nonzero()[:, 0]
                squared[inside, column[inside]] = torch.inf
            near, at = squared.topk(min(k, len(y)), largest=False)
            best, order = torch.cat([best, near], 1).sort(stable=True, dim=1)
            indices = torch.cat([indices, at + start], 1).gather(1, order)[:, :k]
            best = best[:, :k]
        found.append((best, indices))
    return torch.cat([best for best, _ in found]), torch.cat([indices for _, indices in found])


def precision_recall(samples: Table, reference: Table, k: int = NEIGHBORS) -> dict[str, Estimate]:
    """Return precision, recall, density and coverage for balls that reach from each image to its k-th neighbor.

    Precision and recall are from Kynkäänniemi et al. 2019 (arXiv 1904.06991), the others from Naeem et al. 2020 (arXiv
    2002.09797).

    * precision: fraction of the samples that are in the ball of a reference image.
    * recall: fraction of the reference images that are in the ball of a sample.
    * density: mean number of reference balls that contain a sample, divided by k: about 1 for equal distributions, and
      more where samples concentrate in dense regions.
    * coverage: fraction of the reference balls that contain a sample.

    All depend on both numbers of images, so compare only values for equal numbers. The intervals treat the counted
    images as independent trials: samples for precision and density, reference images for recall and coverage. They are
    somewhat too narrow because they ignore that the balls themselves are random.

    Args:
        samples: (N, D), N above k.
        reference: (M, D), M above k.
        k: which neighbor.

    Returns:
        The four estimates by name: fractions with the Wilson interval, density with 1.96 standard errors.
    """
    n, m = samples.shape[0], reference.shape[0]
    radii, reference_radii = _squared_radii(samples, k), _squared_radii(reference, k)
    ball_counts, covered, recalled = [], [], []
    for first, x in iterate_blocks(samples):
        ball_count, covered_here, recalled_here = torch.zeros((), dtype=torch.int64), [], []
        for start, y in iterate_blocks(reference):
            squared = squared_distances(x, y)
            inside = squared <= reference_radii[start : start + len(y)]
            ball_count = ball_count + inside.sum(1)
            covered_here.append(inside.any(0))
            recalled_here.append((squared <= radii[first : first + len(x), None]).any(0))
        ball_counts.append(ball_count)
        covered.append(torch.cat(covered_here))
        recalled.append(torch.cat(recalled_here))
    balls = torch.cat(ball_counts).double()                                                             # (N,)
    return {
        "precision": wilson_interval(int((balls > 0).sum()), n),
        "recall": wilson_interval(int(torch.stack(recalled).any(0).sum()), m),
        "density": with_standard_error(float(balls.mean() / k), float(balls.std() / k / n**0.5)),
        "coverage": wilson_interval(int(torch.stack(covered).any(0).sum()), m),
    }


def _squared_radii(table: Table, k: int) -> Tensor:
    """Return the squared radius of each row's ball, float64 (N,), enlarged so that its surface is inside."""
    squared, _ = nearest(table, table, k, own=torch.arange(table.shape[0]))
    return squared[:, -1] * (1 + TIES)
