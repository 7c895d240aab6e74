"""Usual names of columns, in order of preference, and the comparison of names with them."""

import re
from collections.abc import Iterable, Sequence

# in lower case, with _ for other punctuation
FILE_COLUMNS = (
    "file_name", "filename", "file_path", "filepath", "file", "fname", "image_path", "image_file", "image_name", "path",
    "image", "img", "image_id", "picture", "photo", "name", "id", "key",
)
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixels")
LABEL_COLUMNS = (
    "label", "labels", "class", "class_label", "fine_label", "target", "targets", "category", "y",
    "class_name", "classname", "label_name", "category_name", "class_id", "label_id", "category_id", "choice",
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set", "dataset")


def is_usual(name: str, usual: Sequence[str]) -> bool:
    """Return whether a name is one of the usual names, in any letter case and with any punctuation."""
    return _plain(name) in usual


def find_all_usual(names: Iterable[str], usual: Sequence[str]) -> list[str]:
    """Return the names that are usual, in the order of preference."""
    return sorted((name for name in names if is_usual(name, usual)), key=lambda name: usual.index(_plain(name)))


def find_usual(names: Iterable[str], usual: Sequence[str]) -> str | None:
    """Return the name that is the first of the usual names; None if none is usual."""
    return next(iter(find_all_usual(names, usual)), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
