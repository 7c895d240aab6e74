"""The Fréchet distance against closed forms and other implementations, and its intervals against repetitions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.evaluation import frechet
from ddpm.evaluation.frechet import (
    Moments,
    distance_to,
    frechet_at_infinity,
    frechet_bootstrap,
    frechet_distance,
    moments,
    weighted_moments,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussian(mean: Tensor, covariance: Tensor) -> Moments:
    return Moments(mean.double(), covariance.double())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_covariance(width: int, seed: int, rank: int | None = None) -> Tensor:
    factor = random(width, rank or 2 * width, seed=seed)
    return factor @ factor.T / width


def mixed(n: int, width: int, seed: int) -> Tensor:
    """Return correlated features with different scales and means, in float32 as they are stored."""
    return (random(n, width, seed=seed) @ random(width, width, seed=99) + 3).float()


@pytest.mark.parametrize("rows", [100, 2048, 5000])
def test_moments_equal_numpys(rows: int) -> None:
    table = mixed(rows, 7, 1)
    found = moments(table)
    # Rounding of float64 in sums of some thousand values.
    np.testing.assert_allclose(found.mean, table.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(table.double().numpy().T), rtol=1e-10, atol=1e-10)


def test_moments_hold_where_means_are_a_million_deviations() -> None:
    table = random(5000, 3) + 1e6
    # The values themselves are rounded to 1e-10.
    np.testing.assert_allclose(moments(table).covariance, np.cov(table.numpy().T), atol=1e-9)


def test_tables_are_not_modified() -> None:
    table = random(300, 4)
    before = table.clone()
    moments(table)
    assert torch.equal(table, before)


def test_counts_are_repetitions() -> None:
    table = mixed(3000, 4, 2)
    counts = torch.randint(4, (3000,), generator=torch.Generator().manual_seed(0))
    [weighted], repeated = weighted_moments(table, counts[None]), moments(table.repeat_interleave(counts, 0))
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.covariance, repeated.covariance)


def test_features_that_are_not_finite_are_named() -> None:
    table = mixed(3000, 4, 2)
    table[2500, 1] = torch.nan
    table[2700] = torch.inf
    with pytest.raises(ValueError, match=r"^features: image 2500 .*remove"):
        moments(table)


def test_diagonal_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    mean = torch.tensor([1.0, 0.0, -2.0])
    expected = 5 + float((a.sqrt() - b.sqrt()).square().sum())
    found = frechet_distance(gaussian(mean, a.diag()), gaussian(torch.zeros(3), b.diag()))
    assert found == pytest.approx(expected, rel=1e-12)


def test_equal_covariances_leave_the_means() -> None:
    covariance, mean = random_covariance(20, 3), random(20, seed=4)
    found = frechet_distance(gaussian(mean, covariance), gaussian(torch.zeros(20), covariance))
    assert found == pytest.approx(float(mean.square().sum()), rel=1e-10)


def test_scaled_covariances() -> None:
    covariance, zero = random_covariance(20, 3), torch.zeros(20)
    found = frechet_distance(gaussian(zero, 9 * covariance), gaussian(zero, covariance))
    assert found == pytest.approx(4 * float(covariance.trace()), rel=1e-10)


def test_singular_covariances() -> None:
    # Two lines at an angle: uu' and vv' have the distance |u|^2 + |v|^2 - 2 |u.v|.
    u, v = random(30, seed=5), random(30, seed=6)
    found = frechet_distance(gaussian(u * 0, torch.outer(u, u)), gaussian(u * 0, torch.outer(v, v)))
    # Eigenvalues that are 0 are known to 1e-16 of the largest, and their roots to 1e-8.
    assert found == pytest.approx(float(u @ u + v @ v - 2 * (u @ v).abs()), rel=1e-6)


@pytest.mark.parametrize("rank", [4, 15, None])
def test_equals_the_root_by_scipy(rank: int | None) -> None:
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    a, b = random_covariance(15, 7, rank), random_covariance(15, 8)
    expected = float(a.trace() + b.trace()) - 2 * np.trace(sqrtm((a @ b).numpy())).real
    found = frechet_distance(gaussian(torch.zeros(15), a), gaussian(torch.zeros(15), b))
    assert found == pytest.approx(expected, rel=1e-5)       # scipy's own error where the product is singular


def test_is_symmetric_and_0_to_itself() -> None:
    a, b = moments(mixed(500, 12, 9)), moments(1.3 * mixed(400, 12, 10))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_equals_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.fid")

    class Given(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images

    metric = image.FrechetInceptionDistance(feature=Given(), normalize=True)
    real, samples = mixed(700, 12, 11), 1.1 * mixed(500, 12, 12) + 0.2
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(samples, real=False)
    assert frechet_distance(moments(samples), moments(real)) == pytest.approx(float(metric.compute()), rel=1e-4)


SPREAD = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
REFERENCE = gaussian(torch.zeros(4), SPREAD.square().diag())


def draws(count: int, n: int, seed: int) -> list[Tensor]:
    """Return independent samples of a Gaussian that differs from the reference."""
    return list(random(count, n, 4, seed=seed) * SPREAD * 1.3 + 0.5)


TRUTH = frechet_distance(gaussian(torch.full((4,), 0.5), (1.3 * SPREAD).square().diag()), REFERENCE)


def test_bootstrap_covers_the_expected_distance_at_this_count() -> None:
    distance = distance_to(REFERENCE)
    expected = np.mean([distance(moments(x)) for x in draws(600, 150, 13)])
    found = [frechet_bootstrap(x, REFERENCE, 60, seed) for seed, x in enumerate(draws(120, 150, 14))]
    # 95 % of 120 are 114, with a standard deviation of 2.4; the ends of 60 replicates cost 2 % more.
    assert 103 <= sum(low <= expected <= high for low, high in found) <= 119


def test_bootstrap_interval_is_corrected_for_bias() -> None:
    # Of equal distributions, where the bias of resampling is several widths of the interval.
    reference = gaussian(torch.zeros(20), torch.eye(20))
    expected = np.mean([frechet_distance(moments(random(200, 20, seed=seed)), reference) for seed in range(100, 200)])
    found = [frechet_bootstrap(random(200, 20, seed=seed), reference, 40, seed) for seed in range(20)]
    assert sum(low <= expected <= high for low, high in found) >= 18


def test_bootstrap_is_about_the_distance_and_repeats() -> None:
    x = draws(1, 200, 15)[0]
    low, high = frechet_bootstrap(x, REFERENCE, 50, 3)
    assert low < frechet_distance(moments(x), REFERENCE) < high
    assert frechet_bootstrap(x, REFERENCE, 50, 3) == (low, high) != frechet_bootstrap(x, REFERENCE, 50, 4)


def test_bootstrap_does_not_depend_on_how_many_replicates_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draws(1, 200, 15)[0]
    expected = frechet_bootstrap(x, REFERENCE, 20, 3)
    monkeypatch.setattr(frechet, "HELD_VALUES", 3 * 200)
    assert frechet_bootstrap(x, REFERENCE, 20, 3) == pytest.approx(expected, rel=1e-12)


def test_extrapolation_covers_the_true_distance() -> None:
    found = [frechet_at_infinity(x, REFERENCE, seed) for seed, x in enumerate(draws(100, 150, 16))]
    # 95 % of 100, with a standard deviation of 2.2.
    assert sum(f.low <= TRUTH <= f.high for f in found) >= 88
    # And not by being wide: 0.9 to 1.7 times what independent samples show.
    spread = np.std([f.value for f in found])
    assert 0.9 < np.mean([f.high - f.low for f in found]) / (2 * 1.96 * spread) < 1.7


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_extrapolation_removes_the_bias(shift: float) -> None:
    width, n = 30, 450
    reference = gaussian(torch.zeros(width), torch.eye(width))
    truth = width * shift**2
    samples = [random(n, width, seed=seed) + shift for seed in range(25)]
    bias = np.mean([frechet_distance(moments(x), reference) for x in samples]) - truth
    left = np.mean([frechet_at_infinity(x, reference, seed).value for seed, x in enumerate(samples)]) - truth
    assert bias > 0.4 and abs(left) < 0.07      # twice the standard error of the mean of 25
