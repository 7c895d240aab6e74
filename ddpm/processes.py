"""Several processes of one program: started together, failing together."""

import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env


def join_processes() -> PartialState:
    """Joins the processes that were launched together: on CPUs where the launch says so, else on the devices found."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


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
    failed = broadcast_object_list([problem is not None])[0]
    if problem is not None:
        raise problem
    if failed:
        raise SystemExit(2)
    return result


def first_on_main(processes: Accelerator | PartialState, act: Callable[[], Any]) -> Any:
    """Acts on the main process, and then on the others if it did not fail."""
    result = on_main(processes, act)
    return result if processes.is_main_process else act()
