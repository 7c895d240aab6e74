"""Started by test_processes.py, by one process or several: trains some steps and records what they saw and made.

Usage: record_steps.py OUT [options of scripts/train.py]
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand
from ddpm.training import trainer as trainer_module
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.launch import start_accelerator
from ddpm.training.trainer import Trainer


def main() -> None:
    out, config = Path(sys.argv[1]), parse_command(TrainCommand, "train.py", sys.argv[2:]).config
    accelerator = start_accelerator(config)
    data = build_data(config)
    config = derive_config(config, data)
    trainer = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), out)
    rank = accelerator.process_index

    names = ("position", "x_0", "labels", "t", "noise", "augment_labels")
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    made_by = trainer_module.prepare_inputs

    def recorded(position, *rest):
        made = made_by(position, *rest)
        for name, value in zip(seen, (position, *made), strict=True):
            if value is not None:           # there are no labels of augmentation without it
                seen[name].append(value.clone())
        return made

    trainer_module.prepare_inputs = recorded
    gradient, losses = {}, []
    clip = accelerator.clip_grad_norm_

    def clipped(parameters, *args):
        if not gradient:
            gradient.update({name: p.grad.clone() for name, p in trainer.unet.named_parameters()})
        return clip(parameters, *args)

    accelerator.clip_grad_norm_ = clipped
    inputs = trainer.load_inputs()
    for _ in range(config.train.steps):
        before = trainer.sums["loss"]
        trainer.train_step(inputs)
        losses.append(trainer.sums["loss"] - before)
    tensors = {f"seen.{name}": torch.cat(values) for name, values in seen.items() if values}
    tensors |= {f"gradient.{name}": value for name, value in gradient.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    save_file(tensors, out / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main()
