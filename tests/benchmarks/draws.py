"""Time of the random draws of a training step, compared with the whole step.

python tests/benchmarks/draws.py [options of scripts/train.py]
"""

import statistics
import time
from pathlib import Path

from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand
from ddpm.training.batches import load_micro_batches
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.launch import start_accelerator
from ddpm.training.step_inputs import prepare_inputs
from ddpm.training.trainer import Trainer


def main() -> None:
    config = parse_command(TrainCommand, "draws.py").config
    accelerator, data = start_accelerator(config), build_data(config)
    config = derive_config(config, data)
    trainer = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), Path())
    batches = load_micro_batches(trainer.samples, trainer.timeline, 0, 0, 1, trainer.config)
    position, images, labels = next(batches)
    inputs = trainer.load_inputs()
    device, null_label = accelerator.device, trainer.unet.null_label
    seconds: dict[str, list[float]] = {"draws": [], "step": []}
    for _ in range(20):
        start = time.perf_counter()
        prepare_inputs(position, images.to(device), labels.to(device), config, null_label, trainer.augmentation)
        middle = time.perf_counter()
        trainer.train_step(inputs)
        seconds["draws"].append(middle - start)
        seconds["step"].append(time.perf_counter() - middle)
    draws, step = (statistics.median(values[5:]) * 1e3 for values in seconds.values())
    print(f"draws {draws:.2f} ms, step {step:.1f} ms: {draws / step:.1%} (medians of 15)")


if __name__ == "__main__":
    main()
