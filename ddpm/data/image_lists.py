"""A table of paths of images, with or without labels, as a source."""

import os
from functools import cache
from pathlib import Path

from ddpm.data.folders import is_image
from ddpm.data.label_tables import class_values, index_images, label_files, normalize_path
from ddpm.data.labelings import filename_label
from ddpm.data.labels import label_records
from ddpm.data.records import FilePictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split
from ddpm.data.table_files import Find, read_table


def load_list(request: DataRequest) -> Records:
    """Return the images whose paths a table lists, in its order; the paths are relative to the table, or absolute.

    The table is the split `train`, unless it has a column of splits.

    Raises:
        ValueError: if it cannot be read, images are missing, or labels are unusable.
    """
    path = Path(request.source)
    find = image_file_finder(path.parent)
    try:
        table = read_table(path, [find])
    except ValueError as problem:
        raise ValueError(f"data.source: {problem}") from problem
    rows = label_files(table, [find], request)
    splits = rows.splits or ["train"] * len(rows.names)
    split = find_split(request.source, request.split, dict.fromkeys(splits))
    chosen = [row for row, name in enumerate(splits) if name == split]
    missing = [row for row in chosen if rows.images[row] is None]
    if missing:
        raise ValueError(
            f"data.source: {len(missing):,} of {len(chosen):,} images in {request.source!r} do not exist, such as "
            f"{rows.names[missing[0]]!r}; write paths relative to {str(path.parent)!r}, or absolute, or name the "
            "folder of the images as data.source and the table as data.labels"
        )
    images = [image for row in chosen if (image := rows.images[row]) is not None]
    values, names = None, None
    if request.labels == "filename":
        values = [filename_label(image) for image in images]
    elif rows.labels is not None:
        values, names = class_values([rows.labels[row] for row in chosen])
    remedy = "for classes, add a column `label` to the table"
    return label_records(
        request, FilePictures(tuple(map(str, images))), values, names, remedy=remedy, split=split
    )


def image_file_finder(folder: Path) -> Find:
    """Return a function that finds the image files with a path, absolute or relative to `folder`.

    The path of an image may be without suffix.
    """

    @cache
    def images_in(parent: Path) -> dict[str, list[Path]]:
        try:
            names = sorted(os.listdir(parent))
        except (OSError, ValueError):       # no folder, or no name of one
            return {}
        return index_images((name, parent / name) for name in names if is_image(Path(name)))

    def find(text: str) -> list[Path]:
        path = folder / os.path.expanduser(text)
        if os.path.isfile(path):
            return [path]
        path = folder / normalize_path(os.path.expanduser(text))
        return images_in(path.parent).get(path.name, [])

    return find
