"""Training from a configuration: validate, join the processes, load the data, build the model, train."""

import sys
from pathlib import Path

from ddpm.config.sections import Config
from ddpm.io.pictures import describe_picture
from ddpm.processes import describe_devices, first_on_main
from ddpm.training.build import build_data, build_in_training_metrics, build_schedule, build_unet
from ddpm.training.dry_run import describe_architecture, estimate_cost, multiply_adds
from ddpm.training.launch import start_accelerator
from ddpm.training.run_directory import hold_run_directory
from ddpm.training.trainer import Trainer
from ddpm.training.validation import check_config


def train(config: Config, run_dir: Path, dry_run: bool = False) -> None:
    """Train a model in a run directory, or resume its run.

    Args:
        config: the run's configuration.
        run_dir: the run directory.
        dry_run: print the cost of the run and write nothing.

    Raises:
        ValueError: if the configuration, the data, the launch or the directory does not allow the run.
        SystemExit: after an interruption, with 128 plus the signal's number.
    """
    check_config(config)
    accelerator = start_accelerator(config)
    data = first_on_main(accelerator, lambda: build_data(config))
    schedule = build_schedule(config)
    unet = first_on_main(accelerator, lambda: build_unet(config, data))
    if dry_run:
        accelerator.print(estimate_cost(config, data, unet, schedule, accelerator))
        accelerator.print(f"run directory {run_dir} (nothing was written)")
        return
    metrics = build_in_training_metrics(config, data, accelerator)
    facts = {
        "data": {"summary": data.summary(), "fingerprint": data.fingerprint},
        "class_names": list(data.class_names),
        "parameters": sum(p.numel() for p in unet.parameters()),
        "multiply_adds": multiply_adds(unet),
        "seed": config.train.seed,
    }
    with hold_run_directory(accelerator, run_dir, config, facts) as run_id:
        devices = describe_devices(accelerator)
        size = f"{facts['parameters']:,} parameters{describe_architecture(config, unet)}"
        accelerator.print(f"run directory {run_dir}: {data.summary()}; {size}; {devices}")
        if (shown := describe_picture(data.channels)) is not None:
            accelerator.print(shown)
        if data.skipped and accelerator.is_main_process:
            print(f"WARNING: {data.skipped} unreadable images are skipped", file=sys.stderr)
        Trainer(config, accelerator, data, schedule, unet, run_dir, metrics).run(run_id)
