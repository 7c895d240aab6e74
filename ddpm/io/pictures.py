"""Conversions between tensors and Pillow images, images of any number of channels as pictures, and grids of these."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ddpm.io.captions import load_font, wrap
from ddpm.pipeline import PIL_CHANNELS

MAX_TILES = 8               # of a picture; further channels are not shown
MAX_NAME = 600              # pixels; width of a name beside a row of images
# Of grids with captions, in pixels:
MAX_SIDE = 2048             # width and height; exceeded if needed to draw two rows and columns
MIN_IMAGE = 64              # smaller images are enlarged by an integer factor
MIN_CAPTION = 96            # width of a caption under a narrow image
CAPTION_LINES = 2
CAPTION_FONT = 12
CAPTION_GAP = 4


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
        names: one per row; long names are shortened. If all are empty, there is no margin for them.
        min_pixels: smaller images are enlarged by an integer factor to at least this size.
    """
    channels, height, width = rows[0][0].shape
    width *= count_tiles(channels)
    factor = max(1, -(-min_pixels // height))
    gap = 2
    cell_h, cell_w = height * factor + gap, width * factor + gap
    font = load_font(max(12, min(24, cell_h // 3)))
    captions = [wrap(name, font, MAX_NAME, max_lines=1) for name in names]
    margin = round(max(font.getlength(caption) for caption in captions)) + 16 if any(captions) else gap
    sheet = Image.new("RGB", (margin + max(map(len, rows)) * cell_w, len(rows) * cell_h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        pen.text((margin - 8, gap + r * cell_h + cell_h // 2), caption, fill="black", font=font, anchor="rm")
        for c, image in enumerate(row):
            cell = to_picture(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(cell, (margin + c * cell_w, gap + r * cell_h))
    return sheet


def captioned_grid(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Draw images of equal size in a nearly square grid, each with its caption under it.

    Args:
        images: the images. Of many large images, as many are drawn as fit into MAX_SIDE x MAX_SIDE pixels.
        captions: one per image; those that do not fit into two lines are shortened. If all are empty, there is no
            space for them.
    """
    font = load_font(CAPTION_FONT)
    width, height = (side * max(1, -(-MIN_IMAGE // min(images[0].size))) for side in images[0].size)
    texts = [wrap(caption, font, max(width, MIN_CAPTION), CAPTION_LINES) for caption in captions]
    lines = [text.split("\n") for text in texts]
    caption_w = math.ceil(max(font.getlength(line) for text in lines for line in text))
    caption_h = max(len(text) for text in lines) * (CAPTION_FONT + 3) if any(captions) else 0
    cell_w, cell_h = max(width, caption_w) + CAPTION_GAP, height + caption_h + CAPTION_GAP
    columns = min(math.isqrt(len(images) - 1) + 1, max(2, MAX_SIDE // cell_w))
    rows = min(-(-len(images) // columns), max(2, MAX_SIDE // cell_h))
    sheet = Image.new("RGB", (columns * cell_w + CAPTION_GAP, rows * cell_h + CAPTION_GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images[: rows * columns], texts, strict=False)):
        left, top = CAPTION_GAP + i % columns * cell_w, CAPTION_GAP + i // columns * cell_h
        center = left + (cell_w - CAPTION_GAP) // 2
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (center - width // 2, top))
        pen.multiline_text((center, top + height + 1), text, "black", font, anchor="ma", align="center", spacing=2)
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
