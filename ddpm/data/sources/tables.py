"""Tables read with the `datasets` library: parquet files and saved datasets."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ddpm.data.folders.split_names import are_splits, find_split
from ddpm.data.labels.class_ids import ONE_CLASS_EACH, compare_columns, label_records
from ddpm.data.labels.column_names import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    find_all_usual,
    find_usual,
    is_usual,
    list_columns,
)
from ddpm.data.records import Records, TablePictures
from ddpm.data.request import DataRequest
from ddpm.names import did_you_mean

if TYPE_CHECKING:
    import datasets

FEWEST_CHARACTERS = 60  # of an image in base64; the smallest PNG has more


def load_parquet(request: DataRequest) -> Records:
    """Return the rows of a parquet file, which is the split `train`.

    Raises:
        ValueError: if the file cannot be read, the split or a column does not exist, or a label is not usable.
    """
    table = _read_files([request.source])
    return table_records(table, request, find_split(request.source, request.split, ["train"]))


def open_parquet(files: Sequence[str]) -> tuple[TablePictures, list[Any] | None, list[str] | None]:
    """Open the rows of parquet files in order, with or without labels.

    Returns:
        The pictures; the raw labels, ids or names, or None without a label column; and the names of the ids, or None
        without declared names.

    Raises:
        ValueError: if a file cannot be read, or the image column is ambiguous.
    """
    table = _read_files(files)
    pictures = TablePictures(_stored_images(table, None), "train")
    if not _label_columns(table.features):
        return pictures, None, None
    return pictures, *_raw_labels(table, None)


def _read_files(files: Sequence[str]) -> "datasets.Dataset":
    import datasets

    check_rows(files)
    with reading(files[0]):
        return datasets.load_dataset("parquet", data_files={"train": list(files)}, split="train")


def check_rows(files: Iterable[str | Path]) -> None:
    """Raise ValueError if a parquet file has no rows, which `datasets` cannot read."""
    import pyarrow
    import pyarrow.parquet

    for file in files:
        with suppress(OSError, pyarrow.lib.ArrowException):     # a damaged file is reported where it is read
            if pyarrow.parquet.read_metadata(file).num_rows == 0:
                raise ValueError(f"data.source: {str(file)!r} contains no images; remove it, or name another file")


def load_saved(request: DataRequest) -> Records:
    """Return a dataset written by `save_to_disk`; one without a dictionary of splits is the split `train`.

    Raises:
        ValueError: as in `load_parquet`.
    """
    import datasets

    with reading(request.source):
        try:
            tables = datasets.load_from_disk(request.source)
        except IndexError:  # raised by `datasets` for a table saved without rows
            raise ValueError("it, or one of its splits, contains no images") from None
    if isinstance(tables, datasets.Dataset):
        tables = {"train": tables}
    split = find_split(request.source, request.split, tables)
    return table_records(tables[split], request, split)


def load_tables(request: DataRequest) -> Records:
    """Return one split of what `datasets.load_dataset` loads: a dataset on the Hub, or a folder of parquet files.

    Raises:
        ValueError: as in `load_parquet`.
        ConnectionError: if the Hub is not reachable.
    """
    import datasets

    source, split = request.source, request.split
    with reading(source):
        try:
            table = datasets.load_dataset(source, split=split)  # only this split, since others may be large
        except ValueError:
            splits = datasets.get_dataset_split_names(source)
            if split in splits:
                raise
            table = None
    if table is None:
        split = find_split(source, split, splits)
        with reading(source):
            table = datasets.load_dataset(source, split=split)
    return table_records(table, request, split)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Disable progress bars, and convert errors of `datasets` for invalid input to one line."""
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with silenced("datasets"):      # which logs errors before it raises them
            yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise ValueError(
            f"data.source: {source!r} is neither a local path nor a reachable dataset on the Hub"
            f" ({_one_line(error)}){suggest_source(source)}"
        ) from error
    # RuntimeError: a dataset script; ValueError: several configurations, or a malformed file
    except (datasets.exceptions.DatasetsError, FileNotFoundError, RuntimeError, ValueError) as error:
        raise ValueError(f"data.source: {source!r} cannot be read: {_one_line(error.__cause__ or error)}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """Print no log lines of a library."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def suggest_source(source: str) -> str:
    """Return `; did you mean X?` for `digits` or the nearest name in the working directory, or an empty string."""
    return did_you_mean(source, ["digits", *sorted(os.listdir())])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def table_records(table: "datasets.Dataset", request: DataRequest, split: str) -> Records:
    """Return the images and labels of a table.

    Raises:
        ValueError: if a column does not exist or is ambiguous, or a label is not usable.
    """
    images = _stored_images(table, request.image_column)
    pictures = TablePictures(images, split)
    values, names, notes = _find_labels(table, request)
    if request.image_column is None and (others := _other_images(table, *images.features)):
        typed = f"--data.image_column {' or '.join(map(quote, others))}"
        notes += (f"images are those of column {images.column_names[0]!r}; for others: {typed}",)
    remedy = f"for classes, name their column as data.label_column (the columns are: {list_columns(table.features)})"
    unused = _column_of_splits(table, [name for name in table.features if name != request.label_column])
    if unused is not None:
        notes += (f"column {unused!r} is not used; to select by it, write one parquet file per value, such as train",)
    return label_records(request, pictures, values, names, remedy=remedy, split=split, notes=notes)


def _column_of_splits(table: "datasets.Dataset", candidates: Sequence[str]) -> str | None:
    """Return the column that names splits by its name or its values; None if there is none."""
    texts = (name for name in candidates if getattr(table.features[name], "dtype", None) in ("string", "large_string")
             and not is_usual(name, LABEL_COLUMNS))
    usual = find_usual(candidates, SPLIT_COLUMNS)
    return usual or next((name for name in texts if are_splits(table.unique(name))), None)


def _stored_images(table: "datasets.Dataset", given: str | None) -> "datasets.Dataset":
    """Return the image column, with encoded images."""
    import datasets

    images = [name for name, feature in table.features.items() if _holds_images(feature)]
    if not images and (given is None or given in table.features):
        raise ValueError(f"data.image_column: {_describe_values(table, given)}")
    column = _choose("image", table.features, given, images, IMAGE_COLUMNS)
    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _describe_values(table: "datasets.Dataset", given: str | None) -> str:
    """Return what the columns of a table hold in place of images, and what to convert it to."""
    column = given or find_usual(table.features, IMAGE_COLUMNS)
    encode = "write the bytes of image files, such as PNG, in "
    listed = "if it has paths of images, train on the table as a .csv"
    arrays = (
        "save pixels with numpy.savez in an .npz, as an array `images` (N, H, W) or (N, H, W, C), and the labels as "
        "`labels`"
    )
    if column is None:
        columns = list_columns(table.features)
        return f"no column holds images (the columns are: {columns}); {encode}one of the table; {listed}; or {arrays}"
    feature = table.features[column]
    kind = getattr(feature, "dtype", "struct")
    if _holds_lists(feature) or hasattr(feature, "shape"):
        return f"{column!r} holds lists of numbers, which are not read; {arrays}"
    if kind not in ("string", "large_string"):
        return f"{column!r} holds values of type {kind}, and no images; {encode}it"
    first = next(filter(None, table[column]), "")
    if re.match(r"(data:[^,]*,)?(iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-3])", first):        # PNG, JPEG, GIF, WebP, BMP
        return f"{column!r} holds base64, which is text; {encode}it, as base64.b64decode returns them"
    return f"{column!r} holds text, such as {first[:FEWEST_CHARACTERS]!r}, and no images; {encode}it; {listed}"


def _other_images(table: "datasets.Dataset", chosen: str) -> list[str]:
    """Return the other columns of images; bytes may be anything else, unless their column has a usual name."""
    images = [name for name, feature in table.features.items() if name != chosen and _holds_images(feature)]
    return [name for name in images if is_usual(name, IMAGE_COLUMNS) or not _holds_bytes(table.features[name])]


def holds_images(file: Path, strict: bool = False) -> bool:
    """Return whether a parquet file has a column of encoded images.

    Args:
        file: the parquet file.
        strict: whether bytes, which may be anything, such as hashes, are images only with a path or in a column with a
            usual name. Otherwise all bytes are, and so is an unreadable file, to be reported.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
    except (OSError, pyarrow.lib.ArrowException):
        return not strict
    types = pyarrow.types
    structs = (column.type for column in schema if types.is_struct(column.type))
    if any({"bytes", "path"} <= {field.name for field in struct} for struct in structs):
        return True
    binary = [column.name for column in schema if types.is_binary(column.type) or types.is_large_binary(column.type)]
    return any(not strict or is_usual(name, IMAGE_COLUMNS) for name in binary)


def _find_labels(
    table: "datasets.Dataset", request: DataRequest
) -> tuple[list[Any] | None, list[str] | None, tuple[str, ...]]:
    """Return the labels and the names of the ids as `_raw_labels`, and notes on the choice of their column.

    Labels are None if they are not asked for, or there are none.

    Raises:
        ValueError: if there are other columns than images, and none is known to be labels, or several are.
    """
    import datasets

    if not request.has_label_column():
        return None, None, ()
    given, features = request.label_column, table.features
    lists = [name for name, kind in features.items() if _holds_lists(kind)]
    if given is not None:
        several = given if given in lists else None
    else:
        several = None if _label_columns(features) else find_usual(lists, LABEL_COLUMNS)
    if several is not None:
        raise ValueError(
            f"data.label_column: {several!r} holds lists of labels (multi-label); {ONE_CLASS_EACH}: add a column with "
            f"one label per image, {request.classless_remedy}"
        )
    if given is not None or not _label_columns(features):
        _check_label_type(features, given or find_usual(features, LABEL_COLUMNS), request)
    values = any(isinstance(kind, datasets.Value) and not _holds_images(kind) for kind in features.values())
    if given is None and not values and not _label_columns(features):
        return None, None, ()
    found, names = _raw_labels(table, given)
    candidates = _label_columns(features)
    if given is not None or len(candidates) < 2:
        return found, names, ()
    usual = find_all_usual(candidates, LABEL_COLUMNS)
    plain = table.with_format(None)
    notes = compare_columns(usual[0], {name: plain[name][:] for name in usual}, request.source)
    others = " or ".join(quote(name) for name in candidates if name not in usual)
    if others:
        notes += (f"classes are those of column {usual[0]!r}; for others: --data.label_column {others}",)
    return found, names, notes


def _check_label_type(features: Mapping[str, Any], column: str | None, request: DataRequest) -> None:
    """Raise ValueError if a column that is called as labels, or named as such, has values that cannot be classes."""
    feature = None if column is None else features.get(column)
    if _holds_bytes(feature):
        problem, remedy = "bytes", "convert them to text"
    elif isinstance(feature, dict) and not _holds_images(feature):
        problem, remedy = f"several values ({', '.join(feature)})", "add a column with one of them"
    else:
        return
    raise ValueError(
        f"data.label_column: {column!r} holds {problem}; {ONE_CLASS_EACH}: {remedy}, {request.classless_remedy}"
    )


def _raw_labels(table: "datasets.Dataset", given: str | None) -> tuple[list[Any], list[str] | None]:
    """Return the ids or names in the label column, and the declared names of the ids."""
    candidates = _label_columns(table.features, any_name=given is not None)
    column = _choose("label", table.features, given, candidates, LABEL_COLUMNS)
    return table.with_format(None)[column][:], getattr(table.features[column], "names", None)


def _label_columns(features: dict[str, Any], any_name: bool = False) -> list[str]:
    """Return the columns that can be labels: those declared as such, or those with a usual name or `any_name`."""
    import datasets

    declared = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    values = [name for name, kind in features.items() if isinstance(kind, datasets.Value) and not _holds_images(kind)]
    if any_name:
        return declared + values
    return declared or [name for name in values if is_usual(name, LABEL_COLUMNS)]


def _holds_images(feature: Any) -> bool:
    """Return whether a column contains encoded images: declared as such, or binary, with or without a path."""
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature and "path" in feature
    return isinstance(feature, datasets.Image) or _holds_bytes(feature)


def _holds_bytes(feature: Any) -> bool:
    """Return whether a column contains bytes, which may be images or anything else."""
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _holds_lists(feature: Any) -> bool:
    """Return whether a column contains lists."""
    import datasets

    return isinstance(feature, (list, datasets.List, datasets.LargeList))


def _choose(
    role: str, features: Iterable[str], given: str | None, candidates: list[str], usual: tuple[str, ...]
) -> str:
    """Return the given column, the only candidate, or the candidate with the most common name."""
    key, columns = f"data.{role}_column", list_columns(features)
    if given is not None:
        if given in candidates:
            return given
        problem = f"contains no {role}s" if given in features else "is not a column"
        raise ValueError(f"{key}: {given!r} {problem}; the columns are: {columns}{did_you_mean(given, features)}")
    if len(candidates) == 1:
        return candidates[0]
    named = find_usual(candidates, usual)
    if named is not None:
        return named
    found = f"the {role} column is ambiguous" if candidates else f"no {role} column found"
    without = ", or train without classes with data.labels none" * (role == "label")
    raise ValueError(f"{key}: {found}; name it as {key} (the columns are: {columns}){without}")
