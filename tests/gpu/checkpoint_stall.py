"""How long training stands still for a checkpoint."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from ddpm.atomic import list_checkpoints, sha256
from ddpm.training.checkpoint import CheckpointWriter


class CheckpointStall(NamedTuple):
    """Seconds around one checkpoint.

    Attributes:
        size: bytes of the checkpoint.
        step: a training step while nothing is written.
        snapshot: until `save` returned.
        next_step: the step that begins then, while files are written.
        complete: from the call of `save` until the checkpoint was complete, at least until the end of the next step.
        hash: reading the files again and hashing them, for comparison; they are in memory then.
    """

    size: int
    step: float
    snapshot: float
    next_step: float
    complete: float
    hash: float

    @property
    def stall(self) -> float:
        """By how much later the next step ended because of the checkpoint."""
        return self.snapshot + self.next_step - self.step


def measure_checkpoint_stall(checkpoints: CheckpointWriter, step: Callable[[], object]) -> CheckpointStall:
    """Save a checkpoint of step 1, and measure how long training stands still.

    Args:
        checkpoints: what saves; it must not hold a checkpoint of this step.
        step: makes a step of training.
    """
    step()          # compiles, and allocates memory
    checkpoints.prepare()
    alone, start = _seconds(step), time.perf_counter()
    snapshot, next_step = _seconds(lambda: checkpoints.save({"step": 1}), on_device=False), _seconds(step)
    checkpoints.wait()
    complete = time.perf_counter() - start
    (checkpoint,) = list_checkpoints(checkpoints.folder)
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    hashed = _seconds(lambda: [sha256(path) for path in files])
    size = sum(path.stat().st_size for path in files)
    return CheckpointStall(size, alone, snapshot, next_step, complete, hashed)


def _seconds(act: Callable[[], object], on_device: bool = True) -> float:
    """Return the seconds that `act` takes, and if `on_device` also what it starts on the GPU."""
    start = time.perf_counter()
    act()
    if on_device and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
