"""samples/data.png: the first images of a run as the network sees them, before noise is added.

If the images are replaced by others while a run continues, these are the first of them.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm.atomic import atomic_write
from ddpm.diffusion.sampling import to_uint8
from ddpm.io.captions import class_captions, load_font
from ddpm.io.pictures import to_picture
from ddpm.processes import on_main
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import Trackers

MAX_IMAGES = 64
MAX_SIDE = 2048         # maximum width and height in pixels; exceeded if needed to draw two rows and columns
MIN_IMAGE = 64          # pixels; smaller images are enlarged by an integer factor
MIN_CAPTION = 96        # pixels; width of a caption under a narrow image
FONT_SIZE = 12
LINES = 2               # of a caption
GAP = 4


class DataPicture:
    """Draws the first images of a run with their class names, at its start and when they are replaced by others.

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
        """Draw the picture before the first step with these images."""
        if step != self._timeline.images_since:
            return
        first = self._timeline.position(step)

        def write() -> None:
            images, labels = self._images_at(
                range(first, first + min(self._timeline.batch_size(step), MAX_IMAGES))
            )
            captions = [self._captions[label] if self._captions else "" for label in labels.tolist()]
            self.file.parent.mkdir(exist_ok=True)
            with atomic_write(self.file) as stream:
                captioned_grid([to_picture(image) for image in to_uint8(images)], captions).save(stream, format="PNG")
            trackers.image(self.file, step, "data")

        on_main(self._accelerator, write)


def captioned_grid(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Draw images of equal size in a nearly square grid, each with its caption under it.

    Args:
        images: the images. Of many large images, as many are drawn as fit into MAX_SIDE x MAX_SIDE pixels.
        captions: one per image; those that do not fit into two lines are truncated. If all are empty, there is no
            space for them.
    """
    font = load_font(FONT_SIZE)
    width, height = (side * max(1, -(-MIN_IMAGE // min(images[0].size))) for side in images[0].size)
    texts = [wrap(caption, font, max(width, MIN_CAPTION)) for caption in captions]
    lines = [text.split("\n") for text in texts]
    caption_w = math.ceil(max(font.getlength(line) for text in lines for line in text))
    caption_h = max(len(text) for text in lines) * (FONT_SIZE + 3) if any(captions) else 0
    cell_w, cell_h = max(width, caption_w) + GAP, height + caption_h + GAP
    columns = min(math.isqrt(len(images) - 1) + 1, max(2, MAX_SIDE // cell_w))
    rows = min(-(-len(images) // columns), max(2, MAX_SIDE // cell_h))
    sheet = Image.new("RGB", (columns * cell_w + GAP, rows * cell_h + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images[: rows * columns], texts, strict=False)):
        left, top = GAP + i % columns * cell_w, GAP + i // columns * cell_h
        center = left + (cell_w - GAP) // 2
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (center - width // 2, top))
        pen.multiline_text((center, top + height + 1), text, "black", font, anchor="ma", align="center", spacing=2)
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Break a text into at most LINES lines of at most `width` pixels; an ellipsis stands for what does not fit."""
    rest = "".join(x if x.isprintable() else " " for x in text)
    lines: list[str] = []
    while rest:
        last = len(lines) == LINES - 1
        fits = next(n for n in range(len(rest), -1, -1) if font.getlength(rest[:n]) <= width)
        if fits < len(rest) and last:
            fits = next(n for n in range(fits, -1, -1) if font.getlength(rest[:n] + "…") <= width)
            return "\n".join([*lines, rest[:fits] + "…"])
        if fits < len(rest):
            fits = rest.rfind(" ", 0, fits + 1) + 1 or max(1, fits)         # at a space if there is one
        lines.append(rest[:fits].rstrip())
        rest = rest[fits:]
    return "\n".join(lines)
