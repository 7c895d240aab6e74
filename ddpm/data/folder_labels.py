"""The images of a folder with their labels, and how a table gives them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from ddpm.data.folders import TABLES
from ddpm.data.label_tables import (
    IncompleteTable,
    UnusableSplits,
    image_finders,
    label_files,
    listed_finders,
    note_shared,
)
from ddpm.data.labels import ONE_CLASS_EACH
from ddpm.data.layouts import Layout
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split
from ddpm.data.table_files import read_table


@dataclass(frozen=True)
class FolderLabels:
    """The images of a folder and their labels.

    Attributes:
        paths: of N images.
        values: N raw labels; None without labels.
        names: the names of the ids in `values`; None if they are to be inferred.
        split: the split that the table of the labels names; None if it names none.
        unused_splits: a note that a column of the table looks like one of splits, and is not used; empty if none does.
        without_classes: whether a table says that the images have no labels.
        grouped: see `Records`.
        ignored: see `Records`.
        notes: see `Records`.
    """

    paths: Sequence[Path]
    values: list[Any] | None = None
    names: list[str] | None = None
    split: str | None = None
    unused_splits: str = ""
    without_classes: bool = False
    grouped: bool = False
    ignored: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def apply_table(path: Path, layout: Layout, request: DataRequest) -> FolderLabels:
    """Return the images of a folder with the labels in a table.

    Raises:
        ValueError: if it is no table, an image has no row, or rows with different labels, or the columns cannot be
            inferred.
    """
    images, name = layout.folder.images_below, str(path)
    finds = image_finders(images, [*(folder.path for folder in (layout.folder, *layout.outer)), path.parent])
    try:
        table = read_table(path, finds)
    except ValueError as problem:
        raise ValueError(f"data.labels: {problem}") from problem
    ignored = Counter({TABLES: -1}) if path in all_tables(layout) else Counter()
    if not table.columns:
        says = f"{name!r} says that the images have no labels"
        return FolderLabels(images, without_classes=True, ignored=ignored, notes=(says,))
    rows = label_files(table, finds, request, with_splits=layout.split is None)
    labels: dict[Path, Any] = {}
    for image, label in zip(rows.images, rows.labels or [None] * len(rows.names), strict=True):
        if image is not None and labels.setdefault(image, label) != label:
            raise ValueError(
                f"data.labels: {name!r} has several labels for {str(image)!r} (multi-label); {ONE_CLASS_EACH}: keep "
                "one row per image"
            )
    split = None
    if rows.splits is not None:
        try:
            split = find_split(name, request.split, sorted(set(rows.splits)))
        except ValueError as problem:
            raise UnusableSplits(str(problem)) from problem
        here = {image for image, named in zip(rows.images, rows.splits, strict=True) if named == split}
        others = len(labels) - len(here & set(labels))
        ignored["images of other splits"] += others
        images = tuple(image for image in images if image in here or image not in labels)
        rows = rows._replace(notes=(*rows.notes, *note_shared(rows, split)))
    missing = [image for image in images if image not in labels]
    if missing:
        finds = listed_finders(path.parent)
        listed = any(all(find(text) for text in rows.names) for find in finds)
        whole = "" if request.split == "train" or rows.splits is not None else " --data.split train"
        only = f", or use only the images that it lists: --data.source {quote(name)}{whole}" if listed else ""
        raise IncompleteTable(
            f"data.labels: {name!r} has no row for {len(missing):,} of {len(images):,} images, such as "
            f"{str(missing[0])!r}; add rows, or move these images elsewhere{only}",
            frozenset(images).difference(missing),
            split is not None,
        )
    notes = [f"labels are read from {name!r}" if rows.labels is not None else f"{name!r} has no column of labels"]
    lost = [text for text, image in zip(rows.names, rows.images, strict=True) if image is None]
    if lost:
        notes.append(f"{len(lost):,} of {len(rows.names):,} rows of {name!r} name no image here, such as {lost[0]!r}")
    values = None if rows.labels is None else [labels[image] for image in images]
    return FolderLabels(
        images, values, None, split, rows.unused_splits, ignored=ignored, notes=(*notes, *rows.notes)
    )


def all_tables(layout: Layout) -> list[Path]:
    """Return the tables at any depth of a folder, and those beside the folders that contain it."""
    return [*layout.folder.tables_below, *(path for outer in layout.outer for path in outer.tables)]
