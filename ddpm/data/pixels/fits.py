"""How a picture of any shape becomes a square. A new way is a function and an entry in FITS."""

from collections.abc import Callable

from PIL import Image


def crop(image: Image.Image, resolution: int) -> Image.Image:
    """Cut out the central square and resize it."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    return stretch(image, resolution)


def pad(image: Image.Image, resolution: int) -> Image.Image:
    """Resize the longer side and fill the rest evenly on both sides with black, or with transparency if it is kept."""
    longer = max(image.size)
    width, height = (max(1, round(side * resolution / longer)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new(image.mode, (resolution, resolution))
    square.paste(image, ((resolution - width) // 2, (resolution - height) // 2))
    return square


def stretch(image: Image.Image, resolution: int) -> Image.Image:
    """Resize both sides, which changes the aspect ratio; an antialiased bicubic filter."""
    size = (resolution, resolution)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


FITS: dict[str, Callable[[Image.Image, int], Image.Image]] = {"crop": crop, "pad": pad, "stretch": stretch}
