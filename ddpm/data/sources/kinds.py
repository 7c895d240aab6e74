"""The kinds of data sources, and how a name is resolved to one. A new kind is a function and an entry in DATASETS."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm.data.folders.labelings import load_folder
from ddpm.data.folders.scan import ARRAY_SUFFIXES, IMAGE_SUFFIXES, OTHER_KINDS, TABLE_SUFFIXES, other_kind
from ddpm.data.folders.split_names import find_split
from ddpm.data.labels.class_ids import label_records
from ddpm.data.records import ArrayPictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.sources.arrays import load_npy, load_npz
from ddpm.data.sources.hub_datasets import load_hub
from ddpm.data.sources.image_lists import load_list
from ddpm.data.sources.tables import load_parquet, load_saved
from ddpm.names import did_you_mean_path


def load_records(request: DataRequest) -> Records:
    """Return the records of a source; see `load_data` for arguments and errors."""
    if not request.source.strip():
        what = "a folder or file of images, or the name of a dataset on the Hub"
        raise ValueError(f"data.source: {request.source!r} is empty; give {what}, or digits for handwritten digits")
    request = replace(request, source=os.path.expanduser(request.source))
    kind = kind_of(request.source)
    if kind == "list":
        request.restrict_labels("is itself the table", "auto", "none", "filename")
    elif kind not in ("folder", "npy"):
        request.restrict_labels("is no folder of images", "auto", "none")
    return DATASETS[kind](request)


def kind_of(source: str) -> str:
    """Return the entry of `DATASETS` for `source`.

    `digits` is a reserved name. Existing files and folders are identified by their content. Everything else is a
    dataset on the Hub, unless it looks like a path.

    Raises:
        ValueError: if `source` looks like a path that does not exist, or is a file of an unknown kind.
    """
    if source == "digits":
        return "digits"
    path = Path(source)
    if os.path.isdir(path):             # unlike pathlib's, it is false for a name that is too long
        files = [(path / name).exists() for name in ("dataset_dict.json", "state.json", "dataset_info.json")]
        return "saved" if files[0] or all(files[1:]) else "folder"
    if os.path.exists(path):
        return _kind_of_file(path)
    if os.path.islink(path):
        raise ValueError(f"data.source: {source!r} is a broken link to {os.readlink(path)!r}; restore its target")
    if "\\" in source or re.match("[A-Za-z]:/", source):
        same = source.replace("\\", "/")
        instead = f"; did you mean {same}?" if os.path.exists(same) else ", such as /mnt/c/images"
        raise ValueError(f"data.source: {source!r} is a path of Windows; give the path on this system{instead}")
    if _looks_like_path(source):
        raise ValueError(f"data.source: file or folder {source!r} does not exist{did_you_mean_path(path)}")
    return "hub"


def _kind_of_file(path: Path) -> str:
    suffix, is_file = path.suffix.lower(), os.path.isfile(path)
    if suffix in KINDS_BY_SUFFIX and is_file:
        return KINDS_BY_SUFFIX[suffix]
    kind = other_kind(path.name)
    if not is_file:
        remedy = "a pipe, socket or device, which is not read; write its content to a file, and name that"
    elif kind is not None:
        remedy = f"one of the {kind}, which are not read; {OTHER_KINDS[kind].remedy}"
    elif suffix in IMAGE_SUFFIXES:
        remedy = f"a single image; name the folder of images, {str(path.parent)!r}"
    else:
        remedy = "a single file of another kind"
    raise ValueError(
        f"data.source: {str(path)!r} is {remedy}; allowed are a folder of images, an .npz, .npy or .parquet, and a "
        ".csv, .tsv, .json or .jsonl that lists images"
    )


def _looks_like_path(source: str) -> bool:
    # A single separator can be `owner/name` on the Hub, unless `owner` is a folder here.
    parts = source.split("/")
    return (
        source.startswith((".", "~"))
        or "" in parts
        or len(parts) > 2
        or (len(parts) == 2 and os.path.isdir(parts[0]))
        or Path(source).suffix.lower() in IMAGE_SUFFIXES | TABLE_SUFFIXES | ARRAY_SUFFIXES
        or other_kind(source) is not None
    )


def load_digits(request: DataRequest) -> Records:
    """Return scikit-learn's 1,797 handwritten digits: 8x8, gray, ten classes, included in the installation.

    Raises:
        ValueError: if the split is not `train`.
    """
    from sklearn.datasets import load_digits as load

    find_split(request.source, request.split, ["train"])
    request.refuse_columns("has no columns")
    digits = load()
    arrays = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    beside = "scikit-learn's digits are read, and not the folder of this name; for that: --data.source ./digits"
    notes = (beside,) if os.path.exists("digits") else ()
    return label_records(request, ArrayPictures(arrays), digits.target.tolist(), names, remedy="", notes=notes)


KINDS_BY_SUFFIX = dict.fromkeys(TABLE_SUFFIXES, "list") | {".npz": "npz", ".npy": "npy", ".parquet": "parquet"}

DATASETS: dict[str, Callable[[DataRequest], Records]] = {
    "digits": load_digits,
    "folder": load_folder,
    "list": load_list,
    "npz": load_npz,
    "npy": load_npy,
    "parquet": load_parquet,
    "saved": load_saved,
    "hub": load_hub,
}
