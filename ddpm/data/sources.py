"""The kinds of data sources, and how a name is resolved to one. A new kind is a function and an entry in DATASETS."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ddpm.data.arrays import load_npy, load_npz
from ddpm.data.folders import IMAGE_SUFFIXES, load_folder
from ddpm.data.records import ArrayPictures, Records, check_split
from ddpm.data.tables import load_hub, load_parquet, load_saved
from ddpm.names import did_you_mean_path


def load_records(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return the records of `source`; see `load_data` for arguments and errors."""
    source = os.path.expanduser(source)
    kind = kind_of(source)
    if kind in WITHOUT_COLUMNS:
        for key, value in (("image_column", image_column), ("label_column", label_column)):
            if value is not None:
                raise ValueError(f"data.{key}: {source!r} has no columns; omit the option (got {value!r})")
    return DATASETS[kind](source, split, image_column, label_column)


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
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return "parquet"
        if path.suffix.lower() in (".npz", ".npy"):
            return path.suffix.lower()[1:]
        raise ValueError(
            f"data.source: {source!r} is a single file; allowed are an .npz, an .npy, a folder or a .parquet file"
        )
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return "saved"
        # Parquet files, and images with a table of labels, are what `load_dataset` reads from a folder.
        tables = (p for p in path.rglob("*") if p.suffix == ".parquet" or p.name in ("metadata.jsonl", "metadata.csv"))
        return "hub" if any(tables) else "folder"
    if _looks_like_path(source):
        raise ValueError(f"data.source: file or folder {source!r} does not exist{did_you_mean_path(path)}")
    return "hub"


def _looks_like_path(source: str) -> bool:
    # A single separator can be `owner/name` on the Hub, unless `owner` is a folder here.
    parts = source.split("/")
    return (
        source.startswith((".", "~"))
        or "" in parts
        or len(parts) > 2
        or (len(parts) == 2 and Path(parts[0]).is_dir())
        or Path(source).suffix.lower() in IMAGE_SUFFIXES | {".parquet", ".npz", ".npy"}
    )


def load_digits(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return scikit-learn's 1,797 handwritten digits: 8x8, gray, ten classes, included in the installation.

    Raises:
        ValueError: if `split` is not `train`.
    """
    from sklearn.datasets import load_digits as load

    check_split(source, split, ["train"])
    digits = load()
    arrays = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Records(ArrayPictures(arrays), labels, tuple(str(name) for name in digits.target_names))


WITHOUT_COLUMNS = ("digits", "folder", "npz", "npy")

DATASETS: dict[str, Callable[[str, str, str | None, str | None], Records]] = {
    "digits": load_digits,
    "folder": load_folder,
    "npz": load_npz,
    "npy": load_npy,
    "parquet": load_parquet,
    "saved": load_saved,
    "hub": load_hub,
}
