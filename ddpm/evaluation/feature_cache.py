"""Numbers of many images, on disk: computed once, in batches, by any number of processes.

Every batch is a file of its own that appears when it is whole. What was killed goes on from the files that are there,
over as many processes as there are then, and ends with the same numbers: a batch is computed alike whoever does it.
Nothing is ever held for all images, and what is read again is read from the disk a part at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ddpm.atomic import atomic_write
from ddpm.processes import all_together, on_main
from ddpm.randomness import Purpose, generator


@dataclass(frozen=True)
class Rows:
    """A column of a table on disk, (N, D), or some rows of it; implements `ddpm.evaluation.estimates.Table`.

    Attributes:
        folder: of the table.
        column: name of the column.
        batch_size: rows of each file; the last one has what is left.
        places: int64 (N,), which rows.
        device: where they are wanted.
    """

    folder: Path
    column: str
    batch_size: int
    places: Tensor
    device: torch.device

    @cached_property
    def width(self) -> int:
        """D."""
        with safe_open(batch_file(self.folder, 0), "pt") as file:
            return file.get_slice(self.column).get_shape()[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.places), self.width

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice) -> Tensor:
        """The rows of a part, as they were saved."""
        places = self.places[part]
        found: Tensor | None = None
        for batch in places.div(self.batch_size, rounding_mode="floor").unique().tolist():
            with safe_open(batch_file(self.folder, batch), "pt") as file:
                values = file.get_tensor(self.column)
            if found is None:
                found = values.new_empty(len(places), *values.shape[1:])
            first = batch * self.batch_size
            wanted = (places >= first) & (places < first + self.batch_size)
            found[wanted] = values[places[wanted] - first]
        return (torch.empty(0, self.width) if found is None else found).to(self.device)

    def at(self, places: Tensor) -> "Rows":
        """These rows of the rows: int64 (M,), rising."""
        return replace(self, places=self.places[places])


def tabulate(
    folder: Path,
    count: int,
    batch_size: int,
    compute: Callable[[list[int]], dict[str, Tensor]],
    processes: PartialState,
    title: str,
) -> dict[str, Rows]:
    """Computes what is not there yet, each process its share.

    Args:
        folder: of the table; its name must stand for whatever the numbers depend on.
        count: number of rows N.
        batch_size: rows per call of `compute`.
        compute: places, those of a whole batch -> columns, each (len, D) on the CPU; the same for the same.
        processes: the processes, which all call this.
        title: what the progress bar says.

    Returns:
        Its columns.

    Raises:
        ValueError: if a process does not see the files of another.
        OSError: if a file cannot be written; names it.
    """
    starts = range(0, count, batch_size)

    def missing() -> list[int]:
        folder.mkdir(parents=True, exist_ok=True)
        return [batch for batch in range(len(starts)) if not _is_whole(batch_file(folder, batch))]

    work: Sequence[int] = broadcast_object_list([on_main(processes, missing)])[0]
    mine = work[processes.process_index :: processes.num_processes]
    hidden = not processes.is_main_process or len(work) < 2

    def work_through() -> None:
        for batch in tqdm(mine, desc=title, unit="batch", leave=False, disable=True if hidden else None):
            columns = compute(list(range(starts[batch], min(starts[batch] + batch_size, count))))
            with atomic_write(batch_file(folder, batch), flushed=False) as file:
                file.write(save({name: values.contiguous() for name, values in columns.items()}))

    def look() -> None:
        there = sum(batch_file(folder, batch).exists() for batch in range(len(starts)))
        if there < len(starts):
            raise ValueError(
                f"{folder}: {there} of {len(starts)} files are there; machines that work together need storage that "
                "they share: set DDPM_CACHE, or --out, to a folder on it"
            )

    all_together(processes, work_through)
    all_together(processes, look)
    with safe_open(batch_file(folder, 0), "pt") as file:
        names = list(file.keys())
    return {name: Rows(folder, name, batch_size, torch.arange(count), processes.device) for name in names}


def _is_whole(path: Path) -> bool:
    """Whether a file is there and as long as it says: after a power cut it may be there and cut off."""
    try:
        with safe_open(path, "pt"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def batch_file(folder: Path, batch: int) -> Path:
    """The file of a batch."""
    return folder / f"{batch:06d}.safetensors"


def some_places(total: int, count: int) -> Tensor:
    """`count` of the places 0..total-1 at random, the same whenever asked, rising: int64 (count,).

    Places at even distances would not do: many data sets go round their classes in turn.
    """
    return torch.randperm(total, generator=generator(0, Purpose.SUBSET, 0))[:count].sort().values
