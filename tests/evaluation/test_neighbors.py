"""Nearest neighbors and the metrics based on them, compared with brute force by scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ddpm.evaluation import feature_tables
from ddpm.evaluation.neighbors import nearest, precision_recall, squared_distances

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_tables, "BLOCK", 64)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(samples: Tensor, reference: Tensor, k: int) -> dict[str, float]:
    """Compute the metrics from the whole matrix of distances, with radii by scikit-learn."""
    x, y = samples.double().numpy(), reference.double().numpy()
    radius_x, radius_y = (NearestNeighbors(n_neighbors=k).fit(z).kneighbors()[0][:, -1] for z in (x, y))
    between = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    in_reference = between <= radius_y
    return {
        "precision": in_reference.any(1).mean(),
        "recall": (between <= radius_x[:, None]).any(0).mean(),
        "density": in_reference.sum(1).mean() / k,
        "coverage": in_reference.any(0).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "shift"), [(300, 200, 0.0), (150, 333, 0.7), (64, 64, 3.0)])
def test_equals_brute_force(n: int, m: int, shift: float, k: int) -> None:
    samples, reference = random(n, 6, seed=1) + shift, random(m, 6, seed=2)
    found = precision_recall(samples, reference, k)
    for name, value in brute_force(samples, reference, k).items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("k", [1, 7, 100])
def test_nearest_equals_scikit_learns(k: int) -> None:
    queries, rows = random(130, 5, seed=3) + 10, random(150, 5, seed=4) + 10
    squared, indices = nearest(queries, rows, k)
    expected, at = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows.double()).kneighbors(queries.double())
    np.testing.assert_allclose(squared.sqrt(), expected, rtol=1e-9)
    np.testing.assert_array_equal(indices, at)


def test_a_row_is_excluded_by_index_but_its_duplicate_is_not() -> None:
    rows = random(100, 5, seed=5) * 1e3
    rows[90] = rows[3]
    squared, indices = nearest(rows, rows, 1, own=torch.arange(100))
    assert indices[3, 0] == 90 and indices[90, 0] == 3
    assert squared[3, 0] == 0 and squared[90, 0] == 0
    assert (squared[torch.arange(100)[(torch.arange(100) != 3) & (torch.arange(100) != 90)]] > 0).all()
    some = torch.tensor([3, 77, 90])
    assert torch.equal(nearest(rows[some], rows, 1, own=some)[1], indices[some])


def test_equal_rows_are_exactly_0_apart_and_close_ones_are_not() -> None:
    x = random(50, 300, seed=6) * 100 + 1000
    y = x.clone()
    y[:, 0] = torch.nextafter(y[:, 0], torch.tensor(torch.inf))
    same = squared_distances(x.double(), x.double())
    assert (same.diag() == 0).all() and (same + torch.eye(50) > 0).all()
    # Three digits off are above what is taken for the same.
    y[:, 0] += 0.05
    assert (squared_distances(x.double(), y.double()).diag() > 0).all()


def test_copies_of_the_reference_are_all_inside() -> None:
    reference = random(200, 8, seed=7)
    found = precision_recall(reference.flip(0), reference)
    assert [found[name].value for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    # Each is in its own ball and, in the mean, in those of five others; the surface counts whatever rounding says.
    assert found["density"].value == pytest.approx(6 / 5, abs=1e-12)


def test_a_collapsed_model_is_precise_and_recalls_nothing() -> None:
    reference = random(300, 4, seed=8)
    samples = reference[:1] + 1e-3 * random(200, 4, seed=9)
    found = precision_recall(samples, reference)
    assert found["precision"].value == 1 and found["recall"].value < 0.02 and found["coverage"].value < 0.1


def test_sets_far_apart_share_nothing() -> None:
    found = precision_recall(random(100, 4, seed=10) + 100, random(80, 4, seed=11))
    assert all(metric.value == 0 and metric.low == 0 for metric in found.values())
    assert found["precision"].high == pytest.approx(1.959964**2 / (100 + 1.959964**2))       # of Wilson, at 0 of 100
    assert found["recall"].high == pytest.approx(1.959964**2 / (80 + 1.959964**2))


def test_density_error_is_that_of_a_mean() -> None:
    samples, reference = random(90, 3, seed=12), random(110, 3, seed=13)
    distances = torch.cdist(samples.double(), reference.double())
    radii = torch.cdist(reference.double(), reference.double()).sort(1).values[:, 5]
    held = (distances <= radii).sum(1) / 5
    metric = precision_recall(samples, reference)["density"]
    assert metric.high - metric.value == pytest.approx(1.959964 * float(held.std()) / 90**0.5, rel=1e-6)
