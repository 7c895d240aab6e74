"""Images in an .npz or .npy as numpy writes it: from this package, ADM's scripts, or any other source."""

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ddpm.data.folders.split_names import find_split
from ddpm.data.labels.class_ids import ONE_CLASS_EACH, label_records
from ddpm.data.labels.column_names import LABEL_COLUMNS, SPLIT_COLUMNS, find_all_usual
from ddpm.data.pixels.decode import Picture, UnreadableImage, unreadable_if_it_fails
from ddpm.data.records import ArrayPictures, Origin, Pictures, Records, as_picture
from ddpm.data.request import DataRequest

# in order of preference: the names of this package, and the defaults of savez; other usual names of labels follow
IMAGES = ("images", "arr_0")
LABELS = ("labels", "arr_1")
CLASS_NAMES = "class_names"
CHECKED_BYTES = 2**16    # of a stored array at a time


@dataclass(frozen=True)
class StoredPictures(Pictures):
    """Pictures in an uncompressed array of a file, read from it one by one.

    Attributes:
        path: of the file.
        offset: position of the array's first value in the file, in bytes.
        shape: (N, H, W) for gray pictures, or (N, H, W, C).
        dtype: of the values, as numpy writes it, such as `<u2`.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str = "|u1"

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: int) -> bytes:
        size = prod(self.shape[1:]) * np.dtype(self.dtype).itemsize
        with unreadable_if_it_fails(), open(self.path, "rb") as file:
            file.seek(self.offset + index * size)
            values = file.read(size)
        if len(values) < size:
            raise UnreadableImage(f"{self.path} is truncated")
        return values

    def open(self, index: int) -> Picture:
        return as_picture(np.frombuffer(self.read(index), self.dtype).reshape(self.shape[1:]))

    def origin(self, rows: Sequence[int]) -> Origin | None:
        return Origin([self.offset, self.shape, self.dtype], [self.path])


class Arrays(NamedTuple):
    """The content of an .npz of images.

    Attributes:
        pictures: N of them; compressed ones are in memory, others stay in the file.
        labels: N ids or names; None without labels.
        class_names: the names of the ids; None without names.
    """

    pictures: Pictures
    labels: list[Any] | None
    class_names: list[str] | None


class Header(NamedTuple):
    """What precedes the values of an array in a file.

    Attributes:
        shape: of the array.
        fortran_order: whether the first dimension varies fastest.
        dtype: of the values.
        size: of the header itself, in bytes.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int


def open_npz(path: Path, with_labels: bool = True) -> Arrays:
    """Open an .npz: images (N, H, W, C) as `images` or `arr_0`, and labels (N,) as `labels`, `arr_1` or a usual name.

    Images have any number of channels and any real type. Gray images may be (N, H, W). An array `class_names` gives the
    names of the ids. Other arrays are ignored.

    Args:
        path: of the file.
        with_labels: whether to read labels, which are otherwise None.

    Raises:
        ValueError: if it is not an .npz, or its arrays have another type or shape; names the path.
    """
    with (
        refuse_if_it_fails(f"{path}: not an .npz of images"),
        zipfile.ZipFile(path) as archive,
        np.load(path, allow_pickle=False) as arrays,
    ):
        headers = _read_headers(archive)
        found = next((name for name in IMAGES if name in headers), None)
        if found is None:
            there = ", ".join(f"{name} {header.shape}" for name, header in headers.items())
            remedy = "write it with numpy.savez(path, images=..., labels=...)"
            raise ValueError(f"there is no array {' or '.join(IMAGES)} but {there or 'nothing'}; {remedy}")
        member = archive.getinfo(f"{found}.npy")
        shape = _image_shape(found, headers[found], member.file_size)
        of_labels = next(iter(_find_labels(headers, shape[0])), None)
        labels = None
        if with_labels and of_labels is not None:
            _check_labels(of_labels, headers[of_labels], shape[0])
            labels = arrays[of_labels].tolist()
        names = None
        if CLASS_NAMES in headers:
            _check_type(CLASS_NAMES, headers[CLASS_NAMES], "text")
            names = [str(name) for name in arrays[CLASS_NAMES].flatten()]
        begin = _first_value(path, member, headers[found])
        if begin is not None:
            with archive.open(member) as values:        # compares the checksum, which reading by position does not
                while values.read(CHECKED_BYTES):
                    pass
            return Arrays(StoredPictures(str(path), begin, shape, headers[found].dtype.str), labels, names)
        return Arrays(ArrayPictures(np.ascontiguousarray(arrays[found]).reshape(shape)), labels, names)


@contextmanager
def refuse_if_it_fails(what: str) -> Iterator[None]:
    """Convert errors of any kind, as of damaged files, to a `ValueError` beginning with `what`, but no bugs of ours."""
    try:
        yield
    except (MemoryError, AssertionError):
        raise
    except Exception as problem:
        reason = " ".join(str(problem).split())
        if not isinstance(problem, OSError | ValueError):
            reason = f"damaged or encrypted ({type(problem).__name__}: {reason}); write it again with numpy"
        raise ValueError(f"{what}: {reason}") from problem


def load_npz(request: DataRequest) -> Records:
    """Return the images of an .npz, which is the split `train`; see `open_npz` for its arrays.

    Raises:
        ValueError: if the file cannot be read, or a label is not usable.
    """
    find_split(request.source, request.split, ["train"])
    request.refuse_columns("is an .npz, whose arrays have fixed names")
    try:
        arrays = open_npz(Path(request.source), with_labels=request.labels != "none")
    except ValueError as problem:
        raise ValueError(f"data.source: {problem}") from problem
    notes = () if request.labels == "none" else tuple(_describe_unused(Path(request.source), arrays))
    remedy = f"for classes, add labels as an array {' or '.join(LABELS)}"
    return label_records(
        request, arrays.pictures, arrays.labels, arrays.class_names, remedy=remedy, option="data.source", notes=notes
    )


def _read_headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    """Return the headers of the arrays in an .npz by their names."""
    return {name.removesuffix(".npy"): member_header(archive, name) for name in archive.namelist()}


def _with_shape_of(headers: Mapping[str, Header], count: int) -> list[str]:
    """Return the names of the arrays that have an entry for each of `count` images."""
    return [name for name, header in headers.items() if header.shape[:1] == (count,)]


def _find_labels(headers: Mapping[str, Header], count: int) -> list[str]:
    """Return the names of the arrays that are called as labels of `count` images, in order of preference."""
    usual = find_all_usual(_with_shape_of(headers, count), LABEL_COLUMNS)
    return list(dict.fromkeys([*(name for name in LABELS if name in headers), *usual]))


def _describe_unused(path: Path, arrays: Arrays) -> Iterator[str]:
    """Yield a sentence on arrays of an .npz that may be meant for the images, but are not used."""
    with zipfile.ZipFile(path) as archive:
        headers = _read_headers(archive)
    of_images, of_labels = (find(headers, len(arrays.pictures)) for find in (_with_shape_of, _find_labels))
    splits = find_all_usual(of_images, SPLIT_COLUMNS)
    for name in splits:
        yield f"array {name!r} is not used; to select by it, write one .npz per value, such as train"
    if arrays.labels is not None:
        if of_labels[1:]:
            yield f"classes are those of array {of_labels[0]!r}; not used: {', '.join(of_labels[1:])}"
        return
    others = [name for name in of_images if name not in (*IMAGES, *splits, CLASS_NAMES)]
    if others:
        yield f"arrays that are not used: {', '.join(others)}; if one has labels, save it as {LABELS[0]!r}"
    if arrays.class_names is not None:
        yield f"array {CLASS_NAMES!r} is not used, because there is no array of labels"


def load_npy(request: DataRequest) -> Records:
    """Return the images of an .npy, which is the split `train`: (N, H, W, C), or (N, H, W) if they are gray.

    Labels, (N,), are in another .npy that the option data.labels names.

    Raises:
        ValueError: if a file cannot be read, or a label is not usable.
    """
    find_split(request.source, request.split, ["train"])
    request.refuse_columns("is an .npy, which has no columns")
    with refuse_if_it_fails(f"data.source: {request.source}: not an .npy of images"):
        with open(request.source, "rb") as file:
            header = read_header(file)
        shape = _image_shape("the array", header, os.path.getsize(request.source))
        pictures: Pictures
        if header.fortran_order:
            values = np.ascontiguousarray(np.load(request.source, allow_pickle=False))
            pictures = ArrayPictures(values.reshape(shape))
        else:
            pictures = StoredPictures(request.source, header.size, shape, header.dtype.str)
    labels = None if request.labels in ("auto", "none") else _load_labels(request, len(pictures))
    remedy = "for classes, name an .npy of labels with data.labels"
    return label_records(request, pictures, labels, remedy=remedy, option="data.labels")


def _load_labels(request: DataRequest, count: int) -> list[Any]:
    path = Path(os.path.expanduser(request.labels))
    if path.suffix.lower() != ".npy":
        raise ValueError(
            f"data.labels: {request.labels!r} is not possible for {request.source!r}; allowed are auto, none, or the "
            "path of an .npy of labels"
        )
    with refuse_if_it_fails(f"data.labels: {path}: not an .npy of labels"):
        with path.open("rb") as file:
            _check_labels("labels", read_header(file), count)
        values: list[Any] = np.load(path, allow_pickle=False).tolist()
    return values


def member_header(archive: zipfile.ZipFile, name: str) -> Header:
    """Read the header of an array in an .npz."""
    with archive.open(name) as member:
        return read_header(member)


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an .npy, after which the file is at the first value.

    Raises:
        ValueError: if it is not an .npy that numpy writes today.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"array format version {version} is not supported")
    return Header(*readers[version](file), file.tell())


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether an image, as its shape (A, B, C) looks, has its channels first."""
    return shape[0] < min(shape[1:])


def _check_labels(name: str, header: Header, count: int) -> None:
    """Check that labels are one number or text for each of `count` images."""
    shape = header.shape
    _check_type(name, header, "integers or text")
    if shape == (count, 1):
        remedy = f"{name}[:, 0]"
    elif len(shape) == 2 and shape[0] == count:
        remedy = f"{ONE_CLASS_EACH}; if they are one-hot, convert them with {name}.argmax(1)"
    else:
        remedy = "give every image one"
    if shape != (count,):
        raise ValueError(f"{name} have shape {shape}; allowed is one id or name per image, {(count,)}: {remedy}")


def _check_type(name: str, header: Header, allowed: str) -> None:
    """Check that an array can be read without running code that is stored in it."""
    if header.dtype.hasobject or header.dtype.kind == "S":
        kind = "Python objects" if header.dtype.hasobject else "bytes"
        raise ValueError(f"{name} are {kind}; allowed: {allowed}; convert them with {name}.astype(str)")


def _image_shape(name: str, header: Header, size: int) -> tuple[int, ...]:
    """Return (N, H, W) for gray images or (N, H, W, C), if type and shape are allowed and so many bytes are enough."""
    if header.dtype.kind not in "buif":
        raise ValueError(f"{name} is {header.dtype}; allowed are integers, floats and truth values")
    shape = header.shape[:3] if header.shape[3:] == (1,) else header.shape
    allowed = "allowed: (N, H, W, C) with C channels, (N, H, W) gray"
    if len(shape) == 3 and shape[2] in (3, 4) and shape[1] > 4:
        raise ValueError(f"{name} has shape {header.shape}, as a single image; {allowed}: stack the images")
    if len(shape) not in (3, 4):
        raise ValueError(f"{name} has shape {header.shape}; {allowed}")
    if len(shape) == 4 and has_channels_first(shape[1:]):
        last = f"if channels come first, transpose(0, 2, 3, 1); if not, pad the height to {min(shape[2:])}"
        raise ValueError(f"{name} has shape {header.shape}, as with channels first; {allowed}; {last}")
    if min(shape) < 1:
        raise ValueError(f"{name} has shape {header.shape}; it contains no images")
    expected = header.size + prod(shape) * header.dtype.itemsize
    if size < expected:
        raise ValueError(f"{name} is truncated: {size:,} of {expected:,} bytes; copy or write the file again")
    return shape


def _first_value(path: Path, member: zipfile.ZipInfo, header: Header) -> int | None:
    """Return the position of an array's first value in the file; None if its values are not there in C order."""
    if member.compress_type != zipfile.ZIP_STORED or header.fortran_order:
        return None
    with path.open("rb") as file:
        # The length of the local header can differ from that of its copy at the end of the archive.
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + header.size
