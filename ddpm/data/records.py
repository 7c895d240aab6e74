"""The content of a data source: undecoded pictures and their labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ddpm.data.pixels.decode import Picture, UnreadableImage, UnsuitableFormat, open_picture, unreadable_if_it_fails

if TYPE_CHECKING:
    import datasets


class Origin(NamedTuple):
    """What identifies pictures without reading them, as long as their files do not change.

    Attributes:
        facts: JSON; what says where they are in their files, if it does not follow from these.
        files: paths, in order, of everything that they are read from.
    """

    facts: Any
    files: Sequence[str]


class Pictures(ABC):
    """A picklable sequence of undecoded pictures; `index` is 0..len-1."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the stored bytes, which identify the picture; raise `UnreadableImage` on failure."""

    def open(self, index: int) -> Picture:
        """Return the picture in its own mode and size; raise `UnreadableImage` on failure."""
        return open_picture(BytesIO(self.read(index)))

    @contextmanager
    def open_header(self, index: int) -> Iterator[Picture]:
        """Open a picture of which only the header may be needed; raise `UnreadableImage` on failure."""
        yield self.open(index)

    def origin(self, rows: Sequence[int]) -> Origin | None:
        """Return what identifies the pictures in some rows; None if they are not those of files."""
        return None

    def where(self, index: int) -> str:
        """Return the location for error messages: a path, or a split and row."""
        return f"row {index}"


@dataclass(frozen=True)
class Records:
    """Labeled pictures.

    Attributes:
        pictures: N pictures.
        labels: int64 (N,), in 0..K-1; all 0 without classes.
        class_names: K names; none for a source without classes.
        ignored: reason, such as "hidden files" -> number of files or folders that are not read as images for it.
        notes: decisions about the source that its owner should know, one sentence each.
        split: name of the split in the source, which can be a synonym of the one that was asked for.
        stratified: whether slices of a split take the same part of each class, because the rows are only in the order
            of file names, or class after class.
    """

    pictures: Pictures
    labels: torch.Tensor
    class_names: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    split: str = "train"
    stratified: bool = False


@dataclass(frozen=True)
class ArrayPictures(Pictures):
    """Pictures in memory.

    Attributes:
        arrays: numbers or truth values, gray (N, H, W) or with C channels, (N, H, W, C).
    """

    arrays: np.ndarray

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, index: int) -> bytes:
        return self.arrays[index].tobytes()

    def open(self, index: int) -> Picture:
        return as_picture(self.arrays[index])


@dataclass(frozen=True)
class FilePictures(Pictures):
    """Image files, by path."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return _read_file(self.paths[index])

    @contextmanager
    def open_header(self, index: int) -> Iterator[Picture]:
        with unreadable_if_it_fails(), open(self.paths[index], "rb") as file:
            yield open_picture(file)

    def origin(self, rows: Sequence[int]) -> Origin | None:
        return Origin(None, [self.paths[row] for row in rows])

    def where(self, index: int) -> str:
        return self.paths[index]


@dataclass(frozen=True)
class TablePictures(Pictures):
    """The image column of a `datasets.Dataset`.

    Attributes:
        column: a dataset with one column of type `Image(decode=False)`. Decoding happens here, so that an error names
            the row.
        split: its name, for error messages.
    """

    column: "datasets.Dataset"
    split: str

    def __len__(self) -> int:
        return len(self.column)

    def read(self, index: int) -> bytes:
        (entry,) = self.column[index].values()
        if entry is None or (entry["bytes"] is None and entry["path"] is None):
            raise UnreadableImage("the row has no image")
        return _read_file(entry["path"]) if entry["bytes"] is None else entry["bytes"]

    def origin(self, rows: Sequence[int]) -> Origin | None:
        import pyarrow.compute as compute

        images = self.column.data.column(0)
        stored = [file["filename"] for file in self.column.cache_files]
        if not stored or self.column._indices is not None:
            return None
        # Paths of images that the table itself does not contain.
        outside = compute.struct_field(images, "path").filter(compute.struct_field(images, "bytes").is_null())
        # `datasets` computes its fingerprint from the files and from what was done with them, such as a slice.
        return Origin(self.column._fingerprint, [*stored, *filter(None, outside.to_pylist())])

    def where(self, index: int) -> str:
        return f"split {self.split!r}, row {index}"


def as_picture(values: np.ndarray) -> Picture:
    """Return an array (H, W) or (H, W, C) as an image if Pillow has a mode for it, otherwise unchanged."""
    has_mode = values.dtype == np.uint8 and values.shape[2:] in ((), (3,))
    return Image.fromarray(values) if has_mode else values


@contextmanager
def located(pictures: Pictures, row: int) -> Iterator[None]:
    """Add the location of a picture and the remedy to an `UnreadableImage`."""
    try:
        yield
    except UnreadableImage as error:
        what = "image of another format" if isinstance(error, UnsuitableFormat) else "unreadable image"
        raise type(error)(
            f"data.source: {what}, {pictures.where(row)}: {error}; use data.on_bad_image skip to omit such images"
        ) from error


def _read_file(path: str) -> bytes:
    with unreadable_if_it_fails():
        return Path(path).read_bytes()
