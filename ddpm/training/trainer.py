"""The training loop. Look for "one training step"."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.objective import diffusion_loss
from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import device_map, first_on_main, on_main
from ddpm.training.batches import as_trained_on, local_batches
from ddpm.training.build import build_data, build_monitor, build_schedule, build_unet, check_config
from ddpm.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from ddpm.training.dry_run import multiply_adds, plan
from ddpm.training.ema import EMA
from ddpm.training.export import export
from ddpm.training.inputs import seed_dropout, training_inputs
from ddpm.training.interruption import Interruption
from ddpm.training.launch import EVALUATION_PATIENCE, start_accelerator
from ddpm.training.modulation import watch
from ddpm.training.optimizer import build_optimizer, learning_rate
from ddpm.training.periodic_evaluation import Evaluations
from ddpm.training.run_directory import RunDirectory
from ddpm.training.sample_grid import Grid
from ddpm.training.tracking import Stopwatch, open_trackers

if TYPE_CHECKING:       # only: training without evaluation does not import it
    from ddpm.evaluation.in_training import Monitor


def train(config: Config, run_path: Path, dry_run: bool = False) -> None:
    """Trains a model into a run directory, or goes on with the run that is there.

    Args:
        config: what to train.
        run_path: where.
        dry_run: say what the run would take, and stop.

    Raises:
        ValueError: for anything in the configuration, the data, the launch or the directory that cannot work.
        SystemExit: after an interruption, with 128 plus the signal's number.
    """
    check_config(config)
    accelerator = start_accelerator(config.train, EVALUATION_PATIENCE if config.evaluation.every > 0 else None)
    data = first_on_main(accelerator, lambda: build_data(config))
    schedule, unet = build_schedule(config), first_on_main(accelerator, lambda: build_unet(config, data))
    pretrained = config.model.pretrained
    origin = f", architecture and weights of {pretrained}" if pretrained is not None else ""
    if dry_run:
        lines = plan(config, data, unet, schedule, accelerator)
        accelerator.print(f"{lines}\nrun directory {run_path} (nothing was written){origin}")
        return

    monitor = build_monitor(config, data, accelerator)
    facts = {
        "data": {"summary": data.summary(), "fingerprint": data.fingerprint},
        "class_names": list(data.class_names),
        "parameters": sum(p.numel() for p in unet.parameters()),
        "multiply_adds": multiply_adds(unet),
        "seed": config.train.seed,
    }
    directory = on_main(accelerator, lambda: RunDirectory(run_path))
    with directory or nullcontext():
        run_id = on_main(accelerator, lambda: directory.begin(config, facts)["id"])
        devices = device_map(accelerator)
        size = f"{facts['parameters']:,} parameters"
        accelerator.print(f"run directory {run_path}: {data.summary()}; {size}{origin}; {devices}")
        if data.skipped and accelerator.is_main_process:
            print(f"WARNING: {data.skipped} unreadable images are left out", file=sys.stderr)
        Trainer(config, accelerator, data, schedule, unet, run_path, monitor).run(run_id)


class Trainer:
    """Model, averaged model and optimizer, and the loop over them.

    Args:
        config: what to train.
        accelerator: the processes and their devices.
        data: the images.
        schedule: the forward process.
        unet: the model.
        path: the run directory, which the main process holds.
        monitor: measures while training; None for no evaluation.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        data: ImageData,
        schedule: NoiseSchedule,
        unet: UNet,
        path: Path,
        monitor: "Monitor | None" = None,
    ) -> None:
        self.config, self.accelerator, self.schedule, self.path = config, accelerator, schedule, path
        self.data = as_trained_on(data, config)
        self.unet = unet.to(accelerator.device)
        if config.model.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.ema = EMA(self.unet, config.train.ema_half_life, config.train.ema_warmup)
        optimizer = build_optimizer(self.unet.parameters(), config.train)
        self.model, self.optimizer = accelerator.prepare(self.unet, optimizer)
        self.pipeline = ClassConditionalPipeline.from_parts(
            self.ema.model, schedule, config.diffusion.prediction, data.class_names
        )
        self.grid = Grid(config, accelerator, self.pipeline, path)
        self.monitor = monitor
        self.input_facts = (schedule.num_timesteps, unet.null_label, accelerator.device)
        self.step = 0                   # optimizer steps so far, skipped ones included
        self.skipped = 0                # of them, those whose update was skipped
        self.skipped_in_a_row = 0
        self.sums = {"loss": 0, "grad_norm": 0, "steps": 0}     # since the last line of metrics.jsonl
        self.timed_from = 0             # first step of this process that no line has told of

    def run(self, run_id: str | None) -> None:
        """Trains from where the run stands to its end.

        Args:
            run_id: what the run is called elsewhere, the same across resumes; on the main process only.

        Raises:
            SystemExit: after an interruption, with 128 plus the signal's number.
        """
        config, accelerator, path = self.config.train, self.accelerator, self.path
        checkpoint = broadcast_object_list([on_main(accelerator, lambda: find_checkpoint(path / "checkpoints"))])[0]
        if checkpoint is not None:
            self.restore(checkpoint)
            accelerator.print(f"going on from {checkpoint}")
        trackers = on_main(accelerator, lambda: open_trackers(self.config, path, self.step, run_id))
        batches = local_batches(
            self.data, config, self.step, accelerator.process_index, accelerator.num_processes, self.config.data.workers
        )
        bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=trackers is None, dynamic_ncols=True)
        observers: list[Grid | Evaluations] = [self.grid]
        if self.monitor is not None:
            observers.append(Evaluations(self.config, accelerator, self.pipeline, path, self.monitor, run_id))
        stop = False            # a process was told to: the run is not complete, even if its last step is done
        tracking = nullcontext() if trackers is None else closing(trackers)
        with tracking, bar as progress, Interruption() as interruption, closing(batches):
            clock = Stopwatch()
            while not stop:
                with clock.paused():
                    for observer in observers:
                        observer.observe(self.step, trackers)
                if self.step >= config.steps:
                    break
                stop = self.train_step(batches, interruption)
                progress.update()
                if self.step % config.log_every == 0 or self.step == config.steps:
                    record = self.metrics_since_last(clock.restart())
                    on_main(accelerator, lambda record=record: trackers.log(record | self.watched()))
                    progress.set_postfix({"loss": record["loss"], "images/s": record["images_per_s"]})
                if stop or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    with clock.paused():
                        self.save()
        if stop:
            accelerator.print(
                f"interrupted after step {self.step} of {config.steps}; everything is saved in {path}; "
                "the same command goes on from here"
            )
            raise SystemExit(128 + (interruption.requested or signal.SIGTERM))
        self.finish()

    # ------------------------------------------------------------------------------------------ one training step

    def train_step(
        self, batches: Iterator[tuple[Tensor, Tensor, Tensor]], interruption: Interruption | None = None
    ) -> bool:
        """One optimizer step on one global batch.

        Args:
            batches: (positions, uint8 images, labels), the parts of this process's share.
            interruption: knows whether this process was asked to stop.

        Returns:
            Whether any process was.

        Raises:
            Diverged: after too many updates in a row that had to be skipped.
        """
        config, accelerator = self.config.train, self.accelerator
        seed_dropout(config.seed, self.step, accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.model.train()
        self.optimizer.zero_grad()

        loss = torch.zeros((), device=accelerator.device)
        for part in range(config.accumulation):
            inputs = training_inputs(*next(batches), self.config, *self.input_facts)
            last = part == config.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                # The sum over the share, divided by the global batch: the gradient of the undivided batch's mean.
                share = self.loss(*inputs).sum() / config.batch_size
                accelerator.backward(share * accelerator.num_processes)      # which DDP then averages over processes
            loss += share.detach()
        grad_norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)

        # Every process learns the whole batch's loss; the norm is of the averaged gradient and the same on all.
        interrupted = interruption is not None and interruption.requested != 0
        status = torch.stack([loss, torch.full_like(loss, interrupted)])
        loss, stop = accelerator.reduce(status, "sum").tolist()
        grad_norm = grad_norm.item()
        self.step += 1
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.optimizer.step()
            self.ema.update(self.unet, self.step * config.batch_size, config.batch_size)
            self.skipped_in_a_row = 0
            self.sums["loss"] += loss
            self.sums["grad_norm"] += grad_norm
            self.sums["steps"] += 1
        else:
            self.skip()
        return stop > 0

    # ------------------------------------------------------------------------------------------------------------

    def loss(self, x_0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The objective of this run, (B,)."""
        kind = self.config.diffusion
        return diffusion_loss(self.model, self.schedule, x_0, labels, t, noise, kind.prediction, kind.weighting)

    def skip(self) -> None:
        """Leaves the weights as they are after a loss or gradient that is not finite."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()        # fp16: a smaller loss scale next time
        if self.skipped_in_a_row > self.config.train.max_skipped:
            raise Diverged(
                f"train.max_skipped: the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row "
                f"(now at step {self.step}); lower train.learning_rate, or use train.precision bf16 or fp32; "
                "the checkpoints from before are kept",
                self.step,
            )

    def metrics_since_last(self, seconds: float) -> dict[str, Any]:
        """One record: means over the steps since the last one, of which this process made the latest in `seconds`."""
        steps = self.sums["steps"]
        record = {
            "step": self.step,
            "samples": self.step * self.config.train.batch_size,
            "loss": self.sums["loss"] / steps if steps else None,
            "grad_norm": self.sums["grad_norm"] / steps if steps else None,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped": self.skipped,
            "images_per_s": round((self.step - self.timed_from) * self.config.train.batch_size / seconds, 1),
        }
        self.timed_from = self.step
        self.sums = dict.fromkeys(self.sums, 0)
        return record

    def watched(self) -> dict[str, float | None]:
        """What the modulation of the model does, not of its average: a fault shows there first."""
        return watch(self.unet, self.schedule.num_timesteps)

    def save(self) -> None:
        """Publishes a checkpoint."""
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "sums": self.sums,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        folder, keep = self.path / "checkpoints", self.config.train.keep_checkpoints
        parts = self.pipeline, self.unet, self.optimizer.optimizer
        on_main(self.accelerator, lambda: save_checkpoint(folder, *parts, state, keep))

    def restore(self, checkpoint: Path) -> None:
        """Puts everything where the checkpoint left it."""
        state = load_checkpoint(checkpoint, self.unet, self.ema.model, self.optimizer.optimizer)
        self.step, self.skipped, self.skipped_in_a_row = state["step"], state["skipped"], state["skipped_in_a_row"]
        self.sums, self.timed_from = state["sums"], state["step"]
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def finish(self) -> None:
        """Exports the averaged model of a complete run, and says where everything is."""
        pipeline = on_main(self.accelerator, lambda: export(self.path, self.step, self.pipeline))
        best = f", best model {self.path / 'best'}" if self.monitor is not None else ""
        self.accelerator.print(
            f"{self.path} is complete at step {self.step}: samples {self.grid.file(self.step)}, model {pipeline}"
            f"{best}, metrics {self.path / 'metrics.jsonl'}\ndraw more: python scripts/sample.py {self.path}"
        )
