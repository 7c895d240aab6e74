"""Decoding a picture of any mode and size into a square uint8 array."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ddpm.data.pixels import tiffs
from ddpm.data.pixels.fits import FITS
from ddpm.data.pixels.tiffs import EXTRA, FOURTH, INVERTED, SECOND, UNSIGNED, Tiff

# An image of Pillow, or values (H, W) or (H, W, C) that Pillow has no mode for; their channels are all alike, so that
# the last of four is not alpha.
Picture = Image.Image | np.ndarray
IntensityRange = tuple[float, float]    # the values that become 0 and 255

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Keys of `Image.info`, as those of `ddpm.data.pixels.tiffs`.
MAXVAL = "ddpm maxval"          # the highest value that the header of a PGM of more than 8 bits allows
REDUCED = "ddpm reduced"        # whether Pillow reduces the values from 16 to 8 bits, as in all color images
PGM_SCALE = 65535               # Pillow scales a PGM of more than 8 bits so that this is its highest value

# Of large images, palettes and damaged EXIF data, which are read all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class PixelFormat:
    """What every picture of a source is converted to.

    Attributes:
        resolution: height and width in pixels.
        channels: 1 (luma), 3 (RGB), 2 or 4 (with alpha), or as many as the arrays have that the pictures come from.
        fit: entry of `FITS`.
        intensity: range of values that are not uint8; None if no picture has them.
        intensity_uint8: range of values that are uint8; None to keep them.
    """

    resolution: int
    channels: int
    fit: str = "crop"
    intensity: IntensityRange | None = None
    intensity_uint8: IntensityRange | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.resolution, self.resolution


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message is the reason, without the location."""


class UnsuitableFormat(UnreadableImage):
    """An image that cannot be converted to the given format, as it has other channels, or values without a scale."""


@contextmanager
def unreadable_if_it_fails() -> Iterator[None]:
    """Convert errors of any kind, which decoders raise for damaged files, to `UnreadableImage`, but no bugs of ours."""
    try:
        yield
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow can identify") from None
    except Image.DecompressionBombError:
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which Pillow does not open"
        raise UnreadableImage(f"{reason}; make it smaller") from None
    except (MemoryError, AssertionError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        meant = isinstance(error, OSError | SyntaxError | ValueError | EOFError | struct.error)
        raise UnreadableImage(reason if meant else f"damaged ({type(error).__name__}: {reason})") from error


def open_picture(file: IO[bytes]) -> Image.Image:
    """Open an image file; only its header is read.

    Raises:
        UnreadableImage: if Pillow cannot open it, or only without some of its channels or with other values.
    """
    with unreadable_if_it_fails():
        try:
            image = Image.open(file)
        except Image.UnidentifiedImageError:
            file.seek(0)
            if file.read(4) in tiffs.STARTS:
                kinds = f"more than {tiffs.MAX_CHANNELS} channels, with gray and alpha of 16 bits, or with floats of 64"
                reason = f"a TIFF that Pillow cannot open, such as one with {kinds}; {tiffs.REMEDY}"
                raise UnreadableImage(reason) from None
            raise
        if isinstance(image, TiffImageFile):
            file.seek(0)
            image = Tiff(file)
        _keep_depth(image)
        return image


def _keep_depth(image: ImageFile) -> None:
    """Add to the `info` of an image what its decoder knows about its depth, before it is loaded."""
    tiles = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    modes = [argument for arguments in tiles for argument in arguments if isinstance(argument, str)]
    highest = [argument for arguments in tiles for argument in arguments if isinstance(argument, int)]
    maxval = max(highest, default=0) if image.format == "PPM" else 0
    if not has_high_bit_depth(image):
        image.info[REDUCED] = maxval > 255 or any(";16" in mode for mode in modes)      # such as `RGB;16B`
    elif maxval:
        image.info[MAXVAL] = maxval


def stored_values(image: Image.Image) -> np.ndarray:
    """Return the values of an image in the units of its file; larger is brighter."""
    values, maxval = np.asarray(image), image.info.get(MAXVAL, PGM_SCALE)
    if image.info.get(UNSIGNED):
        values = values.view(np.uint32)
    if image.info.get(INVERTED):
        values = ~values
    return values if maxval == PGM_SCALE else np.rint(values * (maxval / PGM_SCALE)).astype(np.int32)


def is_gray(image: Image.Image) -> bool:
    """Return whether `image` has brightness only, at any bit depth, with or without transparency."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La") or has_high_bit_depth(image)


def has_high_bit_depth(image: Image.Image) -> bool:
    """Return whether `image` is gray with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_pixels(picture: Picture, target: PixelFormat) -> np.ndarray:
    """Return `picture` upright, as a square of the target's size and channels.

    The EXIF orientation is applied. Transparent pixels are composited over white unless alpha is kept, because cut-outs
    and drawings are made for a white page, and because the color stored under full transparency is arbitrary, usually
    black. Values that are not uint8 are scaled by the target's range, which is the same for all pictures of a source.
    Pictures of the right size are not resized; others are, with an antialiased bicubic filter.

    Args:
        picture: an image of any Pillow mode, or an array.
        target: the result's size, channels and scale.

    Returns:
        uint8 (channels, resolution, resolution), contiguous.

    Raises:
        UnreadableImage: if the file is truncated or malformed, its values are not finite, or it does not have the
            target's channels.
    """
    with unreadable_if_it_fails():
        if isinstance(picture, Image.Image):
            # checked first because most images have no EXIF data, and transposing copies them
            if picture.getexif():
                picture = ImageOps.exif_transpose(picture)
            if has_high_bit_depth(picture):
                picture = stored_values(picture)
            elif picture.info.get(EXTRA) in (SECOND, FOURTH):
                values = np.asarray(picture)
                kept = values.shape[2] == target.channels
                without = values[..., 0] if values.shape[2] == 2 else values[..., :-1]
                picture = values if kept else Image.fromarray(without)
        layers = _from_array(picture, target) if isinstance(picture, np.ndarray) else [_flatten(picture, target)]
        fit = FITS[target.fit]
        arrays = [np.array(fit(layer, target.resolution)) for layer in layers]  # copies: torch needs writable memory
    if len(arrays) > 1:
        return np.stack(arrays)
    (pixels,) = arrays
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def scale(values: np.ndarray, intensity_range: IntensityRange) -> np.ndarray:
    """Map a range of values linearly to 0..255, as uint8; values outside are clipped."""
    low, high = intensity_range
    return np.rint(np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def check_finite(values: np.ndarray) -> None:
    """Raise UnreadableImage if values are infinite or not numbers."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableImage("it contains values that are infinite or not a number (NaN)")


def _from_array(values: np.ndarray, target: PixelFormat) -> list[Image.Image]:
    """Return the values as uint8, as one image in the target's mode, or as one gray image per channel."""
    check_finite(values)
    if values.dtype != np.uint8:
        if target.intensity is None:
            reason = f"its values are {values.dtype}, those of other images are uint8"
            raise UnsuitableFormat(f"{reason}; set data.intensity to [low, high]")
        values = scale(values, target.intensity)
    elif target.intensity_uint8 is not None:
        values = scale(values, target.intensity_uint8)
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels in (1, 3) and target.channels in MODES:
        return [Image.fromarray(values).convert(MODES[target.channels])]
    if channels != target.channels:
        raise UnsuitableFormat(f"it has {channels} channels, and data.channels is {target.channels}")
    return [Image.fromarray(np.ascontiguousarray(values[..., channel])) for channel in range(channels)]


def _flatten(image: Image.Image, target: PixelFormat) -> Image.Image:
    """Return an image of uint8 in the target's mode."""
    if target.channels not in MODES:
        raise UnsuitableFormat(f"it has {len(image.getbands())} channels, and data.channels is {target.channels}")
    mode = MODES[target.channels]
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB" if image.mode in ("P", "LAB") or target.channels > 2 else "L")
    if target.intensity_uint8 is not None:
        table = scale(np.arange(256), target.intensity_uint8).tolist()
        colors = len(image.getbands()) - (image.mode == "RGBA")
        image = image.point(table * colors + list(range(256)) * (image.mode == "RGBA"))
    if image.mode == "RGBA" and not mode.endswith("A"):
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)
