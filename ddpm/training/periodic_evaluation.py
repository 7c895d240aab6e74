"""Evaluations while training: a few images of the averaged model, measured, and the best model kept."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ddpm.atomic import json_digest
from ddpm.config.sections import Config
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import on_main
from ddpm.training.best import Best
from ddpm.training.shares import in_shares
from ddpm.training.tracking import Trackers, has_record

if TYPE_CHECKING:       # only: training without evaluation does not import it
    from ddpm.evaluation.in_training import Monitor

SETTINGS = "evaluation/settings"        # in a record: a short digest of what decides the meaning of its figures


class Evaluations:
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
        monitor: "Monitor",
        run_id: str | None,
    ) -> None:
        self._config, self._accelerator, self._pipeline, self._path = config, accelerator, pipeline, path
        self._monitor = monitor
        # Eight digits: they tell apart the few settings that one run is ever evaluated with.
        self._settings = json_digest(monitor.identity, length=8)
        self._best = Best(path / "best", monitor.better, {"run": run_id, **monitor.identity})

    def observe(self, step: int, trackers: Trackers | None) -> None:
        """Evaluates a step, if that is due and was not done yet."""
        if self._is_due(step):
            self._evaluate(step, trackers)

    def _is_due(self, step: int) -> bool:
        """As the main process sees it."""
        due = step == self._config.train.steps or (step > 0 and step % self._config.evaluation.every == 0)
        if not due:
            return False
        file = self._path / "metrics.jsonl"
        done = on_main(self._accelerator, lambda: has_record(file, step, SETTINGS, self._settings))
        return not broadcast_object_list([done])[0]

    def _evaluate(self, step: int, trackers: Trackers | None) -> None:
        monitor, settings = self._monitor, self._config.evaluation
        batch_size = self._config.sample.batch_size
        draw_batch = self._pipeline.drawer(monitor.labels, monitor.seeds, **settings.drawing(), batch_size=batch_size)
        described = in_shares(
            self._accelerator, settings.count, batch_size, lambda places: monitor.extract_features(draw_batch(places))
        )

        def finish() -> None:
            columns = {name: torch.cat([batch[name] for batch in described]) for name in described[0]}
            figures = monitor.measure(columns)
            samples = step * self._config.train.batch_size
            self._best.offer(figures[settings.metric], step, samples, self._pipeline)
            record = {"step": step, "samples": samples, SETTINGS: self._settings}
            trackers.log(record | {f"evaluation/{name}": value for name, value in figures.items()})

        on_main(self._accelerator, finish)
