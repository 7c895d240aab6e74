"""Tables on disk: computed once, read in blocks."""

from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from ddpm.evaluation.feature_tables import Rows, random_indices, tabulate
from ddpm.processes import join_processes

COUNT, BATCH = 23, 5
WHOLE = torch.arange(COUNT * 3, dtype=torch.float32).view(COUNT, 3)


@pytest.fixture(scope="module")
def processes() -> PartialState:
    return join_processes()


class Toy:
    """Computes two columns and records the indices."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[list[int]] = []
        self.fails_at = fails_at

    def __call__(self, indices: list[int]) -> dict[str, Tensor]:
        if self.fails_at in indices:
            raise RuntimeError("killed")
        self.calls.append(indices)
        return {"a": WHOLE[indices], "b": WHOLE[indices].to(torch.uint8)[:, ::2]}


def rows(folder: Path, processes: PartialState, toy: Toy) -> dict[str, Rows]:
    return tabulate(folder, COUNT, BATCH, toy, processes, "toy")


def test_rows_are_read_as_computed(tmp_path: Path, processes: PartialState) -> None:
    toy = Toy()
    table = rows(tmp_path / "t", processes, toy)
    assert toy.calls == [[*range(0, 5)], [*range(5, 10)], [*range(10, 15)], [*range(15, 20)], [*range(20, 23)]]
    assert table["a"].shape == (COUNT, 3) and table["b"].shape == (COUNT, 2)
    for part in (slice(0, COUNT), slice(3, 17), slice(4, 5), slice(20, 99), slice(None), slice(1, 20, 6)):
        assert torch.equal(table["a"][part], WHOLE[part])
        assert torch.equal(table["b"][part], WHOLE.to(torch.uint8)[part, ::2])


def test_selected_rows(tmp_path: Path, processes: PartialState) -> None:
    indices = torch.tensor([1, 4, 5, 6, 14, 22])
    some = rows(tmp_path / "t", processes, Toy())["a"].at(indices)
    assert some.shape == (6, 3)
    assert torch.equal(some[0:6], WHOLE[indices]) and torch.equal(some[2:4], WHOLE[[5, 6]])
    assert torch.equal(some.at(torch.tensor([0, 5]))[0:2], WHOLE[[1, 22]])


def test_only_missing_batches_are_computed(tmp_path: Path, processes: PartialState) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        rows(tmp_path / "t", processes, Toy(fails_at=12))
    toy = Toy()
    table = rows(tmp_path / "t", processes, toy)
    assert [indices[0] for indices in toy.calls] == [10, 15, 20]
    assert torch.equal(table["a"][0:COUNT], WHOLE)
    again = Toy()
    rows(tmp_path / "t", processes, again)
    assert again.calls == []


@pytest.mark.parametrize(("total", "count"), [(10, 10), (10, 3), (7, 1), (10_000, 999), (5, 9)])
def test_random_indices(total: int, count: int) -> None:
    indices = random_indices(total, count)
    assert len(indices) == min(total, count) and indices.dtype == torch.int64
    assert (indices.diff() > 0).all() and indices[0] >= 0 and indices[-1] < total
    assert torch.equal(indices, random_indices(total, count))


def test_random_indices_are_not_periodic() -> None:
    """If images cycle through ten classes, each class keeps its proportion (within four standard deviations)."""
    classes = random_indices(10_000, 1_000) % 10
    assert (classes.bincount() - 100).abs().max() < 4 * 100**0.5
