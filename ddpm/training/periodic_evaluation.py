"""PeriodicEvaluation while training: a few images of the averaged model, measured, and the best model kept."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from ddpm.atomic import find_damage, json_digest, recover, write_directory_atomically, write_json
from ddpm.config.sections import Config
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import broadcast_from_main, map_batches, on_main
from ddpm.training.tracking import Trackers, has_record

if TYPE_CHECKING:       # only: training without evaluation does not import it
    from ddpm.evaluation.in_training import InTrainingMetrics

SETTINGS = "evaluation/settings"        # in a record: a short digest of what decides the meaning of its metrics

FACTS = "best.json"
BETTER = {"lower": lambda new, old: new < old, "higher": lambda new, old: new > old}


class PeriodicEvaluation:
    """Draws the same seeds with the averaged model, over all processes, and measures them.

    A step's record is written after its model was published, and a step that has a record of the same settings is not
    evaluated again. So a run that was killed at any point does what is missing, once; and one that goes on with other
    settings evaluates the step where it stands with those too.

    Args:
        config: the run's.
        accelerator: its processes.
        pipeline: holds the averaged model.
        path: the run directory.
        monitor: measures.
        run_id: of the run, on the main process; a best model that another run left behind does not count.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        pipeline: ClassConditionalPipeline,
        path: Path,
        monitor: "InTrainingMetrics",
        run_id: str | None,
    ) -> None:
        self._config, self._accelerator, self._pipeline, self._path = config, accelerator, pipeline, path
        self._monitor = monitor
        # Eight digits: they tell apart the few settings that one run is ever evaluated with.
        self._settings = json_digest(monitor.identity, length=8)
        self._best = BestModel(path / "best", monitor.better, {"run": run_id, **monitor.identity})

    def observe(self, step: int, trackers: Trackers | None) -> None:
        """Evaluates a step, if that is due and was not done yet."""
        if self._is_due(step):
            self._evaluate(step, trackers)

    def _is_due(self, step: int) -> bool:
        """Return whether this step is due; decided on the main process and broadcast."""
        due = step == self._config.train.steps or (step > 0 and step % self._config.evaluation.every == 0)
        if not due:
            return False
        file = self._path / "metrics.jsonl"
        return not broadcast_from_main(self._accelerator, lambda: has_record(file, step, SETTINGS, self._settings))

    def _evaluate(self, step: int, trackers: Trackers | None) -> None:
        monitor, settings = self._monitor, self._config.evaluation
        batch_size = self._config.sample.batch_size
        draw_batch = self._pipeline.drawer(monitor.labels, monitor.seeds, **settings.drawing(), batch_size=batch_size)
        described = map_batches(
            self._accelerator, settings.count, batch_size, lambda indices: monitor.extract_features(draw_batch(indices))
        )

        def finish() -> None:
            columns = {name: torch.cat([batch[name] for batch in described]) for name in described[0]}
            metrics = monitor.measure(columns)
            samples = step * self._config.train.batch_size
            self._best.offer(metrics[settings.metric], step, samples, self._pipeline)
            record = {"step": step, "samples": samples, SETTINGS: self._settings}
            trackers.log(record | {f"evaluation/{name}": value for name, value in metrics.items()})

        on_main(self._accelerator, finish)


class BestModel:
    """The best model of a run.

    A run that goes on from a checkpoint older than its best model comes to that step again and finds it there: what it
    draws is a function of the configuration, the seed and the step.

    Args:
        folder: where it is published.
        better: "lower" or "higher".
        identity: JSON-able facts that must be equal for two values to be compared; a model of others is replaced,
            and that is said.
    """

    def __init__(self, folder: Path, better: str, identity: dict[str, Any]) -> None:
        self._folder, self._better, self._identity = folder, BETTER[better], identity

    def facts(self) -> dict[str, Any] | None:
        """best.json of the model that is there: step, samples, value, identity; None if there is no whole one."""
        if not self._folder.is_dir() or find_damage(self._folder) is not None:
            return None
        return json.loads((self._folder / FACTS).read_text())

    def offer(self, value: float, step: int, samples: int, pipeline: ClassConditionalPipeline) -> None:
        """Publishes a model if it is better than the one that is there; of equal ones the first stays.

        Args:
            value: of its evaluation.
            step: of training.
            samples: images that it was trained on.
            pipeline: holds it.

        Raises:
            OSError: if it cannot be written.
        """
        recover(self._folder)
        known = self.facts()
        changes = [] if known is None else self._changes(known["identity"])
        if known is not None and not changes and not self._better(value, known["value"]):
            return
        facts = {"step": step, "samples": samples, "value": value, "identity": self._identity}

        def fill(folder: Path) -> None:
            pipeline.save_pretrained(folder)
            write_json(folder / FACTS, facts)

        write_directory_atomically(self._folder, fill)
        if changes:
            tqdm.write(         # not into the line of the progress bar
                f"WARNING: {self._folder}: the model of step {known['step']} was chosen by other settings: "
                f"{', '.join(changes)}; that of step {step} is there now",
                file=sys.stderr,
            )

    def _changes(self, identity: dict[str, Any]) -> list[str]:
        """What makes values of another identity incomparable, key by key."""
        pairs = {key: (identity.get(key), self._identity.get(key)) for key in identity | self._identity}
        return [f"{key} ({there} there, {now} now)" for key, (there, now) in pairs.items() if there != now]
