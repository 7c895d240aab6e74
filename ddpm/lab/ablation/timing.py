"""Measures the seconds per training step of all arms in turns, so that other load affects all arms equally."""

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ddpm.atomic import write_json
from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.data.counts import format_count
from ddpm.devices import processor_name
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.launch import start_accelerator
from ddpm.training.trainer import Trainer

ROUNDS = 15             # measured rounds; the median is reported
WARM_UP_ROUNDS = 2      # rounds before them, for memory allocation and kernel selection
WHAT = "one optimizer step on one global batch: data loading, forward, backward, clipping, optimizer, EMA"


def time_steps(
    configs: Mapping[str, Config], data: ImageData, rounds: int = ROUNDS, warm_up: int = WARM_UP_ROUNDS
) -> dict[str, list[float]]:
    """Time the training step, one step of each arm in turn; every second round is in reverse order.

    All processes call this together. The models of all arms are in memory at once, and nothing is written to disk.

    Args:
        configs: configuration of each arm.
        data: the training images.
        rounds: number of measured rounds.
        warm_up: number of rounds before them.

    Returns:
        Seconds of each round, by arm.
    """
    total = warm_up + rounds
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    with ExitStack() as stack:
        arms = []
        for name, config in configs.items():
            # Enough steps for the measurement, without an error on divergence, which does not change the time.
            train = dataclasses.replace(config.train, steps=max(config.train.steps, total), max_skipped=total)
            config = dataclasses.replace(config, train=train)
            accelerator = start_accelerator(config)
            trainer = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), Path(name))
            arms.append((name, trainer, stack.enter_context(closing(trainer.load_inputs()))))
        for turn in range(total):
            for name, trainer, inputs in arms[:: -1 if turn % 2 else 1]:
                start = time.perf_counter()
                trainer.train_step(inputs)
                if trainer.accelerator.device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def describe_machine(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {format_count(torch.get_num_threads(), 'thread')}"


def write_timing(path: Path, seconds: Mapping[str, list[float]], device: torch.device, processes: int) -> None:
    """Write timing.json into the directory of a study."""
    content = {
        "what": WHAT,
        "machine": describe_machine(device),
        "processes": processes,
        "median_seconds": {name: median(values) for name, values in seconds.items()},
        "seconds": dict(seconds),
    }
    write_json(path / "timing.json", content)


def read_timing(path: Path) -> dict[str, Any] | None:
    """Read timing.json of a study; None if nothing was measured."""
    file = path / "timing.json"
    return json.loads(file.read_text()) if file.is_file() else None
