"""A table of paths of images, with or without labels, as a source."""

import os
from pathlib import Path

from ddpm.data.label_tables import class_values, label_files, read_table
from ddpm.data.labelings import filename_label
from ddpm.data.labels import label_records
from ddpm.data.records import FilePictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split


def load_list(request: DataRequest) -> Records:
    """Return the images whose paths a table lists, in its order; the paths are relative to the table, or absolute.

    The table is the split `train`, unless it has a column of splits.

    Raises:
        ValueError: if it cannot be read, images are missing, or labels are unusable.
    """
    try:
        table = read_table(Path(request.source))
    except ValueError as problem:
        raise ValueError(f"data.source: {problem}") from problem
    folder = table.path.parent

    def find(text: str) -> Path | None:
        path = folder / os.path.expanduser(text)
        return path if path.is_file() else None

    rows = label_files(table, [find], request)
    splits = rows.splits or ["train"] * len(rows.names)
    split = find_split(request.source, request.split, dict.fromkeys(splits))
    chosen = [row for row, of in enumerate(splits) if of == split]
    missing = [row for row in chosen if rows.images[row] is None]
    if missing:
        raise ValueError(
            f"data.source: {len(missing):,} of {len(chosen):,} images in {request.source!r} do not exist, such as "
            f"{rows.names[missing[0]]!r}; write paths relative to {str(folder)!r}, or absolute, or name the folder of "
            "the images as data.source and the table as data.labels"
        )
    images = [path for row in chosen if (path := rows.images[row]) is not None]
    values, names = None, None
    if request.labels == "filename":
        values = [filename_label(path) for path in images]
    elif rows.labels is not None:
        values, names = class_values([rows.labels[row] for row in chosen])
    remedy = "for classes, add a column `label` to the table"
    return label_records(
        request, FilePictures(tuple(map(str, images))), values, names, remedy=remedy, split=split
    )
