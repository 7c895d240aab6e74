"""The processes of a run."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from ddpm.config import TrainConfig
from ddpm.processes import check_launch


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Joins the processes that were launched together.

    Raises:
        ValueError: if the launch would start independent runs, or the device or batch cannot do what is asked.
    """
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("train.precision: fp16 needs a GPU, and there is none; use fp32 or bf16")
    accelerator = Accelerator(
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    check_launch(accelerator.num_processes, "train.py")
    parts = accelerator.num_processes * config.accumulation
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        fitting = f"{below} or {below + parts}" if below else str(parts)
        raise ValueError(
            f"train.batch_size: {config.batch_size} is not divisible by {accelerator.num_processes} process(es) x "
            f"{config.accumulation} accumulation step(s); use {fitting}"
        )
    return accelerator
