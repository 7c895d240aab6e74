"""Several processes of one program, which start together and fail together."""

import atexit
import errno
import fcntl
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch.distributed
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed import ProcessGroup

from ddpm.heartbeat import Heartbeat
from ddpm.launch_checks import ALLOWED, DIVIDING, check_cards, find_card, leave_to_first, refuse_kind

# After a command has been killed, its remaining processes take up to five seconds to exit and release its lock.
LOCK_TIMEOUT_SECONDS = 6.0
_unlocked: set[Path] = set()        # folders of which a warning has said that they have no locks

TIMEOUT_SECONDS = 300.0     # how long the silence of a process may last
# Collective operations last a little longer, because their errors do not say which process is missing.
MARGIN_SECONDS = 10.0
# What the libraries say about a connection or an operation that has failed, where the type of the error does not tell.
_DISCONNECTED = "gloo|NCCL|Connection closed by peer|Connection reset by peer|Timed out waiting"

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


class _Control(NamedTuple):
    """What the control messages of all processes go through, apart from gradients.

    Attributes:
        group: a group of its own, on CPUs: no message takes memory of a GPU, or keeps one busy while its process waits.
        heartbeat: which processes are alive.
    """

    group: ProcessGroup
    heartbeat: Heartbeat


_control: _Control | None = None        # None for a process that was launched alone


def join_processes(timeout: float = TIMEOUT_SECONDS) -> PartialState:
    """Join the processes that were launched together, on CPUs if the launcher says so, else on the devices found.

    Args:
        timeout: after how many seconds of silence a process counts as dead; that of the first call applies. A process
            that works is not silent, and the others wait for it, however long.

    Raises:
        ValueError: if not all processes join, or they cannot connect; if they would divide the model instead of the
            batch; or if two of them have one GPU.
    """
    global _control
    for kind in DIVIDING:
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):
            refuse_kind(kind)
    limit = timedelta(seconds=timeout + MARGIN_SECONDS)
    try:
        processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=limit)
        # Without a GPU, processes that were not launched for CPUs have a group, but work alone (see `check_launch`).
        joined = torch.distributed.is_initialized() and processes.distributed_type != "NO"
        if _control is None and joined:
            heartbeat = Heartbeat((processes.process_index, processes.num_processes), timeout)
            # Returns once all processes have made it, and so have their heartbeats.
            _control = _Control(torch.distributed.new_group(backend="gloo", timeout=limit), heartbeat)
            heartbeat.start()
    except RuntimeError as problem:
        if not _is_disconnection(problem):
            raise
        raise ValueError(
            f"processes: not all of them could connect to each other ({str(problem).splitlines()[0]}); start all "
            f"within {limit.total_seconds():g} s (train.timeout) with the same MASTER_ADDR and a free MASTER_PORT; if "
            "machines have several networks, name the interface with GLOO_SOCKET_IFNAME"
        ) from None
    if processes.distributed_type not in ALLOWED:
        refuse_kind(processes.distributed_type)
    cards = gather_object([find_card(processes.device)])
    on_main(processes, lambda: check_cards(cards))
    return processes


def _is_disconnection(problem: BaseException) -> bool:
    """Return whether an error is that of a collective operation or of a connection to other processes."""
    return isinstance(problem, torch.distributed.DistError) or re.search(_DISCONNECTED, str(problem)) is not None


def explain_disconnection(problem: RuntimeError) -> None:
    """End this process with one line if the error is that of a collective operation; the line says who is missing."""
    if _control is not None and _is_disconnection(problem):
        _control.heartbeat.explain(problem)


@atexit.register
def _leave() -> None:
    """Destroy the process groups before exit; otherwise their background threads can abort the process.

    The threads of a group end when nothing refers to the group any more. A thread that frees the tensors of the last
    collective while the interpreter shuts down cannot take the interpreter's lock, which aborts the process (signal 6).
    """
    global _control
    if _control is not None:
        _control.heartbeat.stop()
        _control = None
    # After an unexpected error the other processes may still be working, and leaving could wait for them.
    if not hasattr(sys, "last_value") and torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()        # a DistributedDataParallel that is part of a reference cycle also holds the group
        torch.distributed.destroy_process_group()


def gather_object(objects: list[Any]) -> list[Any]:
    """Return the lists of all processes, one after the other, on each of them; all must call this.

    However long a process works before it calls this, the others wait, as long as its heart beats.

    Args:
        objects: of this process; what pickle can store.
    """
    if _control is None:
        return objects
    _control.heartbeat.meet()
    gathered: list[Any] = [None] * _control.heartbeat.size
    try:
        torch.distributed.all_gather_object(gathered, objects, group=_control.group)
    except RuntimeError as problem:
        explain_disconnection(problem)
        raise
    return [item for items in gathered for item in items]


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
        leave_to_first()
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
    return gather_object([on_main(processes, act)])[0]


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


def acquire_lock(lock: IO[str], kind: int, patience: float | None = None) -> bool:
    """Lock an open file; the kernel releases the lock when the process ends, however that happens.

    Where the file system has no locks, the file counts as locked, which a warning says once for each folder.

    Args:
        lock: the file.
        kind: `fcntl.LOCK_EX` for an exclusive lock, or `fcntl.LOCK_SH` for a shared one.
        patience: how long to wait, in seconds; LOCK_TIMEOUT_SECONDS if None.

    Returns:
        Whether the lock was acquired within this time.

    Raises:
        OSError: if the file cannot be locked for another reason.
    """
    deadline = time.monotonic() + (LOCK_TIMEOUT_SECONDS if patience is None else patience)
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        except OSError as problem:
            if problem.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            folder = Path(lock.name).parent
            if folder not in _unlocked:
                _unlocked.add(folder)
                warn(
                    f"{folder}: its file system has no locks ({problem.strerror}), so nothing stops a second command "
                    "that writes here at the same time; mount it with locks (Lustre: -o flock), or use another folder"
                )
            return True


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
