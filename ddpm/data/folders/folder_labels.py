"""The images of a folder with their labels, and what the tables beside them say."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from ddpm.data.counts import format_count
from ddpm.data.folders.layouts import Layout
from ddpm.data.folders.scan import OTHER_SPLITS, TABLES
from ddpm.data.folders.split_names import find_split, split_groups, value_group
from ddpm.data.labels.image_index import ImageIndex, listed_finders
from ddpm.data.labels.label_tables import IncompleteTable, LabeledFiles, UnusableSplits, label_files, note_shared
from ddpm.data.labels.table_files import Find, read_table
from ddpm.data.request import DataRequest

# Tables with these names label even images in class folders: `datasets` reads `metadata` so, and the folders that
# StyleGAN and EDM write next to dataset.json are not classes.
STANDARD_TABLES = ("metadata", "dataset")
USUAL_TABLES = ("labels", "label", "annotations")


@dataclass(frozen=True)
class FolderLabels:
    """The images of a folder and their labels.

    Attributes:
        paths: of N images.
        values: N raw labels; None without labels.
        names: the names of the ids in `values`; None if they are to be inferred.
        split: the split that the table of the labels names; None if it names none.
        split_notes: notes on the column of splits, whether labels are read from the same table or not.
        says_unlabeled: whether a table says that the images have no labels.
        tables: the tables that the labels or the split come from.
        class_folders: whether the labels are those of class folders.
        ignored: see `Records`.
        notes: see `Records`.
    """

    paths: Sequence[Path]
    values: list[Any] | None = None
    names: list[str] | None = None
    split: str | None = None
    split_notes: tuple[str, ...] = ()
    says_unlabeled: bool = False
    tables: tuple[Path, ...] = ()
    class_folders: bool = False
    ignored: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def apply_table(path: Path, source: "FolderSource") -> FolderLabels:
    """Return the images of a folder with the labels in a table.

    Raises:
        ValueError: if it is no table, an image has no row, or rows with different labels, or the columns cannot be
            inferred.
    """
    layout, request, name = source.layout, source.request, str(path)
    images: Sequence[Path] = layout.folder.images_below
    finds = source.images.finders([*(folder.path for folder in (layout.folder, *layout.outer)), path.parent])
    try:
        table = read_table(path, finds)
    except ValueError as problem:
        raise ValueError(f"data.labels: {problem}") from problem
    if not table.columns:
        says = f"{name!r} says that the images have no labels"
        return FolderLabels(images, says_unlabeled=True, tables=(path,), notes=(says,))
    rows = label_files(table, finds, request, check_splits=layout.split is None)
    listed_rows = len(rows.names)
    if layout.split is not None and rows.splits is not None:
        rows = _take_split(rows, rows.splits, layout.split, source, path)
    labels = rows.label_by_image(path)
    covered = frozenset(labels)
    split, ignored = None, Counter[str]()
    split_notes = rows.split_notes
    if rows.splits is not None:
        try:
            split = find_split(name, request.split, sorted(set(rows.splits)))
        except ValueError as problem:
            raise UnusableSplits(str(problem)) from problem
        named = zip(rows.images, rows.splits, strict=True)
        covered = frozenset(image for image, other in named if image is not None and other == split)
        ignored[OTHER_SPLITS] = len(labels) - len(covered)
        images = tuple(image for image in images if image in covered or image not in labels)
        split_notes += note_shared(rows, split)
    missing = len(layout.folder.images_below) - len(labels)     # a search in all would be long for many small tables
    if missing:
        first = next(image for image in images if image not in labels)
        finds = source.listed_in(path.parent)
        listed = any(all(len(find(text)) == 1 for text in rows.names) for find in finds)
        whole = "" if request.split == "train" or rows.splits is not None else " --data.split train"
        only = f", or use only the images that it lists: --data.source {quote(name)}{whole}" if listed else ""
        unused = listed_rows - len(rows.names)
        aside = f" ({format_count(unused, 'row')} of other splits not counted)" if unused else ""
        raise IncompleteTable(
            f"data.labels: {name!r} has no row for {missing:,} of {len(layout.folder.images_below):,} images{aside}, "
            f"such as {str(first)!r}; add rows, or move these images elsewhere{only}",
            covered,
            split is not None,
        )
    notes = [f"labels are read from {name!r}" if rows.labels is not None else f"{name!r} has no column of labels"]
    lost = [text for text, image in zip(rows.names, rows.images, strict=True) if image is None]
    if lost:
        count = f"{len(lost):,} of {len(rows.names):,}"
        notes.append(f"rows of {name!r} without an image here: {count}, such as {lost[0]!r}")
    values = None if rows.labels is None else [labels[image] for image in images]
    notes += rows.notes
    return FolderLabels(
        images, values, None, split, split_notes, tables=(path,), ignored=ignored, notes=tuple(notes)
    )


def _take_split(
    rows: LabeledFiles, values: Sequence[str], split: str, source: "FolderSource", table: Path
) -> LabeledFiles:
    """Return the rows of a table except those of the folders of other splits, with a note on rows of other splits.

    A bare name may be that of an image in each folder of a split; if it is, the column says of which. A name that
    contains the folder says more than the column, and so does a table in the folder, or with its name: the column then
    divides the folder once more.
    """
    layout, root = source.layout, source.request.source
    group_of_folder = split_groups([split, *layout.other_splits])
    own = group_of_folder[split]
    above = [outer.path for outer in (layout.folder, *layout.outer) if split not in outer.path.relative_to(root).parts]
    find_with_folder, _ = source.images.finders(above)
    parts = Path(os.path.relpath(table.parent, root)).parts
    inside = (split in parts and ".." not in parts) or source.name_of(table) is TableName.THIS_SPLIT
    images_elsewhere = {
        name: ImageIndex(folder.images_below).finders([folder.path]) for name, folder in layout.other_splits.items()
    }
    used, notes = list[int](), list[str]()
    other_rows: dict[bool, list[int]] = {False: [], True: []}      # of other splits, by whether they are used
    for row, value in enumerate(values):
        group = value_group(value)
        folders = [name for name in images_elsewhere if value != split and (
            value == name or (group is not None and group != own and group == group_of_folder[name]))]
        in_another_folder = any(find(rows.names[row]) for name in folders for find in images_elsewhere[name])
        is_used = inside or not in_another_folder or bool(find_with_folder(rows.names[row]))
        used += [row] if is_used else []
        if folders or group not in (None, own):
            other_rows[is_used].append(row)
    for is_used, others in other_rows.items():
        if others:
            named = ", ".join(map(repr, sorted({values[row] for row in others})[:5]))
            verdict = f"are used for images in {split!r}" if is_used else "are not used"
            count = f"{len(others):,} of {len(values):,}"
            notes.append(f"rows of {str(table)!r} of other splits ({named}) {verdict}: {count}")
    return rows.take(used, *notes)


class TableName(IntEnum):
    """How much the name of a table says that it labels the images of a split; the first says the most."""

    STANDARD = 1
    USUAL = 2
    THIS_SPLIT = 3
    NEUTRAL = 4
    OTHER_SPLIT = 5


class TableResult(NamedTuple):
    """What a table says of the images of a folder.

    Attributes:
        path: of the table.
        name: what its name says.
        labels: the images, with labels if the table has them; no images if it is not read or does not fit them.
        problem: why it does not fit them; None if it does, or is not read.
    """

    path: Path
    name: TableName
    labels: FolderLabels = FolderLabels(())
    problem: ValueError | None = None


@dataclass(frozen=True)
class FolderSource:
    """The images of a folder, and the tables that may have their labels or their splits.

    Attributes:
        layout: where they are.
        request: the options.
    """

    layout: Layout
    request: DataRequest
    _results: dict[str, TableResult] = field(default_factory=dict)
    _listed: dict[Path, list[Find]] = field(default_factory=dict)

    @cached_property
    def images(self) -> ImageIndex:
        """The images by their names."""
        return ImageIndex(self.layout.folder.images_below)

    def listed_in(self, folder: Path) -> list[Find]:
        """Return `listed_finders` of a folder, which lists the files in it once."""
        return self._listed.setdefault(folder, listed_finders(folder))

    def name_of(self, path: Path) -> TableName:
        """Return what the name of a table says."""
        stem, split = path.stem.lower(), self.layout.split or self.request.split
        if stem in STANDARD_TABLES:
            return TableName.STANDARD
        if stem in USUAL_TABLES:
            return TableName.USUAL
        (named,) = split_groups([stem.replace("labels", "")]).values()
        group = split_groups([split])[split]
        if named is None or (named == "trainval" and group in ("train", "validation")):
            return TableName.NEUTRAL
        return TableName.THIS_SPLIT if named == group else TableName.OTHER_SPLIT

    def read_table(self, path: Path) -> TableResult:
        """Return what a table says; each is read once, and only if it is asked for."""
        key = os.path.abspath(path)
        if key not in self._results:
            name = self.name_of(path)
            try:
                self._results[key] = TableResult(path, name, apply_table(path, self))
            except ValueError as problem:
                self._results[key] = TableResult(path, name, problem=problem)
        return self._results[key]

    def read_tables(self) -> list[TableResult]:
        """Return what the tables at any depth and further out say; only those beside or around the images are read."""
        near = [path for folder in (self.layout.folder, *self.layout.outer) for path in folder.tables]
        # A .parquet of another name may be large, and more often holds features than labels.
        read = {p for p in near if p.suffix.lower() != ".parquet" or self.name_of(p) is TableName.STANDARD}
        return [
            self.read_table(path) if path in read else TableResult(path, self.name_of(path))
            for path in self.all_tables
        ]

    @property
    def all_tables(self) -> list[Path]:
        """The tables at any depth of the folder, and those beside the folders that contain it."""
        outer = (path for folder in self.layout.outer for path in folder.tables)
        return [*self.layout.folder.others_below(TABLES), *outer]
