"""Checkpoints: a pipeline directory of the averaged model, with the state of training beside it.

    checkpoints/step_00001000/
      model_index.json  unet/  scheduler/     the averaged model, loadable on its own
      training/model.safetensors              the weights that are being trained
      training/optimizer.safetensors          moments of the optimizer
      training/state.json                     step, images seen, running sums, loss scale
      MANIFEST.json                           SHA-256 of each file, written last

Only safetensors and JSON: nothing that is loaded can run code.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddpm.atomic import digests, newest_intact, recover, write_directory_atomically, write_json
from ddpm.io.card import write_card
from ddpm.pipeline import ClassConditionalPipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def save_checkpoint(
    checkpoints: Path,
    pipeline: ClassConditionalPipeline,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Publishes the checkpoint of `state["step"]` and then removes the oldest beyond `keep`.

    Args:
        checkpoints: folder of all checkpoints of a run.
        pipeline: holds the averaged model.
        model: the weights that are being trained.
        optimizer: its parameters are those of `model`, in the same order.
        state: what else is needed to go on; JSON-able, with the key `step`.
        keep: how many checkpoints remain.

    Raises:
        ValueError: if it cannot be written; earlier checkpoints are as they were.
    """

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        training = folder / "training"
        training.mkdir()
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, training / "model.safetensors")
        save_file(_optimizer_tensors(model, optimizer), training / "optimizer.safetensors")
        write_json(training / "state.json", state)

    target = checkpoints / f"step_{state['step']:08d}"
    try:
        write_directory_atomically(target, fill)
    except OSError as problem:
        good = max((p.name for p in checkpoints.glob("step_*")), default="none yet")
        raise ValueError(
            f"{target}: could not be written ({problem.strerror}); the newest good checkpoint is {good}; "
            "put it right, then run the same command again"
        ) from problem
    for old in sorted(checkpoints.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return target


def find_checkpoint(checkpoints: Path) -> Path | None:
    """The newest good checkpoint; damaged ones that are newer are set aside, loudly."""
    for leftover in list(checkpoints.glob(".step_*")):      # of a process that was killed while it saved
        recover(checkpoints / leftover.stem.removeprefix("."))
    newest, damaged = newest_intact(checkpoints)
    for directory, problem in damaged.items():
        aside = directory.with_name(f"damaged_{directory.name}")
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
        print(
            f"WARNING: {directory} is damaged ({problem}) and was renamed to {aside.name}; "
            f"going on from {newest.name if newest else 'the beginning'}",
            file=sys.stderr,
        )
    return newest


def load_checkpoint(
    checkpoint: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Puts a checkpoint's weights and moments in place and returns its `state`."""
    model.load_state_dict(load_file(checkpoint / "training" / "model.safetensors"))
    averaged.load_state_dict(load_file(checkpoint / WEIGHTS))
    tensors = load_file(checkpoint / "training" / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        kind, _, parameter = name.partition("/")
        target = parameters[parameter]
        # AdamW keeps its step count on the CPU unless it is fused on a GPU, where it must be beside the moments.
        on_device = kind != "step" or any(group.get("fused") for group in optimizer.param_groups)
        optimizer.state[target][kind] = value.to(target.device) if on_device else value
    return json.loads((checkpoint / "training" / "state.json").read_text())


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{kind}/{name}": value.contiguous()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }


def export_pipeline(run: Path, step: int, pipeline: ClassConditionalPipeline) -> Path:
    """Publishes the averaged model of a complete run, unless that is done.

    Args:
        run: the run directory.
        step: its last; there is a checkpoint of it.
        pipeline: holds the averaged model.

    Returns:
        Path of the pipeline directory.

    Raises:
        OSError: if it cannot be written.
    """
    target, checkpoint = run / "pipeline", run / "checkpoints" / f"step_{step:08d}"

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        write_card(folder, run)

    if digests(target).get(WEIGHTS) != digests(checkpoint).get(WEIGHTS):
        write_directory_atomically(target, fill)
    return target
