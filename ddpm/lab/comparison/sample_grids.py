"""Images of runs as data URIs: samples with equal seeds and classes in strips, and the sample grids of training."""

import base64
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ddpm.data.decode import UnreadableImage, unreadable_if_it_fails
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.io.image_formats import folder_names
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
        At most CLASSES classes with at most SEEDS images each, and a note for each run whose images are missing.

    Raises:
        ValueError: if an image cannot be read.
    """
    folders = {run: evaluation.images for run, evaluation in evaluations.items()}
    notes = [f"{run}: its samples were not kept and are not shown" for run, folder in folders.items() if not folder]
    present = {run: folder for run, folder in folders.items() if folder}
    names = list(dict.fromkeys(n for e in evaluations.values() for n in e.content.get("class_names") or ()))
    found: list[ClassStrips] = []
    for name, folder in folder_names([*names, NO_CLASS]).items():
        files = find_shared_files([path / folder for path in present.values()])[:SEEDS]
        if files and len(found) < CLASSES:
            strips = [_strip(run, [path / folder / file for file in files]) for run, path in present.items()]
            title = name if name in names else "no class"
            found.append(ClassStrips(title, [_seed(file) for file in files], strips))
    if present and not found:
        notes.append(f"{', '.join(present)}: no samples with equal seeds and classes to show")
    return found, notes


def find_shared_files(folders: Sequence[Path]) -> list[str]:
    """Return the names of the PNGs that all folders contain, in the order of their seeds."""
    if not folders:
        return []
    names = [{path.name for path in folder.glob("seed*.png")} for folder in folders]
    return sorted(filter(re.compile(r"seed\d+\.png").fullmatch, set.intersection(*names)), key=_seed)


def read_training_grids(runs: Sequence[Run]) -> list[tuple[str, int, str]]:
    """Return the name of each run with a sample grid of training, the step of its newest grid, and its data URI."""
    found = []
    for run in runs:
        steps = [path.stem.removeprefix("step_") for path in (run.path / "samples").glob("step_*.png")]
        newest = max(filter(str.isdecimal, steps), default=None)
        if newest is not None:
            grid = _open(run.path / "samples" / f"step_{newest}.png", MAX_GRID_PIXELS, None)
            found.append((run.name, int(newest), as_uri(grid)))
    return found


def as_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a PNG."""
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _seed(file: str) -> int:
    return int(file.removeprefix("seed").removesuffix(".png"))


def _strip(run: str, files: Sequence[Path]) -> Strip:
    images = [_open(file, MAX_PIXELS, MAX_PIXELS) for file in files]
    width, height = images[0].size
    gap = max(1, width // 24)
    sheet = Image.new("RGBA", (len(images) * (width + gap) - gap, height))      # transparent between the images
    for i, image in enumerate(images):
        sheet.paste(image, (i * (width + gap), 0))
    factor = max(1, round(SHOWN_PIXELS / height))
    return Strip(run, as_uri(sheet), sheet.width * factor, sheet.height * factor)


def _open(file: Path, width: int, height: int | None) -> Image.Image:
    """Open an image, and reduce it if it is wider or higher than allowed; None allows any height."""
    try:
        with unreadable_if_it_fails(), Image.open(file) as image:
            image.thumbnail((width, height or image.height))
            return image.convert("RGB")
    except UnreadableImage as problem:
        raise ValueError(f"{file}: is not an image ({problem}); delete it, or run scripts/evaluate.py again") from None
