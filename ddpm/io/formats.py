"""The kinds of files that drawn images are kept in. A new one is a class and an entry in FORMATS."""

import errno
import os
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
from ddpm.io.pictures import decoded, encoded, to_pil

SHARD_IMAGES = 5_000            # a parquet shard holds so many images at most,
SHARD_BYTES = 2**28             # and so many bytes of pixels before they are encoded,
ROW_GROUP_IMAGES = 100          # in groups of at least so many
PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"


class Request(NamedTuple):
    """One image that is asked for.

    Attributes:
        row: row of the grid and folder of the PNG: a class name, or e.g. "cat to dog".
        file: name without suffix, unique in its row: "seed000007".
        label: class id, or -1 where the image is of a mixture.
        seed: seed of its noise.
    """

    row: str
    file: str
    label: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """Which images go where.

    Attributes:
        out: the folder.
        requests: N images, by place.
        batch_size: images of a batch; batch k has the places from k * batch_size on, the last batch what is left.
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

    def places(self, batch: int) -> range:
        """Places of the images of a batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.requests)))

    def asked(self, batch: int) -> Sequence[Request]:
        """The requests of a batch."""
        places = self.places(batch)
        return self.requests[places.start : places.stop]

    @cached_property
    def folders(self) -> dict[str, str]:
        """Row -> name of its folder."""
        return folder_names(list(dict.fromkeys(request.row for request in self.requests)))

    def png(self, request: Request) -> str:
        """Path of an image's PNG, relative to `out`."""
        return f"{self.folders[request.row]}/{request.file}.png"


Read = Callable[[int], Tensor]          # batch -> its images, uint8 (B, C, H, W)


class Format(ABC):
    """Files of one kind that hold all images.

    A new one is a subclass and an entry in FORMATS.

    Attributes:
        needs_classes: whether an image without a class has no place in it.
    """

    needs_classes: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def has(self, batch: int) -> bool:
        """Whether the images of a batch are there, whole."""

    @abstractmethod
    def read(self, batch: int) -> Tensor:
        """Images of a batch that is there: uint8 (B, C, H, W)."""

    @abstractmethod
    def complete(self, read: Read, part: tuple[int, int]) -> None:
        """Writes the share of the i-th of n processes in what is missing.

        Args:
            read: gives the images of any batch.
            part: (i, n).

        Raises:
            OSError: if a file cannot be written; names it.
        """


class BatchFormat(Format):
    """A format whose files hold one batch at most, so that a batch is kept in them as soon as it is drawn."""

    @abstractmethod
    def write(self, batch: int, images: Tensor) -> None:
        """Writes the images of a batch, uint8 (B, C, H, W); raises OSError, which names the file."""

    def complete(self, read: Read, part: tuple[int, int]) -> None:
        for batch in range(part[0], self.plan.batches, part[1]):
            if not self.has(batch):
                self.write(batch, read(batch))


class PngFolders(BatchFormat):
    """`ROW/FILE.png`, one for each image: a folder that trains a model, and that any viewer shows.

    A PNG counts as there if it ends as one, because a file is not flushed to the disk before it gets its name (one by
    one this would take longer than drawing): after a power cut it may be there and empty or cut off.
    """

    def has(self, batch: int) -> bool:
        return all(_ends_as_png(self.plan.out / self.plan.png(request)) for request in self.plan.asked(batch))

    def read(self, batch: int) -> Tensor:
        return torch.stack([decoded(self.plan.out / self.plan.png(request)) for request in self.plan.asked(batch)])

    def write(self, batch: int, images: Tensor) -> None:
        for request, image in zip(self.plan.asked(batch), images, strict=True):
            path = self.plan.out / self.plan.png(request)
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path, flushed=False) as file:
                to_pil(image).save(file, "PNG")


class Parts(BatchFormat):
    """`.parts/BATCH.npy`: keeps batches for formats that are written at the end."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.folder = plan.out / ".parts"

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
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ParquetShards(Format):
    """`samples-SHARD-of-SHARDS.parquet`: columns image (PNG), label and seed, with the class names in the schema.

    A shard holds one fixed number of whole batches, as does each of its row groups. With PNGs in the same folder,
    `datasets` must be given the shards by name: of a folder it reads what most files are.
    """

    needs_classes = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        # How many there are follows from the size of an image, which is not known before one is drawn; or from a name.
        named = next(plan.out.glob("samples-?????-of-?????.parquet"), None)
        self.shards = int(named.stem[-5:]) if named else 0
        self._group = -(-ROW_GROUP_IMAGES // plan.batch_size)           # batches

    @property
    def _batches(self) -> int:
        return -(-self.plan.batches // self.shards)

    def _path(self, shard: int) -> Path:
        return self.plan.out / f"samples-{shard:05d}-of-{self.shards:05d}.parquet"

    def has(self, batch: int) -> bool:
        return self.shards > 0 and self._path(batch // self._batches).exists()

    def read(self, batch: int) -> Tensor:
        from pyarrow import parquet

        group, batch_in_group = divmod(batch % self._batches, self._group)
        with parquet.ParquetFile(self._path(batch // self._batches)) as file:
            column = file.read_row_group(group, columns=["image"])["image"]
        found = column.slice(batch_in_group * self.plan.batch_size, len(self.plan.places(batch))).to_pylist()
        return torch.stack([decoded(BytesIO(image["bytes"])) for image in found])

    def complete(self, read: Read, part: tuple[int, int]) -> None:
        if not self.shards:
            images = min(SHARD_IMAGES, SHARD_BYTES // read(0)[0].numel())
            self.shards = -(-self.plan.batches // max(1, images // self.plan.batch_size))
        for shard in range(part[0], self.shards, part[1]):
            if not self._path(shard).exists():
                self._write(shard, read)

    def _write(self, shard: int, read: Read) -> None:
        import datasets
        import pyarrow
        from pyarrow import parquet

        classes = datasets.ClassLabel(names=list(self.plan.class_names))
        features = datasets.Features({"image": datasets.Image(), "label": classes, "seed": datasets.Value("int64")})
        schema = features.arrow_schema
        batches = range(self.plan.batches)[shard * self._batches : (shard + 1) * self._batches]
        with atomic_write(self._path(shard)) as file, parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, len(batches), self._group):
                group = batches[first : first + self._group]
                asked = [request for batch in group for request in self.plan.asked(batch)]
                pngs = [encoded(image) for batch in group for image in read(batch)]
                images = [{"bytes": e, "path": self.plan.png(r)} for r, e in zip(asked, pngs, strict=True)]
                columns = {"image": images, "label": [r.label for r in asked], "seed": [r.seed for r in asked]}
                writer.write_table(pyarrow.table(columns, schema=schema))


class NpzFile(Format):
    """`samples.npz`: arrays images (uint8 N, H, W, C), labels, seeds (int64 N) and class_names, not compressed.

    The evaluator of guided-diffusion asks for images named `arr_0`: `np.savez(path, np.load("samples.npz")["images"])`.
    """

    needs_classes = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.path = plan.out / "samples.npz"

    def has(self, batch: int) -> bool:
        return self.path.exists()

    def read(self, batch: int) -> Tensor:
        places = self.plan.places(batch)
        with zipfile.ZipFile(self.path) as archive, archive.open("images.npy") as member:
            np.lib.format.read_magic(member)
            (_, *shape), _, _ = np.lib.format.read_array_header_1_0(member)
            image_bytes = int(np.prod(shape))
            member.seek(places.start * image_bytes, os.SEEK_CUR)
            pixels = np.frombuffer(bytearray(member.read(len(places) * image_bytes)), np.uint8)
        return torch.from_numpy(pixels.reshape(-1, *shape)).permute(0, 3, 1, 2)

    def complete(self, read: Read, part: tuple[int, int]) -> None:
        if part[0] != 0 or self.path.exists():
            return
        requests = self.plan.requests
        channels, height, width = read(0).shape[1:]
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(requests), height, width, channels)}
        others = {
            "labels": np.array([request.label for request in requests], np.int64),
            "seeds": np.array([request.seed for request in requests], np.int64),
            "class_names": np.array(self.plan.class_names, np.str_),
        }
        with atomic_write(self.path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for batch in range(self.plan.batches):
                    member.write(read(batch).permute(0, 2, 3, 1).contiguous().numpy().data)
            for name, array in others.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def folder_names(rows: Sequence[str]) -> dict[str, str]:
    """Row -> name of its folder: distinct also where case does not count, and safe on any system.

    A row that is a safe name keeps it (the first one, of those that differ by case), with spaces and letters of any
    script, so that a folder of drawn images has the classes of the images that were learned from.
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
    # A folder must not be taken for one of the files beside it, by whatever reads the whole.
    return f"{name}_" if re.search(r"\.(png|npz|parquet|json|jsonl|csv)$", name.lower()) else name


def _ends_as_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.EINVAL):       # not there, or shorter
            return False
        raise


FORMATS: dict[str, type[Format]] = {"png": PngFolders, "parquet": ParquetShards, "npz": NpzFile}
