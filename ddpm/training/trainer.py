"""The training loop. One training step is `Trainer.train_step`."""

import math
import signal
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.devices import find_peak, move, peak_memory
from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.objective import DiffusionLoss
from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.evaluation.modulation import summarize_modulation
from ddpm.models.compilation import compile_network
from ddpm.models.operations import FORWARD_PASSES, multiply_adds
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import first_on_main, on_main
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.build import build_augmentation
from ddpm.training.checkpoint import CheckpointWriter, export_pipeline, load_checkpoint
from ddpm.training.data_picture import DataPicture
from ddpm.training.launch import Interruption, check_batch
from ddpm.training.optim import EMA, build_optimizer, set_options
from ddpm.training.periodic_evaluation import PeriodicEvaluation
from ddpm.training.run_record import continue_command
from ddpm.training.sample_grid import SampleGrid
from ddpm.training.step_inputs import InputQueue, MicroBatch, StepInputs, prepare_images, prepare_inputs, seed_dropout
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import Stopwatch, Trackers, open_trackers

if TYPE_CHECKING:       # training without evaluation must not import this
    from ddpm.evaluation.in_training import InTrainingMetrics


class Trainer:
    """Train a model: hold it, its optimizer and its averaged weights, and run the steps.

    Args:
        config: the run's configuration.
        accelerator: the processes and their devices.
        data: the images.
        schedule: the forward process.
        unet: the model.
        path: the run directory, of which the main process holds the lock.
        metrics: measures generated images during training; None for no evaluation.
        timeline: the settings of all steps of the run; None if they are those of `config` from the start.

    Attributes:
        unet: the model.
        objective: the loss of `unet`, wrapped in DistributedDataParallel if there are several processes.
        ema: the exponential moving average of the weights of `unet`, from which samples are generated.
        checkpoints: writes the checkpoints.
        step: number of optimizer steps so far, including skipped updates.
        skipped: number of updates that were skipped because a loss or gradient was not finite.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        data: ImageData,
        schedule: NoiseSchedule,
        unet: UNet,
        path: Path,
        metrics: "InTrainingMetrics | None" = None,
        timeline: Timeline | None = None,
    ) -> None:
        self.timeline = timeline or Timeline.of(config.train)
        self.config, self.accelerator, self.schedule, self.path = config, accelerator, schedule, path
        self.samples, self.augmentation = build_samples(config, data), build_augmentation(config)
        self.unet = unet.to(accelerator.device)
        if config.model.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.ema = EMA(self.unet, config.train.ema_half_life, config.train.ema_warmup)
        optimizer = build_optimizer(self.unet, config.train)
        objective = DiffusionLoss(self.unet, schedule, config.diffusion.prediction, config.diffusion.weighting)
        if config.train.compile:
            schedule.to(accelerator.device)         # otherwise the first step is compiled for tables on the CPU
            # Graphs keep gradients in memory of their own, which neither other micro-batches nor DDP may add to.
            alone = accelerator.num_processes == config.train.gradient_accumulation_steps == 1
            compile_network(objective, cuda_graphs=accelerator.device.type == "cuda" and alone)
        self.objective, self.optimizer = accelerator.prepare(objective.train(), optimizer)
        self.parameters = list(self.unet.parameters())
        self.pipeline = ClassConditionalPipeline.from_parts(
            self.ema.model.without_augmentation(), schedule, config.diffusion.prediction, data.class_names
        )
        self.checkpoints = CheckpointWriter(
            path / "checkpoints", self.pipeline, self.unet, self.ema.model, self.optimizer.optimizer,
            config.train.keep_checkpoints,
        )
        self.grid = SampleGrid(config, accelerator, self.pipeline, path)
        self.metrics = metrics
        self.step = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.sums: dict[str, float] = {"loss": 0, "grad_norm": 0, "steps": 0}     # since the last line of metrics.jsonl
        self.last_logged_step = 0       # step of the previous record, or of the checkpoint that was loaded

    def run(self, run_id: str | None, checkpoint: Path | None = None) -> None:
        """Train to the last step.

        Args:
            run_id: identifier of the run, the same after every resume; None except on the main process.
            checkpoint: where to go on; None for the start.

        Raises:
            SystemExit: after an interruption, with 128 plus the signal's number.
        """
        config, accelerator = self.config.train, self.accelerator
        if checkpoint is not None:
            self.restore(checkpoint)
            accelerator.print(f"resuming from {checkpoint}")
        self.check_batches()
        if config.compile and self.step < config.steps:
            accelerator.print("compiling    the network and the loss in the first step, which takes a minute or more")
        trackers = first_on_main(accelerator, lambda: open_trackers(self.config, self.path, self.step, run_id))
        hidden = not accelerator.is_main_process
        progress = tqdm(total=config.steps, initial=self.step, unit="step", disable=hidden, dynamic_ncols=True)
        picture = DataPicture(accelerator, self.path, self.pipeline.class_names, self.images_at, self.timeline)
        observers: list[DataPicture | SampleGrid | PeriodicEvaluation] = [picture, self.grid]
        if self.metrics is not None:
            observers.append(
                PeriodicEvaluation(
                    self.config, accelerator, self.pipeline, self.path, self.metrics, run_id, self.timeline
                )
            )
        stop = False            # after an interruption, the run is not complete even if this was its last step
        start = self.step
        with (
            closing(trackers), progress, Interruption() as interruption, closing(self.load_inputs()) as inputs,
            self.checkpoints,
        ):
            clock = Stopwatch()
            while not stop:
                with clock.paused():
                    for observer in observers:
                        observer.observe(self.step, trackers)
                if self.step >= config.steps:
                    break
                stop = self.train_step(inputs, interruption)
                progress.update()
                if self.step == start + 1:
                    with clock.paused():
                        on_main(accelerator, self.checkpoints.prepare)
                last = self.step == config.steps
                if last or self.step % config.log_every == 0:
                    self.log(clock.restart(), trackers, progress)
                if last or stop or self.step % config.checkpoint_every == 0:
                    with clock.paused():
                        self.save()
            on_main(accelerator, self.checkpoints.wait)
        if stop:
            accelerator.print(
                f"interrupted after step {self.step} of {config.steps}; everything is saved in {self.path}; "
                f"run the same command again, or {continue_command(self.path)}, to resume"
            )
            raise SystemExit(128 + (interruption.requested or signal.SIGTERM))
        self.finish()

    # ------------------------------------------------------------------------------------------ one training step

    def train_step(self, inputs: InputQueue, interruption: Interruption | None = None) -> bool:
        """Make one optimizer step on one global batch.

        A GPU computes asynchronously. The function waits for it only when it reads the loss, and in fp16 with Muon also
        when the gradient scaler checks for infinities.

        Args:
            inputs: this process's share of each batch.
            interruption: records whether this process received a signal to stop.

        Returns:
            Whether any process received a signal to stop.

        Raises:
            Diverged: after too many skipped updates in a row.
        """
        # Those of this step: after a damaged checkpoint, the steps before a change of settings are made again.
        settings, accelerator = self.timeline.at(self.step).settings, self.accelerator
        batch_size = settings.batch_size
        if self.unet.config.dropout > 0:
            seed_dropout(self.config.train.seed, self.step, accelerator.process_index)
        set_options(self.optimizer, self.timeline, self.step)
        self.optimizer.zero_grad()

        local_loss = torch.zeros((), device=accelerator.device)
        micro_batches = inputs.take()
        for i, micro_batch in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.objective):
                losses = self.objective(*micro_batch)                                                   # (B,)
                # Divided by the global batch size, so that the accumulated gradient is that of the mean over it.
                micro_loss = losses.sum() / batch_size
                accelerator.backward(micro_loss * accelerator.num_processes)     # DDP averages over the processes
            local_loss += micro_loss.detach()
        grad_norm = accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        inputs.prepare_ahead()          # while a GPU computes

        # Sum the loss over all processes. The norm is that of the averaged gradient, which is the same on all of them.
        interrupted = interruption is not None and interruption.requested != 0
        status = torch.stack([local_loss, torch.full_like(local_loss, interrupted)])
        loss, stop, norm = torch.cat([accelerator.reduce(status, "sum"), grad_norm[None]]).tolist()
        self.step += 1
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
            self.ema.half_life, self.ema.warmup = settings.ema_half_life, settings.ema_warmup
            self.ema.update(self.timeline.position(self.step), batch_size)
            self.skipped_in_a_row = 0
            self.sums["loss"] += loss
            self.sums["grad_norm"] += norm
            self.sums["steps"] += 1
        else:
            self.skip()
        return stop > 0

    # ------------------------------------------------------------------------------------------------------------

    def load_inputs(self) -> InputQueue:
        """Load the inputs of this process, from the present step to the last."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        micro_batches = load_micro_batches(
            self.samples, self.timeline, self.step, rank, processes, self.config, self.accelerator.device
        )
        return InputQueue(micro_batches, self.config.train.gradient_accumulation_steps, self.prepare)

    def prepare(self, micro_batch: MicroBatch) -> StepInputs:
        """Return the inputs of the loss for a micro-batch, on the device."""
        position, images, labels = micro_batch
        device = self.accelerator.device
        return prepare_inputs(
            position, move(images, device), move(labels, device), self.config, self.unet.null_label, self.augmentation
        )

    def images_at(self, positions: range) -> tuple[Tensor, Tensor]:
        """Return images of the run as the network sees them, but without noise, and their labels.

        Args:
            positions: B positions in the run.

        Returns:
            Images in [-1, 1] (B, C, H, W) and labels (B,), without class dropout.
        """
        position, images, labels = self.samples.__getitems__(positions)
        x_0, _ = prepare_images(position, images, self.config, self.augmentation)
        return x_0, labels

    def skip(self) -> None:
        """Skip the update after a loss or gradient that is not finite; weights and average stay as they are."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()        # fp16: halve the loss scale
        if self.skipped_in_a_row > self.config.train.max_skipped:
            raise Diverged(
                f"train.max_skipped: the loss or its gradient was not finite in {self.skipped_in_a_row} consecutive "
                f"steps up to step {self.step}; lower train.learning_rate"
                f"{', or use train.mixed_precision bf16 or fp32' * (self.accelerator.scaler is not None)}; checkpoints "
                "of earlier steps are kept",
                self.step,
            )

    def log(self, seconds: float, trackers: Trackers, progress: tqdm) -> None:
        """Log one record of metrics.jsonl, with means over the steps since the previous record.

        Args:
            seconds: time that this process spent on those steps.
            trackers: where to log the record.
            progress: the progress bar.
        """
        steps, samples = self.sums["steps"], self.timeline.position(self.step)
        record: dict[str, Any] = {
            "step": self.step,
            "samples": samples,
            "loss": self.sums["loss"] / steps if steps else None,
            "grad_norm": self.sums["grad_norm"] / steps if steps else None,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped": self.skipped,
            **self.measure_speed((samples - self.timeline.position(self.last_logged_step)) / seconds),
            **summarize_modulation(self.unet, self.schedule.num_timesteps),
        }
        self.last_logged_step = self.step
        self.sums = dict.fromkeys(self.sums, 0)
        on_main(self.accelerator, lambda: trackers.log(record))
        shown = {"loss": record["loss"], "images/s": record["images_per_s"], "GB": record["memory_gb"]}
        progress.set_postfix(shown | ({"MFU": f"{record['mfu']:.1%}"} if "mfu" in record else {}))

    def measure_speed(self, images_per_s: float) -> dict[str, float]:
        """Return what metrics.jsonl says about the speed, from the number of images per second of all processes.

        Returns:
            `images_per_s`; `memory_gb`, the peak memory of this process; and `mfu`, the model FLOPs utilization, where
            the peak rate of the device is known: the share of it that the products of the forward and the backward
            pass take (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), without those that are recomputed.
        """
        device, processes = self.accelerator.device, self.accelerator.num_processes
        speed = {"images_per_s": round(images_per_s, 1), "memory_gb": round(peak_memory(device) / 1e9, 3)}
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        peak = find_peak(gpu, self.config.train.mixed_precision)
        if peak is not None:
            operations = 2 * FORWARD_PASSES * multiply_adds(self.unet)    # per image
            speed["mfu"] = round(operations * images_per_s / processes / peak, 4)
        return speed

    def save(self) -> None:
        """Begin to save a checkpoint, which is complete after `checkpoints.wait`; training can go on at once.

        The main process waits for the checkpoint before, and if it could not be written, all processes end here.
        """
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "sums": self.sums,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        on_main(self.accelerator, lambda: self.checkpoints.save(state))

    def check_batches(self) -> None:
        """Check the batch sizes of all steps to come, as `check_batch` does."""
        ahead = [segment for segment in self.timeline.segments if segment.step > self.step]
        for segment in (self.timeline.at(self.step), *ahead):
            check_batch(self.config.train, self.accelerator.num_processes, segment.settings.batch_size)

    def restore(self, checkpoint: Path) -> None:
        """Load the state of training from a checkpoint."""
        state = load_checkpoint(checkpoint, self.unet, self.ema.model, self.optimizer.optimizer)
        self.step, self.skipped, self.skipped_in_a_row = state["step"], state["skipped"], state["skipped_in_a_row"]
        self.sums, self.last_logged_step = state["sums"], state["step"]
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def finish(self) -> None:
        """Export the averaged model of a complete run and print where everything is."""
        pipeline = on_main(self.accelerator, lambda: export_pipeline(self.path, self.step, self.pipeline))
        best = f", best model {self.path / 'best'}" if self.metrics is not None else ""
        self.accelerator.print(
            f"{self.path} is complete at step {self.step}: samples {self.grid.file(self.step)}, model {pipeline}"
            f"{best}, metrics {self.path / 'metrics.jsonl'}\ngenerate more: python scripts/sample.py {self.path}"
        )
