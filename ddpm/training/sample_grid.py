"""Sample grids during training: the same seeds at every step, so that progress is visible."""

from pathlib import Path

import torch
from accelerate import Accelerator

from ddpm.atomic import atomic_write
from ddpm.config.sections import Config
from ddpm.diffusion.sampling import plan_seeds
from ddpm.io.captions import class_captions
from ddpm.io.pictures import labeled_grid, plain_grid
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import broadcast_from_main, map_batches, on_main
from ddpm.training.tracking import Trackers

CLASSES = 16        # a grid shows at most this many classes
ROWS = 4            # without classes, the number of images is that of so many classes


class SampleGrid:
    """Grids of a few fixed seeds, of each class if there are classes, drawn from the averaged model by all processes.

    Args:
        config: the run's configuration.
        accelerator: the processes.
        pipeline: the averaged model.
        path: the run directory.
    """

    def __init__(
        self, config: Config, accelerator: Accelerator, pipeline: ClassConditionalPipeline, path: Path
    ) -> None:
        self._config, self._accelerator, self._pipeline, self._path = config, accelerator, pipeline, path

    def file(self, step: int) -> Path:
        """Return the path of a step's grid."""
        return self._path / "samples" / f"step_{step:08d}.png"

    def observe(self, step: int, trackers: Trackers) -> None:
        """Draw the grid of a step if it is due and does not exist yet."""
        if self._is_due(step):
            self._draw(step, trackers)

    def _is_due(self, step: int) -> bool:
        """Return whether this step is due; decided on the main process and broadcast."""
        train = self._config.train
        due = step == train.steps or (train.sample_every > 0 and step > 0 and step % train.sample_every == 0)
        return due and not broadcast_from_main(self._accelerator, lambda: self.file(step).exists())

    def _draw(self, step: int, trackers: Trackers) -> None:
        settings, class_names = self._config.sample, self._pipeline.class_names[:CLASSES]
        classes, each = range(len(class_names)), settings.per_class
        if not class_names:             # all images are of the null class, whose id is 0
            classes, each = range(1), ROWS * each
        labels, seeds = plan_seeds(classes, each, settings.seed, len(self._pipeline.class_names))
        draw_batch = self._pipeline.make_draw_batch(torch.tensor(labels), seeds, **settings.sampling_options())
        batch_size = settings.batch_size or self._pipeline.images_per_call
        drawn = map_batches(self._accelerator, len(labels), batch_size, draw_batch)

        def write() -> None:
            images = torch.cat(drawn)
            rows = images.unflatten(0, (len(classes), each))
            grid = labeled_grid(rows, class_captions(class_names)) if class_names else plain_grid(images.unbind())
            file = self.file(step)
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file) as stream:
                grid.save(stream, format="PNG")
            trackers.image(file, step)

        on_main(self._accelerator, write)
