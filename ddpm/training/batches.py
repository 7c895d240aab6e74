"""Which samples a step sees: a function of (seed, step) alone, divided among processes."""

import signal
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddpm.config.sections import Config, TrainConfig
from ddpm.data import ImageData
from ddpm.randomness import Purpose, permutation

GRACE_SECONDS = 20      # a data worker that is told to stop stays so long


def as_trained_on(data: ImageData, config: Config) -> ImageData:
    """The images with the labels that training sees: the true ones, or, to see what those are worth, permuted ones.

    The permutation is a function of train.seed and the number of images alone; every class keeps its number of images.
    """
    if not config.data.shuffle_labels:
        return data
    return data.with_labels(data.labels[permutation(config.train.seed, 0, len(data), Purpose.LABEL_SHUFFLE)])


class Stream(Dataset):
    """The endless sequence of samples that a run consumes; epoch after epoch, each in an order of its own.

    Args:
        data: the images.
        seed: of the orders.
    """

    def __init__(self, data: ImageData, seed: int) -> None:
        self.data, self.seed = data, seed
        self._order: tuple[int, Tensor] | None = None

    def index(self, position: int) -> int:
        """Place in `data` of the sample at a position of the run."""
        epoch, place = divmod(position, len(self.data))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(self.seed, epoch, len(self.data))
        return int(self._order[1][place])

    def __getitems__(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (B,), images uint8 (B, C, H, W) and labels (B,)."""
        return torch.tensor(positions), *self.data.__getitems__([self.index(p) for p in positions])


def parts(config: TrainConfig, step: int, rank: int, processes: int) -> list[range]:
    """Positions that a process works on in a step, one range per accumulated part.

    Step s of batch size B consumes positions s B to (s + 1) B - 1; each process has one block of them.
    """
    share = config.batch_size // processes
    size = share // config.accumulation
    start = step * config.batch_size + rank * share
    return [range(start + i * size, start + (i + 1) * size) for i in range(config.accumulation)]


def local_batches(
    data: ImageData, config: TrainConfig, step: int, rank: int, processes: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's parts of the steps from `step` to the last, read ahead by workers if images are decoded on demand.

    Yields:
        What Stream.__getitems__ returns.

    Raises:
        ValueError: for an image that cannot be read.
    """
    positions = [part for s in range(step, config.steps) for part in parts(config, s, rank, processes)]
    loader = DataLoader(
        Stream(data, config.seed),
        batch_sampler=positions,
        num_workers=0 if data.in_memory else workers,
        collate_fn=as_is,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),        # else it draws from the generator that dropout uses
        pin_memory=torch.cuda.is_available(),
    )
    batches = iter(loader)
    try:
        yield from batches
    except ValueError as problem:       # a worker's comes with its traceback as text; the last line is the message
        raise ValueError(str(problem).strip().splitlines()[-1].removeprefix("ValueError: ")) from problem
    finally:
        if loader.num_workers > 0:
            batches._shutdown_workers()     # else they stay until nothing refers to the iterator, as this error does


def outlive_signals(worker: int) -> None:
    """Lets the process that asked for the data finish its step when both are told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def as_is(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch that is one already."""
    return batch
