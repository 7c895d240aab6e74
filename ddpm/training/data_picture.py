"""samples/data.png: the first images of a run as the network sees them, before noise is added.

It is drawn again if the images, or what is made of them, change while a run continues.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from ddpm.atomic import atomic_write
from ddpm.diffusion.sampling import to_uint8
from ddpm.io.captions import class_captions
from ddpm.io.pictures import captioned_grid, to_picture
from ddpm.processes import on_main
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import Trackers

MAX_IMAGES = 64


class DataPicture:
    """Draws the first images of a run with their class names, and again when what the network sees changes.

    That is when a run continues with other images, another balance of the classes, or another augmentation.

    Args:
        accelerator: the processes.
        path: the run directory.
        class_names: names of the classes; none for images without classes.
        images_at: B positions in the run -> images in [-1, 1] (B, C, H, W), and their labels (B,).
        timeline: the settings of all steps of the run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        path: Path,
        class_names: Sequence[str],
        images_at: Callable[[range], tuple[Tensor, Tensor]],
        timeline: Timeline,
    ) -> None:
        self._accelerator, self._captions = accelerator, class_captions(class_names)
        self._images_at, self._timeline = images_at, timeline
        self.file = path / "samples" / "data.png"

    def observe(self, step: int, trackers: Trackers) -> None:
        """Draw the picture before the first step with these images and this augmentation."""
        if step != self._timeline.images_since:
            return
        first, steps = self._timeline.position(step), self._timeline.segments[-1].settings.steps
        end = max(self._timeline.position(steps), first + self._timeline.batch_size(step))

        def write() -> None:
            images, labels = self._images_at(range(first, min(end, first + MAX_IMAGES)))
            captions = [self._captions[label] if self._captions else "" for label in labels.tolist()]
            self.file.parent.mkdir(exist_ok=True)
            with atomic_write(self.file) as stream:
                captioned_grid([to_picture(image) for image in to_uint8(images)], captions).save(stream, format="PNG")
            trackers.image(self.file, step, "data")

        on_main(self._accelerator, write)
