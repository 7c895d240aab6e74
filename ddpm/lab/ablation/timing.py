"""Seconds per training step of each arm, measured in turns, so that whatever else the machine does meets all alike."""

import dataclasses
import json
import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ddpm.atomic import write_json
from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.training.batches import load_micro_batches
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.launch import start_accelerator
from ddpm.training.trainer import Trainer

ROUNDS = 15             # that are kept; their median is what is told
WARM_UP = 2             # rounds before them, in which memory is found and kernels are chosen
WHAT = (
    "one optimizer step on one global batch: its images, forward, backward, clipping, optimizer, average of the weights"
)


def step_seconds(
    configs: Mapping[str, Config], data: ImageData, rounds: int = ROUNDS, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Times the training step itself, one step of each arm in turn; every second round goes through them backwards.

    All processes call this together. The models of all arms are in memory at once.

    Args:
        configs: arm -> what it trains.
        data: its images.
        rounds: that are kept.
        warm_up: rounds before them.

    Returns:
        Arm -> seconds of each round; nothing is written anywhere.
    """
    total = warm_up + rounds
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    with ExitStack() as stack:
        arms = []
        for name, config in configs.items():
            # As many steps as are timed, and no complaint: an arm that diverges takes as long as another.
            train = dataclasses.replace(config.train, steps=max(config.train.steps, total), max_skipped=total)
            config = dataclasses.replace(config, train=train)
            accelerator = start_accelerator(config)
            unet = build_unet(config, data)
            trainer = Trainer(config, accelerator, data, build_schedule(config), unet, Path(name))
            rank, processes = accelerator.process_index, accelerator.num_processes
            batches = load_micro_batches(data, train, 0, rank, processes, config.data.workers)
            arms.append((name, trainer, stack.enter_context(closing(batches))))
        for turn in range(total):
            for name, trainer, batches in arms[:: -1 if turn % 2 else 1]:
                start = time.perf_counter()
                trainer.train_step(list(islice(batches, trainer.config.train.accumulation)))
                if trainer.accelerator.device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def machine(device: torch.device) -> str:
    """What computes, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def write_timing(path: Path, seconds: Mapping[str, list[float]], device: torch.device, processes: int) -> None:
    """Writes timing.json into the directory of a study."""
    content = {
        "what": WHAT,
        "machine": machine(device),
        "processes": processes,
        "median_seconds": {name: median(values) for name, values in seconds.items()},
        "seconds": dict(seconds),
    }
    write_json(path / "timing.json", content)


def read_timing(path: Path) -> dict[str, Any] | None:
    """timing.json of a study; None if nothing was measured."""
    file = path / "timing.json"
    return json.loads(file.read_text()) if file.is_file() else None
