"""Sample grids while training: the same seeds at every step, so that progress is visible."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ddpm.atomic import atomic_write
from ddpm.config.sections import Config
from ddpm.diffusion.sampling import plan_seeds
from ddpm.io.pictures import labelled_grid
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import on_main
from ddpm.training.shares import in_shares
from ddpm.training.tracking import Trackers

CLASSES = 16        # a grid shows so many classes at most


class Grid:
    """The fixed seeds of each class, drawn with the averaged model over all processes.

    Args:
        config: the run's.
        accelerator: its processes.
        pipeline: holds the averaged model.
        path: the run directory.
    """

    def __init__(
        self, config: Config, accelerator: Accelerator, pipeline: ClassConditionalPipeline, path: Path
    ) -> None:
        self._config, self._accelerator, self._pipeline, self._path = config, accelerator, pipeline, path

    def file(self, step: int) -> Path:
        """File of the grid of a step."""
        return self._path / "samples" / f"step_{step:08d}.png"

    def observe(self, step: int, trackers: Trackers | None) -> None:
        """Draws the grid of a step, if there should be one and is none yet."""
        if self._is_due(step):
            self._draw(step, trackers)

    def _is_due(self, step: int) -> bool:
        """As the main process sees it."""
        train = self._config.train
        due = step == train.steps or (train.sample_every > 0 and step > 0 and step % train.sample_every == 0)
        return due and not broadcast_object_list([self.file(step).exists()])[0]

    def _draw(self, step: int, trackers: Trackers | None) -> None:
        settings, class_names = self._config.sample, self._pipeline.class_names[:CLASSES]
        labels, seeds = plan_seeds(
            range(len(class_names)), settings.per_class, settings.seed, len(self._pipeline.class_names)
        )
        draw_batch = self._pipeline.drawer(torch.tensor(labels), seeds, **settings.drawing())
        drawn = in_shares(self._accelerator, len(labels), settings.batch_size, draw_batch)

        def write() -> None:
            rows = torch.cat(drawn).unflatten(0, (len(class_names), settings.per_class))
            file = self.file(step)
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file) as stream:
                labelled_grid(rows, class_names).save(stream, format="PNG")
            trackers.image(file, step)

        on_main(self._accelerator, write)
