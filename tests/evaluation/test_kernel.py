"""The kernel distance against sums over all pairs and torchmetrics; its error against the jackknife and repetitions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.evaluation import feature_tables
from ddpm.evaluation.estimates import Z
from ddpm.evaluation.kernel import kernel_distance

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def direct(x: Tensor, y: Tensor) -> float:
    """Compute the mean over all pairs of different rows from the whole matrices."""
    xx, yy, xy = ((a.double() @ b.double().T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = xy.shape
    off_x, off_y = ~torch.eye(n, dtype=torch.bool), ~torch.eye(m, dtype=torch.bool)
    return float(xx[off_x].mean() + yy[off_y].mean() - 2 * xy.mean())


def standard_error(x: Tensor, y: Tensor) -> float:
    metric = kernel_distance(x, y)
    return (metric.high - metric.low) / (2 * Z)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (40, 70), (90, 16)])
def test_equals_the_mean_over_all_pairs_in_any_blocks(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_tables, "BLOCK", 16)
    x, y = random(n, 5, seed=1) + 1, 2 * random(m, 5, seed=2)
    assert kernel_distance(x, y).value == pytest.approx(direct(x, y), rel=1e-10)


def test_equals_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.kid")

    class Given(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images

    n = 300
    metric = image.KernelInceptionDistance(feature=Given(), subsets=1, subset_size=n, normalize=True)
    samples, real = random(n, 12, seed=3) * 1.2 + 0.3, random(n, 12, seed=4)
    metric.update(real, real=True)
    metric.update(samples, real=False)
    assert kernel_distance(samples, real).value == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_error_is_that_of_leaving_each_row_out() -> None:
    x, y = random(12, 4, seed=5) + 0.5, random(9, 4, seed=6)
    variance = 0.0
    for of, n in ((lambda keep: direct(x[keep], y), 12), (lambda keep: direct(x, y[keep]), 9)):
        values = np.array([of(torch.arange(n) != i) for i in range(n)])
        variance += (n - 1) / n * np.sum((values - values.mean()) ** 2)
    assert standard_error(x, y) == pytest.approx(variance**0.5, rel=1e-10)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.5, 0.85, 1.2), (0.0, 1.0, 2.5)])
def test_error_is_the_spread_of_repetitions(shift: float, low: float, high: float) -> None:
    pairs = [(random(120, 6, seed=2 * i) + shift, random(100, 6, seed=2 * i + 1)) for i in range(300)]
    metrics = [kernel_distance(x, y) for x, y in pairs]
    spread = np.std([metric.value for metric in metrics])       # known to 4 %
    found = np.mean([(metric.high - metric.low) / (2 * Z) for metric in metrics])
    assert low < found / spread < high      # conservative where the distributions are equal


def test_is_without_bias_where_distributions_are_equal() -> None:
    values = [kernel_distance(random(30, 6, seed=2 * i), random(40, 6, seed=2 * i + 1)).value for i in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20       # three standard errors
    assert min(values) < 0
