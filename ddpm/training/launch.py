"""The processes of a run: joining them, checking that the batch fits, and stopping on a signal."""

import os
import signal
import sys
import time
from types import FrameType
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from ddpm.config.sections import Config, TrainConfig
from ddpm.diffusion.precision import check_precision
from ddpm.models.compilation import check_compiler
from ddpm.processes import check_launch, join_processes, on_main

# A launcher forwards a Ctrl-C to processes that have already received it; a second one by the user comes later.
ECHO_SECONDS = 2.0


def start_accelerator(config: Config) -> Accelerator:
    """Join the processes that were launched together.

    Args:
        config: the run's configuration; its precision, batch size and evaluation decide how the processes work.

    Raises:
        ValueError: if the launch would start independent runs, or the device or the batch does not allow the run.
    """
    set_determinism(config.train.deterministic)      # before the libraries of the GPU start, which joining may do
    processes = join_processes(config.train.timeout)
    check_launch(processes.num_processes, "train.py")
    on_main(processes, lambda: check_device(config, processes.device))
    if config.train.batch_size is not None:         # otherwise it is derived from the data, and checked then
        on_main(processes, lambda: check_batch(config.train, processes.num_processes))
    # One process may train several runs in turn; without the reset, accelerate keeps the precision of the first.
    AcceleratorState._reset_state()
    precision = config.train.mixed_precision
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def set_determinism(deterministic: bool) -> None:
    """Let torch use only deterministic kernels, or any; where there is none, torch raises a RuntimeError.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if deterministic:
        # cuBLAS reads it when it starts, and without it sums in an order that depends on what else it computes.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False      # it would choose the fastest kernel, which differs between starts
    torch.use_deterministic_algorithms(deterministic)


def check_device(config: Config, device: torch.device) -> None:
    """Check that a device supports the precisions of training, sample grids and evaluation, and compilation if asked.

    Raises:
        ValueError: names the option, and a precision that fits or what the compiler lacks.
    """
    for section, options in (("train", config.train), ("sample", config.sample), ("evaluation", config.evaluation)):
        check_precision(options.mixed_precision, device, f"{section}.mixed_precision")
    if config.train.compile:
        check_compiler(device, "train.compile")


def check_batch(config: TrainConfig, processes: int, batch_size: int | None = None) -> None:
    """Check that a batch divides among the processes and their micro-batches.

    Args:
        config: has the batch size and the accumulation steps.
        processes: number of processes.
        batch_size: the batch size of a step, if it is not that of `config`.

    Raises:
        ValueError: if it does not; names batch sizes that do, and accumulation steps with which it does.
    """
    batch_size, parts = batch_size or config.batch_size, config.gradient_accumulation_steps
    divisor = processes * parts
    if batch_size % divisor:
        below = batch_size // divisor * divisor
        remedies = [f"use {below} or {below + divisor}" if below else f"use {divisor}"]
        share = 0 if batch_size % processes else batch_size // processes
        if fitting := [str(n) for n in range(1, min(share, 2 * parts) + 1) if share % n == 0]:
            remedies.append(f"train.gradient_accumulation_steps {' or '.join(fitting)}")
        raise ValueError(
            f"train.batch_size: {batch_size} is not divisible by {processes} process(es) x {parts} "
            f"accumulation step(s); {', or '.join(remedies)}"
        )


class Interruption:
    """A context that records the first SIGTERM or SIGINT, so that the step can be finished and saved.

    A second Ctrl-C ends the process at once. Any other later signal is ignored as an echo of the first.

    Attributes:
        requested: number of the first signal, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = number, time.monotonic()
            print(f"\n{signal.Signals(number).name}: finishing this step and saving", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO_SECONDS:
            raise KeyboardInterrupt
