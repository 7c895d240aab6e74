"""Conversions between tensors and Pillow images, and labeled image grids."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def read_image(file: Path | BytesIO) -> Tensor:
    """Decode an image file: uint8 (1 or 3, H, W)."""
    with Image.open(file) as image:
        return to_tensor(image)


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Convert a gray or RGB image to uint8 (1 or 3, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def encode_png(image: Tensor) -> bytes:
    """Encode uint8 (1 or 3, H, W) as a PNG."""
    file = BytesIO()
    to_pil(image).save(file, "PNG")
    return file.getvalue()


def to_pil(image: Tensor) -> Image.Image:
    """Convert uint8 (1 or 3, H, W) to a Pillow image."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy())


def labeled_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], min_pixels: int = 48) -> Image.Image:
    """Draw rows of images with the name of each row on its left.

    Args:
        rows: images of each row, uint8 (C, H, W) of equal size.
        names: one per row; long names are truncated. If all are empty, there is no margin for them.
        min_pixels: smaller images are enlarged by an integer factor to at least this size.
    """
    height, width = rows[0][0].shape[1:]
    factor = max(1, -(-min_pixels // height))
    gap = 2
    cell_h, cell_w = height * factor + gap, width * factor + gap
    font = ImageFont.load_default(size=max(12, min(24, cell_h // 3)))
    captions = ["".join(x if x.isprintable() else " " for x in name)[:60] for name in names]
    margin = round(max(font.getlength(caption) for caption in captions)) + 16 if any(captions) else gap
    sheet = Image.new("RGB", (margin + max(map(len, rows)) * cell_w, len(rows) * cell_h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        pen.text((margin - 8, gap + r * cell_h + cell_h // 2), caption, fill="black", font=font, anchor="rm")
        for c, image in enumerate(row):
            cell = to_pil(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
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
