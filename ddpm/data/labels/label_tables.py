"""Which images the rows of a table name, and with which labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.data.counts import format_count
from ddpm.data.folders.split_names import SPLITS, are_splits, value_group
from ddpm.data.labels.class_ids import ONE_CLASS_EACH, compare_columns, could_be_classes
from ddpm.data.labels.column_names import (
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    find_all_usual,
    is_usual,
    list_columns,
)
from ddpm.data.labels.image_columns import check_column, check_unique, choose_image_column
from ddpm.data.labels.table_files import Find, LabelTable
from ddpm.data.request import DataRequest


class UnusableSplits(ValueError):
    """A table that divides the images into splits, of which none can be chosen."""


class IncompleteTable(ValueError):
    """A table without a row for some of the images.

    Attributes:
        covered: the images that it has rows for.
        divides: whether it has a column of splits.
    """

    def __init__(self, message: str, covered: frozenset[Path], divides: bool) -> None:
        super().__init__(message)
        self.covered, self.divides = covered, divides


class LabeledFiles(NamedTuple):
    """The rows of a table, with one entry per row in the first four attributes.

    Attributes:
        names: of the images, as in the table.
        images: their paths; None for a row whose image does not exist.
        labels: raw labels, or None if the table has none.
        splits: names of splits, or None if the table has no column of them.
        split_notes: decisions about the column of splits, one sentence each.
        notes: other decisions about columns, one sentence each.
    """

    names: list[str]
    images: list[Path | None]
    labels: list[Any] | None
    splits: list[str] | None
    split_notes: tuple[str, ...]
    notes: tuple[str, ...]

    def take(self, chosen: Sequence[int], *notes: str) -> "LabeledFiles":
        """Return some of the rows, all of one split, with more notes."""
        return self._replace(
            names=[self.names[row] for row in chosen],
            images=[self.images[row] for row in chosen],
            labels=None if self.labels is None else [self.labels[row] for row in chosen],
            splits=None,
            notes=(*self.notes, *self.split_notes, *notes),
            split_notes=(),
        )

    def label_by_image(self, table: Path) -> dict[Path, Any]:
        """Map images to their labels, None if the table has none.

        Args:
            table: its path, for the error message.

        Raises:
            ValueError: if rows give an image different labels.
        """
        found: dict[Path, Any] = {}
        for image, label in zip(self.images, self.labels or [None] * len(self.images), strict=True):
            if image is not None and found.setdefault(image, label) != label:
                raise ValueError(
                    f"data.label_column: {str(table)!r} has several labels for {str(image)!r} (multi-label); "
                    f"{ONE_CLASS_EACH}: keep one row per image"
                )
        return found


def label_files(
    table: LabelTable, finds: Sequence[Find], request: DataRequest, check_splits: bool = True
) -> LabeledFiles:
    """Return the images and labels that the rows of a table name.

    Args:
        table: the table.
        finds: each returns the image with a name; the first that finds any image is used.
        request: its columns, which are inferred if they are not named. The column of images has a usual name, or the
            names of the most images; that of splits has a usual name, or names of splits; that of labels has a usual
            name, or is the only other one.
        check_splits: whether a column of splits divides the images, so that all its values have to be names of splits.

    Raises:
        ValueError: if there is no such column, or the one for labels cannot be inferred.
    """
    files, found, choice = choose_image_column(table, finds, request.image_column)
    names = [str(value) for value in table.columns[files]]
    for name, several in zip(names, found, strict=True):
        check_unique(table, name, several)
    others = [name for name in table.columns if name != files]
    with_labels = request.has_label_column()
    if request.label_column == files:
        raise ValueError(
            f"data.label_column: {files!r} has the names of the images in {str(table.path)!r}; name another column "
            f"({list_columns(others)}), and that of the images as data.image_column if it is not this one"
        )
    divider = _find_splits(table, [name for name in others if name != request.label_column])
    splits, split_notes = _check_splits(table, divider) if check_splits and divider else (divider, ())
    label, notes = None, tuple[str, ...]()
    if with_labels:
        left = [name for name in others if name != divider and not is_usual(name, SPLIT_COLUMNS)]
        label, notes = _column_of_labels(table, left, request)
    return LabeledFiles(
        names,
        [one[0] if one else None for one in found],
        None if label is None else table.columns[label],
        None if splits is None else [str(value) for value in table.columns[splits]],
        split_notes if splits is None else (*split_notes, *choice),
        notes if splits is not None else (*choice, *notes),
    )


def note_shared(rows: LabeledFiles, split: str) -> tuple[str, ...]:
    """Return a note if images of a split are in other splits, too."""
    if rows.splits is None:
        return ()
    here, others = (
        {image for image, name in zip(rows.images, rows.splits, strict=True) if image and (name == split) == inside}
        for inside in (True, False)
    )
    shared = sorted(here & others)
    if not shared:
        return ()
    example = f"such as {str(shared[0])!r}; if the others are held out, remove the rows in one"
    several = format_count(len(shared), "image")
    return (f"rows of other splits of the table name {several} of split {split!r}, too, {example}",)


def class_values(labels: list[Any]) -> tuple[list[Any], list[str] | None]:
    """Return labels and class names in which integers other than 0..K-1 are names, in the order of the numbers.

    Integers in these tables are often names (1 to 3, or years), so a gap is no error.
    """
    numbers = sorted({value for value in labels if isinstance(value, int) and not isinstance(value, bool)})
    if len(numbers) != len(set(map(repr, labels))) or numbers == list(range(len(numbers))):
        return labels, None
    if set(numbers) == {-1}:
        return labels, None
    ids = {number: index for index, number in enumerate(numbers)}
    return [ids[value] for value in labels], [str(number) for number in numbers]


def _column_of_labels(
    table: LabelTable, others: list[str], request: DataRequest
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of labels, None if there is no other column than that of images, and a note on its choice."""
    given = request.label_column
    if given is not None:
        check_column(table, given, "label_column")
        return given, ()
    usual = find_all_usual(others, LABEL_COLUMNS)
    if usual:
        return usual[0], compare_columns(usual[0], {name: table.columns[name] for name in usual}, str(table.path))
    if not others:
        return None, ()
    if len(others) == 1 and could_be_classes(table.columns[others[0]]):
        return others[0], ()
    raise ValueError(
        f"data.label_column: no column of {str(table.path)!r} is known to be labels; name it as data.label_column "
        f"({list_columns(others)}), {request.classless_remedy}"
    )


def _find_splits(table: LabelTable, candidates: Sequence[str]) -> str | None:
    """Return the column that names splits by its values, or else by its name; None if there is none."""
    usual = find_all_usual(candidates, SPLIT_COLUMNS)
    others = [name for name in candidates if name not in usual and not is_usual(name, LABEL_COLUMNS)]
    return next((name for name in (*usual, *others) if are_splits(table.columns[name])), next(iter(usual), None))


def _check_splits(table: LabelTable, name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of splits, None if none of its values is the name of a split, and a note if it is unexpected.

    Raises:
        UnusableSplits: if only some of its values are names of splits.
    """
    values = list(dict.fromkeys("" if value is None else str(value) for value in table.columns[name]))
    groups = {value: value_group(value) for value in values}
    odd = [value for value in values if groups[value] is None]
    shown = ", ".join(map(repr, odd[:5])) + (", ..." if len(odd) > 5 else "")
    where = f"column {name!r} of {str(table.path)!r}"
    if not set(groups.values()) & set(SPLITS):
        unused = f"{where} is not used, as its values, {shown}, are no names of splits"
        remedy = f"for data.split, write {', '.join(SPLITS)}; if they are classes, name it as data.label_column"
        return None, (f"{unused}; {remedy}",)
    if odd:
        classes = "" if is_usual(name, SPLIT_COLUMNS) else ", or name it as data.label_column if it has the classes"
        raise UnusableSplits(
            f"data.split: {where} has values that are no names of splits, {shown}, beside "
            f"{next(value for value in values if groups[value])!r}; write {', '.join(SPLITS)}, or extra for other "
            f"images, in every row, or remove the column if it does not name splits{classes}"
        )
    if is_usual(name, SPLIT_COLUMNS):
        return name, ()
    return name, (f"{where} has the splits, by its values; if they are classes, name it as data.label_column",)
