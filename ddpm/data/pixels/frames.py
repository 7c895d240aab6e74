"""Frames of animations, and pages of TIFFs, as pictures. FRAMES says which of them are images."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from ddpm.data.pixels.decode import Picture, UnreadableImage, unreadable_if_it_fails
from ddpm.data.pixels.survey import count_frames
from ddpm.data.records import Origin, Pictures

UNKNOWN = -1        # the frame of a file whose frames cannot be counted


class _LastOpened(threading.local):
    """The file that a thread has read last, because later frames are made from earlier ones.

    Each thread has its own. It keeps one file open until the thread reads another, or ends.

    Attributes:
        frame: the pictures, the file, the number of the frame, and the open image; None if no file is open.
    """

    frame: "tuple[FramePictures, int, int, Image.Image] | None" = None


_opened = _LastOpened()


@dataclass(frozen=True)
class FramePictures(Pictures):
    """Every frame of other pictures.

    Attributes:
        pictures: the files.
        frames: file and number of each frame, in order.
    """

    pictures: Pictures
    frames: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: int) -> bytes:
        file, frame = self.frames[index]
        return frame.to_bytes(4, "little", signed=True) + self.pictures.read(file)

    def open(self, index: int) -> Picture:
        file, frame = self.frames[index]
        if frame == UNKNOWN:
            self.pictures.open(file)        # names the reason, if the file cannot be opened at all
            raise UnreadableImage("its frames cannot be counted")
        image: Picture
        match _opened.frame:
            case (pictures, opened, last, image) if pictures is self and opened == file and last <= frame:
                pass
            case _:
                image = self.pictures.open(file)
        if not isinstance(image, Image.Image):
            return image
        _opened.frame = None
        with unreadable_if_it_fails():
            image.seek(frame)
            upright = ImageOps.exif_transpose(image)        # a copy in any case
        _opened.frame = (self, file, frame, image)
        return _as_stored(upright) if image.format == "GIF" and frame > 0 else upright

    def origin(self, rows: Sequence[int]) -> Origin | None:
        frames = [self.frames[row] for row in rows]
        origin = self.pictures.origin(list(dict.fromkeys(file for file, _ in frames)))
        return None if origin is None else Origin([origin.facts, frames], origin.files)

    def where(self, index: int) -> str:
        file, frame = self.frames[index]
        return self.pictures.where(file) + ("" if frame == UNKNOWN else f", frame {frame}")


def expand_frames(pictures: Pictures, rows: Tensor) -> FramePictures | None:
    """Return each frame of the pictures in `rows`, int64 (N,), in order; None if none has several.

    A file whose frames cannot be counted is one unreadable frame.
    """

    def list_frames(row: int) -> list[tuple[int, int]]:
        try:
            with pictures.open_header(row) as picture:
                count = count_frames(picture) if isinstance(picture, Image.Image) else 1
        except UnreadableImage:
            return [(row, UNKNOWN)]
        return [(row, frame) for frame in range(count)]

    with ThreadPoolExecutor() as pool:
        frames = [frame for listed in pool.map(list_frames, rows.tolist()) for frame in listed]
    several = any(frame != 0 for _, frame in frames)
    return FramePictures(pictures, tuple(frames)) if several else None


def _as_stored(image: Image.Image) -> Image.Image:
    """Return a frame of a GIF as gray if it is; Pillow opens all but the first as color."""
    bands = image.convert("RGB").split()
    if any(ImageChops.difference(bands[0], band).getbbox() for band in bands[1:]):
        return image
    return image.convert("LA" if image.mode == "RGBA" else "L")


FRAMES: dict[str, Callable[[Pictures, Tensor], FramePictures | None]] = {
    "first": lambda pictures, rows: None,
    "all": expand_frames,
}
