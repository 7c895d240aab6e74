"""Periodic evaluation during training: metrics of the averaged model on a few images, and the best model."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from ddpm.atomic import find_damage, json_digest, recover, write_directory_atomically, write_json
from ddpm.config.sections import Config
from ddpm.io.provenance import describe_changes
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import broadcast_from_main, map_batches, on_main
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import EVALUATION_PREFIX, EVALUATION_SETTINGS, Trackers, has_record

if TYPE_CHECKING:       # training without evaluation must not import this
    from ddpm.evaluation.in_training import InTrainingMetrics

FACTS = "best.json"
BETTER = {"lower": lambda new, old: new < old, "higher": lambda new, old: new > old}


class PeriodicEvaluation:
    """Generates images of the same seeds with the averaged model on all processes, and measures them.

    The record of a step is written after its model is saved, and a step with a record of the same settings is not
    evaluated again. Therefore a run that was killed at any point does the missing evaluations once, and a run that is
    resumed with other settings also evaluates its current step with them.

    Args:
        config: the run's configuration.
        accelerator: the processes.
        pipeline: the averaged model.
        path: the run directory.
        metrics: what to measure.
        run_id: identifier of the run, on the main process; the best model of another run is replaced.
        timeline: the settings of all steps of the run.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        pipeline: ClassConditionalPipeline,
        path: Path,
        metrics: "InTrainingMetrics",
        run_id: str | None,
        timeline: Timeline,
    ) -> None:
        self._config, self._accelerator, self._pipeline, self._path = config, accelerator, pipeline, path
        self._metrics, self._timeline = metrics, timeline
        self._settings = json_digest(metrics.identity, length=8)       # a run has few different settings
        self._best = BestModel(path / "best", metrics.better, {"run": run_id, **metrics.identity})

    def observe(self, step: int, trackers: Trackers) -> None:
        """Evaluate a step if it is due and has not been evaluated."""
        if self._is_due(step):
            self._evaluate(step, trackers)

    def _is_due(self, step: int) -> bool:
        """Return whether this step is due; decided on the main process and broadcast."""
        due = step == self._config.train.steps or (step > 0 and step % self._config.evaluation.every == 0)
        if not due:
            return False
        file, settings = self._path / "metrics.jsonl", self._settings
        done = broadcast_from_main(self._accelerator, lambda: has_record(file, step, EVALUATION_SETTINGS, settings))
        return not done

    def _evaluate(self, step: int, trackers: Trackers) -> None:
        metrics, settings = self._metrics, self._config.evaluation
        batch_size = self._config.sample.batch_size or self._pipeline.images_per_call
        draw_batch = self._pipeline.make_draw_batch(
            metrics.labels, metrics.seeds, **settings.sampling_options(), batch_size=batch_size
        )
        features = map_batches(
            self._accelerator, settings.count, batch_size, lambda indices: metrics.extract_features(draw_batch(indices))
        )

        def finish() -> None:
            columns = {name: torch.cat([batch[name] for batch in features]) for name in features[0]}
            values = metrics.measure(columns)
            samples = self._timeline.position(step)
            self._best.offer(values[settings.metric], step, samples, self._pipeline)
            record = {"step": step, "samples": samples, EVALUATION_SETTINGS: self._settings}
            trackers.log(record | {f"{EVALUATION_PREFIX}{name}": value for name, value in values.items()})

        on_main(self._accelerator, finish)


class BestModel:
    """The best model of a run.

    A run that resumes from a checkpoint older than its best model reaches the same step again with the same value,
    because its images are a function of the configuration, the seed and the step.

    Args:
        folder: directory of the best model.
        better: "lower" or "higher".
        identity: JSON values that must be equal for two values to be comparable; a model with another identity is
            replaced with a warning.
    """

    def __init__(self, folder: Path, better: str, identity: dict[str, Any]) -> None:
        self._folder, self._better, self._identity = folder, BETTER[better], identity

    def offer(self, value: float, step: int, samples: int, pipeline: ClassConditionalPipeline) -> None:
        """Save a model if it is better than the saved one; of equal models, the first is kept.

        Args:
            value: value of the model's metric.
            step: its training step.
            samples: number of images that it was trained on.
            pipeline: the model.

        Raises:
            OSError: if it cannot be written.
        """
        recover(self._folder)
        changes = ""
        if find_damage(self._folder) is None:
            saved = json.loads((self._folder / FACTS).read_text())
            changes = describe_changes(saved["identity"], self._identity)
            if not changes and not self._better(value, saved["value"]):
                return
        facts = {"step": step, "samples": samples, "value": value, "identity": self._identity}

        def fill(folder: Path) -> None:
            pipeline.save_pretrained(folder)
            write_json(folder / FACTS, facts)

        write_directory_atomically(self._folder, fill)
        if changes:
            tqdm.write(         # print would break the progress bar
                f"WARNING: {self._folder}: the model of step {saved['step']} was selected with other settings: "
                f"{changes}; it is replaced by that of step {step}",
                file=sys.stderr,
            )
