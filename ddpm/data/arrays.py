"""Images in an .npz as numpy.savez writes it: from this package, ADM's scripts, or any other source."""

import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.data.decode import UnreadableImage, unreadable_if_it_fails
from ddpm.data.labels import MULTI_LABEL, label_records
from ddpm.data.records import ArrayPictures, Pictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split

# in order of preference: the names of this package, and the defaults of savez
IMAGES = ("images", "arr_0")
LABELS = ("labels", "arr_1")
CLASS_NAMES = "class_names"


@dataclass(frozen=True)
class NpzPictures(Pictures):
    """Pictures in an uncompressed array of an archive, read from the file one by one.

    Attributes:
        path: of the archive.
        offset: position of the array's first value in the file, in bytes.
        shape: (N, H, W) for gray pictures, or (N, H, W, 3) for RGB.
    """

    path: str
    offset: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: int) -> bytes:
        size = prod(self.shape[1:])
        with unreadable_if_it_fails(), open(self.path, "rb") as file:
            file.seek(self.offset + index * size)
            values = file.read(size)
        if len(values) < size:
            raise UnreadableImage("the file is truncated")
        return values

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(np.frombuffer(self.read(index), np.uint8).reshape(self.shape[1:]))


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


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int           # of the header itself, in bytes


def open_npz(path: Path, with_labels: bool = True) -> Arrays:
    """Open an .npz: images uint8 (N, H, W, C) as `images` or `arr_0`, and labels (N,) as `labels` or `arr_1`.

    Gray images may be (N, H, W). An array `class_names` gives the names of the ids. Other arrays are ignored.

    Args:
        path: of the file.
        with_labels: whether to read labels, which are otherwise None.

    Raises:
        ValueError: if it is not an .npz, or its arrays have another type or shape; names the path.
    """
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            headers = {name.removesuffix(".npy"): _read_header(archive, name) for name in archive.namelist()}
            found = next((name for name in IMAGES if name in headers), None)
            if found is None:
                there = ", ".join(f"{name} {header.shape}" for name, header in headers.items())
                remedy = "write it with numpy.savez(path, images=..., labels=...)"
                raise ValueError(f"there is no array {' or '.join(IMAGES)} but {there or 'nothing'}; {remedy}")
            shape = _image_shape(found, headers[found])
            of_labels = next((name for name in LABELS if name in headers), None)
            labels = None
            if with_labels and of_labels is not None:
                _check_labels(of_labels, headers[of_labels], shape[0])
                labels = arrays[of_labels].tolist()
            names = [str(name) for name in arrays[CLASS_NAMES].flatten()] if CLASS_NAMES in headers else None
            begin = _first_value(path, archive.getinfo(f"{found}.npy"), headers[found])
            if begin is not None:
                return Arrays(NpzPictures(str(path), begin, shape), labels, names)
            return Arrays(ArrayPictures(np.ascontiguousarray(arrays[found]).reshape(shape)), labels, names)
    except (OSError, ValueError, EOFError, struct.error, zipfile.BadZipFile, NotImplementedError) as problem:
        raise ValueError(f"{path}: not an .npz of images: {' '.join(str(problem).split())}") from problem


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
    remedy = f"for classes, add labels as an array {' or '.join(LABELS)}"
    return label_records(request, arrays.pictures, arrays.labels, arrays.class_names, remedy=remedy)


def _read_header(archive: zipfile.ZipFile, name: str) -> _Header:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        if version not in readers:
            raise ValueError(f"array format version {version} is not supported")
        return _Header(*readers[version](member), member.tell())


def _check_labels(name: str, header: _Header, count: int) -> None:
    """Check that labels are one number or text for each of `count` images."""
    shape = header.shape
    if header.dtype.hasobject:
        raise ValueError(f"{name} are Python objects; allowed are integers or text: {name}.astype(str)")
    if shape == (count, 1):
        remedy = f"{name}[:, 0]"
    elif len(shape) == 2 and shape[0] == count:
        remedy = f"{MULTI_LABEL}; if they are one-hot, convert them with {name}.argmax(1)"
    else:
        remedy = "give every image one"
    if shape != (count,):
        raise ValueError(f"{name} have shape {shape}; allowed is one id or name per image, {(count,)}: {remedy}")


def _image_shape(name: str, header: _Header) -> tuple[int, ...]:
    """Return (N, H, W) for gray images or (N, H, W, 3) for RGB, if type and shape are allowed."""
    if header.dtype != np.uint8:
        raise ValueError(f"{name} is {header.dtype}; allowed is uint8 from 0 to 255: scale, round and convert")
    shape = header.shape[:3] if header.shape[3:] == (1,) else header.shape
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        last = "; channels come last, transpose(0, 2, 3, 1)" * (len(shape) == 4 and shape[1] in (1, 3))
        raise ValueError(f"{name} has shape {header.shape}; allowed: (N, H, W, 3) RGB, (N, H, W, 1) gray{last}")
    if 0 in shape:
        raise ValueError(f"{name} has shape {header.shape}; it contains no images")
    return shape


def _first_value(path: Path, member: zipfile.ZipInfo, header: _Header) -> int | None:
    """Return the position of an array's first value in the file; None if its values are not there in C order."""
    if member.compress_type != zipfile.ZIP_STORED or header.fortran_order:
        return None
    with path.open("rb") as file:
        # The length of the local header can differ from that of its copy at the end of the archive.
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + header.size
