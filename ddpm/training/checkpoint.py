"""Checkpoints: a pipeline directory of the averaged model that also contains the state of training.

    checkpoints/step_00001000/
      model_index.json  unet/  scheduler/     the averaged model, loadable as a pipeline
      training/model.safetensors              the weights without averaging
      training/optimizer.safetensors          moments of the optimizer
      training/augmentation.safetensors       averaged weights that the pipeline lacks, with data.augment only
      training/state.json                     step, skipped updates, running sums, loss scale
      MANIFEST.json                           SHA-256 of each file, written last

The files are safetensors and JSON, so that loading them cannot run code.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm.atomic import digests, list_checkpoints, newest_intact, recover, write_directory_atomically, write_json
from ddpm.io.card import ModelCard
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import warn

AVERAGED_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
AUGMENTATION = "augmentation.safetensors"


def save_checkpoint(
    checkpoints: Path,
    pipeline: ClassConditionalPipeline,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Save the checkpoint of `state["step"]`, and then remove the oldest checkpoints.

    Args:
        checkpoints: folder of all checkpoints of a run.
        pipeline: the averaged model, for images that are not augmented.
        model: the model with the weights that are trained.
        averaged: the averaged model with all weights.
        optimizer: the optimizer of the parameters of `model`.
        state: the rest of the state of training as JSON values, with the key `step`.
        keep: maximum number of checkpoints to keep.

    Raises:
        ValueError: if the checkpoint cannot be written; earlier checkpoints are unchanged.
    """

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        training = folder / "training"
        training.mkdir()
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, training / "model.safetensors")
        known = pipeline.unet.state_dict().keys()
        rest = {k: v.contiguous() for k, v in averaged.state_dict().items() if k not in known}
        if rest:
            save_file(rest, training / AUGMENTATION)
        moments = {
            f"{kind}/{name}": value.contiguous()
            for name, parameter in model.named_parameters()
            for kind, value in optimizer.state[parameter].items()
        }
        save_file(moments, training / "optimizer.safetensors")
        write_json(training / "state.json", state)

    target = checkpoints / f"step_{state['step']:08d}"
    try:
        write_directory_atomically(target, fill)
    except OSError as problem:
        newest = next((path.name for path in reversed(list_checkpoints(checkpoints))), "none")
        raise ValueError(
            f"{target}: cannot be written ({problem.strerror}); free the space or fix the permissions, then run the "
            f"same command again (newest complete checkpoint: {newest})"
        ) from problem
    for old in list_checkpoints(checkpoints)[:-keep]:
        shutil.rmtree(old)
    return target


def find_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest intact checkpoint; newer damaged ones are renamed with a warning."""
    for leftover in list(checkpoints.glob(".step_*")):      # from a process that was killed while saving
        recover(checkpoints / leftover.stem.removeprefix("."))
    newest, damaged = newest_intact(checkpoints)
    for directory, problem in damaged.items():
        aside = directory.with_name(f"damaged_{directory.name}")
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
        warn(
            f"{directory} is damaged ({problem}) and was renamed to {aside.name}; "
            f"training continues from {newest.name if newest else 'the beginning'}"
        )
    return newest


def load_checkpoint(
    checkpoint: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load the weights and the optimizer state of a checkpoint, and return its `state`."""
    model.load_state_dict(load_file(checkpoint / "training" / "model.safetensors"))
    rest = checkpoint / "training" / AUGMENTATION
    averaged.load_state_dict(load_file(checkpoint / AVERAGED_WEIGHTS) | (load_file(rest) if rest.exists() else {}))
    tensors = load_file(checkpoint / "training" / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        kind, _, parameter = name.partition("/")
        target = parameters[parameter]
        # AdamW keeps its step count on the CPU unless it is fused, where it must be on the device of the moments.
        on_device = kind != "step" or any(group.get("fused") for group in optimizer.param_groups)
        optimizer.state[target][kind] = value.to(target.device) if on_device else value
    return json.loads((checkpoint / "training" / "state.json").read_text())


def export_pipeline(run: Path, step: int, pipeline: ClassConditionalPipeline) -> Path:
    """Export the averaged model of a complete run as a pipeline, unless this has been done with the same settings.

    Args:
        run: the run directory.
        step: the last step, which has a checkpoint.
        pipeline: the averaged model.

    Returns:
        Path of the pipeline directory.

    Raises:
        OSError: if the directory cannot be written.
    """
    target, checkpoint = run / "pipeline", run / "checkpoints" / f"step_{step:08d}"

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        ModelCard(folder, run).write()

    same_weights = digests(target).get(AVERAGED_WEIGHTS) == digests(checkpoint).get(AVERAGED_WEIGHTS)
    if not (same_weights and ModelCard(target, run).is_written()):
        write_directory_atomically(target, fill)
    return target
