"""Work on many images, divided among the processes."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from ddpm.diffusion.sampling import batches
from ddpm.processes import all_together

Result = TypeVar("Result")


def in_shares(
    accelerator: Accelerator, count: int, batch_size: int, compute: Callable[[list[int]], Result]
) -> list[Result]:
    """Computes batches of images, each process every n-th of them; all processes call this, and fail together.

    Args:
        accelerator: the processes.
        count: number of images.
        batch_size: images in a batch; the last one has what is left.
        compute: places of a batch in 0..count-1 -> anything that can be sent to another process.

    Returns:
        What was computed of each batch, in their order, on every process.
    """
    mine: list[tuple[int, Result]] = []

    def work() -> None:
        for places in batches(count, batch_size, (accelerator.process_index, accelerator.num_processes)):
            mine.append((places[0], compute(places)))

    all_together(accelerator, work)
    return [result for _, result in sorted(gather_object(mine), key=lambda batch: batch[0])]
