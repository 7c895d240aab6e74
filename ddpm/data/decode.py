"""Decoding a picture of any mode and size into a square uint8 array."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB"}


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message is the reason, without the location."""


@contextmanager
def unreadable_if_it_fails() -> Iterator[None]:
    """Convert errors that Pillow raises for damaged files, which differ between decoders, to `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can identify") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImage(" ".join(str(error).split())) from error


def is_gray(image: Image.Image) -> bool:
    """Return whether `image` has brightness only, at any bit depth, with or without transparency."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def to_pixels(image: Image.Image, resolution: int, channels: int) -> np.ndarray:
    """Return `image` upright, center-cropped to a square and resized.

    The EXIF orientation is applied. Transparent pixels are composited over white, because cut-outs and drawings are
    made for a white page, and because the color stored under full transparency is arbitrary, usually black. The
    central square is resized with an antialiased bicubic filter; images of the right size are unchanged. Depths above 8
    bits are scaled, not clipped: see `_to_8_bits`.

    Args:
        image: a picture of any Pillow mode.
        resolution: side of the result in pixels.
        channels: 1 (luma) or 3 (RGB).

    Returns:
        uint8 (channels, resolution, resolution), contiguous.

    Raises:
        UnreadableImage: if the file is truncated or malformed, or the scale of its values is unknown.
    """
    with unreadable_if_it_fails():
        # checked first because most images have no EXIF data, and transposing copies them
        if image.getexif():
            image = ImageOps.exif_transpose(image)
        image = _square(_flatten(image, MODES[channels]), resolution)
    pixels = np.array(image)  # a copy, because torch requires writable memory
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Return `image` in `mode` (L or RGB), with 8 bits and without transparency."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Convert gray values of any depth to uint8.

    `I;16*` holds 0..65535. `I` (32 bits) and `F` (float) have no defined scale, so it is inferred from the image: `I`
    is 0..255 if no value exceeds 255, otherwise 0..65535; `F` is 0..1 if no value exceeds 1, otherwise 0..255.

    Raises:
        UnreadableImage: if values are not finite, negative, or beyond these ranges.
    """
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if mode.startswith("I;16"):
        limit = 65535
    elif mode == "I":
        limit = 255 if high <= 255 else 65535
    else:
        limit = 1 if high <= 1 else 255
    if not (low >= 0 and high <= limit):  # also true for NaN
        raise UnreadableImage(f"mode {mode} with values {low:g} to {high:g}; allowed are 0 to {limit}")
    return np.rint(values * (255 / limit)).astype(np.uint8)


def _square(image: Image.Image, resolution: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    return image if side == resolution else image.resize((resolution, resolution), Image.Resampling.BICUBIC)
