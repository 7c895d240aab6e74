"""Class proportions and class metrics against closed forms, torchmetrics, scikit-learn and repetitions."""

import io
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from ddpm.evaluation.classes import (
    accuracy,
    class_accuracies,
    class_without_images,
    confusion_matrix,
    inception_score,
    proportional_labels,
)
from ddpm.evaluation.plots import draw_confusion

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_inception_score_of_confident_and_uniform_classifiers() -> None:
    sure = 1000 * torch.eye(10).repeat(300, 1)
    assert inception_score(sure).value == pytest.approx(10, rel=1e-9)       # each class as often, each for sure
    assert inception_score(torch.zeros(3000, 10)).value == pytest.approx(1, rel=1e-9)
    assert inception_score(sure[::10]).value == pytest.approx(1, rel=1e-9)      # one class only


def test_inception_score_equals_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.inception")

    class Given(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images

    metric = image.InceptionScore(feature=Given(), splits=1)
    logits = 3 * random(3000, 10, seed=1)
    metric.update(logits)
    assert inception_score(logits).value == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_inception_score_interval_covers_the_mean_of_repetitions() -> None:
    metrics = [inception_score(2 * random(300, 5, seed=seed)) for seed in range(300)]
    mean = np.mean([metric.value for metric in metrics])
    covered = np.mean([metric.low <= mean <= metric.high for metric in metrics])
    assert 0.91 < covered < 0.99        # 95 %, with a standard deviation of 1.3 %


def test_confusion_equals_scikit_learns() -> None:
    read = random(5000, 7, seed=2)
    labels = torch.randint(7, (5000,), generator=torch.Generator().manual_seed(3))
    found = confusion_matrix(read, labels)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found, metrics.confusion_matrix(labels, read.argmax(1), labels=range(7)))
    assert accuracy(found).value == pytest.approx(metrics.accuracy_score(labels, read.argmax(1)), abs=1e-12)


def test_interval_of_wilson() -> None:
    # 8 of 10: the roots of (p - 0.8)^2 = z^2 p (1 - p) / 10.
    metric = accuracy(torch.tensor([[5, 1], [1, 3]]))
    z2 = 1.959964**2
    low, high = sorted(np.roots([1 + z2 / 10, -(1.6 + z2 / 10), 0.64]))
    assert (metric.value, metric.low, metric.high) == pytest.approx((0.8, low, high), rel=1e-9)


@pytest.mark.parametrize("right", [0, 10])
def test_interval_at_the_ends_stays_within_0_and_1(right: int) -> None:
    metric = accuracy(torch.tensor([[right, 10 - right], [0, 0]]))
    assert 0 <= metric.low <= metric.value <= metric.high <= 1 and metric.high - metric.low > 0.2


def test_class_accuracies() -> None:
    found = class_accuracies(torch.tensor([[3, 1, 0], [0, 5, 0], [2, 2, 0]]), ["cat", "dog", "ship"])
    assert {name: (metric.value, metric.count) for name, metric in found.items()} == {
        "cat": (0.75, 4), "dog": (1, 5), "ship": (0, 4),
    }


def test_a_class_without_images_is_named() -> None:
    assert class_without_images(torch.tensor([0, 2, 0]), ["cat", "dog", "ship"]) == "dog"
    assert class_without_images(torch.tensor([2, 1, 0]), ["cat", "dog", "ship"]) is None
    assert class_accuracies(torch.tensor([[3, 1], [0, 0]]), ["cat", "dog"]).keys() == {"cat"}


FREQUENCIES = [[1], [5, 5], [3, 0, 1], [7, 1, 1, 1], [50, 30, 17, 2, 1], [1] * 13]


def labels_of(frequencies: list[int]) -> torch.Tensor:
    labels = torch.arange(len(frequencies)).repeat_interleave(torch.tensor(frequencies))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("frequencies", FREQUENCIES, ids=str)
def test_largest_remainder(frequencies: list[int]) -> None:
    """Compare with exact fractions: remaining images go to the class furthest below its quota, lower ids first."""
    for count in (1, 2, 3, 10, 97, 500):
        quotas = [Fraction(n * count, sum(frequencies)) for n in frequencies]
        expected = [quota.numerator // quota.denominator for quota in quotas]
        for _ in range(count - sum(expected)):
            missing = [quota - assigned for quota, assigned in zip(quotas, expected, strict=True)]
            expected[missing.index(max(missing))] += 1
        drawn = proportional_labels(labels_of(frequencies), len(frequencies), count)
        assert drawn.tolist() == [c for c, n in enumerate(expected) for _ in range(n)], count
    labels = labels_of(frequencies)
    assert torch.equal(proportional_labels(labels, len(frequencies), len(labels)), labels.sort().values)


def test_a_class_without_images_is_not_drawn() -> None:
    drawn = proportional_labels(torch.tensor([0, 0, 2]), 4, 300)
    assert drawn.bincount(minlength=4).tolist() == [200, 0, 100, 0]


def test_a_confusion_matrix_has_no_boxes_in_place_of_letters() -> None:
    """matplotlib warns about each letter that its font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(torch.eye(3, dtype=torch.int64), ["猫", "кошка", "$5 bill"]).savefig(io.BytesIO(), format="png")
