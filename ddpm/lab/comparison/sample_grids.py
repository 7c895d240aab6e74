"""Images of runs as data URIs: of equal seeds and classes in strips, and the grids that training drew."""

import base64
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ddpm.data.decode import UnreadableImage, unreadable_if_it_fails
from ddpm.io.image_formats import folder_names
from ddpm.lab.comparison.runs import Evaluation, Run, step_of

CLASSES, SEEDS = 10, 8      # that are shown at most
SHOWN_PIXELS = 48           # smaller images are enlarged to about so many,
MOST_PIXELS = 96            # larger ones reduced
GRID_PIXELS = 1000          # width of a grid at most


class Strip(NamedTuple):
    """Images of one run and class in a row.

    Attributes:
        run: its name.
        uri: of the PNG.
        width: as shown, in pixels.
        height: as shown, in pixels.
    """

    run: str
    uri: str
    width: int
    height: int


class ClassStrips(NamedTuple):
    """One class of all runs.

    Attributes:
        name: of the class.
        seeds: of the images, from left to right.
        strips: one per run.
    """

    name: str
    seeds: Sequence[int]
    strips: Sequence[Strip]


class Grid(NamedTuple):
    """A sample grid of training.

    Attributes:
        run: its name.
        step: after which it was drawn.
        uri: of the PNG.
    """

    run: str
    step: int
    uri: str


def shared_samples(evaluations: dict[str, Evaluation]) -> tuple[list[ClassStrips], list[str]]:
    """The images that runs have drawn with equal seeds and classes.

    Args:
        evaluations: by the name of the run.

    Returns:
        At most CLASSES classes with at most SEEDS images each; and a sentence for each run whose images are gone.

    Raises:
        ValueError: if an image cannot be read.
    """
    folders = {run: evaluation.images for run, evaluation in evaluations.items()}
    notes = [f"{run}: its drawn images are gone, so none are shown" for run, folder in folders.items() if not folder]
    present = {run: folder for run, folder in folders.items() if folder}
    names = list(dict.fromkeys(n for e in evaluations.values() for n in e.content.get("class_names") or ()))
    found = []
    for name, folder in folder_names([*names, "none"]).items():
        files = shared_files([path / folder for path in present.values()])[:SEEDS]
        if files and len(found) < CLASSES:
            strips = [_strip(run, [path / folder / file for file in files]) for run, path in present.items()]
            found.append(ClassStrips(name, [_seed(file) for file in files], strips))
    if present and not found:
        notes.append(f"{', '.join(present)}: no images of equal seeds and classes, so none are shown")
    return found, notes


def shared_files(folders: Sequence[Path]) -> list[str]:
    """Names of the PNGs that are in all of the folders, by rising seed."""
    if not folders:
        return []
    names = [{path.name for path in folder.glob("seed*.png")} for folder in folders]
    return sorted(filter(re.compile(r"seed\d+\.png").fullmatch, set.intersection(*names)), key=_seed)


def training_grids(runs: Sequence[Run]) -> tuple[list[Grid], list[str]]:
    """The newest grid of each run that has one, and a sentence for each that cannot be read."""
    found, notes = [], []
    for run in runs:
        file = run.newest_grid
        if file is None:
            continue
        try:
            found.append(Grid(run.name, int(step_of(file)), as_uri(_opened(file, GRID_PIXELS, None))))
        except UnreadableImage as problem:
            notes.append(f"{run.name}: {file.name} cannot be read as an image, {problem}, so it is not shown")
    return found, notes


def as_uri(image: Image.Image) -> str:
    """A picture as the data URI of a PNG."""
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _seed(file: str) -> int:
    return int(file.removeprefix("seed").removesuffix(".png"))


def _strip(run: str, files: Sequence[Path]) -> Strip:
    images = [_sample(file) for file in files]
    width, height = images[0].size
    gap = max(1, width // 24)
    sheet = Image.new("RGBA", (len(images) * (width + gap) - gap, height))      # clear between the images
    for i, image in enumerate(images):
        sheet.paste(image, (i * (width + gap), 0))
    factor = max(1, round(SHOWN_PIXELS / height))
    return Strip(run, as_uri(sheet), sheet.width * factor, sheet.height * factor)


def _sample(file: Path) -> Image.Image:
    try:
        return _opened(file, MOST_PIXELS, MOST_PIXELS)
    except UnreadableImage as problem:
        raise ValueError(f"{file}: cannot be read as an image: {problem}; run scripts/evaluate.py again") from None


def _opened(file: Path, width: int, height: int | None) -> Image.Image:
    """A picture, reduced if it is wider or higher than allowed; None allows any height."""
    with unreadable_if_it_fails(), Image.open(file) as image:
        image.thumbnail((width, height or image.height))
        return image.convert("RGB")
