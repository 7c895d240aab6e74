"""A table of paths of images, with or without labels, as a source."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddpm.data.counts import format_count
from ddpm.data.folders.labelings import filename_label
from ddpm.data.folders.split_names import find_split
from ddpm.data.labels.class_ids import label_records
from ddpm.data.labels.image_index import listed_finders
from ddpm.data.labels.label_tables import class_values, label_files, note_shared
from ddpm.data.labels.table_files import read_table
from ddpm.data.records import FilePictures, Records
from ddpm.data.request import DataRequest


def load_list(request: DataRequest) -> Records:
    """Return the images whose paths a table lists, in its order.

    The paths are absolute, or relative to the folder of the table, or else to a folder in it. The table is the split
    `train`, unless it has a column of splits.

    Raises:
        ValueError: if it cannot be read, images are missing, or labels are unusable.
    """
    path = Path(request.source)
    finds = listed_finders(path.parent)
    try:
        table = read_table(path, finds)
    except ValueError as problem:
        raise ValueError(f"data.source: {problem}") from problem
    rows = label_files(table, finds, request)
    splits = rows.splits or ["train"] * len(rows.names)
    split = find_split(request.source, request.split, dict.fromkeys(splits))
    chosen = [row for row, name in enumerate(splits) if name == split]
    notes = (*rows.notes, *rows.split_notes, *note_shared(rows, split))
    missing = [row for row in chosen if rows.images[row] is None]
    if missing:
        raise ValueError(
            f"data.source: {len(missing):,} of {len(chosen):,} images in {request.source!r} do not exist, such as "
            f"{rows.names[missing[0]]!r}; write paths relative to {str(path.parent)!r}, or absolute, or name the "
            "folder of the images as data.source and the table as data.labels"
        )
    images = [image for row in chosen if (image := rows.images[row]) is not None]
    notes += _note_repeated(images)
    rows.label_by_image(path)       # raises an error if an image has several
    values, names = None, None
    if request.labels == "filename":
        values = [filename_label(image) for image in images]
    elif rows.labels is not None:
        values, names = class_values([rows.labels[row] for row in chosen])
    remedy = "for classes, fill a column `label` of the table"
    return label_records(
        request, FilePictures(tuple(map(str, images))), values, names, remedy=remedy, split=split, notes=notes
    )


def _note_repeated(images: Sequence[Path]) -> tuple[str, ...]:
    """Return a note if rows name an image that an earlier one names."""
    count = Counter(images)
    if len(count) == len(images):
        return ()
    ((most, times),) = count.most_common(1)
    told = f"{len(images):,} rows name {format_count(len(count), 'image')}, such as {str(most)!r} {times:,} times"
    return (f"{told}, and each row counts; to use images once, remove the other rows",)
