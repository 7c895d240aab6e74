"""Reading of tables: CSV, TSV, JSON, JSON Lines and parquet, as people and tools write them."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.data.folders.scan import TABLE_SUFFIXES, is_image
from ddpm.data.labels.column_names import FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, is_usual
from ddpm.text_encoding import decode_text

DELIMITERS = "\t,;|"
Find = Callable[[str], Sequence[Path]]      # from a name in a table to the images that have it


class LabelTable(NamedTuple):
    """The content of a table.

    Attributes:
        path: of its file.
        columns: names -> values, all of one length; none if the table says that images have no labels.
    """

    path: Path
    columns: dict[str, list[Any]]


def read_table(path: Path, finds: Sequence[Find]) -> LabelTable:
    """Read a table.

    A CSV or TSV without a header, whose first line has the name of an image, has the columns `0`, `1` and so on. A JSON
    file is a list of objects, an object from file name to label or to such an object, or {"labels": [[file name,
    label], ...]}, as StyleGAN and EDM write it, where null instead of the list stands for images without labels. NaN
    stands for a missing value.

    Args:
        path: of the file.
        finds: each returns the images with a name; they tell a first line of names from a header.

    Raises:
        ValueError: if it is not such a table; the message begins with the path.
    """
    readers: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
        ".csv": lambda path: _read_csv(path, finds),
        ".tsv": lambda path: _read_csv(path, finds),
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if path.suffix.lower() not in TABLE_SUFFIXES:
        allowed = ", ".join(sorted(TABLE_SUFFIXES))
        raise ValueError(f"{path}: is not a table; save it as one of {allowed}, with one row per image")
    try:
        columns = readers.get(path.suffix.lower(), _read_json_lines)(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text in UTF-8 or UTF-16; save it as UTF-8") from None
    except (ValueError, OSError, csv.Error, RecursionError) as problem:
        raise ValueError(f"{path}: cannot be read as a table: {' '.join(str(problem).split())}") from problem
    known = {name: [None if value != value else value for value in values] for name, values in columns.items()}
    return LabelTable(path, known)


def _read_csv(path: Path, finds: Sequence[Find]) -> dict[str, list[Any]]:
    header, lines = _parse_csv(path)
    columns = [list(cells) for cells in zip(header.cells, *(line.cells for line in lines), strict=True)]
    if _are_values(header.cells) or any(_names_image(cell, below, finds) for cell, *below in columns):
        names = [str(number) for number in range(len(columns))]
    else:
        names = [column.pop(0).strip() for column in columns]
    # the column without a name is the index that pandas writes
    return _distinct((name, _typed(column)) for name, column in zip(names, columns, strict=True) if name)


def _parse_csv(path: Path) -> tuple["_Line", list["_Line"]]:
    """Return the first row of a CSV that is not empty and those below it, all with as many cells.

    The delimiter is the one that Excel declares in a line such as `sep=;`, or that which the first row has most often
    of those with which all rows have as many cells.

    Raises:
        ValueError: if it is empty, or some rows have more or fewer cells, whatever the delimiter.
    """
    text = io.StringIO(decode_text(path.read_bytes()), newline="").readlines()
    declared = re.fullmatch(r'"?sep=(.)"?\s*', text[0]) if text else None
    if declared is not None:
        text[0] = "\n"      # so that the numbers of lines stay
    start = next((line for line in text if line.strip()), None)
    if start is None:
        raise ValueError("it is empty")
    likely = sorted(filter(start.count, DELIMITERS), key=start.count, reverse=True) or [","]
    problems = []
    for delimiter in likely if declared is None else [declared[1]]:
        try:
            return _even_rows(text, delimiter)
        except ValueError as problem:
            problems.append(problem)
    raise problems[0]


def _even_rows(text: Sequence[str], delimiter: str) -> tuple["_Line", list["_Line"]]:
    """Return the first row of a CSV and those below it; of longer rows, further cells are left out if they are empty.

    Raises:
        ValueError: if it is empty, or a row has more or fewer cells than the first.
    """
    lines = [line for line in _csv_lines(text, delimiter) if any(line.cells)]
    if not lines:
        raise ValueError("it is empty")
    width = len(lines[0].cells)
    for line in lines[1:]:
        if len(line.cells) < width or any(line.cells[width:]):
            several = f", up to line {line.last} because of a quote in it," if line.last > line.first else ""
            found = f"line {line.first}{several} has {len(line.cells)} cells, and line {lines[0].first} has {width}"
            remedy = f"; write as many in both, and a cell that contains {delimiter!r} in double quotes"
            raise ValueError(found + remedy)
    header, *rest = (line._replace(cells=line.cells[:width]) for line in lines)
    return header, rest


class _Line(NamedTuple):
    """A row of a CSV, which goes from line `first` to line `last` of its file if quoted cells have line breaks."""

    first: int
    last: int
    cells: list[str]


def _csv_lines(text: Iterable[str], delimiter: str) -> Iterator[_Line]:
    """Yield the rows of a CSV, with empty ones. Spaces after a delimiter, also before quotes, are left out.

    Raises:
        ValueError: if a quote is not closed, so that the rest of the file would be one cell.
    """
    end = "\x1e"       # which a quote that is still open takes into its cell
    reader, first = csv.reader(chain(text, [end]), delimiter=delimiter, skipinitialspace=True), 1
    try:
        for cells in reader:
            if cells == [end]:
                return
            if cells and cells[-1].endswith(end):
                opened = first + sum(cell.count("\n") for cell in cells[:-1])
                raise ValueError(f"the quote that opens in line {opened} is not closed; close it, or remove it")
            yield _Line(first, reader.line_num, cells)
            first = reader.line_num + 1
    except csv.Error as problem:        # above all, a cell that is too long
        raise ValueError(f"line {first}: {problem}; if a quote in it is not closed, close or remove it") from problem


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return names and values as a dict, if a name that occurs again has the same value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        first = found.setdefault(name, value)
        if first is not value and first != value:       # NaN differs from itself
            raise ValueError(f"{name!r} occurs twice, with different values; rename or remove one")
    return found


def _names_image(cell: str, below: Sequence[str], finds: Sequence[Find]) -> bool:
    """Return whether a cell of the first line is the name of an image, and not that of the column below it."""
    if is_image(Path(cell)):
        return True
    # pandas writes `0`, which may be the name of an image too, above columns without names
    if not cell or cell in below or is_usual(cell, (*FILE_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS)):
        return False
    return any(find(cell) for find in finds)


def _are_values(cells: Sequence[str]) -> bool:
    """Return whether the cells of the first line are numbers and some are equal, as pixels are but not names."""
    return len(set(cells)) < len(cells) and all(isinstance(value, (int, float)) for value in _typed(cells))


def _typed(cells: Sequence[str]) -> list[Any]:
    """Convert the cells of a column to integers or floats if all are; empty ones, and NaN, are None."""
    cells = [cell.strip() for cell in cells]
    cells = ["" if cell in ("nan", "NaN") else cell for cell in cells]      # as numpy and other tools write nothing
    filled = [cell for cell in cells if cell]
    if all(re.fullmatch(r"-?(0|[1-9][0-9]*)", cell) for cell in filled):
        return [int(cell) if cell else None for cell in cells]
    if all(re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", cell) for cell in filled):
        return [float(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(io.StringIO(decode_text(path.read_bytes()), newline=None), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_distinct))
        except json.JSONDecodeError as problem:
            reason = problem.msg.removesuffix(" at")
            raise ValueError(f"line {number}, column {problem.colno}: {reason}") from problem
        except ValueError as problem:
            raise ValueError(f"line {number}: {problem}") from problem
        if not isinstance(rows[-1], dict):
            raise ValueError(f"line {number} is not an object, such as {{\"file_name\": ..., \"label\": ...}}")
    return _from_objects(rows)


def _read_json(path: Path) -> dict[str, list[Any]]:
    content = json.loads(decode_text(path.read_bytes()), object_pairs_hook=_distinct)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
        raise ValueError("it lists objects in images (COCO); write a CSV with one file name and one label per image")
    if isinstance(content, dict) and "labels" in content:
        content = content["labels"]
        if content is None:
            return {}
        if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            raise ValueError("labels are not a list of pairs of file name and label")
        return {"file_name": [name for name, _ in content], "label": [label for _, label in content]}
    if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        return _from_objects([{"file_name": name, **value} for name, value in content.items()])
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
        table = pyarrow.parquet.read_table(path)
        columns = zip(table.column_names, table.columns, strict=True)
        return _distinct((name, column.to_pylist()) for name, column in columns)
    except pyarrow.lib.ArrowException as problem:
        raise ValueError(str(problem)) from problem
