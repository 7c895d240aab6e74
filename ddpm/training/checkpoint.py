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
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.atomic import digests, list_checkpoints, newest_intact, recover, write_directory_atomically
from ddpm.heartbeat import BEFORE_END
from ddpm.io.card import ModelCard
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import warn
from ddpm.training.snapshot import Snapshot

AVERAGED_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = "training/model.safetensors"
AUGMENTATION = "training/augmentation.safetensors"
MOMENTS = "training/optimizer.safetensors"
STATE = "training/state.json"


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time, while training goes on.

    `save` copies the tensors, and a thread writes the copies. Whatever relies on the checkpoint must `wait` first.
    Leaving the context waits too, so that an error of the run does not cost a checkpoint.

    Args:
        folder: folder of all checkpoints of the run.
        pipeline: the averaged model, for images that are not augmented.
        model: the model with the weights that are trained.
        averaged: the averaged model with all weights.
        optimizer: the optimizer of the parameters of `model`.
        keep: maximum number of checkpoints to keep; older ones are removed after a new one is complete.

    Attributes:
        folder: folder of all checkpoints of the run.
    """

    def __init__(
        self,
        folder: Path,
        pipeline: ClassConditionalPipeline,
        model: nn.Module,
        averaged: nn.Module,
        optimizer: torch.optim.Optimizer,
        keep: int,
    ) -> None:
        self.folder, self._pipeline, self._keep = folder, pipeline, keep
        self._model, self._averaged, self._optimizer = model, averaged, optimizer
        self._snapshot = Snapshot(optimizer)
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def __enter__(self) -> Self:
        BEFORE_END.append(self._wait_briefly)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        BEFORE_END.remove(self._wait_briefly)
        if kind is None:
            self.wait()
        elif not issubclass(kind, KeyboardInterrupt):       # with which a person asks to end at once
            try:
                self.wait()
            except Exception as another:        # the error that ends the run is the one to report
                warn(str(another))

    def prepare(self) -> None:
        """Allocate the memory that saving needs, which may take seconds; the optimizer must have made a step."""
        self._snapshot.take(self._tensors())

    def save(self, state: dict[str, Any]) -> None:
        """Copy the tensors and begin to write the checkpoint of `state["step"]`, after waiting for the previous one.

        Args:
            state: the rest of the state of training as JSON values, with the key `step`.

        Raises:
            ValueError: as `wait` does, about the previous checkpoint.
        """
        self.wait()
        self._snapshot.take(self._tensors())
        target, text = self.folder / f"step_{state['step']:08d}", json.dumps(state, indent=2) + "\n"
        # A daemon, so that a disk that hangs cannot keep the process from exiting.
        self._thread = threading.Thread(target=self._write, args=(target, text), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete; return at once if there is none.

        Raises:
            ValueError: if it could not be written; earlier checkpoints are unchanged.
        """
        if self._thread is None:
            return
        self._thread.join()
        problem, self._thread, self._problem = self._problem, None, None
        if problem is not None:
            raise problem

    def _wait_briefly(self) -> None:
        """Wait for up to a minute until the checkpoint that is being written is complete."""
        if self._thread is not None:
            self._thread.join(timeout=60)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each file of a checkpoint."""
        known = self._pipeline.unet.state_dict()
        rest = {name: tensor for name, tensor in self._averaged.state_dict().items() if name not in known}
        moments = {
            f"{kind}/{name}": value
            for name, parameter in self._model.named_parameters()
            for kind, value in self._optimizer.state[parameter].items()
        }
        files = {AVERAGED_WEIGHTS: known, WEIGHTS: self._model.state_dict(), MOMENTS: moments}
        return files | ({AUGMENTATION: rest} if rest else {})

    def _write(self, target: Path, state: str) -> None:
        """Publish the snapshot, remove old checkpoints, and remember an error for `wait`."""
        try:
            self._publish(target, state)
            for old in list_checkpoints(self.folder)[: -self._keep]:
                try:
                    shutil.rmtree(old)
                except OSError as problem:          # the next save tries again
                    warn(f"{old}: an old checkpoint cannot be removed ({problem.strerror})")
        except BaseException as problem:
            self._problem = problem

    def _publish(self, target: Path, state: str) -> None:
        """Write the snapshot as a checkpoint, or change nothing and raise a ValueError."""

        def fill(folder: Path) -> dict[str, str]:
            self._pipeline.save_without_weights(folder)
            written = self._snapshot.write(folder)
            (folder / STATE).write_text(state)
            return written

        try:
            write_directory_atomically(target, fill)
        except OSError as problem:
            newest = next((path.name for path in reversed(list_checkpoints(self.folder))), "none")
            raise ValueError(
                f"{target}: cannot be written ({problem.strerror}); free the space or fix the permissions, then run "
                f"the same command again (newest complete checkpoint: {newest})"
            ) from problem


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
    model.load_state_dict(load_file(checkpoint / WEIGHTS))
    rest = checkpoint / AUGMENTATION
    averaged.load_state_dict(load_file(checkpoint / AVERAGED_WEIGHTS) | (load_file(rest) if rest.exists() else {}))
    tensors = load_file(checkpoint / MOMENTS)
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        kind, _, parameter = name.partition("/")
        target = parameters[parameter]
        if kind != "step":      # fused AdamW needs moments in the layout of their weight; files have one layout
            value = torch.empty_like(target, dtype=value.dtype, requires_grad=False).copy_(value)
        elif any(group.get("fused") for group in optimizer.param_groups):   # otherwise AdamW counts steps on the CPU
            value = value.to(target.device)
        optimizer.state[target][kind] = value
    return json.loads((checkpoint / STATE).read_text())


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
