"""The memorized fraction is 1 % for new images and 100 % for copies, also if the data contains duplicates."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ddpm.evaluation import memorization
from ddpm.evaluation.memorization import memorized_fraction, nearest_pairs

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n: int, seed: int) -> Tensor:
    """Return points around a few centers, (n, 12)."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)) * 3
    return centers[torch.randint(5, (n,), generator=generator)] + torch.randn(n, 12, generator=generator)


TRAINING = images(3000, 1)


@pytest.mark.parametrize("held_out", [None, images(2000, 2)], ids=["leave-one-out", "held-out"])
def test_new_images_are_at_1_percent_and_copies_at_100(held_out: Tensor | None) -> None:
    # 40 of 4,000 are expected; the threshold's level has a standard deviation of 0.2 % and the share one of 0.16 %.
    assert 0.003 < memorized_fraction(images(4000, 3), TRAINING, held_out).value < 0.018
    assert memorized_fraction(TRAINING[::3], TRAINING, held_out).value == 1
    half = memorized_fraction(torch.cat([TRAINING[:500], images(500, 4)]), TRAINING, held_out)
    assert half.low < 0.505 < half.high


def test_expected_share_is_exactly_the_level_of_the_rank() -> None:
    # 199 held-out images make the second smallest distance the threshold: 2 / 200 of new images are expected below.
    found = [memorized_fraction(images(50, 100 + i), TRAINING, images(199, 500 + i)).value for i in range(200)]
    assert 0.007 < sum(found) / 200 < 0.013     # standard error 0.0009


@pytest.mark.parametrize(
    "held_out", [None, torch.cat([images(1000, 2), TRAINING[:200]])], ids=["leave-one-out", "held-out"]
)
def test_duplicates_in_the_data(held_out: Tensor | None) -> None:
    training = torch.cat([TRAINING, TRAINING[:300]])
    assert memorized_fraction(TRAINING[:500], training, held_out).value == 1
    near = TRAINING[:500] + 1e-3
    assert memorized_fraction(near, training, held_out).value == 1       # as are copies with hardly a change
    assert 0.002 < memorized_fraction(images(4000, 3), training, held_out).value < 0.02


def test_held_out_copies_only_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^memorization: .*--metrics"):
        memorized_fraction(images(10, 3), TRAINING, TRAINING[:100])


def test_bytes_are_pixels_too() -> None:
    training = torch.randint(256, (300, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    samples = torch.randint(256, (300, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    assert memorized_fraction(samples, training) == memorized_fraction(samples.float(), training.float())
    assert memorized_fraction(training, training).value == 1


def test_baseline_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "BASELINE_IMAGES", 700)
    assert 0.002 < memorized_fraction(images(4000, 3), TRAINING).value < 0.022
    assert memorized_fraction(TRAINING[:50], TRAINING).value == 1


def test_nearest_pairs_come_nearest_first() -> None:
    samples = images(50, 7)
    samples[20], samples[7] = TRAINING[2345], TRAINING[11] + 0.01
    found = nearest_pairs(samples, TRAINING, 5)
    assert found.samples[:2].tolist() == [20, 7] and found.training[:2].tolist() == [2345, 11]
    expected = (samples[found.samples] - TRAINING[found.training]).double().square().mean(1).sqrt()
    torch.testing.assert_close(found.distances, expected, rtol=1e-6, atol=1e-9)     # float32 differences
    assert found.distances.tolist() == sorted(found.distances.tolist())
    everything = torch.cdist(samples.double(), TRAINING.double()).min(1).values.sort().values[:5] / 12**0.5
    torch.testing.assert_close(found.distances, everything, rtol=1e-6, atol=1e-7)
    assert len(nearest_pairs(samples, TRAINING, 80).samples) == 50


def test_pairs_are_on_the_cpu_wherever_neighbors_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pairs index images on the CPU. Fake tensors have a device and no values, so that this needs no GPU.
    with FakeTensorMode():
        found = torch.empty(6, 1, dtype=torch.float64, device="cuda"), torch.zeros(6, 1, dtype=int, device="cuda")
        monkeypatch.setattr(memorization, "nearest", lambda *arguments: found)
        pairs = nearest_pairs(torch.empty(6, 12), torch.empty(9, 12), 4)
    assert [(part.device.type, part.shape) for part in pairs] == [("cpu", (4,))] * 3
