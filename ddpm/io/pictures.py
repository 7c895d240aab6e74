"""Conversions between tensors and Pillow images, images of any number of channels as pictures, and labeled grids."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ddpm.io.captions import load_font
from ddpm.pipeline import PIL_CHANNELS

MAX_TILES = 8               # of a picture; further channels are not shown


def read_image(file: Path | BytesIO) -> Tensor:
    """Decode an image file: uint8 (C, H, W), C from 1 to 4."""
    with Image.open(file) as image:
        return to_tensor(image)


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Convert a Pillow image with 8 bits per value, or uint8 (H, W) or (H, W, C), to uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def encode_png(image: Tensor) -> bytes:
    """Encode uint8 (C, H, W), C from 1 to 4, as a PNG with exactly these values."""
    file = BytesIO()
    to_pil(image).save(file, "PNG")
    return file.getvalue()


def to_pil(image: Tensor) -> Image.Image:
    """Convert uint8 (C, H, W), C from 1 to 4, to a Pillow image of mode L, LA, RGB or RGBA with exactly these values.

    This is for files. To show an image, use `to_picture`.
    """
    assert len(image) <= PIL_CHANNELS, image.shape
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy())


def count_tiles(channels: int) -> int:
    """Return the number of tiles of the picture of an image with this number of channels."""
    return min(channels if channels < 3 else channels - 2, MAX_TILES)


def to_picture(image: Tensor) -> Image.Image:
    """Show an image of any number of channels.

    One channel is shown in gray and three in color. An image of another number of channels becomes a row of tiles: the
    first three channels in color, if there are three, and each other channel in gray. No channel is taken for
    transparency, because nothing tells an RGBA image from one of four spectral bands, and transparent pixels would hide
    values. At most 8 tiles are shown.

    Args:
        image: uint8 (C, H, W).

    Returns:
        A gray or RGB picture of height H and width W * count_tiles(C).
    """
    channels = len(image)
    if channels in (1, 3):
        return to_pil(image)
    gray = image.unsqueeze(1).expand(-1, 3, -1, -1)                                                 # (C, 3, H, W)
    tiles = list(gray) if channels < 3 else [image[:3], *gray[3:]]
    return to_pil(torch.cat(tiles[: count_tiles(channels)], dim=2))                                 # (3, H, W * tiles)


def describe_picture(channels: int) -> str | None:
    """Say in a sentence which channel is where in `to_picture`; None if a picture shows them as everybody expects."""
    if channels in (1, 3):
        return None
    tiles, first = count_tiles(channels), 1 if channels < 3 else 4
    last = first + tiles - (first > 1) - 1
    gray = f"channel {first}" if first == last else f"channels {first} to {last}"
    layout = f"channels 1 to 3 in color, then {gray} in gray" if first > 1 else f"{gray} in gray"
    rest = f"; the others of the {channels} channels are not shown" if last < channels else ""
    return f"Pictures show each image as {tiles} tiles: {layout}{rest}."


def labeled_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], min_pixels: int = 48) -> Image.Image:
    """Draw rows of images with the name of each row on its left.

    Args:
        rows: images of each row, uint8 (C, H, W) of equal size, which are shown as by `to_picture`.
        names: one per row; long names are truncated. If all are empty, there is no margin for them.
        min_pixels: smaller images are enlarged by an integer factor to at least this size.
    """
    channels, height, width = rows[0][0].shape
    width *= count_tiles(channels)
    factor = max(1, -(-min_pixels // height))
    gap = 2
    cell_h, cell_w = height * factor + gap, width * factor + gap
    font = load_font(max(12, min(24, cell_h // 3)))
    captions = ["".join(x if x.isprintable() else " " for x in name)[:60] for name in names]
    margin = round(max(font.getlength(caption) for caption in captions)) + 16 if any(captions) else gap
    sheet = Image.new("RGB", (margin + max(map(len, rows)) * cell_w, len(rows) * cell_h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        pen.text((margin - 8, gap + r * cell_h + cell_h // 2), caption, fill="black", font=font, anchor="rm")
        for c, image in enumerate(row):
            cell = to_picture(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(cell, (margin + c * cell_w, gap + r * cell_h))
    return sheet


def plain_grid(images: Sequence[Tensor]) -> Image.Image:
    """Draw images, uint8 (C, H, W) of equal size, in a nearly square grid without names."""
    columns = grid_columns(len(images))
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    return labeled_grid(rows, [""] * len(rows))


def grid_columns(count: int) -> int:
    """Return the number of columns of a nearly square grid, with rows of equal length if `count` allows."""
    least = math.isqrt(count - 1) + 1       # the square root, rounded up
    return next((columns for columns in range(least, 2 * least + 1) if count % columns == 0), least)
