"""Images that accompany an evaluation: the confusion matrix, and nearest neighbours."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm.io.pictures import labelled_grid

SIDE = 720              # maximum size of a confusion matrix in pixels
LEAST_FOR_TEXT = 18     # minimum size in pixels of a cell with text


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix: requested classes in rows, predicted classes in columns.

    A cell is darker the larger its fraction of the row; large cells show the fraction in per cent.

    Args:
        matrix: int64 (K, K), counts.
        names: K class names.
    """
    classes = len(names)
    cell = max(1, min(48, SIDE // classes))
    fractions = matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    legible = cell >= LEAST_FOR_TEXT
    font = ImageFont.load_default(size=max(9, min(14, cell // 3)))
    captions = ["".join(x if x.isprintable() else " " for x in name)[:24] for name in names]
    margin = round(max(font.getlength(caption) for caption in captions)) + 12 if legible else 8
    title = 22
    sheet = Image.new("RGB", (margin + classes * cell + 8, title + margin + classes * cell + 8), "white")
    pen = ImageDraw.Draw(sheet)
    heading = "rows: requested, columns: predicted (%)" if legible else "requested, predicted"
    pen.text((4, 4), heading, fill="black", font=font)
    left, top = margin, title + margin
    for r in range(classes):
        for c in range(classes):
            fraction = float(fractions[r, c])
            box = (left + c * cell, top + r * cell, left + (c + 1) * cell - 1, top + (r + 1) * cell - 1)
            pen.rectangle(box, fill=_shade(fraction))
            if legible and fraction >= 0.0005:
                text = f"{100 * fraction:.0f}" if fraction >= 0.1 else f"{100 * fraction:.1f}"
                middle = (left + c * cell + cell // 2, top + r * cell + cell // 2)
                pen.text(middle, text, fill="white" if fraction > 0.5 else "black", font=font, anchor="mm")
        if legible:
            pen.text((left - 6, top + r * cell + cell // 2), captions[r], fill="black", font=font, anchor="rm")
            sheet.paste(_upright(captions[r], font, margin - 12, cell), (left + r * cell, title + 6))
    return sheet


def _shade(fraction: float) -> tuple[int, int, int]:
    """Map a fraction to a colour between white and dark blue."""
    return tuple(round(255 + (dark - 255) * fraction**0.5) for dark in (8, 48, 107))


def _upright(text: str, font: ImageFont.FreeTypeFont, length: int, width: int) -> Image.Image:
    """Draw a caption that reads from bottom to top."""
    strip = Image.new("RGB", (length, width), "white")
    ImageDraw.Draw(strip).text((0, width // 2), text, fill="black", font=font, anchor="lm")
    return strip.rotate(90, expand=True)


def draw_neighbours(samples: Tensor, nearest: Tensor, distances: Sequence[float]) -> Image.Image:
    """Draw the samples that are nearest to real images, each above its nearest neighbour.

    Args:
        samples: uint8 (M, C, H, W).
        nearest: uint8 (M, C, H, W).
        distances: of each pair, in grey levels.
    """
    low, high = min(distances), max(distances)
    names = ["sample", "nearest real", f"{low:.1f} to {high:.1f} grey levels apart"]
    return labelled_grid([list(samples), list(nearest), [nearest[0] * 0 + 255]], names)
