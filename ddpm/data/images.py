"""ImageData: labelled images as tensors, in memory or decoded on demand."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch

from ddpm.data.decode import UnreadableImage, to_pixels
from ddpm.data.records import Pictures, refusal
from ddpm.data.slices import Part


class ImageData:
    """Labelled images of one size, with their class names.

    Attributes:
        labels: int64 (N,), in 0..K-1.
        class_names: K names.
        resolution: height and width in pixels.
        channels: 1 or 3.
        skipped: number of images that were left out because they are unreadable.
        fingerprint: hex digest of the content: stored bytes, labels, class names, split, resolution, channels. The
            same on every machine and wherever the data lies. Of more than 65,536 images that many are read for it, at
            even distances.
        part: which rows of which split these are, unreadable ones included; None where that is not known.
    """

    def __init__(
        self,
        pixels: "torch.Tensor | OnDemand",
        labels: torch.Tensor,
        class_names: tuple[str, ...],
        *,
        skipped: int = 0,
        fingerprint: str = "",
        part: Part | None = None,
    ) -> None:
        """Wraps decoded images, or a store that decodes them.

        Args:
            pixels: uint8 (N, C, H, H), or a store with that `shape` that is indexed by int64 (B,).
            labels: int64 (N,).
            class_names: K names.
            skipped: number of images left out.
            fingerprint: hex digest of the content.
            part: which rows of which split.
        """
        self._pixels = pixels
        self.labels = labels
        self.class_names = class_names
        self.skipped = skipped
        self.fingerprint = fingerprint
        self.part = part
        _, self.channels, self.resolution, _ = pixels.shape

    @property
    def num_classes(self) -> int:
        """K, the number of class names."""
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        """Whether the images are decoded already."""
        return isinstance(self._pixels, torch.Tensor)

    def __len__(self) -> int:
        """Returns N, the number of images."""
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a batch; the name is the one by which torch's DataLoader asks for a batch at once.

        Args:
            indices: B integers in 0..N-1.

        Returns:
            uint8 images (B, C, H, W) and int64 labels (B,).

        Raises:
            IndexError: if an index is out of range.
            ValueError: if an image that is decoded on demand is unreadable.
        """
        indices = torch.as_tensor(indices, dtype=torch.int64)
        return self._pixels[indices], self.labels[indices]

    def with_labels(self, labels: torch.Tensor) -> "ImageData":
        """Returns the same images under other labels, int64 (N,); the fingerprint stays that of the true ones."""
        other = copy(self)
        other.labels = labels
        return other

    def summary(self) -> str:
        """Returns a few words, such as `1,797 images, 8x8, 1 channel, 10 classes, in memory (0.1 MB)`."""
        size = f"{len(self) * self.channels * self.resolution**2 / 1e6:.1f} MB"
        words = [
            f"{len(self):,} images",
            f"{self.resolution}x{self.resolution}",
            f"{self.channels} channel{'s' if self.channels > 1 else ''}",
            f"{self.num_classes} classes",
            f"in memory ({size})" if self.in_memory else f"decoded on demand ({size})",
        ]
        return ", ".join(words + [f"{self.skipped:,} unreadable skipped"] * bool(self.skipped))


@dataclass(frozen=True)
class OnDemand:
    """Images decoded when asked for.

    Attributes:
        pictures: all pictures of the source.
        rows: int64 (N,), those of them that are used.
        channels: 1 or 3.
        resolution: height and width in pixels.
    """

    pictures: Pictures
    rows: torch.Tensor
    channels: int
    resolution: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W), as of the tensor that this stands for."""
        return len(self.rows), self.channels, self.resolution, self.resolution

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        """Returns uint8 (B, C, H, W) for int64 indices (B,); raises `ValueError` that names an unreadable image."""
        batch = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for position, row in enumerate(self.rows[indices].tolist()):
            try:
                batch[position] = self.decode(row)
            except UnreadableImage as error:
                raise refusal(self.pictures, row, error) from error
        return batch

    def decode(self, row: int) -> torch.Tensor:
        """Returns uint8 (C, H, W) for a row of the source; raises `UnreadableImage`."""
        return torch.from_numpy(to_pixels(self.pictures.open(row), self.resolution, self.channels))
