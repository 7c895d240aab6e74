"""Tables of file names and labels: CSV, TSV, JSON, JSON Lines and parquet, as people and tools write them."""

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.data.folders import TABLE_SUFFIXES, is_image
from ddpm.data.request import DataRequest
from ddpm.data.split_names import SPLITS, split_groups
from ddpm.names import did_you_mean

# in order of preference, compared in lower case, with _ for other punctuation
FILE_COLUMNS = (
    "file_name", "filename", "file_path", "filepath", "file", "fname", "image_path", "image_file", "image_name", "path",
    "image", "img", "image_id", "picture", "photo", "name", "id", "key",
)
LABEL_COLUMNS = (
    "label", "labels", "class", "class_label", "fine_label", "target", "targets", "category", "y",
    "class_name", "classname", "label_name", "category_name", "class_id", "label_id", "category_id", "choice",
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set", "dataset")

Find = Callable[[str], Path | None]        # from a name in a table to the image; None if there is none


class LabelTable(NamedTuple):
    """The content of a table.

    Attributes:
        path: of its file.
        columns: names -> values, all of one length; none if the table says that images have no labels.
    """

    path: Path
    columns: dict[str, list[Any]]

    def column(self, usual: Sequence[str]) -> str | None:
        """Return the column with the first of the usual names that the table has."""
        plain = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in reversed(self.columns)}
        return next((plain[name] for name in usual if name in plain), None)


class LabeledFiles(NamedTuple):
    """The rows of a table, with one entry per row in each attribute.

    Attributes:
        names: of the images, as in the table.
        images: their paths; None for a row whose image does not exist.
        labels: raw labels, or None if the table has none.
        splits: names of splits, or None if the table has no column of them.
    """

    names: list[str]
    images: list[Path | None]
    labels: list[Any] | None
    splits: list[str] | None


def read_table(path: Path) -> LabelTable:
    """Read a table.

    A CSV or TSV without a header, whose first line has the name of an image, has the columns `0`, `1` and so on. A JSON
    file is a list of objects, an object from file name to label, or {"labels": [[file name, label], ...]}, as StyleGAN
    and EDM write it, where null instead of the list stands for images without labels.

    Raises:
        ValueError: if it is not such a table; the message begins with the path.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: is not a table; allowed are {', '.join(sorted(TABLE_SUFFIXES))}")
    try:
        columns = readers.get(path.suffix.lower(), _read_json_lines)(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text in UTF-8; save it as UTF-8") from None
    except (ValueError, OSError, csv.Error, RecursionError) as problem:
        raise ValueError(f"{path}: cannot be read as a table: {' '.join(str(problem).split())}") from problem
    return LabelTable(path, columns)


def image_finders(images: Sequence[Path], bases: Iterable[Path]) -> list[Find]:
    """Return two ways to find the image with a name.

    The first takes a path, absolute or relative to one of the folders `bases`. The second looks at the last part of the
    name only, as for absolute paths of another machine, unless the path is that of another file, such as an image of
    another split. Both also take a name without suffix. A name that fits several images finds none.
    """
    roots = list(dict.fromkeys(os.path.abspath(base) for base in bases))
    paths = _index((os.path.abspath(image), image) for image in images)
    names = _index((image.name, image) for image in images)

    def find_path(text: str) -> Path | None:
        tries = (paths.get(_normalize(os.path.normpath(os.path.join(root, text)))) for root in roots)
        return next((found for found in tries if found is not None), None)

    def find_name(text: str) -> Path | None:
        found = names.get(_normalize(text).rpartition("/")[2])
        is_other = found is not None and any(os.path.exists(os.path.join(root, text)) for root in roots)
        return None if is_other else found

    return [find_path, find_name]


def _index(named: Iterable[tuple[str, Path]]) -> dict[str, Path | None]:
    """Map names, with and without suffix, to images; to None if several have the name."""
    index: dict[str, Path | None] = {}
    for name, image in named:
        whole = _normalize(name)
        for key in (whole, os.path.splitext(whole)[0]):
            index[key] = None if key in index else image
    return index


def _normalize(text: str) -> str:
    """Return a path as it is compared: with slashes, and in the same Unicode form on all systems."""
    return unicodedata.normalize("NFC", text.replace("\\", "/"))


def label_files(table: LabelTable, finds: Sequence[Find], request: DataRequest) -> LabeledFiles:
    """Return the images and labels that the rows of a table name.

    Args:
        table: the table.
        finds: each returns the image with a name; the first that finds any image is used.
        request: its columns, which are inferred if they are not named. The column of images is the one whose values
            are names of the most images; that of labels has a usual name, or is the only other one.

    Raises:
        ValueError: if there is no such column, or the one for labels cannot be inferred.
    """
    files, images = _column_of_files(table, finds, request.image_column)
    splits = _split_column(table)
    label = _column_of_labels(table, [name for name in table.columns if name not in (files, splits)], request)
    return LabeledFiles(
        [str(value) for value in table.columns[files]],
        images,
        None if label is None else table.columns[label],
        None if splits is None else [str(value) for value in table.columns[splits]],
    )


def class_values(labels: list[Any]) -> tuple[list[Any], list[str] | None]:
    """Return labels and class names in which integers other than 0..K-1 are names, in the order of the numbers.

    Unlike in a table with typed columns, the classes 1, 2 and 3 cannot be told from ids here.
    """
    numbers = sorted({value for value in labels if isinstance(value, int) and not isinstance(value, bool)})
    if len(numbers) != len(set(map(repr, labels))) or numbers == list(range(len(numbers))):
        return labels, None
    if set(numbers) == {-1}:
        return labels, None
    ids = {number: index for index, number in enumerate(numbers)}
    return [ids[value] for value in labels], [str(number) for number in numbers]


def _column_of_files(table: LabelTable, finds: Sequence[Find], given: str | None) -> tuple[str, list[Path | None]]:
    if given is not None:
        _check_column(table, given, "image_column")
    first = table.column(FILE_COLUMNS)
    names = sorted(table.columns, key=lambda name: name != first) if given is None else [given]
    for find in finds:
        found = {name: [find(text) if text else None for text in _names(table.columns[name])] for name in names}
        best = max(names, key=lambda name: _count(found[name]), default=None)      # the first of equals
        if best is not None and any(found[best]):
            return best, found[best]
    raise ValueError(
        f"data.image_column: no column of {str(table.path)!r} has names of images that exist; allowed are paths "
        f"relative to the table, or absolute (the columns are: {', '.join(table.columns) or 'none'})"
    )


def _column_of_labels(table: LabelTable, others: list[str], request: DataRequest) -> str | None:
    given = request.label_column
    if given is not None:
        _check_column(table, given, "label_column")
        return given
    usual = LabelTable(table.path, {name: table.columns[name] for name in others}).column(LABEL_COLUMNS)
    if usual is not None or not others:
        return usual
    if len(others) == 1 and _could_be_classes(table.columns[others[0]]):
        return others[0]
    raise ValueError(
        f"data.label_column: no column of {str(table.path)!r} is known to be labels; name it as data.label_column "
        f"({', '.join(others)}), or train without classes with data.labels none"
    )


def _could_be_classes(values: list[Any]) -> bool:
    """Return whether values repeat as those of classes do, and those of captions and measurements do not."""
    return not any(isinstance(value, float) for value in values) and 2 * len(set(map(repr, values))) <= len(values)


def _split_column(table: LabelTable) -> str | None:
    """Return the column of splits; None if there is none, or it has other values than names of splits."""
    name = table.column(SPLIT_COLUMNS)
    if name is None:
        return None
    groups = split_groups(sorted({str(value) for value in table.columns[name]}))
    return name if all(groups.values()) and set(groups.values()) & set(SPLITS) else None


def _check_column(table: LabelTable, name: str, option: str) -> None:
    if name not in table.columns:
        listed = f"the columns are: {', '.join(table.columns)}{did_you_mean(name, table.columns)}"
        raise ValueError(f"data.{option}: {name!r} is not a column of {str(table.path)!r}; {listed}")


def _names(values: list[Any]) -> list[str]:
    """Return values as names of images; empty for values that cannot be names."""
    return [str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else "" for value in values]


def _count(images: Iterable[Path | None]) -> int:
    """Return the number of different images; labels such as 0 and 1 could be names, but only of a few."""
    return len({image for image in images if image is not None})


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.readline()
        file.seek(0)
        delimiter = max("\t,;|", key=start.count)
        reader = csv.reader(file, delimiter=delimiter)
        lines = [(reader.line_num, row) for row in reader if any(row)]
    if not lines:
        raise ValueError("it is empty")
    header = [cell.strip() for cell in lines[0][1]]
    if any(is_image(Path(cell)) for cell in header):
        header = [str(number) for number in range(len(header))]
    else:
        del lines[0]
    for number, row in lines:
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} cells, and {len(header)} columns are expected")
    columns = zip(*(row for _, row in lines), strict=True) if lines else [()] * len(header)
    # the column without a name is the index that pandas writes
    return {name: _typed(list(column)) for name, column in zip(header, columns, strict=True) if name}


def _typed(cells: Sequence[str]) -> list[Any]:
    """Convert the cells of a column to integers or floats if all are; empty ones are None."""
    cells = [cell.strip() for cell in cells]
    filled = [cell for cell in cells if cell]
    if all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", cell) for cell in filled):
        return [int(cell) if cell else None for cell in cells]
    if all(re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", cell) for cell in filled):
        return [float(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig") as file:
        return _from_objects([json.loads(line) for line in file if line.strip()])


def _read_json(path: Path) -> dict[str, list[Any]]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
        raise ValueError("it lists objects in images (COCO); write a CSV with one file name and one label per image")
    if isinstance(content, dict) and "labels" in content:
        content = content["labels"]
        if content is None:
            return {}
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            raise ValueError("labels are not pairs of file name and label")
        return {"file_name": [name for name, _ in content], "label": [label for _, label in content]}
    if isinstance(content, dict):
        return {"file_name": [*content], "label": [*content.values()]}
    return _from_objects(content)


def _from_objects(rows: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except pyarrow.lib.ArrowException as problem:
        raise ValueError(str(problem)) from problem
