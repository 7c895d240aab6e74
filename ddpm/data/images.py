"""ImageData: labeled images as tensors, in memory, in a file that processes share, or decoded on access."""

import dataclasses
import hashlib
import mmap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.data.counts import format_count
from ddpm.data.pixels.decode import IntensityRange, PixelFormat, to_pixels
from ddpm.data.pixels.survey import Survey
from ddpm.data.records import Pictures, located
from ddpm.data.slices import Part
from ddpm.devices import move


@dataclass(eq=False)
class ImageData:
    """Labeled images of one size, with their class names.

    Attributes:
        pixels: uint8 (N, C, H, H), on any device, or an object with that `shape` that is indexed by int64 (B,).
        labels: int64 (N,), in 0..K-1; all 0 without classes. On the device of the pixels, if these are a tensor.
        class_names: K names; none for images without classes.
        skipped: number of unreadable images that were omitted.
        fingerprint: hexadecimal digest of the content: stored bytes, labels, class names, split, resolution, channels,
            and other options that change pixels. It does not depend on the machine or the location of the data. Of
            more than 65,536 images, that many are read for it, evenly spaced.
        contents: int64 (M,), a hash of the stored bytes of each file that was read for the fingerprint, in order; empty
            if unknown.
        part: the rows of the source's split, including unreadable ones; None if unknown.
        format: what the pictures are converted to; None if unknown.
        survey: what the pictures are like; None if unknown.
        frames: which frames of the files are images: `first` or `all`.
        ignored: reason -> number of files that are not read as images.
        notes: decisions about the data that its owner should know, one sentence each.
    """

    pixels: "Tensor | MappedPixels | OnDemand"
    labels: Tensor
    class_names: tuple[str, ...]
    _: dataclasses.KW_ONLY
    skipped: int = 0
    fingerprint: str = ""
    contents: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    part: Part | None = None
    format: PixelFormat | None = None
    survey: Survey | None = None
    frames: str = "first"
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """C: 1 for gray, 3 for RGB, or another number."""
        return self.pixels.shape[1]

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return self.pixels.shape[2]

    @property
    def intensity(self) -> IntensityRange | None:
        """The values of the pictures that are 0 and 255 here; None for pictures of uint8 that are not scaled."""
        return None if self.format is None else self.format.intensity_uint8 or self.format.intensity

    @property
    def num_classes(self) -> int:
        """K, the number of class names."""
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        """Whether a batch takes no time that worker processes could save."""
        return isinstance(self.pixels, Tensor)

    def on_device(self, device: torch.device) -> "ImageData":
        """Return the same images and labels in the memory of a device; they must be decoded."""
        assert not isinstance(self.pixels, OnDemand)
        pixels = self.pixels.tensor if isinstance(self.pixels, MappedPixels) else self.pixels
        return dataclasses.replace(self, pixels=pixels.to(device), labels=self.labels.to(device))

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch; torch's DataLoader calls this method to fetch a whole batch at once.

        Args:
            indices: B integers in 0..N-1.

        Returns:
            uint8 images (B, C, H, W) and int64 labels (B,).

        Raises:
            IndexError: if an index is out of range, unless the images are on a GPU.
            ValueError: if an image that is decoded on access is unreadable.
        """
        indices = move(torch.as_tensor(indices, dtype=torch.int64), self.labels.device)
        return self.pixels[indices], self.labels[indices]

    def copies_of(self, other: "ImageData") -> int:
        """Return how many of the files read for the fingerprint are, byte for byte, among those of other images."""
        return int(torch.isin(self.contents, other.contents).sum())

    @property
    def contents_digest(self) -> str | None:
        """A digest of the files that does not depend on their order and labels; None if the files are unknown."""
        if not len(self.contents):
            return None
        return hashlib.blake2b(self.contents.sort().values.numpy().tobytes(), digest_size=16).hexdigest()

    def with_labels(self, labels: Tensor) -> "ImageData":
        """Return the same images with other labels, int64 (N,); the fingerprint is unchanged."""
        return dataclasses.replace(self, labels=labels)

    def summary(self) -> str:
        """Return a short description, such as `1,797 images, 8x8, 1 channel, 10 classes, in memory (0.1 MB)`."""
        size = f"{len(self) * self.channels * self.resolution**2 / 1e6:.1f} MB"
        place = {MappedPixels: "in the cache", OnDemand: "decoded on demand"}.get(type(self.pixels), "in memory")
        words = [
            format_count(len(self), "image"),
            f"{self.resolution}x{self.resolution}",
            format_count(self.channels, "channel"),
            format_count(self.num_classes, "class") if self.num_classes else "no classes",
            f"{place} ({size})",
        ]
        return ", ".join(words + [f"{self.skipped:,} unreadable skipped"] * bool(self.skipped))


class MappedPixels:
    """Decoded images in a file that is mapped into memory: all processes of a machine share one copy.

    The system reads parts of the file when they are used, and forgets them when memory is needed for something else.

    Args:
        file: begins with the pixels, uint8 (N, C, H, W).
        shape: (N, C, H, W).

    Raises:
        OSError: if the file cannot be mapped.
        ValueError: if it is too short.
    """

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        with file.open("rb") as opened:
            # Not private: the system would reserve memory for a copy of it.
            mapped = mmap.mmap(opened.fileno(), prod(shape), access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")      # it is never written to
            self.tensor = torch.from_numpy(np.frombuffer(mapped, np.uint8).reshape(shape))

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return a copy of some images, uint8 (B, C, H, W), for int64 indices (B,)."""
        return self.tensor[indices]

    def __reduce__(self) -> tuple[type, tuple[Path, tuple[int, ...]]]:
        """Map the file again where this is unpickled."""
        return type(self), (self.file, self.shape)


@dataclass(frozen=True)
class OnDemand:
    """Images that are decoded on access.

    Attributes:
        pictures: all pictures of the source.
        rows: int64 (N,), the rows that are used.
        format: what they are converted to.
    """

    pictures: Pictures
    rows: Tensor
    format: PixelFormat

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return len(self.rows), *self.format.shape

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return uint8 (B, C, H, W) for int64 indices (B,); raise `ValueError` for an unreadable image."""
        batch = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for position, row in enumerate(self.rows[indices].tolist()):
            with located(self.pictures, row):
                batch[position] = torch.from_numpy(to_pixels(self.pictures.open(row), self.format))
        return batch
