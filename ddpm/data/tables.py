"""Tables read with the `datasets` library: parquet, a saved dataset, the Hub."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ddpm.data.labels import encode_labels
from ddpm.data.records import Records, TablePictures, check_split
from ddpm.names import did_you_mean

if TYPE_CHECKING:
    import datasets

# in order of preference
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "class_label", "fine_label", "target", "targets", "category", "y")


def load_parquet(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return the rows of a parquet file, which is the split `train`.

    Raises:
        ValueError: if the file cannot be read, the split or a column does not exist, or a label is not usable.
    """
    table = _read_files([source])
    check_split(source, split, ["train"])
    return _records(table, split, image_column, label_column)


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

    with _reading(files[0]):
        return datasets.load_dataset("parquet", data_files={"train": list(files)}, split="train")


def load_saved(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return a dataset written by `save_to_disk`; one without a dictionary of splits is the split `train`.

    Raises:
        ValueError: as in `load_parquet`.
    """
    import datasets

    with _reading(source):
        try:
            tables = datasets.load_from_disk(source)
        except IndexError:  # raised by `datasets` for a table saved without rows
            raise ValueError("it, or one of its splits, contains no images") from None
    if isinstance(tables, datasets.Dataset):
        tables = {"train": tables}
    check_split(source, split, tables)
    return _records(tables[split], split, image_column, label_column)


def load_hub(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return one split of a dataset that `datasets.load_dataset` loads: a name on the Hub, or a folder.

    Raises:
        ValueError: as in `load_parquet`, or if the Hub is not reachable.
    """
    import datasets

    with _reading(source):
        try:
            table = datasets.load_dataset(source, split=split)  # only this split, since others may be large
        except ValueError:
            splits = datasets.get_dataset_split_names(source)
            if split in splits:
                raise
            table = None
    if table is None:
        check_split(source, split, splits)
    return _records(table, split, image_column, label_column)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Disable progress bars, and convert errors of `datasets` for invalid input to one line."""
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"data.source: {source!r} is neither a local path nor a reachable dataset on the Hub"
            f" ({_one_line(error)}){did_you_mean(source, ['digits'])}"
        ) from error
    # RuntimeError: a dataset script; ValueError: several configurations, or a malformed file
    except (datasets.exceptions.DatasetsError, FileNotFoundError, RuntimeError, ValueError) as error:
        raise ValueError(f"data.source: {source!r} cannot be read: {_one_line(error.__cause__ or error)}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _records(table: "datasets.Dataset", split: str, image_column: str | None, label_column: str | None) -> Records:
    pictures = TablePictures(_stored_images(table, image_column), split)
    labels, class_names = encode_labels(*_raw_labels(table, label_column), pictures.where)
    return Records(pictures, labels, class_names)


def _stored_images(table: "datasets.Dataset", given: str | None) -> "datasets.Dataset":
    """Return the image column, with encoded images."""
    import datasets

    images = [name for name, feature in table.features.items() if _holds_images(feature)]
    column = _choose("image", table.features, given, images, IMAGE_COLUMNS)
    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


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
    return declared or [name for name in values if name.lower() in LABEL_COLUMNS]


def _holds_images(feature: Any) -> bool:
    """Return whether a column contains encoded images: declared as such, or binary, with or without a path."""
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature and "path" in feature
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _choose(
    role: str, features: Iterable[str], given: str | None, candidates: list[str], usual: tuple[str, ...]
) -> str:
    """Return the given column, the only candidate, or the candidate with the most common name."""
    key, columns = f"data.{role}_column", ", ".join(features)
    if given is not None:
        if given in candidates:
            return given
        problem = f"contains no {role}s" if given in features else "is not a column"
        raise ValueError(f"{key}: {given!r} {problem}; the columns are: {columns}{did_you_mean(given, features)}")
    if len(candidates) == 1:
        return candidates[0]
    named = [candidate for name in usual for candidate in candidates if candidate.lower() == name]
    if named:
        return named[0]
    found = f"the {role} column is ambiguous" if candidates else f"no {role} column found"
    raise ValueError(f"{key}: {found}; name it as {key} (the columns are: {columns})")
