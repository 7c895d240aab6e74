"""Tables read with the `datasets` library: parquet, a saved dataset, the Hub."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.data.labels import encode_labels
from ddpm.data.records import Records, TablePictures
from ddpm.names import did_you_mean

if TYPE_CHECKING:
    import datasets

# in order of preference
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "class_label", "fine_label", "target", "targets", "category", "y")


def load_parquet(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return the rows of a parquet file, which is the split `train`, or of a folder of parquet files.

    Raises:
        ValueError: if the file cannot be read, the split or a column does not exist, or a label is not usable.
    """
    import datasets

    if Path(source).is_dir():
        return load_hub(source, split, image_column, label_column)
    with _reading(source):
        tables = datasets.load_dataset("parquet", data_files={"train": source})
    return _records(_pick_split(tables, source, split), split, image_column, label_column)


def open_parquet(files: Sequence[str]) -> tuple[TablePictures, list[Any] | None, list[str] | None]:
    """Open the rows of parquet files in order, with or without labels.

    Returns:
        The pictures; the raw labels, ids or names, or None without a label column; and the names of the ids, or None
        without declared names.

    Raises:
        ValueError: if a file cannot be read, or the image column is ambiguous.
    """
    import datasets

    with _reading(files[0]):
        table = datasets.load_dataset("parquet", data_files={"train": list(files)}, split="train")
    features = table.features
    pictures = TablePictures(_stored_images(table, _image_column(features, None)), "train")
    if not _label_candidates(features):
        return pictures, None, None
    label_column = _label_column(features, None)
    return pictures, table.with_format(None)[label_column][:], getattr(features[label_column], "names", None)


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
    return _records(_pick_split(tables, source, split), split, image_column, label_column)


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
        raise _no_split(source, split, splits)
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


def _pick_split(tables: "dict[str, datasets.Dataset]", source: str, split: str) -> "datasets.Dataset":
    if split not in tables:
        raise _no_split(source, split, tables)
    return tables[split]


def _no_split(source: str, split: str, splits: Iterable[str]) -> ValueError:
    return ValueError(
        f"data.split: {split!r} is not a split of {source!r}; it has: {', '.join(splits)}{did_you_mean(split, splits)}"
    )


def _records(table: "datasets.Dataset", split: str, image_column: str | None, label_column: str | None) -> Records:
    image_column = _image_column(table.features, image_column)
    label_column = _label_column(table.features, label_column)
    pictures = TablePictures(_stored_images(table, image_column), split)
    declared = getattr(table.features[label_column], "names", None)
    values = table.with_format(None)[label_column][:]
    labels, class_names = encode_labels(values, declared, pictures.where)
    return Records(pictures, labels, class_names)


def _stored_images(table: "datasets.Dataset", image_column: str) -> "datasets.Dataset":
    import datasets

    return table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))


def _image_column(features: dict[str, Any], given: str | None) -> str:
    images = [name for name, feature in features.items() if _holds_images(feature)]
    return _choose("image", features, given, images, IMAGE_COLUMNS)


def _label_column(features: dict[str, Any], given: str | None) -> str:
    if given in _usable(features):
        return given
    return _choose("label", features, given, _label_candidates(features), LABEL_COLUMNS)


def _label_candidates(features: dict[str, Any]) -> list[str]:
    import datasets

    declared = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return declared or [name for name in _usable(features) if name.lower() in LABEL_COLUMNS]


def _usable(features: dict[str, Any]) -> list[str]:
    import datasets

    return [name for name, kind in features.items() if isinstance(kind, datasets.Value) and not _holds_images(kind)]


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
    for name in usual:
        for candidate in candidates:
            if candidate.lower() == name:
                return candidate
    found = f"the {role} column is ambiguous" if candidates else f"no {role} column found"
    raise ValueError(f"{key}: {found}; name it as {key} (the columns are: {columns})")
