"""Which column of a table has the names of the images."""

import os
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from shlex import quote
from typing import Any

from ddpm.data.folders.scan import is_image
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
from ddpm.names import did_you_mean

FEWEST_PIXELS = 64      # numbers in a row that may be an image


class NoImageNames(ValueError):
    """A table of which no column has names of images."""


def choose_image_column(
    table: LabelTable, finds: Sequence[Find], given: str | None
) -> tuple[str, list[Sequence[Path]], tuple[str, ...]]:
    """Return the column of names, for each row the images that have the name, and a note on the choice."""
    if given is not None:
        check_column(table, given, "image_column")
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
        check_unique(table, *shared)
    others = {name: unique[name] for name in unique if not is_usual(name, LABEL_COLUMNS + SPLIT_COLUMNS)}
    return others or unique


def _choose_files(
    table: LabelTable, found: dict[str, list[Sequence[Path]]]
) -> tuple[str, list[Sequence[Path]], tuple[str, ...]]:
    """Return one of the columns that have names of images, as `choose_image_column`.

    A column that names less than half as many images as another is out of the question: it holds something else that is
    the name of an image now and then. Numbers, which may all be names by chance, say so only of other numbers.

    Raises:
        ValueError: if two columns are as likely, and have the names of different images.
    """
    number = {name: _count(images) for name, images in found.items()}
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


def check_unique(table: LabelTable, name: str, images: Sequence[Path]) -> None:
    if len(images) > 1:
        first, second = (os.path.relpath(image, table.path.parent) for image in images[:2])
        raise ValueError(
            f"data.image_column: {name!r} in {str(table.path)!r} is the name of {len(images):,} images; write paths "
            f"such as {first!r} and {second!r}"
        )


def check_column(table: LabelTable, name: str, option: str) -> None:
    if name not in table.columns:
        listed = f"the columns are: {list_columns(table.columns)}{did_you_mean(name, table.columns)}"
        raise ValueError(f"data.{option}: {name!r} is not a column of {str(table.path)!r}; {listed}")


def _names(values: list[Any]) -> list[str]:
    """Return values as names of images; empty for values that cannot be names."""
    return [str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else "" for value in values]


def _count(found: Iterable[Sequence[Path]]) -> int:
    """Return the number of images that are named; labels such as 0 and 1 could be names, but only of a few."""
    return len({images[0] for images in found if len(images) == 1})
