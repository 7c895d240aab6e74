"""Tables of features: in memory, or on disk where they are computed once, in batches, by any number of processes.

On disk every batch is a file that is written atomically. An interrupted computation continues from the existing files,
with any number of processes, and yields the same values, because a batch is computed identically by every process.
Rows are read from disk in blocks, so memory does not grow with the number of images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ddpm.atomic import atomic_write
from ddpm.float64 import float64_device
from ddpm.processes import all_together, broadcast_from_main
from ddpm.randomness import Purpose, generator

BLOCK = 2048        # rows; a block of each of two tables and their distances take 32 MiB


class Table(Protocol):
    """One vector per image: a tensor (N, D), or rows on disk that are read in blocks."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, D) of the table."""

    def __getitem__(self, rows: slice) -> Tensor:
        """Return some of the rows."""


class Features(NamedTuple):
    """Everything that the extractors computed for N images.

    Attributes:
        features: (N, D).
        pixels: (N, P), the images themselves, downscaled.
        logits: (N, K'), for the extractor's own classes; None if it has none.
        class_logits: (N, K), log-odds of the data's classes from the reference classifier; None without a classifier.
        labels: int64 (N,), the class that each image should show; None if unknown.
    """

    features: Table
    pixels: Table
    logits: Table | None = None
    class_logits: Table | None = None
    labels: Tensor | None = None

    def select(self, indices: Tensor) -> "Features":
        """Return the features of some of the images, from tables on disk, by sorted indices, int64 (M,)."""
        columns = {name: rows.at(indices) for name, rows in self._asdict().items() if isinstance(rows, Rows)}
        return self._replace(**columns, labels=None if self.labels is None else self.labels[indices])


def iterate_blocks(table: Table, name: str = "features") -> Iterator[tuple[int, Tensor]]:
    """Iterate over a table in float64.

    Args:
        table: (N, D).
        name: what its values are, for error messages.

    Yields:
        The index of the block's first row, and the block: float64 (BLOCK or fewer, D), on the table's device. It may
        share memory with the table, so do not write to it.

    Raises:
        ValueError: if values are not finite; names the first such image.
    """
    for first in range(0, table.shape[0], BLOCK):
        block = table[first : first + BLOCK].double()
        finite = block.isfinite().all(1)
        if not finite.all():
            raise ValueError(
                f"{name}: image {first + int(finite.int().argmin())} (counted from 0) has values that are not finite; "
                "remove the image, or use another extractor"
            )
        yield first, block


def random_indices(total: int, count: int) -> Tensor:
    """Return `count` of the indices 0..total-1, chosen at random but always the same, sorted: int64 (count,).

    Evenly spaced indices would be biased: many data sets cycle through their classes.
    """
    return torch.randperm(total, generator=generator(0, Purpose.SUBSET, 0))[:count].sort().values


def random_rows(table: Table, maximum: int) -> tuple[Tensor, Tensor]:
    """Return up to `maximum` rows of a table, chosen by `random_indices`.

    Returns:
        The rows as stored, (min(N, maximum), D), and their indices, int64 (min(N, maximum),).
    """
    total = table.shape[0]
    indices = random_indices(total, min(total, maximum))
    rows = []
    for first in range(0, total, BLOCK):
        block = table[first : first + BLOCK]
        rows.append(block[indices[(indices >= first) & (indices < first + BLOCK)].to(block.device) - first])
    return torch.cat(rows), indices


@dataclass(frozen=True)
class Rows:
    """Rows of one column of a table on disk, (N, D); implements `Table`.

    Attributes:
        folder: the table's folder.
        column: name of the column.
        batch_size: rows per file; the last file may have fewer.
        indices: int64 (N,), which rows, sorted.
        device: where to return them.
    """

    folder: Path
    column: str
    batch_size: int
    indices: Tensor
    device: torch.device

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The shape (N, D) of the table."""
        with safe_open(batch_file(self.folder, 0), "pt") as file:
            return len(self.indices), file.get_slice(self.column).get_shape()[1]

    def __getitem__(self, rows: slice) -> Tensor:
        """Return some of the rows, one or more, in their stored dtype."""
        indices = self.indices[rows]
        batches = indices // self.batch_size
        found = []
        for batch in batches.unique().tolist():
            with safe_open(batch_file(self.folder, batch), "pt") as file:
                found.append(file.get_tensor(self.column)[indices[batches == batch] % self.batch_size])
        return torch.cat(found).to(self.device)

    def at(self, indices: Tensor) -> "Rows":
        """Select from these rows by sorted indices, int64 (M,)."""
        return replace(self, indices=self.indices[indices])


def tabulate(
    folder: Path,
    count: int,
    batch_size: int,
    compute: Callable[[list[int]], dict[str, Tensor]],
    processes: PartialState,
    title: str,
) -> dict[str, Rows]:
    """Compute the missing batches of a table on disk, distributed over the processes.

    Args:
        folder: the table's folder; its name must identify everything that the values depend on.
        count: number of rows N.
        batch_size: rows per call of `compute`.
        compute: indices of a whole batch -> columns, each (len, D) on the CPU; deterministic.
        processes: all of them call this function.
        title: label of the progress bar.

    Returns:
        The table's columns by name.

    Raises:
        ValueError: if a process does not see the files of another.
        OSError: if a file cannot be written; names it.
    """
    files = [batch_file(folder, batch) for batch in range(-(-count // batch_size))]

    def missing() -> list[int]:
        folder.mkdir(parents=True, exist_ok=True)
        return [batch for batch, file in enumerate(files) if not _is_intact(file)]

    work: list[int] = broadcast_from_main(processes, missing)
    mine = work[processes.process_index :: processes.num_processes]
    hidden = not processes.is_main_process or len(work) < 2

    def compute_missing() -> None:
        for batch in tqdm(mine, desc=title, unit="batch", leave=False, disable=True if hidden else None):
            first = batch * batch_size
            columns = compute(list(range(first, min(first + batch_size, count))))
            with atomic_write(files[batch], flushed=False) as file:
                file.write(save({name: values.contiguous() for name, values in columns.items()}))

    def check_shared() -> None:
        if not all(file.exists() for file in files):
            raise ValueError(
                f"{folder}: this machine does not see the files of the others, which need a shared folder: set "
                "DDPM_CACHE, or --out, to a folder on shared storage"
            )

    all_together(processes, compute_missing)
    all_together(processes, check_shared)
    with safe_open(files[0], "pt") as file:
        names = list(file.keys())
    device = float64_device(processes.device)
    return {name: Rows(folder, name, batch_size, torch.arange(count), device) for name in names}


def _is_intact(path: Path) -> bool:
    """Return whether a file exists at its full length; after a power cut it may be truncated."""
    try:
        with safe_open(path, "pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def batch_file(folder: Path, batch: int) -> Path:
    """Return the path of a batch's file."""
    return folder / f"{batch:06d}.safetensors"
