"""Nearest neighbours among features, and what they say of fidelity and diversity."""

import torch
from torch import Tensor

from ddpm.evaluation.chunks import blocks
from ddpm.evaluation.estimates import Figure, Table
from ddpm.evaluation.intervals import share, with_standard_error

NEIGHBOURS = 5              # Naeem et al. 2020; Kynkäänniemi et al. took 3
SAME = 1e-13                # of the squared norms: squared distances below what float32 features can tell apart
TIES = 1e-9                 # relative; equal distances, computed in other blocks, differ by rounding


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances: float64 (N, D), (M, D) -> (N, M); exactly 0 between equal rows."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)                                              # (N, M)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < norms.mul_(SAME), 0)


def nearest(queries: Table, rows: Table, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest rows of each query.

    Args:
        queries: (N, D).
        rows: (M, D), read once per block of queries.
        k: 1 to M, or to M - 1 with `own`.
        own: int64 (N,), the place among the rows of each query itself, which is not its own neighbour. It is left out
            by place, so that an equal row counts.

    Returns:
        float64 (N, k), squared distances, rising; and int64 (N, k), places among the rows.
    """
    assert 1 <= k <= rows.shape[0] - (own is not None)
    found = []
    for first, x in blocks(queries):
        # Empty to begin with, it grows to k in the first blocks.
        best, places = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        for start, y in blocks(rows):
            squared = squared_distances(x, y)
            if own is not None:
                column = own[first : first + len(x)].to(x.device) - start
                inside = ((column >= 0) & (column < len(y))).nonzero()[:, 0]
                squared[inside, column[inside]] = torch.inf
            near, at = squared.topk(min(k, len(y)), largest=False)
            best, order = torch.cat([best, near], 1).sort(stable=True, dim=1)
            places = torch.cat([places, at + start], 1).gather(1, order)[:, :k]
            best = best[:, :k]
        found.append((best, places))
    return torch.cat([best for best, _ in found]), torch.cat([places for _, places in found])


def precision_recall(samples: Table, reference: Table, k: int = NEIGHBOURS) -> dict[str, Figure]:
    """Precision, recall, density and coverage, of balls that reach from an image to the k-th nearest of its own set.

    Precision and recall are from Kynkäänniemi et al. 2019 (arXiv 1904.06991), the others from Naeem et al. 2020 (arXiv
    2002.09797).

    * precision: share of the samples that are in a ball of a reference image.
    * recall: share of the reference images that are in a ball of a sample.
    * density: mean number of reference balls that hold a sample, over k: about 1 for equal distributions, and more
      where samples crowd in dense places.
    * coverage: share of the reference balls that hold a sample.

    All depend on both numbers of images, so compare only figures of equal numbers. Intervals take what is counted for
    independent trials: of the samples for precision and density, of the reference images for recall and coverage. They
    leave out that the balls themselves would be others with other images, and are too narrow by so much.

    Args:
        samples: (N, D), N above k.
        reference: (M, D), M above k.
        k: which neighbour.

    Returns:
        The four figures, by name: shares with the interval of Wilson, density with 1.96 standard errors.
    """
    n, m = samples.shape[0], reference.shape[0]
    radii, reference_radii = _squared_radii(samples, k), _squared_radii(reference, k)
    held, covered, recalled = [], [], []
    for first, x in blocks(samples):
        of_sample, of_reference, of_recall = 0, [], []
        for start, y in blocks(reference):
            squared = squared_distances(x, y)
            inside = squared <= reference_radii[start : start + len(y)]
            of_sample = of_sample + inside.sum(1)
            of_reference.append(inside.any(0))
            of_recall.append((squared <= radii[first : first + len(x), None]).any(0))
        held.append(of_sample)
        covered.append(torch.cat(of_reference))
        recalled.append(torch.cat(of_recall))
    balls = torch.cat(held).double()                                                                    # (N,)
    return {
        "precision": share(int((balls > 0).sum()), n),
        "recall": share(int(torch.stack(recalled).any(0).sum()), m),
        "density": with_standard_error(float(balls.mean() / k), float(balls.std() / k / n**0.5)),
        "coverage": share(int(torch.stack(covered).any(0).sum()), m),
    }


def _squared_radii(table: Table, k: int) -> Tensor:
    """float64 (N,); what is just on a ball's surface is inside."""
    squared, _ = nearest(table, table, k, own=torch.arange(table.shape[0]))
    return squared[:, -1] * (1 + TIES)
