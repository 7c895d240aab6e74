"""Pictures of an evaluation."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm.io.pictures import labelled_grid

SIDE = 720              # pixels of the square of a confusion matrix, at most
LEAST_FOR_TEXT = 18     # pixels of a cell in which a share can be read


def confusion_picture(matrix: Tensor, names: Sequence[str]) -> Image.Image:
    """What the judge reads of each class: one row per class that was asked for, one column per class that was read.

    A cell is darker the larger its share of the row; where there is room it has the share in per cent.

    Args:
        matrix: int64 (K, K), counts.
        names: K class names.
    """
    classes = len(names)
    cell = max(1, min(48, SIDE // classes))
    shares = matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    legible = cell >= LEAST_FOR_TEXT
    font = ImageFont.load_default(size=max(9, min(14, cell // 3)))
    captions = ["".join(x if x.isprintable() else " " for x in name)[:24] for name in names]
    margin = round(max(font.getlength(caption) for caption in captions)) + 12 if legible else 8
    title = 22
    sheet = Image.new("RGB", (margin + classes * cell + 8, title + margin + classes * cell + 8), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 4), "rows: asked for, columns: read (%)" if legible else "asked for, read", fill="black", font=font)
    left, top = margin, title + margin
    for r in range(classes):
        for c in range(classes):
            share = float(shares[r, c])
            box = (left + c * cell, top + r * cell, left + (c + 1) * cell - 1, top + (r + 1) * cell - 1)
            pen.rectangle(box, fill=_shade(share))
            if legible and share >= 0.0005:
                text = f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.1f}"
                middle = (left + c * cell + cell // 2, top + r * cell + cell // 2)
                pen.text(middle, text, fill="white" if share > 0.5 else "black", font=font, anchor="mm")
        if legible:
            pen.text((left - 6, top + r * cell + cell // 2), captions[r], fill="black", font=font, anchor="rm")
            sheet.paste(_upright(captions[r], font, margin - 12, cell), (left + r * cell, title + 6))
    return sheet


def _shade(share: float) -> tuple[int, int, int]:
    """From white to a dark blue."""
    return tuple(round(255 + (dark - 255) * share**0.5) for dark in (8, 48, 107))


def _upright(text: str, font: ImageFont.FreeTypeFont, length: int, width: int) -> Image.Image:
    """A caption that is read from below."""
    strip = Image.new("RGB", (length, width), "white")
    ImageDraw.Draw(strip).text((0, width // 2), text, fill="black", font=font, anchor="lm")
    return strip.rotate(90, expand=True)


def neighbours_picture(samples: Tensor, nearest: Tensor, distances: Sequence[float]) -> Image.Image:
    """The samples that are nearest to real images, each with its nearest below it.

    Args:
        samples: uint8 (M, C, H, W).
        nearest: uint8 (M, C, H, W).
        distances: of each pair, in grey levels.
    """
    low, high = min(distances), max(distances)
    names = ["sample", "nearest real", f"{low:.1f} to {high:.1f} levels apart"]
    return labelled_grid([list(samples), list(nearest), [nearest[0] * 0 + 255]], names)
