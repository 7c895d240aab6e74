"""Which classes are drawn."""

from fractions import Fraction

import pytest
import torch

from ddpm.evaluation.class_proportions import proportional_labels

FREQUENCIES = [[1], [5, 5], [3, 0, 1], [7, 1, 1, 1], [50, 30, 17, 2, 1], [1] * 13]


def labels_of(frequencies: list[int]) -> torch.Tensor:
    labels = torch.arange(len(frequencies)).repeat_interleave(torch.tensor(frequencies))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97, 500])
@pytest.mark.parametrize("frequencies", FREQUENCIES, ids=str)
def test_largest_remainder(frequencies: list[int], count: int) -> None:
    """One image after the other to the class that lacks most of its share, lower ids first: the same in fractions."""
    shares = [Fraction(n * count, sum(frequencies)) for n in frequencies]
    expected = [share.numerator // share.denominator for share in shares]
    for _ in range(count - sum(expected)):
        lacking = [share - given for share, given in zip(shares, expected, strict=True)]
        expected[lacking.index(max(lacking))] += 1
    drawn = proportional_labels(labels_of(frequencies), len(frequencies), count)
    assert drawn.tolist() == [c for c, n in enumerate(expected) for _ in range(n)]


@pytest.mark.parametrize("frequencies", FREQUENCIES, ids=str)
def test_as_many_as_there_are_is_the_data(frequencies: list[int]) -> None:
    labels = labels_of(frequencies)
    assert torch.equal(proportional_labels(labels, len(frequencies), len(labels)), labels.sort().values)


def test_a_class_that_no_image_has_is_not_drawn() -> None:
    drawn = proportional_labels(torch.tensor([0, 0, 2]), 4, 300)
    assert drawn.bincount(minlength=4).tolist() == [200, 0, 100, 0]
