"""Several processes of one program: started together, failing together."""

import atexit
import fcntl
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import IO, Any

import torch.distributed
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

# Other processes of a killed command hold its lock until they notice, which takes up to five seconds.
PATIENCE_SECONDS = 6.0


class InUse(ValueError):
    """Another process holds what this one wants to write to."""


class FailedElsewhere(SystemExit):
    """Ends a process in silence after another one has failed, which tells why.

    Args:
        kind: class of its error.
        message: of it.
    """

    def __init__(self, kind: type[BaseException], message: str) -> None:
        super().__init__(2)
        self.kind, self.message = kind, message


def join_processes(patience: timedelta | None = None) -> PartialState:
    """Joins the processes that were launched together: on CPUs where the launch says so, else on the devices found.

    Args:
        patience: how long they wait for each other before that counts as a fault; torch's default unless given. Where
            shares of the work are unequal, more is needed.
    """
    options = {} if patience is None else {"timeout": patience}
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), **options)


@atexit.register
def _leave() -> None:
    """Ends the process group: its threads abort a process that ends before them."""
    # After an error that nobody expected the others may still be at work, and leaving could wait for them.
    if not hasattr(sys, "last_value") and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_launch(num_processes: int, script: str) -> None:
    """Refuses a launch whose processes do not know of each other.

    Args:
        num_processes: as accelerate sees them.
        script: name of the command, for the message.

    Raises:
        ValueError: if more were launched; says how to launch them on CPUs.
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


def device_map(processes: Accelerator | PartialState) -> str:
    """Which process computes where, in a few words."""
    devices = gather_object([str(processes.device)])
    return f"{processes.num_processes} process{'es' * (processes.num_processes > 1)} on {', '.join(devices)}"


def on_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Acts on the main process while the others wait, and ends all of them alike if it fails.

    Returns:
        What `act` returned; None on the other processes.
    """
    result, problem = None, None
    if processes.is_main_process:
        try:
            result = act()
        except BaseException as error:      # whatever it is, the others must not wait for it
            problem = error
    failed = broadcast_object_list([_told(problem)])[0]
    if problem is not None:
        raise problem
    if failed is not None:
        raise FailedElsewhere(*failed)
    return result


def first_on_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Acts on the main process, and then on the others if it did not fail."""
    result = on_main(processes, act)
    return result if processes.is_main_process else act()


def acquired(lock: IO[str], kind: int) -> bool:
    """Takes the kernel's lock of an open file, which ends with the process, however that ends.

    Args:
        lock: the file.
        kind: `fcntl.LOCK_EX`, alone, or `fcntl.LOCK_SH`, together with others of this kind.

    Returns:
        Whether it could be had within PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)


def all_together(processes: Accelerator | PartialState, act: Callable[[], None]) -> None:
    """Acts on every process, and ends all of them if one fails."""
    problem = None
    try:
        act()
    except BaseException as error:          # whatever it is, the others must not wait for it
        problem = error
    failed = next((told for told in gather_object([_told(problem)]) if told is not None), None)
    if problem is not None:
        raise problem
    if failed is not None:
        raise FailedElsewhere(*failed)


def _told(problem: BaseException | None) -> tuple[type[BaseException], str] | None:
    """What the others learn of an error."""
    return None if problem is None else (type(problem), str(problem))
