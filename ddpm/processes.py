"""Several processes of one program, which start together and fail together."""

import atexit
import fcntl
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import IO, Any, TypeVar

import torch.distributed
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

# After a command has been killed, its remaining processes take up to five seconds to exit and release its lock.
LOCK_TIMEOUT_SECONDS = 6.0

# For commands in which one process may work for hours while the others wait, as in training a reference classifier.
LONG_TIMEOUT = timedelta(hours=12)

Result = TypeVar("Result")


class InUse(ValueError):
    """Another process holds the directory that this one wants to write to."""


class FailedElsewhere(SystemExit):
    """End a process silently after another one has failed and printed the reason.

    Args:
        kind: class of the other process's error.
        message: message of that error.
    """

    def __init__(self, kind: type[BaseException], message: str) -> None:
        super().__init__(2)
        self.kind, self.message = kind, message


def join_processes(timeout: timedelta | None = None) -> PartialState:
    """Join the processes that were launched together, on CPUs if the launcher says so, else on the devices found.

    Args:
        timeout: timeout of collective operations; torch's default if None. Processes with unequal amounts of work
            need a longer one.
    """
    options = {} if timeout is None else {"timeout": timeout}
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), **options)


@atexit.register
def _leave() -> None:
    """Destroy the process group before exit; otherwise its background threads can abort the process.

    The threads of the group end when nothing refers to the group any more. A thread that frees the tensors of the last
    collective while the interpreter shuts down cannot take the interpreter's lock, which aborts the process (signal 6).
    """
    # After an unexpected error the other processes may still be working, and leaving could wait for them.
    if not hasattr(sys, "last_value") and torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()        # a DistributedDataParallel that is part of a reference cycle also holds the group
        torch.distributed.destroy_process_group()


def check_launch(num_processes: int, script: str) -> None:
    """Check that the launched processes know about each other.

    Args:
        num_processes: number of processes that accelerate sees.
        script: name of the command, for the message.

    Raises:
        ValueError: if more processes were launched; the message says how to launch them on CPUs.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if num_processes != launched:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)         # one message is enough
        raise ValueError(
            f"{launched} processes were launched, but each would work alone on the same files; on CPUs launch with: "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {launched} --num_machines 1 "
            f"--mixed_precision no --dynamo_backend no scripts/{script}"
        )


def describe_devices(processes: Accelerator | PartialState) -> str:
    """Describe which device each process uses, such as `2 processes on cuda:0, cuda:1`."""
    devices = gather_object([str(processes.device)])
    return f"{processes.num_processes} process{'es' * (processes.num_processes > 1)} on {', '.join(devices)}"


def on_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Call `act` on the main process while the others wait, and end all of them if it fails.

    Returns:
        The result of `act`; None on the other processes.
    """
    result = None

    def act_on_main() -> None:
        nonlocal result
        if processes.is_main_process:
            result = act()

    all_together(processes, act_on_main)
    return result


def broadcast_from_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Call `act` on the main process and return its result on every process; all of them end if it fails."""
    return broadcast_object_list([on_main(processes, act)])[0]


def first_on_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Call `act` on the main process, and then on the others if it did not fail."""
    result = on_main(processes, act)
    return result if processes.is_main_process else act()


def check_same(
    processes: Accelerator | PartialState,
    found: Mapping[str, Any],
    remedy: str = "give every machine the same files, or name a folder that all machines share",
) -> None:
    """Check that every process has read the same, because each machine may have files of its own.

    Args:
        processes: the processes, all of which must call this.
        found: option -> digest, or other facts, of what this process has read for it.
        remedy: what to do if they differ.

    Raises:
        ValueError: on the main process, if they differ; names the option.
    """
    everywhere = gather_object([dict(found)])

    def compare() -> None:
        for process, others in enumerate(everywhere):
            option = next((option for option, facts in found.items() if others[option] != facts), None)
            if option is not None:
                raise ValueError(f"{option}: process {process} does not read the same as process 0; {remedy}")

    on_main(processes, compare)


def warn(*problems: str) -> None:
    """Print a warning of one line for each problem that does not prevent the command; only the first process does."""
    if os.environ.get("RANK", "0") == "0":
        for problem in problems:
            print(f"WARNING: {problem}", file=sys.stderr)


def acquire_lock(lock: IO[str], kind: int) -> bool:
    """Lock an open file; the kernel releases the lock when the process ends, however that happens.

    Args:
        lock: the file.
        kind: `fcntl.LOCK_EX` for an exclusive lock, or `fcntl.LOCK_SH` for a shared one.

    Returns:
        Whether the lock was acquired within LOCK_TIMEOUT_SECONDS.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)


def all_together(processes: Accelerator | PartialState, act: Callable[[], None]) -> None:
    """Call `act` on every process, and end all of them if one fails."""
    problem = None
    try:
        act()
    except BaseException as error:          # whatever it is, the others must not wait for it
        problem = error
    summary = None if problem is None else (type(problem), str(problem))
    failed = next((error for error in gather_object([summary]) if error is not None), None)
    if problem is not None:
        raise problem
    if failed is not None:
        raise FailedElsewhere(*failed)


def map_batches(
    processes: Accelerator | PartialState, count: int, batch_size: int, compute: Callable[[list[int]], Result]
) -> list[Result]:
    """Distribute batches of images over all processes, every n-th to each; all processes must call this.

    Args:
        processes: the processes.
        count: number of images.
        batch_size: images per batch; the last batch may be smaller.
        compute: maps the indices of a batch, in 0..count-1, to a picklable result.

    Returns:
        The results of all batches in their order, on every process.
    """
    results: list[tuple[int, Result]] = []

    def work() -> None:
        for start in range(0, count, batch_size)[processes.process_index :: processes.num_processes]:
            results.append((start, compute(list(range(start, min(start + batch_size, count))))))

    all_together(processes, work)
    return [result for _, result in sorted(gather_object(results), key=lambda batch: batch[0])]
