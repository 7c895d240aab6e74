"""The file formats of generated images. A new one is a class and an entry in FORMATS."""

import re
import shutil
import unicodedata
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.atomic import atomic_write
from ddpm.data.records import Pictures
from ddpm.data.sources.arrays import open_npz
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.io.pictures import encode_png, read_image, to_pil, to_tensor
from ddpm.pipeline import PIL_CHANNELS

SHARD_IMAGES = 5_000            # maximum number of images per parquet shard
SHARD_BYTES = 2**28             # maximum size of a shard's pixels before encoding
ROW_GROUP_IMAGES = 100          # minimum number of images per row group
PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"


class Request(NamedTuple):
    """One requested image.

    Attributes:
        row: row of the grid and folder of the PNG: a class name, or e.g. "cat to dog".
        file: name without suffix, unique in its row: "seed000007".
        label: class id; -1 for a blend or no class.
        seed: seed of its noise.
    """

    row: str
    file: str
    label: int
    seed: int


@dataclass(frozen=True)
class FileLayout:
    """Which images go into which files.

    Attributes:
        out: the folder.
        requests: N images.
        batch_size: images per batch; batch k begins at index k * batch_size, and the last batch may be smaller.
        class_names: in the order of ids.
    """

    out: Path
    requests: Sequence[Request]
    batch_size: int
    class_names: Sequence[str]

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.requests) // self.batch_size)

    def indices(self, batch: int) -> range:
        """Return the indices of a batch's images."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.requests)))

    def batch_requests(self, batch: int) -> Sequence[Request]:
        """Return the requests of a batch."""
        return [self.requests[index] for index in self.indices(batch)]

    @cached_property
    def folders(self) -> dict[str, str]:
        """Row -> name of its folder."""
        return folder_names(list(dict.fromkeys(request.row for request in self.requests)))

    def png(self, request: Request) -> str:
        """Return the path of an image's PNG, relative to `out`."""
        return f"{self.folders[request.row]}/{request.file}.png"


ReadBatch = Callable[[int], Tensor]          # batch -> images, uint8 (B, C, H, W)


class Format(ABC):
    """Files of one kind that contain all images.

    Attributes:
        needs_classes: whether every image needs a class, if the model has classes.
        max_channels: the largest number of channels that it can store; None for any.
    """

    needs_classes: ClassVar[bool] = False
    max_channels: ClassVar[int | None] = None

    def __init__(self, layout: FileLayout) -> None:
        self.layout = layout

    @abstractmethod
    def has(self, batch: int) -> bool:
        """Return whether the images of a batch are stored completely."""

    @abstractmethod
    def read(self, batch: int) -> Tensor:
        """Read the images of a stored batch: uint8 (B, C, H, W)."""

    @abstractmethod
    def complete(self, read: ReadBatch, part: tuple[int, int]) -> None:
        """Write the missing files that belong to process i of n.

        Args:
            read: reads the images of any batch.
            part: (i, n).

        Raises:
            OSError: if a file cannot be written; names it.
        """


class BatchFormat(Format):
    """A format whose files contain at most one batch, so that each batch is stored as soon as it is generated."""

    @abstractmethod
    def write(self, batch: int, images: Tensor) -> None:
        """Write the images of a batch, uint8 (B, C, H, W); an OSError names the file."""

    def complete(self, read: ReadBatch, part: tuple[int, int]) -> None:
        """Do nothing: all batches are written by now."""


class PngFolders(BatchFormat):
    """One `ROW/FILE.png` per image: a folder that can be used for training and shown by any viewer.

    A PNG counts as stored if its last bytes are the end marker of a complete PNG. PNGs are not flushed to disk before
    they are renamed, because flushing each would take longer than sampling, so after a power cut a file may be empty or
    truncated.
    """

    max_channels = PIL_CHANNELS

    def has(self, batch: int) -> bool:
        return all(map(_ends_as_png, self._paths(self.layout.indices(batch))))

    def read(self, batch: int) -> Tensor:
        return self.read_images(self.layout.indices(batch))

    def read_images(self, indices: Sequence[int]) -> Tensor:
        """Read the images at some indices of the requests: uint8 (B, C, H, W)."""
        return torch.stack([*map(read_image, self._paths(indices))])

    def write(self, batch: int, images: Tensor) -> None:
        for path, image in zip(self._paths(self.layout.indices(batch)), images, strict=True):
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path, flushed=False) as file:
                to_pil(image).save(file, "PNG")

    def _paths(self, indices: Sequence[int]) -> list[Path]:
        return [self.layout.out / self.layout.png(self.layout.requests[index]) for index in indices]


class BatchStore(BatchFormat):
    """`.parts/BATCH.npy`: stores batches for formats that are written at the end."""

    def __init__(self, layout: FileLayout) -> None:
        super().__init__(layout)
        self.folder = layout.out / ".parts"

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:05d}.npy"

    def has(self, batch: int) -> bool:
        return self._path(batch).exists()

    def read(self, batch: int) -> Tensor:
        return torch.from_numpy(np.load(self._path(batch)))

    def write(self, batch: int, images: Tensor) -> None:
        self.folder.mkdir(exist_ok=True)
        with atomic_write(self._path(batch)) as file:
            np.save(file, images.numpy())

    def remove(self) -> None:
        """Remove all stored batches."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ParquetShards(Format):
    """`samples-SHARD-of-SHARDS.parquet`: columns image (PNG), label and seed, with the class names in the schema.

    Without classes there is no column label.

    Each shard, and each of its row groups, contains a fixed number of whole batches. If there are PNGs in the same
    folder, pass the shards to `datasets` by name: for a folder it reads the most frequent file type.
    """

    needs_classes = True
    max_channels = PIL_CHANNELS

    def __init__(self, layout: FileLayout) -> None:
        super().__init__(layout)
        # None until the first image or shard exists: the number of shards depends on the image size.
        named = next(layout.out.glob("samples-?????-of-?????.parquet"), None)
        self.shards = int(named.stem[-5:]) if named else None
        self._batches_per_row_group = -(-ROW_GROUP_IMAGES // layout.batch_size)

    @property
    def _batches_per_shard(self) -> int:
        assert self.shards is not None
        return -(-self.layout.batches // self.shards)

    def _path(self, shard: int) -> Path:
        return self.layout.out / f"samples-{shard:05d}-of-{self.shards:05d}.parquet"

    def has(self, batch: int) -> bool:
        return self.shards is not None and self._path(batch // self._batches_per_shard).exists()

    def read(self, batch: int) -> Tensor:
        from pyarrow import parquet

        group, batch_in_group = divmod(batch % self._batches_per_shard, self._batches_per_row_group)
        with parquet.ParquetFile(self._path(batch // self._batches_per_shard)) as file:
            column = file.read_row_group(group, columns=["image"])["image"]
        found = column.slice(batch_in_group * self.layout.batch_size, len(self.layout.indices(batch))).to_pylist()
        return torch.stack([read_image(BytesIO(image["bytes"])) for image in found])

    def complete(self, read: ReadBatch, part: tuple[int, int]) -> None:
        if self.shards is None:
            images = min(SHARD_IMAGES, SHARD_BYTES // read(0)[0].numel())
            self.shards = -(-self.layout.batches // max(1, images // self.layout.batch_size))
        for shard in range(part[0], self.shards, part[1]):
            if not self._path(shard).exists():
                self._write(shard, read)

    def _write(self, shard: int, read: ReadBatch) -> None:
        import datasets
        import pyarrow
        from pyarrow import parquet

        names = list(self.layout.class_names)
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), "seed": datasets.Value("int64")}
        features = datasets.Features({name: kind for name, kind in kinds.items() if names or name != "label"})
        schema = features.arrow_schema
        batches = range(self.layout.batches)[shard * self._batches_per_shard : (shard + 1) * self._batches_per_shard]
        with atomic_write(self._path(shard)) as file, parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, len(batches), self._batches_per_row_group):
                group = batches[first : first + self._batches_per_row_group]
                asked = [request for batch in group for request in self.layout.batch_requests(batch)]
                pngs = [encode_png(image) for batch in group for image in read(batch)]
                images = [{"bytes": e, "path": self.layout.png(r)} for r, e in zip(asked, pngs, strict=True)]
                rows = {"image": images, "label": [r.label for r in asked], "seed": [r.seed for r in asked]}
                writer.write_table(pyarrow.table({name: rows[name] for name in features}, schema=schema))


class NpzFile(Format):
    """`samples.npz`: arrays images (uint8 N, H, W, C), labels, seeds (int64 N) and class_names, uncompressed.

    C is any number of channels. Where images have no class there are neither labels nor class_names; if their rows have
    names, such as "cat to dog", the array `rows` has them. The evaluator of guided-diffusion expects images named
    `arr_0`: `np.savez(path, np.load("samples.npz")["images"])`.
    """

    def __init__(self, layout: FileLayout) -> None:
        super().__init__(layout)
        self.path = layout.out / "samples.npz"

    def has(self, batch: int) -> bool:
        return self.path.exists()

    def read(self, batch: int) -> Tensor:
        return self.read_images(self.layout.indices(batch))

    def read_images(self, indices: Sequence[int]) -> Tensor:
        """Read the images at some indices of the requests: uint8 (B, C, H, W)."""
        return torch.stack([to_tensor(self._pictures.open(index)) for index in indices])

    @cached_property
    def _pictures(self) -> Pictures:
        return open_npz(self.path).pictures

    def complete(self, read: ReadBatch, part: tuple[int, int]) -> None:
        if part[0] != 0 or self.path.exists():
            return
        requests = self.layout.requests
        channels, height, width = read(0).shape[1:]
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(requests), height, width, channels)}
        with atomic_write(self.path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for batch in range(self.layout.batches):
                    member.write(read(batch).permute(0, 2, 3, 1).contiguous().numpy().data)
            for name, array in self._other_arrays().items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _other_arrays(self) -> dict[str, np.ndarray]:
        """Return what each image shows, and its seed."""
        requests = self.layout.requests
        labels = np.array([request.label for request in requests], np.int64)
        seeds = np.array([request.seed for request in requests], np.int64)
        if labels.min() < 0:
            rows = [request.row for request in requests]
            named = {"rows": np.array(rows, np.str_)} if set(rows) != {NO_CLASS} else {}
            return {**named, "seeds": seeds}
        return {"labels": labels, "seeds": seeds, "class_names": np.array(self.layout.class_names, np.str_)}


def check_formats(formats: Sequence[str], channels: int) -> None:
    """Check that formats can store images with this number of channels.

    Raises:
        ValueError: if one cannot; names those that can.
    """
    able = [name for name, kind in FORMATS.items() if kind.max_channels is None or channels <= kind.max_channels]
    for name in formats:
        if name not in able:
            raise ValueError(
                f"format: {name} stores at most {FORMATS[name].max_channels} channels, and the images have {channels}; "
                f"use --format {' or '.join(able)}"
            )


def folder_names(rows: Sequence[str]) -> dict[str, str]:
    """Map rows to folder names that are valid on any system and distinct without regard to case.

    A row that is a valid name keeps it (the first of those that differ by case), with spaces and letters of any script,
    so that a folder of generated images has the classes of the training images.
    """
    kept: dict[str, str] = {}
    for row in rows:
        if _safe(row) == row:
            kept.setdefault(row.casefold(), row)
    names: dict[str, str] = {}
    taken = set(kept)
    for row in dict.fromkeys(rows):
        name = safe = _safe(row)
        numbers = count(2)
        while name.casefold() in taken and kept.get(name.casefold()) != row:
            name = f"{safe}_{next(numbers)}"
        names[row] = name
        taken.add(name.casefold())
    return names


def _safe(row: str) -> str:
    letters = unicodedata.normalize("NFC", row)
    name = "".join(x if x.isprintable() and x not in '/\\<>:"|?*' else "_" for x in letters)
    name = name.encode()[:100].decode(errors="ignore").strip(" .") or "_"
    # A reader of the whole folder must not mistake a subfolder for an image file.
    return f"{name}_" if re.search(r"\.(png|npz|parquet|json|jsonl|csv)$", name.lower()) else name


def _ends_as_png(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(PNG_END)))
        return file.read() == PNG_END


FORMATS: dict[str, type[Format]] = {"png": PngFolders, "parquet": ParquetShards, "npz": NpzFile}
