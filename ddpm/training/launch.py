"""The processes of a run."""

from datetime import timedelta

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from ddpm.config.sections import TrainConfig
from ddpm.processes import check_launch, join_processes, on_main

# With evaluation the main process may train a judge, which takes long without a GPU, while the others wait.
EVALUATION_PATIENCE = timedelta(hours=12)


def start_accelerator(config: TrainConfig, patience: timedelta | None = None) -> Accelerator:
    """Joins the processes that were launched together.

    Args:
        config: for the precision, and for what a batch is divided into.
        patience: how long they wait for each other, as `join_processes` takes it.

    Raises:
        ValueError: if the launch would start independent runs, or the device or batch cannot do what is asked.
    """
    processes = join_processes(patience)
    check_launch(processes.num_processes, "train.py")
    on_main(processes, lambda: check_fit(config, processes))
    # A process may train several runs, one after the other; accelerate keeps the precision of the first otherwise.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )


def check_fit(config: TrainConfig, processes: PartialState) -> None:
    """Refuses a precision that the device lacks, and a batch that does not divide among the processes.

    Raises:
        ValueError: says what would fit.
    """
    if config.precision == "fp16" and processes.device.type != "cuda":
        raise ValueError("train.precision: fp16 needs a GPU, and there is none; use fp32 or bf16")
    parts = processes.num_processes * config.accumulation
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        fitting = f"{below} or {below + parts}" if below else str(parts)
        raise ValueError(
            f"train.batch_size: {config.batch_size} is not divisible by {processes.num_processes} process(es) x "
            f"{config.accumulation} accumulation step(s); use {fitting}"
        )
