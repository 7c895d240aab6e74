"""Images of runs as data URIs: samples with equal seeds and classes in strips, and the sample grids of training."""

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ddpm.data.pixels.decode import UnreadableImage, unreadable_if_it_fails
from ddpm.data.records import FilePictures, Pictures
from ddpm.data.sources.arrays import open_npz
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.io.image_formats import folder_names
from ddpm.io.pictures import count_tiles, describe_picture, to_picture, to_tensor
from ddpm.lab.comparison.runs import Evaluation, Run

CLASSES, SEEDS = 10, 8      # largest number that is shown
SHOWN_PIXELS = 48           # smaller images are enlarged to about this height
MAX_PIXELS = 96             # larger images are reduced to this size
MAX_GRID_PIXELS = 1000      # largest width of a grid


class Strip(NamedTuple):
    """A row of images of one run and class.

    Attributes:
        run: name of the run.
        uri: data URI of the PNG.
        width: displayed width in pixels.
        height: displayed height in pixels.
    """

    run: str
    uri: str
    width: int
    height: int


class StoredImage(NamedTuple):
    """An image that an evaluation has written.

    Attributes:
        file: that contains it.
        pictures: the images of this file.
        row: of the image among them.
    """

    file: Path
    pictures: Pictures
    row: int

    def read(self) -> Tensor:
        """Return the image, uint8 (C, H, W)."""
        with _readable(self.file):
            return to_tensor(self.pictures.open(self.row))


class ClassStrips(NamedTuple):
    """The strips of one class.

    Attributes:
        name: name of the class.
        seeds: seeds of the images, from left to right.
        strips: one per run.
    """

    name: str
    seeds: Sequence[int]
    strips: Sequence[Strip]


def find_shared_samples(evaluations: dict[str, Evaluation]) -> tuple[list[ClassStrips], list[str]]:
    """Find the images of runs with equal seeds and classes.

    Args:
        evaluations: evaluations by the name of the run.

    Returns:
        At most CLASSES classes with at most SEEDS images each; and notes: the runs whose images are missing, and how
        images are shown that are neither gray nor RGB.

    Raises:
        ValueError: if an image cannot be read.
    """
    folders = {run: evaluation.images for run, evaluation in evaluations.items()}
    reason = "no samples are shown, because its evaluation drew none, or they were deleted"
    notes = [f"{run}: {reason}" for run, folder in folders.items() if not folder]
    names = list(dict.fromkeys(n for e in evaluations.values() for n in e.content.get("class_names") or ()))
    present = {run: find_written_images([*names, NO_CLASS], folder) for run, folder in folders.items() if folder}
    found: list[ClassStrips] = []
    for name in [*names, NO_CLASS] if present else ():
        seeds = sorted(set.intersection(*(set(images[name]) for images in present.values())))[:SEEDS]
        if seeds and len(found) < CLASSES:
            strips = [_strip(run, [images[name][seed] for seed in seeds]) for run, images in present.items()]
            found.append(ClassStrips(name if name in names else "no class", seeds, strips))
    if present and not found:
        notes.append(f"{', '.join(present)}: no samples with equal seeds and classes to show")
    for images in present.values() if found else ():
        image = next(image for row in images.values() for image in row.values()).read()
        if (shown := describe_picture(len(image))) is not None and shown not in notes:
            notes.append(shown)
    return found, notes


def find_written_images(names: Sequence[str], folder: Path) -> dict[str, dict[int, StoredImage]]:
    """Find the images that an evaluation has written: class -> seed -> image.

    Args:
        names: of classes.
        folder: of PNGs in one folder per class, or with a samples.npz.
    """
    archive = folder / "samples.npz"
    if archive.is_file():
        found: dict[str, dict[int, StoredImage]] = {name: {} for name in names}
        pictures, labels, classes = open_npz(archive)       # names a damaged file
        with np.load(archive) as arrays:
            seeds = arrays["seeds"].tolist()
            rows = arrays["rows"].tolist() if "rows" in arrays else [NO_CLASS] * len(seeds)
        if labels and classes:
            rows = [classes[label] for label in labels]
        for index, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            if row in found:
                found[row][seed] = StoredImage(archive, pictures, index)
        return found
    files = {name: sorted((folder / own).glob("seed*.png")) for name, own in folder_names(names).items()}
    return {
        name: {
            int(match[1]): StoredImage(path, FilePictures((str(path),)), 0)
            for path in paths
            if (match := re.fullmatch(r"seed(\d+)\.png", path.name))
        }
        for name, paths in files.items()
    }


def read_training_grids(runs: Sequence[Run]) -> list[tuple[str, int, str]]:
    """Return the name of each run with a sample grid of training, the step of its newest grid, and its data URI."""
    found = []
    for run in runs:
        steps = [path.stem.removeprefix("step_") for path in (run.path / "samples").glob("step_*.png")]
        newest = max(filter(str.isdecimal, steps), default=None)
        if newest is not None:
            grid = _open_grid(run.path / "samples" / f"step_{newest}.png")
            found.append((run.name, int(newest), as_uri(grid)))
    return found


def as_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a PNG."""
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _strip(run: str, stored: Sequence[StoredImage]) -> Strip:
    images = [_show(image) for image in stored]
    width, height = images[0].size
    gap = max(1, width // 24)
    sheet = Image.new("RGBA", (len(images) * (width + gap) - gap, height))      # transparent between the images
    for i, image in enumerate(images):
        sheet.paste(image, (i * (width + gap), 0))
    factor = max(1, round(SHOWN_PIXELS / height))
    return Strip(run, as_uri(sheet), sheet.width * factor, sheet.height * factor)


def _show(stored: StoredImage) -> Image.Image:
    """Return an image as a picture, reduced if it is large."""
    image = stored.read()
    picture = to_picture(image)
    picture.thumbnail((MAX_PIXELS * count_tiles(len(image)), MAX_PIXELS))
    return picture.convert("RGB")


def _open_grid(file: Path) -> Image.Image:
    """Open a sample grid, and reduce it if it is wide."""
    with _readable(file), Image.open(file) as image:
        image.thumbnail((MAX_GRID_PIXELS, image.height))
        return image.convert("RGB")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name the file in the error of a damaged image."""
    try:
        with unreadable_if_it_fails():
            yield
    except UnreadableImage as problem:
        raise ValueError(f"{file}: is not an image ({problem}); delete it, or run scripts/evaluate.py again") from None
