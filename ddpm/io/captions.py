"""Text in pictures: its font, and what stands for a name that the font has no letters for."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import ImageFont, features

NAMED = 5       # classes whose ids are explained; of more, the first


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic, Arabic, Hebrew and more letters.

    Args:
        size: in pixels.
    """
    return ImageFont.truetype(str(_font_file()), size)


def caption(name: str, instead: str) -> str:
    """Return a name, or what stands for it in pictures if the font lacks some of its letters."""
    letters = [letter for letter in name if letter.isprintable()]
    directions = {unicodedata.bidirectional(letter) for letter in letters}
    if directions & {"R", "AL"} and not features.check("raqm"):     # letters would be in the wrong order
        return instead
    return name if all(ord(letter) in _letters() for letter in letters) else instead


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> str:
    """Break a text into lines of at most `width` pixels; an ellipsis stands for what does not fit into `max_lines`.

    Characters that cannot be drawn, such as line breaks, become spaces.
    """
    rest = "".join(x if x.isprintable() else " " for x in text)
    lines: list[str] = []
    while rest:
        last = len(lines) == max_lines - 1
        fits = next(n for n in range(len(rest), -1, -1) if font.getlength(rest[:n]) <= width)
        if fits < len(rest) and last:
            fits = next(n for n in range(fits, -1, -1) if font.getlength(rest[:n] + "…") <= width)
            return "\n".join([*lines, rest[:fits] + "…"])
        if fits < len(rest):
            fits = rest.rfind(" ", 0, fits + 1) + 1 or max(1, fits)         # at a space if there is one
        lines.append(rest[:fits].rstrip())
        rest = rest[fits:]
    return "\n".join(lines)


def class_captions(class_names: Sequence[str]) -> list[str]:
    """Return the name of each class as pictures show it: `class 3` if the font lacks some letters of its name."""
    return [caption(name, f"class {label}") for label, name in enumerate(class_names)]


def describe_captions(class_names: Sequence[str]) -> str | None:
    """Say in a sentence which classes pictures show by their ids; None if they show all names."""
    replaced = [
        f"{shown} is {name}" for shown, name in zip(class_captions(class_names), class_names, strict=True)
        if shown != name
    ]
    if not replaced:
        return None
    more = ", ..." if len(replaced) > NAMED else ""
    return f"Pictures show classes by their ids if their font lacks some letters: {', '.join(replaced[:NAMED])}{more}."


def _font_file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _letters() -> frozenset[int]:
    """Return the code points that the font has a glyph for."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())
