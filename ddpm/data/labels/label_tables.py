"""Which images the rows of a table name, and with which labels."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from ddpm.data.counts import format_count
from ddpm.data.folders.scan import is_image
from ddpm.data.folders.split_names import SPLITS, are_splits, value_group
from ddpm.data.labels.class_ids import ONE_CLASS_EACH, compare_columns, could_be_classes
from ddpm.data.labels.column_names import (
    FILE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    VAGUE_FILE_COLUMNS,
    find_all_usual,
    has_other_pictures,
    is_usual,
    list_columns,
)
from ddpm.data.labels.table_files import Find, LabelTable
from ddpm.data.request import DataRequest
from ddpm.names import did_you_mean, to_nfc

FEWEST_PIXELS = 64      # numbers in a row that may be an image


class NoImageNames(ValueError):
    """A table of which no column has names of images."""


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


@dataclass(frozen=True)
class ImageIndex:
    """Images by their paths and names, for all tables beside them.

    Attributes:
        images: paths of the images.
    """

    images: Sequence[Path]

    @cached_property
    def paths(self) -> dict[str, list[Path]]:
        """The images by their absolute paths, as in `index_images`."""
        return index_images((os.path.abspath(image), image) for image in self.images)

    @cached_property
    def names(self) -> dict[str, list[Path]]:
        """The images by the names of their files."""
        return index_images((image.name, image) for image in self.images)

    def finders(self, bases: Iterable[Path]) -> list[Find]:
        """Return two ways to find the images with a name.

        The first takes a path, absolute or relative to one of the folders `bases`. The second looks at the last part of
        the name only, as for absolute paths of another machine, unless the path is that of another file, such as an
        image of another split. Both also take a name without suffix. Only one of the images with a name can be meant by
        it.
        """
        roots = list(dict.fromkeys(os.path.abspath(base) for base in bases))

        def find_path(text: str) -> list[Path]:
            tries = (look_up(self.paths, os.path.normpath(os.path.join(root, text))) for root in roots)
            return next((found for found in tries if found), [])

        def find_name(text: str) -> list[Path]:
            found = look_up(self.names, text.replace("\\", "/").rpartition("/")[2])
            is_other = found and any(os.path.exists(os.path.join(root, text)) for root in roots)
            return [] if is_other else found

        return [find_path, find_name]


def listed_finders(folder: Path) -> list[Find]:
    """Return two ways to find the image files that a table in `folder` lists as a source.

    The first takes a path, absolute or relative to `folder`, and the second one that is relative to a folder in it.
    Both also take a path without suffix.
    """

    @cache
    def images_in(parent: Path) -> dict[str, list[Path]]:
        names = (name for name in _list(parent) if is_image(Path(name)) and os.path.isfile(parent / name))
        return index_images((name, parent / name) for name in names)

    @cache
    def folders() -> list[Path]:
        return [folder / name for name in _list(folder) if os.path.isdir(folder / name) and not name.startswith(".")]

    def find_in(parent: Path, text: str) -> list[Path]:
        path = parent / os.path.expanduser(text)
        if os.path.isfile(path):
            return [path]
        for form in (text.replace("\\", "/"), normalize_path(text)):
            path = parent / os.path.expanduser(form)
            found = look_up(images_in(path.parent), path.name)
            if found:
                return found
        return []

    def find_beside(text: str) -> list[Path]:
        return [path for inner in folders() for path in find_in(inner, text)]

    return [lambda text: find_in(folder, text), find_beside]


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):       # no folder, or no name of one
        return []


def index_images(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Map names, with and without suffix, to the images that have them.

    A whole name comes before one without suffix, and either in the Unicode form that it has before that in NFC.
    """
    stems, own_stems, wholes, own_wholes = (defaultdict[str, list[Path]](list) for _ in range(4))
    for name, image in named:
        whole = normalize_path(name)
        stem = os.path.splitext(whole)[0]
        stems[stem].append(image)
        own_stems[stem if name == whole else os.path.splitext(name)[0]].append(image)
        wholes[whole].append(image)
        own_wholes[name].append(image)
    return {**stems, **own_stems, **wholes, **own_wholes}


def look_up(index: dict[str, list[Path]], name: str) -> list[Path]:
    """Return the images with a name in the Unicode form of the name, or else in any."""
    return index.get(name) or index.get(normalize_path(name), [])


def normalize_path(text: str) -> str:
    """Return a path as it is compared: with slashes, and in the same Unicode form on all systems."""
    return to_nfc(text.replace("\\", "/"))


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
    files, found, choice = _column_of_files(table, finds, request.image_column)
    names = [str(value) for value in table.columns[files]]
    for name, several in zip(names, found, strict=True):
        _check_unique(table, name, several)
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


def _column_of_files(
    table: LabelTable, finds: Sequence[Find], given: str | None
) -> tuple[str, list[Sequence[Path]], tuple[str, ...]]:
    """Return the column of names, for each row the images that have the name, and a note on the choice."""
    if given is not None:
        _check_column(table, given, "image_column")
        found = _find_images(table, [given], finds)
        if found:
            return given, found[given], ()
        raise _no_names(table)
    found = _find_images(table, list(table.columns), finds)
    lost = next((name for name in table.columns if name not in found and _has_file_names(table, name)), None)
    if not found or (lost is not None and all(is_usual(name, LABEL_COLUMNS + SPLIT_COLUMNS) for name in found)):
        raise _no_names(table)
    chosen = _choose_files(table, found)
    if lost is not None and _naming(table, chosen[0]) <= Naming.UNLIKELY:
        raise NoImageNames(
            f"data.image_column: column {lost!r} of {str(table.path)!r} has no names of images that exist, but names "
            f"such as {next(filter(None, table.columns[lost]))!r}; correct these, or take those in another column: "
            f"--data.image_column {quote(chosen[0])}"
        )
    return chosen


class Naming(IntEnum):
    """How much a column says that its values are the names of images, apart from whether there are such images."""

    COINCIDENCE = 0     # numbers, any of which may be the name of an image, under an unusual name
    UNLIKELY = 1        # numbers under a name such as `id`, or texts under one such as `mask`
    POSSIBLE = 2        # texts under another unusual name
    LIKELY = 3          # texts under a name such as `id`, or numbers under one such as `image_id`
    CLEAR = 4           # texts under a name such as `image_id`


def _naming(table: LabelTable, name: str) -> Naming:
    """Return how much a column says that its values are the names of images."""
    filled = (value for value in table.columns[name] if value is not None)
    are_numbers = all(isinstance(value, int) or str(value).isdecimal() for value in filled)
    if not is_usual(name, FILE_COLUMNS):
        of_texts = Naming.UNLIKELY if has_other_pictures(name) else Naming.POSSIBLE
        return Naming.COINCIDENCE if are_numbers else of_texts
    if is_usual(name, VAGUE_FILE_COLUMNS):
        return Naming.UNLIKELY if are_numbers else Naming.LIKELY
    return Naming.LIKELY if are_numbers else Naming.CLEAR


def _has_file_names(table: LabelTable, name: str) -> bool:
    """Return whether the values of a column are names of files of images, whether these exist or not; no addresses."""
    texts = [value for value in table.columns[name] if isinstance(value, str)]
    files = [text for text in texts if is_image(Path(text)) and "://" not in text]
    is_clear = _naming(table, name) is Naming.CLEAR and not any("://" in text for text in texts)
    return is_clear or (2 * len(files) > len(table.columns[name]) and not has_other_pictures(name))


def _find_images(
    table: LabelTable, names: Sequence[str], finds: Sequence[Find]
) -> dict[str, list[Sequence[Path]]]:
    """Map the columns that have names of images to the images that each row names, in the first way that finds any.

    The next way is tried if only numbers or names of other pictures are found, which may be no names of the images.
    Columns that are called like those of labels or splits count only if there are no others.

    Raises:
        ValueError: if all names that are found are those of several images.
    """
    shared: tuple[str, Sequence[Path]] | None = None
    unique: dict[str, list[Sequence[Path]]] = {}
    for find in finds:
        for name in names:
            if name in unique:
                continue
            found = [find(text) if text else [] for text in _names(table.columns[name])]
            if _count(found):
                unique[name] = found
            elif shared is None:
                several = zip(table.columns[name], found, strict=True)
                shared = next(((str(text), images) for text, images in several if images), None)
        if any(_naming(table, name) >= Naming.POSSIBLE for name in unique):
            break
    if not unique and shared is not None:
        _check_unique(table, *shared)
    others = {name: unique[name] for name in unique if not is_usual(name, LABEL_COLUMNS + SPLIT_COLUMNS)}
    return others or unique


def _choose_files(
    table: LabelTable, found: dict[str, list[Sequence[Path]]]
) -> tuple[str, list[Sequence[Path]], tuple[str, ...]]:
    """Return one of the columns that have names of images, as `_column_of_files`.

    A column that names less than half as many images as another is out of the question: it holds something else that is
    the name of an image now and then. Numbers, which may all be names by chance, say so only of other numbers.

    Raises:
        ValueError: if two columns are as likely, and have the names of different images.
    """
    number = {name: len({one[0] for one in images if len(one) == 1}) for name, images in found.items()}
    usual = find_all_usual(found, FILE_COLUMNS)
    ordered = [*usual, *(name for name in found if name not in usual)]
    naming = {name: _naming(table, name) for name in ordered}
    likely = [
        name for name in ordered
        if all(
            2 * number[name] > number[other] for other in ordered if naming[other] >= min(naming[name], Naming.POSSIBLE)
        )
    ]
    best = max(likely, key=lambda name: (naming[name], number[name]))       # the first of equals
    rivals = [name for name in likely if _differ(found[name], found[best])]
    if any(naming[name] == naming[best] for name in rivals):
        raise ValueError(
            f"data.image_column: columns {best!r} and {rivals[0]!r} of {str(table.path)!r} have the names of different "
            f"images; choose one: --data.image_column {' or '.join(map(quote, (best, *rivals)))}"
        )
    notes = tuple[str, ...]()
    if rivals:
        others = " or ".join(map(quote, rivals))
        notes = (f"images are those of column {best!r}; for others: --data.image_column {others}",)
    elif best not in usual:
        notes = (f"column {best!r} of {str(table.path)!r} has the names of the images",)
    return best, found[best], notes


def _differ(first: Sequence[Sequence[Path]], second: Sequence[Sequence[Path]]) -> bool:
    """Return whether two columns name different images in a row."""
    return any(
        os.path.abspath(one[0]) != os.path.abspath(other[0])
        for one, other in zip(first, second, strict=True)
        if one is not other and len(one) == len(other) == 1
    )


def _no_names(table: LabelTable) -> NoImageNames:
    remedy = "allowed are paths relative to the table, or absolute"
    if _holds_pixels(table):
        remedy = (
            "and pixels in a table are not read: save them with numpy.savez as an array `images` (N, H, W), and the "
            "labels as `labels`, and name that .npz as data.source"
        )
    return NoImageNames(
        f"data.image_column: no column of {str(table.path)!r} has names of images that exist; {remedy} (the columns "
        f"are: {list_columns(table.columns)})"
    )


def _holds_pixels(table: LabelTable) -> bool:
    """Return whether the first row of a table seems to be the pixels of an image, in cells or as a text of numbers."""
    first = [values[0] for values in table.columns.values() if values]
    texts = [value.split() for value in first if isinstance(value, str)]
    numbers = [sum(isinstance(value, (int, float)) for value in first)]
    numbers += [len(words) for words in texts if all(word.isdecimal() for word in words)]
    return max(numbers) >= FEWEST_PIXELS


def _check_unique(table: LabelTable, name: str, images: Sequence[Path]) -> None:
    if len(images) > 1:
        first, second = (os.path.relpath(image, table.path.parent) for image in images[:2])
        raise ValueError(
            f"data.image_column: {name!r} in {str(table.path)!r} is the name of {len(images):,} images; write paths "
            f"such as {first!r} and {second!r}"
        )


def _column_of_labels(
    table: LabelTable, others: list[str], request: DataRequest
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of labels, None if there is no other column than that of images, and a note on its choice."""
    given = request.label_column
    if given is not None:
        _check_column(table, given, "label_column")
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


def _check_column(table: LabelTable, name: str, option: str) -> None:
    if name not in table.columns:
        listed = f"the columns are: {list_columns(table.columns)}{did_you_mean(name, table.columns)}"
        raise ValueError(f"data.{option}: {name!r} is not a column of {str(table.path)!r}; {listed}")


def _names(values: list[Any]) -> list[str]:
    """Return values as names of images; empty for values that cannot be names."""
    return [str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else "" for value in values]


def _count(found: Iterable[Sequence[Path]]) -> int:
    """Return the number of images that are named; labels such as 0 and 1 could be names, but only of a few."""
    return len({images[0] for images in found if len(images) == 1})
