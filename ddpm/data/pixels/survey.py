"""What the pictures of a source are like, counted: sizes, channels, depths and values."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.data.pixels.decode import (
    MAXVAL,
    REDUCED,
    IntensityRange,
    Picture,
    UnreadableImage,
    check_finite,
    has_high_bit_depth,
    is_gray,
    stored_values,
    unreadable_if_it_fails,
)
from ddpm.data.pixels.tiffs import EXTRA

MAX_SURVEYED = 65_536            # maximum number of pictures that are looked at, and read for the fingerprint
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")    # the further images of others, such as MPO, are not frames
TRANSPARENCY = "transparency"
EXAMINED_TOGETHER = 1024         # decoded images whose pixels are looked at together

Kind = Literal["uint8", "bool", "integer", "float"]


class PictureFacts(NamedTuple):
    """What one picture is like.

    Attributes:
        size: width and height in pixels, as stored.
        channels: 1 for gray, 3 for color, or the number of channels of an array; without `extra`.
        extra: what it has beside gray or color: `TRANSPARENCY`, `SECOND`, `FOURTH`, `LOST`, or None.
        kind: of its values; `integer` is any type but uint8.
        values: its lowest and highest value; None if they were not looked at, as for most pictures of uint8.
        own_range: the range to scale its values by if it were the only picture; None for uint8, and if only its values
            tell. Where it is the range for all, nothing depends on the other pictures.
        frames: number of frames or pages of its file.
        reduced: whether its values have been reduced from 16 to 8 bits.
    """

    size: tuple[int, int]
    channels: int
    extra: str | None = None
    kind: Kind = "uint8"
    values: IntensityRange | None = None
    own_range: IntensityRange | None = None
    frames: int = 1
    reduced: bool = False


@dataclass(frozen=True)
class Survey:
    """The pictures that were looked at.

    Decisions are made from counts, so they do not depend on the order of the pictures, as long as all are looked at.

    Attributes:
        counts: facts -> number of pictures.
        total: number of pictures of the source; of more than `MAX_SURVEYED`, that many are looked at, evenly spaced.
    """

    counts: Counter[PictureFacts]
    total: int

    @property
    def scaled(self) -> "Survey":
        """The pictures whose values are not uint8, and therefore have to be scaled."""
        return self.where(lambda facts: facts.kind != "uint8")

    def where(self, condition: Callable[[PictureFacts], bool]) -> "Survey":
        """Return the pictures that meet a condition."""
        return Survey(Counter({facts: n for facts, n in self.counts.items() if condition(facts)}), self.total)

    def __len__(self) -> int:
        """Return how many pictures were looked at."""
        return self.counts.total()

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Width and height -> number of pictures."""
        sizes: Counter[tuple[int, int]] = Counter()
        for facts, count in self.counts.items():
            sizes[facts.size] += count
        return sizes

    def shorter_sides(self) -> np.ndarray:
        """Return the shorter side of every picture, sorted: int64 (N,)."""
        sides = [min(size) for size in self.sizes]
        return np.sort(np.repeat(np.array(sides, np.int64), list(self.sizes.values())))

    @property
    def values(self) -> IntensityRange | None:
        """The lowest and highest value of all pictures whose values were looked at."""
        pairs = [facts.values for facts in self.counts if facts.values is not None]
        return (min(low for low, _ in pairs), max(high for _, high in pairs)) if pairs else None


class PixelFacts(NamedTuple):
    """What decoded pixels are like.

    Attributes:
        darkest: the lowest value of all channels but alpha; None without pixels.
        brightest: the highest value of these.
        gray: whether they have three channels, which are equal; False if this is not known.
    """

    darkest: int | None
    brightest: int | None
    gray: bool = False


def examine_pixels(pixels: Tensor, has_alpha: bool) -> PixelFacts:
    """Return what all pixels, uint8 (N, C, H, W), are like; the last channel may be alpha."""
    if not pixels.numel():
        return PixelFacts(None, None)
    colors = pixels[:, :-1] if has_alpha else pixels
    ends = [value for chunk in colors.split(EXAMINED_TOGETHER) for value in torch.stack(chunk.aminmax()).tolist()]
    # The first chunk with color ends it.
    gray = pixels.shape[1] == 3 and all(bool((c == c[:, :1]).all()) for c in pixels.split(EXAMINED_TOGETHER))
    return PixelFacts(min(ends), max(ends), gray)


def examine(picture: Picture, with_values: bool = False) -> PictureFacts:
    """Return what a picture is like.

    Args:
        picture: an image, of which only the header is read if its values are uint8; or an array.
        with_values: whether to decode an image of uint8, too.

    Raises:
        UnreadableImage: if the picture has to be decoded and cannot be, or has values that are not finite.
    """
    with unreadable_if_it_fails():
        if isinstance(picture, np.ndarray):
            return _examine_array(picture)
        if has_high_bit_depth(picture):
            values = stored_values(picture)
            check_finite(values)
            low, high = float(values.min()), float(values.max())
            kind: Kind = "float" if picture.mode == "F" else "integer"
            top = 65535.0 if picture.mode.startswith("I;16") else _usual_highest(kind, high)
            top = picture.info.get(MAXVAL, top)
            extra = picture.info.get(EXTRA)
            return PictureFacts(picture.size, 1, extra, kind, (low, high), (0.0, top), _frames_known(picture))
        known = _extremes(picture) if with_values else None
        extra = picture.info.get(EXTRA) or (TRANSPARENCY if picture.has_transparency_data else None)
        channels = 1 if is_gray(picture) else 3
        reduced = picture.info.get(REDUCED, False)
        return PictureFacts(picture.size, channels, extra, values=known, frames=_frames_known(picture), reduced=reduced)


def count_frames(image: Image.Image) -> int:
    """Return the number of frames of an animation, or pages of a TIFF.

    Raises:
        UnreadableImage: if the file is damaged. Its first frame may be readable.
    """
    if image.format not in ANIMATED:
        return 1
    try:
        with unreadable_if_it_fails():
            return int(getattr(image, "n_frames", 1))
    except UnreadableImage:
        with unreadable_if_it_fails():
            image.seek(0)
        raise


def _frames_known(image: Image.Image) -> int:
    try:
        return count_frames(image)
    except UnreadableImage:         # of no importance as long as only the first is used
        return 1


def _usual_highest(kind: Kind, high: float) -> float:
    """Return the top of the usual ranges of 32-bit values, 0..255 or 0..65535, and of floats, 0..1 or 0..255."""
    small, large = (1.0, 255.0) if kind == "float" else (255.0, 65535.0)
    return small if high <= small else large


def _examine_array(values: np.ndarray) -> PictureFacts:
    check_finite(values)
    kinds: dict[str, Kind] = {"b": "bool", "f": "float"}
    return PictureFacts(
        (values.shape[1], values.shape[0]),
        1 if values.ndim == 2 else values.shape[2],
        kind="uint8" if values.dtype == np.uint8 else kinds.get(values.dtype.kind, "integer"),
        values=(float(values.min()), float(values.max())),
        own_range={"bool": (0.0, 1.0), "uint16": (0.0, 65535.0)}.get(values.dtype.name),
    )


def _extremes(image: Image.Image) -> IntensityRange:
    """Return the lowest and highest value of an image of uint8, without its alpha."""
    if image.mode not in ("L", "RGB", "LA", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    colors = values[..., :-1] if image.mode.endswith("A") else values
    return float(colors.min()), float(colors.max())
