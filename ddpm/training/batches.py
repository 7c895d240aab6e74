"""The samples that each step consumes: a function of (seed, position in the run), divided among processes."""

import signal
from collections.abc import Generator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.data.images import OnDemand
from ddpm.randomness import Purpose, permutation
from ddpm.training.orders import BalancedOrder, EpochOrder, Order
from ddpm.training.timeline import Timeline

GRACE_SECONDS = 20      # how long a data worker keeps running after SIGTERM
SHARE_OF_DEVICE = 0.1   # of the free memory of a GPU that the images of a run may take
CPU = torch.device("cpu")


def apply_label_shuffle(data: ImageData, config: Config) -> ImageData:
    """Return the images with the labels that training sees: permuted with `data.shuffle_labels`, else the true ones.

    The permutation is a function of train.seed and the number of images; every class keeps its number of images.
    """
    if not config.data.shuffle_labels:
        return data
    return data.with_labels(data.labels[permutation(config.train.seed, 0, len(data), Purpose.LABEL_SHUFFLE)])


class SampleSequence(Dataset):
    """The endless sequence of samples that a run consumes; positions in the run are its indices.

    Args:
        data: the images.
        order: the image at each position.
    """

    def __init__(self, data: ImageData, order: Order) -> None:
        self.data, self.order = data, order

    def __getitems__(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions (B,), uint8 images (B, C, H, W) and labels (B,)."""
        return torch.tensor(positions), *self.data.__getitems__([self.order.index(p) for p in positions])


def build_samples(config: Config, data: ImageData) -> SampleSequence:
    """Build the configured sequence of samples."""
    data, seed = apply_label_shuffle(data, config), config.train.seed
    order = BalancedOrder(data.labels, seed) if config.data.balance else EpochOrder(len(data), seed)
    return SampleSequence(data, order)


def hold_on_device(samples: SampleSequence, device: torch.device) -> SampleSequence:
    """Return the same samples with images and labels on a GPU, if decoded images need a small share of its memory."""
    data = samples.data
    if device.type != "cuda" or isinstance(data.pixels, OnDemand):
        return samples
    free, _ = torch.cuda.mem_get_info(device)
    fits = prod(data.pixels.shape) <= SHARE_OF_DEVICE * free
    return SampleSequence(data.on_device(device), samples.order) if fits else samples


def micro_batch_positions(timeline: Timeline, step: int, rank: int, processes: int, micro_batches: int) -> list[range]:
    """Return the positions that a process works on in a step, one range per micro-batch.

    A step consumes the positions from `timeline.position(step)` on; each process takes one contiguous block of them.
    """
    local = timeline.batch_size(step) // processes
    size = local // micro_batches
    start = timeline.position(step) + rank * local
    return [range(start + i * size, start + (i + 1) * size) for i in range(micro_batches)]


def load_micro_batches(
    samples: SampleSequence,
    timeline: Timeline,
    step: int,
    rank: int,
    processes: int,
    config: Config,
    device: torch.device = CPU,
) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
    """Load the micro-batches of one process, from step `step` to the last.

    Workers read ahead unless the images are in memory. Where a small share of a GPU's memory can hold all images, they
    are copied there once, and batches are taken from there.

    Args:
        samples: the samples of the run.
        timeline: the batch size of each step.
        step: the first step.
        rank: index of the process.
        processes: number of processes.
        config: the numbers of steps, of micro-batches and of worker processes that decode images.
        device: that the network is on.

    Yields:
        Positions in the run int64 (B,), uint8 images (B, C, H, W) and labels int64 (B,) of each micro-batch.

    Raises:
        ValueError: if an image cannot be read.
    """
    train = config.train
    positions = [
        micro_batch
        for s in range(step, train.steps)
        for micro_batch in micro_batch_positions(timeline, s, rank, processes, train.gradient_accumulation_steps)
    ]
    samples = hold_on_device(samples, device)
    loader = DataLoader(
        samples,
        batch_sampler=positions,        # type: ignore[arg-type]  # ranges, which take less memory than lists
        num_workers=0 if samples.data.in_memory else config.data.workers,
        collate_fn=_keep_batch,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),        # otherwise the loader draws from the generator that dropout uses
        # Pinning starts CUDA, so each process that trains on a CPU would take memory of the first GPU.
        pin_memory=device.type == "cuda" and not samples.data.labels.is_cuda,
    )
    batches = iter(loader)
    try:
        yield from batches
    except ValueError as problem:       # a worker's error contains its traceback as text; the last line is the message
        raise ValueError(str(problem).strip().splitlines()[-1].removeprefix("ValueError: ")) from problem
    finally:
        if loader.num_workers > 0:
            # Otherwise they live as long as the iterator, which this error refers to. torch has no public method.
            batches._shutdown_workers()         # type: ignore[attr-defined]


def _outlive_signals(worker: int) -> None:
    """Keep a data worker running after SIGINT or SIGTERM, so that the main process can finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def _keep_batch(batch: Any) -> Any:
    """Return the batch, which `SampleSequence.__getitems__` has already collated."""
    return batch
