"""Sources of images as people have them: messy folders, unusual pixels, tables of other tools.

INPUTS maps the name of an input to a function that makes it in an empty folder and returns the path of the source, and
to what is expected of it, with the default options and with others. The comment of an input names the public report of
such a situation, if it was taken from one.
"""

import base64
import csv
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COUNT = 6               # images of a class
CLASSES = ("disc", "square")
SIZE = (16, 16)
TWO = 2 * COUNT         # images of two classes
NUMBERS = ("0", "1")
NO_CLASSES = ("data.labels filename", "data.labels PATH")


class Accepted(NamedTuple):
    """What is expected of a source that can be read.

    Attributes:
        images: N.
        classes: names of the classes; none for a source that is read without classes.
        channels: C.
        resolution: H = W in pixels.
        told: words of the notes, such as numbers and files.
        suggested: the options that the notes say to type, each with its value where that is the same everywhere.
        ignored: number of files that are not read as images.
        options: arguments of `load_data`.
    """

    images: int = TWO
    classes: tuple[str, ...] = CLASSES
    channels: int = 3
    resolution: int = 16
    told: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()
    ignored: int = 0
    options: dict[str, Any] = {}        # noqa: RUF012


class Refused(NamedTuple):
    """What is expected of a source that is refused.

    Attributes:
        option: the name with which the message begins.
        told: words of the message.
        suggested: as in `Accepted`.
        options: arguments of `load_data`.
    """

    option: str
    told: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()
    options: dict[str, Any] = {}        # noqa: RUF012


Make = Callable[[Path], Path]
Save = Callable[[Path, int, int], object]

INPUTS: dict[str, tuple[Make, *tuple[Accepted | Refused, ...]]] = {}


def register(*cases: Accepted | Refused) -> Callable[[Make], Make]:
    """Add a function to INPUTS by its name, with what is expected of the source that it makes."""

    def add(make: Make) -> Make:
        INPUTS[make.__name__] = (make, *cases)
        return make

    return add


def picture(kind: int, i: int, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Draw a bright disc or square on a dark background; kind is 0 or 1."""
    rng = np.random.default_rng(1000 * kind + i)
    width, height = size
    image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 90, 3)))
    draw = ImageDraw.Draw(image)
    box = [width // 5, height // 5, width - width // 5, height - height // 5]
    (draw.rectangle if kind % 2 else draw.ellipse)(box, fill=tuple(int(v) for v in rng.integers(150, 256, 3)))
    return image.convert(mode)


def gray(kind: int, i: int) -> np.ndarray:
    """Return the picture's brightness, uint8 (16, 16)."""
    return np.asarray(picture(kind, i, mode="L"))


def save_picture(path: Path, kind: int, i: int) -> None:
    picture(kind, i).save(path)


def class_folders(
    root: Path, save: Save = save_picture, classes: Sequence[str] = CLASSES, count: int = COUNT, suffix: str = ".png"
) -> Path:
    """Save `count` pictures into a folder for each class."""
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            save(root / name / f"{i:03d}{suffix}", kind, i)
    return root


def folders_of(save: Save, suffix: str = ".png", classes: Sequence[str] = CLASSES, count: int = COUNT) -> Make:
    """Return a maker of class folders."""
    return lambda root: class_folders(root, save, classes, count, suffix)


def array(channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (12, 16, 16, channels) and labels int64 (12,)."""
    images = np.stack([np.asarray(picture(i % 2, i)) for i in range(2 * COUNT)])
    extra = [images[..., :1]] * max(0, channels - 3)
    return np.concatenate([images, *extra], axis=3)[..., :channels], np.arange(2 * COUNT) % 2


# ----------------------------------------------------------------------------------------------------------- pixels


def save_16_bit(top: int) -> Save:
    """Save gray pictures as 16-bit PNG with values from 0 to `top`, which is 2^bits - 1."""
    return lambda path, kind, i: Image.fromarray((gray(kind, i) / 255 * top).astype(np.uint16)).save(path)


def save_pgm(path: Path, kind: int, i: int) -> None:
    """Save a picture with values from 0 to 2000, of the 0 to 4095 that its header allows, as PGM."""
    values = (gray(kind, i) / 255 * 2000).astype(">u2")
    path.write_bytes(b"P5 16 16 4095\n" + values.tobytes())


def save_16_bit_ppm(path: Path, kind: int, i: int) -> None:
    path.write_bytes(b"P6 16 16 65535\n" + (np.asarray(picture(kind, i)).astype(">u2") * 257).tobytes())


def save_16_bit_png(color_type: int) -> Save:
    """Save pictures with color (2), or with transparency (4), of 16 bits as PNG, which Pillow does not write."""

    def save(path: Path, kind: int, i: int) -> None:
        values = np.asarray(picture(kind, i, mode="RGB" if color_type == 2 else "LA")).astype(">u2") * 257
        header = struct.pack(">IIBBBBB", *SIZE, 16, color_type, 0, 0, 0)
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
        parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks.items()]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

    return save


def save_float(scale: float, offset: float = 0) -> Save:
    return lambda path, kind, i: Image.fromarray(gray(kind, i).astype(np.float32) / 255 * scale + offset).save(path)


def save_gray_alpha(path: Path, kind: int, i: int) -> None:
    alpha = Image.new("L", SIZE, 0)
    ImageDraw.Draw(alpha).ellipse([2, 2, 13, 13], fill=255)
    Image.merge("LA", (picture(kind, i, mode="L"), alpha)).save(path)


def save_rgba(path: Path, kind: int, i: int) -> None:
    image = picture(kind, i, mode="RGBA")
    image.putalpha(Image.fromarray(gray(kind, i)))
    image.save(path)


def save_rotated(path: Path, kind: int, i: int) -> None:
    """Save a wide picture with a red bar at the top, which its EXIF data rotates to the right side."""
    image = picture(kind, i, (24, 16))
    ImageDraw.Draw(image).rectangle([0, 0, 23, 4], fill=(255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)


def save_animation(path: Path, kind: int, i: int) -> None:
    frames = [picture(kind, 4 * i + j) for j in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)


def save_pages(path: Path, kind: int, i: int) -> None:
    pages = [picture(kind, 3 * i + j) for j in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def save_dark_among_bright(path: Path, kind: int, i: int) -> None:
    """Save float images of which every other one is four times darker, as the first frames of a recording."""
    save_float(255 if i % 2 else 60)(path, kind, i)


def save_damaged(path: Path, kind: int, i: int) -> None:
    picture(kind, i, (64, 64)).save(path)
    content = path.read_bytes()
    damaged = {(0, 3): content[: len(content) // 2], (1, 2): b"", (1, 5): b"<html>404 not found</html>"}
    path.write_bytes(damaged.get((kind, i), content))


def save_size(choose: Callable[[int, int], tuple[int, int]]) -> Save:
    return lambda path, kind, i: picture(kind, i, choose(kind, i)).save(path)


def tiff(values: np.ndarray, tags: dict[int, int], planes: bool = False, compressed: bool = False) -> bytes:
    """Return an array (H, W) or (H, W, C) as a TIFF; Pillow does not write all of those that other programs do.

    Args:
        values: in little- or big-endian order, which is that of the file, too.
        tags: further ones, or other values: 262 says what the values mean, 338 what the last channel means.
        planes: whether to store each channel by itself.
        compressed: whether to compress the values.
    """
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    strips = [each.tobytes() for each in (np.moveaxis(values, 2, 0) if planes else [values])]
    strips = [zlib.compress(strip) if compressed else strip for strip in strips]
    sizes = [len(strip) for strip in strips]
    entries = {
        256: [width], 257: [height], 258: [8 * values.itemsize] * channels, 259: [8 if compressed else 1],
        273: [8 + sum(sizes[:i]) for i in range(len(sizes))], 277: [channels], 278: [height], 279: sizes,
        284: [2 if planes else 1],
        339: ["_uif".index(values.dtype.kind)] * channels, **{tag: [value] for tag, value in tags.items()},
    }
    order = ">" if values.dtype.str[0] == ">" else "<"
    directory, arrays = struct.pack(f"{order}H", len(entries)), b""
    end = 8 + sum(sizes) + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        directory += packed if len(packed) == 4 else struct.pack(f"{order}I", end + len(arrays))
        arrays += packed if len(packed) > 4 else b""
    header = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8 + sum(sizes))
    return header + b"".join(strips) + directory + bytes(4) + arrays


def save_tiff(convert: Callable[[np.ndarray], np.ndarray], photometric: int, planes: bool = False) -> Save:
    """Save pictures, RGB (16, 16, 3) uint8, as TIFFs of what `convert` makes of them."""

    def save(path: Path, kind: int, i: int) -> None:
        values = convert(np.asarray(picture(kind, i)))
        extra = {338: 0} if values.shape[2:] in ((2,), (4,), (5,)) else {}
        path.write_bytes(tiff(values, {262: photometric, **extra}, planes))

    return save


def with_red(colors: np.ndarray) -> np.ndarray:
    return np.dstack([colors, colors[..., 0]])


INPUTS |= {
    "tiff_fourth_channel": (
        folders_of(save_tiff(with_red, 2), ".tif"),
        Accepted(told=("a fourth channel", "12"), suggested=("channels 4",)),
        Accepted(channels=4, options={"channels": 4}),
        Refused("channels", ("allowed: 1, 3, 4",), options={"channels": 2}),
    ),
    "tiff_fourth_channel_16_bit": (
        folders_of(save_tiff(lambda colors: with_red(colors.astype(np.uint16) * 257), 2), ".tif"),
        Accepted(told=("a fourth channel", "16 bits"), suggested=("channels 4",)),
        Accepted(channels=4, told=("16 bits",), options={"channels": 4}),
    ),
    "tiff_second_channel": (
        folders_of(save_tiff(lambda colors: colors[..., :2], 1), ".tif"),
        Accepted(channels=1, told=("a second channel", "12"), suggested=("channels 2",)),
        Accepted(channels=2, options={"channels": 2}),
        Refused("channels", ("allowed: 1, 2, 3",), options={"channels": 4}),
    ),
    "tiff_fifth_channel": (
        folders_of(save_tiff(lambda colors: np.dstack([255 - colors, 0 * colors[..., :2]]), 5), ".tif"),
        Accepted(told=("a further channel", "12", ".npz")),
        Refused("channels", ("allowed: 1, 3",), options={"channels": 4}),
    ),
    **{
        name: (
            folders_of(save_tiff(convert, photometric, photometric == 2), ".tif"),
            Refused("source", (told, "disc/000.tif", ".npz", "data.on_bad_image skip")),
        )
        for name, told, photometric, convert in (
            ("tiff_planes", "separate planes of 16 bits", 2, lambda colors: colors.astype(np.uint16) * 257),
            ("tiff_float_0_is_white", "floats of which 0 is white", 0, lambda colors: np.float32(255 - colors[..., 0])),
        )
    },
    "png_16_bit": (folders_of(save_16_bit(65535)), Accepted(channels=1)),
    "png_12_bit": (folders_of(save_16_bit(4095)), Accepted(channels=1, told=("4095",), suggested=("intensity",))),
    "png_10_bit": (folders_of(save_16_bit(1023)), Accepted(channels=1, told=("1023",), suggested=("intensity",))),
    "pgm_12_bit": (
        folders_of(save_pgm, ".pgm"),
        Accepted(channels=1),
        Accepted(channels=1, options={"intensity": [0, 2000]}),
    ),
    **{
        name: (
            folders_of(save, suffix),
            Accepted(told=("16 bits", "12", ".npz")),
            Accepted(told=("16 bits",), options={"intensity": [0, 255]}),
            Refused("intensity", ("12 images", ".npz", "leave"), options={"intensity": [0, 1023]}),
        )
        for name, save, suffix in (
            ("color_png_16_bit", save_16_bit_png(2), ".png"), ("color_ppm_16_bit", save_16_bit_ppm, ".ppm")
        )
    },
    "gray_alpha_16_bit": (
        folders_of(save_16_bit_png(4)),
        Accepted(told=("16 bits", "12", ".npz"), suggested=("channels 1", "channels 4")),
    ),
    "gray_alpha": (
        folders_of(save_gray_alpha),
        Accepted(channels=1, suggested=("channels 2",)),
        Accepted(channels=2, options={"channels": 2}),
    ),
    "rgba": (
        folders_of(save_rgba),
        Accepted(suggested=("channels 4",)),
        Accepted(channels=4, options={"channels": 4}),
    ),
    "palette_transparent": (
        folders_of(lambda p, k, i: picture(k, i).quantize(8).save(p, transparency=0)),
        Accepted(suggested=("channels 4",)),
    ),
    "cmyk_jpeg": (folders_of(lambda p, k, i: picture(k, i, mode="CMYK").save(p, quality=95), ".jpg"), Accepted()),
    "lab_tiff": (
        folders_of(lambda p, k, i: Image.merge("LAB", picture(k, i).split()).save(p), ".tif"),
        Accepted(),
        Accepted(channels=1, options={"channels": 1}),
    ),
    "gray_in_color": (
        folders_of(lambda p, k, i: picture(k, i, mode="L").convert("RGB").save(p)),
        Accepted(suggested=("channels 1",)),
        Accepted(options={"channels": 3}),
        Accepted(channels=1, options={"channels": 1}),
    ),
    "one_bit": (folders_of(lambda p, k, i: picture(k, i, mode="1").save(p)), Accepted(channels=1)),
    "exif_rotated": (folders_of(save_rotated, ".jpg"), Accepted(suggested=("fit", "resolution"))),
    "animated_gif": (
        folders_of(save_animation, ".gif"),
        Accepted(suggested=("frames all",)),
        Accepted(4 * TWO, options={"frames": "all"}),
    ),
    "animated_webp": (
        folders_of(save_animation, ".webp"),
        Accepted(suggested=("frames all",)),
        Accepted(4 * TWO, options={"frames": "all"}),
    ),
    "tiff_pages": (
        folders_of(save_pages, ".tif"),
        Accepted(suggested=("frames all",)),
        Accepted(3 * TWO, options={"frames": "all"}),
    ),
    "tiff_float_0_1": (folders_of(save_float(1), ".tif"), Accepted(channels=1, suggested=("intensity",))),
    "tiff_float_hounsfield": (
        folders_of(save_float(2000, -1000), ".tif"),
        Accepted(channels=1, told=("LOW, HIGH",), suggested=("intensity",)),
        Accepted(channels=1, options={"intensity": [-200, 400]}),
    ),
    "tiff_float_0_4000": (folders_of(save_float(4000), ".tif"), Accepted(channels=1, suggested=("intensity",))),
    "tiff_float_dark_frames": (
        folders_of(save_dark_among_bright, ".tif"),
        Accepted(channels=1, suggested=("intensity",)),
    ),
    "tiff_int32": (
        folders_of(lambda p, k, i: Image.fromarray(gray(k, i).astype(np.int32) * 300).save(p), ".tif"),
        Accepted(channels=1, suggested=("intensity",)),
    ),
    "tiff_nan": (
        folders_of(lambda p, k, i: save_float(float("nan") if (k, i) == (1, 0) else 1)(p, k, i), ".tif"),
        Refused("source", ("square/000.tif", "data.on_bad_image skip")),
    ),
    "gray_first": (
        folders_of(lambda p, k, i: picture(k, i, mode="L" if (k, i) == (0, 0) else "RGB").save(p)),
        Accepted(told=("11 color and 1 gray",), suggested=("channels 1",)),
        Accepted(options={"channels": 3}),
    ),
    "color_first": (
        folders_of(lambda p, k, i: picture(k, i, mode="RGB" if (k, i) == (0, 0) else "L").save(p)),
        Accepted(told=("1 color and 11 gray",), suggested=("channels 1",)),
        Accepted(channels=1, options={"channels": 1}),
    ),
    "smaller_than_the_resolution": (
        folders_of(save_size(lambda kind, i: (10, 10))),
        Accepted(resolution=8, suggested=("resolution",)),
        Accepted(resolution=32, options={"resolution": 32}),
    ),
    "mixed_sizes": (
        folders_of(save_size(lambda kind, i: (10 + 7 * i, 40 - 2 * i))),
        Accepted(resolution=8, told=("10x40", "45x30"), suggested=("fit", "resolution")),
    ),
    "first_is_tiny": (
        folders_of(save_size(lambda kind, i: (2, 2) if (kind, i) == (0, 0) else (32, 32)), count=12),
        Accepted(24, resolution=32, told=("2x2", "32x32"), suggested=("resolution",)),
    ),
    "not_square": (
        folders_of(save_size(lambda kind, i: (64, 16))),
        Accepted(suggested=("fit pad", "resolution")),
        Accepted(suggested=("fit pad",), options={"resolution": 16}),
        Accepted(resolution=32, told=("32x32", "12 of 12"), suggested=("fit pad",), options={"resolution": 32}),
        Accepted(resolution=32, options={"resolution": 32, "fit": "pad"}),
        Accepted(suggested=("resolution",), options={"fit": "pad"}),
        Accepted(suggested=("resolution",), options={"fit": "stretch"}),
    ),
    "size_28": (folders_of(lambda p, k, i: picture(k, i, (28, 28), "L").save(p)), Accepted(channels=1, resolution=28)),
    "size_48": (folders_of(save_size(lambda kind, i: (48, 48))), Accepted(resolution=48)),
    "size_100": (
        folders_of(save_size(lambda kind, i: (100, 100))),
        Accepted(resolution=64, told=("100",), suggested=("resolution",)),
        Accepted(resolution=100, options={"resolution": 100}),
    ),
    "size_17": (
        folders_of(save_size(lambda kind, i: (17, 17))),
        Accepted(resolution=16, told=("17",), suggested=("resolution",)),
    ),
    "one_pixel_high": (
        folders_of(save_size(lambda kind, i: (300, 1) if i == 3 else (16, 16)), count=12),
        Accepted(24, resolution=16, told=("300x1",), suggested=("fit", "resolution")),
    ),
    "huge": (
        folders_of(lambda p, k, i: (Image.new("1", (20_000, 20_000)) if i + k == 0 else picture(k, i)).save(p)),
        Refused("source", ("disc/000.png", "pixels", "smaller", "data.on_bad_image skip")),
        Accepted(TWO - 1, options={"on_bad_image": "skip"}),
    ),
    "damaged": (
        folders_of(save_damaged),
        Refused("source", ("disc/003.png", "data.on_bad_image skip")),
        Accepted(TWO - 3, resolution=64, options={"on_bad_image": "skip"}),
    ),
    # GabrielePicco/deep-learning-flower-identifier#2: WebP files named .jpg
    "wrong_ending": (folders_of(lambda p, k, i: picture(k, i).save(p, format="WEBP"), ".jpg"), Accepted()),
}


# ---------------------------------------------------------------------------------------------------------- folders


def tree(root: Path, *folders: str, count: int = COUNT) -> Path:
    """Save pictures into folders; one whose path ends with `square` has squares."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            save_picture(root / folder / f"{i:03d}.png", int(folder.endswith("square")), i)
    return root


def tree_of(*folders: str) -> Make:
    return lambda root: tree(root, *folders)


def tree_of_one(*folders: str) -> Make:
    return lambda root: tree(root, *folders, count=1)


INPUTS |= {
    "nested": (tree_of("disc/batch 0/deep", "disc/batch 1", "square/batch 0/deep"), Accepted(3 * COUNT)),
    "imbalanced": (lambda root: tree(tree(root, "disc", count=60), "square", count=1), Accepted(61, told=("1 to 60",))),
    "two_images": (folders_of(save_picture, count=1), Accepted(2)),
    "splits": (
        tree_of("train/disc", "train/square", "test/disc", "test/square"),
        Accepted(),
        Accepted(options={"split": "test"}),
    ),
    "splits_capital": (
        tree_of("Train/disc", "Train/square", "Test/disc", "Test/square"),
        Accepted(),
        Accepted(options={"split": "test"}),
    ),
    "splits_training": (
        tree_of("TRAINING/disc", "TRAINING/square", "Testing/disc", "Testing/square"),
        Accepted(),
        Accepted(options={"split": "test"}),
    ),
    "splits_eval": (
        tree_of("train/disc", "train/square", "eval/disc", "eval/square", "dev/disc", "dev/square"),
        Accepted(),
        Accepted(options={"split": "dev"}),
        Accepted(options={"split": "eval"}),
        Refused("split", ("dev", "eval"), options={"split": "validation"}),
    ),
    "splits_without_train": (
        tree_of("validation/disc", "validation/square", "test/disc", "test/square"),
        Refused("split", ("validation", "test")),
        Accepted(options={"split": "val"}),
    ),
    "splits_class_missing": (
        tree_of("train/disc", "train/hexagon", "train/square", "test/disc", "test/square"),
        Accepted(3 * COUNT, ("disc", "hexagon", "square")),
    ),
    # as in Pascal VOC
    "splits_trainval": (tree_of("trainval", "test"), Accepted(COUNT, (), told=("'trainval'", *NO_CLASSES))),
    "splits_train_val": (
        tree_of("train_val/disc", "train_val/square", "test/disc"),
        Accepted(told=("'train_val'",)),
        Accepted(told=("'train_val'",), options={"split": "trainval"}),
    ),
    "splits_called_training_and_trainval": (
        tree_of("training", "val", "trainval"), Accepted(COUNT, (), told=NO_CLASSES),
    ),
    "splits_and_trainval": (
        tree_of("train", "val", "trainval"),
        Accepted(COUNT, (), told=NO_CLASSES),
        Accepted(COUNT, (), told=NO_CLASSES, options={"split": "trainval"}),
    ),
    # as in Market-1501
    "splits_of_retrieval": (
        tree_of("train", "query", "gallery"),
        Accepted(COUNT, (), told=NO_CLASSES),
        Accepted(COUNT, (), told=NO_CLASSES, options={"split": "gallery"}),
    ),
    "splits_of_market": (
        tree_of("bounding_box_train", "bounding_box_test", "query"),
        Accepted(3 * COUNT, ("bounding_box_test", "bounding_box_train", "query"), told=("'query'", "no splits")),
    ),
    "classes_called_gallery": (
        tree_of("train", "gallery", "museum"), Accepted(3 * COUNT, ("gallery", "museum", "train"), told=("'train'",)),
    ),
    "classes_called_query": (tree_of("gallery", "query"), Accepted(classes=("gallery", "query"))),
    "splits_flat": (tree_of("train", "test"), Accepted(COUNT, (), told=NO_CLASSES)),
    "splits_in_classes": (
        tree_of("disc/train", "disc/test", "square/Train", "square/Test"),
        Accepted(told=("disc/train",), suggested=("split test",)),
        Accepted(told=("disc/test",), suggested=("split",), options={"split": "test"}),
        Accepted(classes=(), suggested=("split",), options={"labels": "none"}),
        Refused("split", ("validation", "disc", "rename"), options={"split": "validation"}),
    ),
    "splits_in_some_classes": (
        tree_of("disc/train", "disc/test", "square"),
        Accepted(3 * COUNT, told=("disc/test", "square")),
        Refused("split", suggested=("split train",), options={"split": "test"}),
    ),
    "split_in_each_class_but_one": (
        tree_of("disc/train", "disc/test", "square/train"),
        Accepted(),
        Refused("split", ("square", "train"), suggested=("split",), options={"split": "test"}),
    ),
    "only_a_val_split": (
        tree_of("val/disc"),
        Refused("split", suggested=("split val",)),
        Accepted(COUNT, (), told=("one more folder",), options={"split": "val"}),
    ),
    # as in MVTec AD
    "only_the_test_split_has_classes": (
        tree_of("train/good", "test/good", "test/broken"),
        Accepted(COUNT, (), told=("'broken' and 'good'",), suggested=("split test",)),
        Accepted(classes=("broken", "good"), options={"split": "test"}),
    ),
    "empty_split": (
        lambda root: tree(tree(root, "train", count=0), "test/disc", "test/square"),
        Refused("source", suggested=("split test",)),
        Accepted(options={"split": "test"}),
    ),
    "classes_beside_a_split_of_classes": (
        tree_of("train/disc", "train/square", "plane/disc", "plane/square"),
        Accepted(told=("'plane' (12 images)",), suggested=("split plane",)),
        Accepted(options={"split": "plane"}),
    ),
    "folders_beside_splits": (
        lambda root: tree(tree(tree(root, "train/disc", "train/square", "test/disc"), "train_aug/disc", "raw/x"), "old",
                          count=1),
        Accepted(told=("'old' (1 image), 'raw' (6 images), 'train_aug' (6 images)",), suggested=("split old",)),
        Accepted(COUNT, (), told=("'old' (1 image), 'train_aug' (6 images)",), suggested=("split",),
                 options={"split": "raw"}),
    ),
    "folders_beside_splits_in_classes": (
        tree_of(*(f"{name}/{inner}" for name in CLASSES for inner in ("train", "test", "raw"))),
        Accepted(told=("'raw' (12 images)",), suggested=("split test", "split raw")),
    ),
    "masks_beside_splits": (
        tree_of("train/good", "test/good", "test/broken", "ground_truth/broken"),
        Accepted(COUNT, (), told=("ground_truth",), suggested=("split test",)),
        Refused("split", ("train",), options={"split": "ground_truth"}),
    ),
    "folds_of_classes": (
        tree_of("fold_1/disc", "fold_1/square", "fold_2/disc", "fold_2/square"),
        Accepted(2 * TWO, ("fold_1", "fold_2"), told=("'disc' and 'square'", "merge"), suggested=("source",)),
    ),
    "folds_of_splits": (
        tree_of(*(f"{fold}/{split}/{name}" for fold in "ab" for split in ("train", "test") for name in CLASSES)),
        Accepted(2 * TWO, ("a", "b"), told=("'disc' and 'square'", "merge"), suggested=("source", "split test")),
    ),
    "preview_beside_the_only_folder": (
        lambda root: tree(tree(root, "birds/disc", "birds/square"), ".", count=1),
        Accepted(ignored=1, told=("birds", "(1)")),
        Accepted(classes=(), ignored=1, told=("birds",), options={"labels": "none"}),
    ),
    "preview_beside_the_only_folder_of_splits": (
        lambda root: tree(tree(root, "birds/Train/disc", "birds/Train/square", "birds/Test/disc"), ".", count=1),
        Accepted(ignored=1, told=("birds", "(1)")),
        Accepted(COUNT, (), ignored=1, suggested=("split Train",), options={"split": "test"}),
    ),
    "one_image": (tree_of_one("."), Accepted(1, (), told=NO_CLASSES)),
    "one_image_beside_one_in_a_folder": (tree_of_one(".", "more"), Accepted(2, (), told=("1 of",),
                                                                            suggested=("source",))),
    "one_image_of_each_class": (tree_of_one(*"abcdefgh"), Accepted(8, tuple("abcdefgh"))),
    "images_beside_a_few_in_folders": (
        lambda root: tree(tree(root, ".", count=COUNT), "best/disc", "best/square", count=1),
        Accepted(COUNT + 2, (), told=("best",), suggested=("source",)),
    ),
    # as CycleGAN reads them
    "names_of_splits_and_classes": (
        tree_of("trainDisc", "trainSquare", "testDisc", "testSquare"),
        Accepted(classes=("Disc", "Square"), told=("trainDisc", "rename")),
        Accepted(classes=("Disc", "Square"), told=("rename",), options={"split": "testing"}),
        Accepted(classes=(), told=("rename",), options={"labels": "none"}),
        Refused("split", ("validation", "test, train", "rename"), options={"split": "validation"}),
    ),
    "names_of_classes_and_splits": (
        tree_of("disc_train", "disc_val", "disc_test", "square_train", "square_test"),
        Accepted(told=("disc_test", "rename")),
        Accepted(told=("rename",), options={"split": "test"}),
        Accepted(COUNT, (), told=("rename",), suggested=("split test",), options={"split": "val"}),
    ),
    "names_of_splits_and_masks": (
        tree_of("train_images", "train_masks", "test_images", "test_masks"),
        Accepted(COUNT, (), told=("'test_masks' (6 images), 'train_masks'", *NO_CLASSES), suggested=("split",)),
    ),
    "names_of_splits_and_pictures": (
        tree_of("train_rgb", "train_mask", "test_rgb", "test_mask"),
        Accepted(COUNT, (), told=("train_mask", *NO_CLASSES)),
    ),
    "names_of_splits_and_classes_beside_another": (
        tree_of("disc_train", "disc_test", "square_train", "square_test", "more"),
        Accepted(
            5 * COUNT, ("disc_test", "disc_train", "more", "square_test", "square_train"),
            told=("disc_test", "'more'", "move"),
        ),
    ),
    "class_called_train": (tree_of("train", "plane", "ship"), Accepted(3 * COUNT, ("plane", "ship", "train"))),
    "wrapper": (tree_of("dataset/disc", "dataset/square"), Accepted(told=("dataset",))),
    "wrapper_of_splits": (
        tree_of(*(f"dataset/{split}/{name}" for split in ("train", "val") for name in CLASSES)),
        Accepted(told=("dataset",)),
        Accepted(options={"split": "validation"}),
    ),
    "one_class": (tree_of("disc"), Accepted(COUNT, (), told=NO_CLASSES)),
    "odd_names": (
        tree_of("my disc (1)", "квадрат #2, ünïcode"),
        Accepted(classes=("my disc (1)", "квадрат #2, ünïcode")),
    ),
    "class_called_none": (tree_of("none", "square"), Refused("source", ("'none'", "rename"))),
    "classes_called_recycled": (tree_of("recycled", "recycler"), Accepted(classes=("recycled", "recycler"))),
    "classes_called_test": (tree_of("test1", "test2"), Refused("split", ("test1", "rename"))),
    "images_beside_masks": (
        lambda root: tree(root, ".", "masks"),
        Accepted(classes=(), told=("/masks",)),
    ),
    "images_beside_a_folder": (
        lambda root: tree(root, ".", "more"),
        Accepted(classes=(), told=("6 images", "/more"), suggested=("source",)),
    ),
    "masks_in_classes": (
        tree_of("disc/images", "disc/masks", "square/images", "square/masks"),
        Accepted(4 * COUNT, told=("disc/masks",)),
    ),
}


@register(
    Accepted(classes=(), told=NO_CLASSES),
    Accepted(options={"labels": "filename"}),
    Accepted(classes=(), options={"labels": "none"}),
    Refused("labels", ("filename", "PATH"), options={"labels": "folders"}),
)
def flat(root: Path) -> Path:
    """Images named by their class in one folder, as guided-diffusion reads them (openai/guided-diffusion#95)."""
    root.mkdir(parents=True, exist_ok=True)
    for kind, name in enumerate(CLASSES):
        for i in range(COUNT):
            save_picture(root / f"{name}_{i:03d}.png", kind, i)
    return root


@register(Accepted(COUNT, (), told=NO_CLASSES))
def camera_names(root: Path) -> Path:
    """A flat folder whose file names share a prefix that is no class."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(COUNT):
        save_picture(root / f"IMG_{i:04d}.png", i % 2, i)
    return root


# five files in each of three folders, and eight folders
@register(Accepted(ignored=5 * 3 + 8))
def litter(root: Path) -> Path:
    """What file managers, archive programs, network storage and notebooks leave behind (pytorch/vision#109, #2831)."""
    class_folders(root)
    for folder in (root, root / "disc", root / "square"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", "notes.txt"):
            (folder / name).write_bytes(b"\0\1junk")
    for hidden in (
        "__MACOSX/disc", ".ipynb_checkpoints", "disc/.ipynb_checkpoints", "disc/@eaDir", "#recycle",
        "square/.thumbnails/large", "$RECYCLE.BIN", "lost+found",
    ):
        (root / hidden).mkdir(parents=True)
        save_picture(root / hidden / "000.png", 0, 0)
    return root


@register(Refused("source"))
def empty_folder(root: Path) -> Path:
    root.mkdir(parents=True)
    return root


@register(
    Accepted(ignored=1, suggested=("source",)),
    Refused("image_column", ("labels.csv", "data.labels none"), options={"split": "test"}),
    Accepted(COUNT, (), ignored=1, options={"split": "test", "labels": "none"}),
)
def split_without_classes(root: Path) -> Path:
    """Class folders for training, and test images without classes (fastai/fastai#2336)."""
    tree(root, "train/disc", "train/square", "test")
    (root / "labels.csv").write_text("name,label\ntrain/disc/000.png,disc\n")
    return root


@register(Accepted(ignored=1, told=("metadata.csv", "breed, count")))
def class_folders_with_metadata(root: Path) -> Path:
    class_folders(root)
    (root / "metadata.csv").write_text("breed,count\ndisc,6\nsquare,6\n")
    return root


@register(Accepted(ignored=1, told=("metadata.csv",)))
def class_folders_with_file_names(root: Path) -> Path:
    class_folders(root)
    lines = [f"{name}/{i:03d}.png\n" for name in CLASSES for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name\n" + "".join(lines))
    return root


@register(
    Accepted(8, ("dark", "light"), ignored=4, told=("/disc",), suggested=("labels folders",)),
    Accepted(8, ignored=4, told=("metadata.csv", "'train'"), options={"labels": "folders"}),
    Accepted(4, ignored=8, options={"labels": "folders", "split": "test"}),
    Refused("label_column", options={"labels": "folders", "label_column": "label"}),
)
def class_folders_with_other_labels(root: Path) -> Path:
    """Class folders, with a standard table that has other labels, and splits."""
    class_folders(root)
    lines = [f"{name}/{i:03d}.png,{'dark' if i % 2 else 'light'},{'test' if i < 2 else 'train'}\n" for name in CLASSES
             for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name,label,split\n" + "".join(lines))
    return root


@register(
    Accepted(8, ignored=4, told=("metadata.csv",)),
    Accepted(4, ignored=8, told=("metadata.csv", "'test'"), options={"split": "test"}),
    Refused("split", ("metadata.csv", "test, train"), options={"split": "validation"}),
)
def class_folders_with_splits(root: Path) -> Path:
    class_folders(root)
    lines = [f"{name}/{i:03d}.png,{'test' if i < 2 else 'train'}\n" for name in CLASSES for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name,split\n" + "".join(lines))
    return root


@register(
    Accepted(ignored=1, told=("metadata.csv", "data.label_column")),
    Accepted(8, ignored=4, options={"labels": "folders"}),
    Accepted(4, (), ignored=8, options={"labels": "none", "split": "test"}),
    Refused("label_column", ("data.labels",), options={"labels": "folders", "label_column": "text"}),
)
def class_folders_with_captions_and_splits(root: Path) -> Path:
    class_folders(root)
    lines = [f"{name}/{i:03d}.png,{'test' if i < 2 else 'train'},a {name} {i}!\n" for name in CLASSES
             for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name,split,text\n" + "".join(lines))
    return root


@register(Refused("split", ("metadata.csv", "'public'", "remove the column")))
def class_folders_with_odd_splits(root: Path) -> Path:
    class_folders_with_splits(root)
    table = root / "metadata.csv"
    table.write_text(table.read_text().replace("003.png,train", "003.png,public"))
    return root


def save_tables(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text)


# as HAM10000
@register(
    Accepted(classes=("part_1", "part_2"), ignored=2, told=("details.csv", "name it as data.label_column", "dx")),
    Accepted(ignored=1, options={"label_column": "dx"}),
    Refused("label_column", ("details.csv", "'dxx'", "dx"), options={"label_column": "dxx"}),
)
def folders_of_parts(root: Path) -> Path:
    class_folders(root, classes=("part_1", "part_2"))
    for path in root.glob("*/*.png"):
        path.rename(path.with_name(f"{path.parent.name}_{path.name}"))
    names = [f"part_{part}_{i:03d}" for part in (1, 2) for i in range(COUNT)]
    rows = [f"{name},{CLASSES[name.startswith('part_2')]},{i}\n" for i, name in enumerate(names)]
    save_tables(root, about="author,year\nsomeone,2018\n", details="image_id,dx,age\n" + "".join(rows))
    return root


# as Plant Pathology
@register(
    Refused("label_column", ("train.csv", "healthy, rust")),
    Refused("labels", ("train.csv", "test_000.png"), suggested=("source",), options={"label_column": "rust"}),
)
def tables_of_splits_beside_images(root: Path) -> Path:
    tree(root, "images")
    names = [f"{name}_{i:03d}" for name, count in (("train", 2), ("test", 4)) for i in range(count)]
    for path, name in zip(sorted(root.glob("*/*.png")), names, strict=True):
        path.rename(path.with_name(f"{name}.png"))
    save_tables(
        root,
        train="image_id,healthy,rust\n" + "".join(f"{name},{i % 2},{1 - i % 2}\n" for i, name in enumerate(names[:2])),
        test="image_id\n" + "".join(f"{name}\n" for name in names[2:]),
    )
    return root


@register(Accepted(ignored=2, told=("train.csv",), suggested=("source",)))
def tables_of_splits_beside_class_folders(root: Path) -> Path:
    class_folders(root)
    rows = [f"{name}/{i:03d}.png,{name}\n" for name in CLASSES for i in range(COUNT)]
    save_tables(root, train="path,label\n" + "".join(rows[::2]), test="path,label\n" + "".join(rows[1::2]))
    return root


def table_with(column: str, *values: object, labels: bool = False, folders: bool = False) -> Make:
    """Return a maker of pictures with a table, in which a column has the given values in turn."""

    def make(root: Path) -> Path:
        (class_folders if folders else flat)(root)
        rows = [[f"{name}{'/' if folders else '_'}{i:03d}.png", values[i % len(values)], *([name] if labels else [])]
                for name in CLASSES for i in range(COUNT)]
        with (root / "info.csv").open("w") as file:
            csv.writer(file).writerows([["path", column, *(["label"] if labels else [])], *rows])
        return root

    return make


INPUTS |= {
    "phases_beside_labels": (
        table_with("phase", "train", "train", "test", labels=True),
        Accepted(8, ignored=4, told=("'phase'", "data.label_column")),
        Accepted(4, ignored=8, told=("'phase'",), options={"split": "test"}),
        Accepted(classes=("test", "train"), options={"label_column": "phase"}),
        Refused("split", ("test, train",), options={"split": "validation"}),
    ),
    "phases_of_class_folders": (
        table_with("phase", "train", "train", "test", folders=True),
        Accepted(8, ignored=4, told=("'phase'", "info.csv")),
        Accepted(4, (), ignored=8, told=("'phase'",), options={"split": "test", "labels": "none"}),
    ),
    # Words for splits in other columns say nothing about splits.
    "captions_of_class_folders": (
        table_with("text", "a toy train", "a driving test", folders=True),
        Accepted(told=("info.csv",), ignored=1, suggested=("labels",)),
    ),
    "captions_beside_labels": (
        table_with("caption", "Test drive", "Train ride", labels=True),
        Accepted(),
        Accepted(options={"label_column": "label"}),
    ),
    "models_beside_labels": (table_with("model", "train_car", "test_car", "val_car", labels=True), Accepted()),
    "things": (table_with("thing", "test_tube", "train_station"), Accepted(classes=("test_tube", "train_station"))),
    "qualities_of_class_folders": (
        table_with("quality", "valid", "test", folders=True),
        Accepted(told=("info.csv",), ignored=1, suggested=("labels",)),
        Accepted(ignored=1, options={"labels": "folders"}),
        Accepted(classes=(), ignored=1, options={"labels": "none"}),
    ),
    "statuses": (table_with("status", "dev", "test"), Accepted(classes=("dev", "test"))),
    # as in FER2013
    "usage_beside_labels": (
        table_with("Usage", "Training", "PublicTest", "PrivateTest", labels=True),
        Accepted(4, ignored=8, told=("'Usage'",)),
        Accepted(4, ignored=8, told=("'Usage'",), options={"split": "PrivateTest"}),
        Refused("split", ("PublicTest", "PrivateTest"), options={"split": "test"}),
    ),
    "usage_with_ignored_images": (
        table_with("Usage", "Training", "PublicTest", "Ignored", labels=True),
        Refused("split", ("'Usage'", "'Ignored'", "'Training'", "extra", "data.label_column")),
        Accepted(classes=("Ignored", "PublicTest", "Training"), options={"label_column": "Usage"}),
    ),
    "splits_with_excluded_images_of_class_folders": (
        table_with("train_or_test", "train", "test", "exclude", folders=True),
        Refused("split", ("'train_or_test'", "'exclude'", "'train'", "remove the column")),
        Refused("split", ("'train_or_test'", "'exclude'"), options={"labels": "none"}),
    ),
    "splits_with_extra_images": (
        table_with("train_or_test", "train", "test", "extra", labels=True),
        Accepted(4, ignored=8, told=("'train_or_test'",)),
    ),
    "splits_of_retrieval_beside_labels": (      # DeepFashion
        table_with("evaluation_status", "train", "query", "gallery", labels=True),
        Accepted(4, ignored=8, told=("'evaluation_status'",)),
    ),
    "kinds_among_them_training": (table_with("scene", "train", "gallery", "museum", labels=True), Accepted()),
    "kinds_with_extra": (table_with("source", "train", "extra", labels=True), Accepted()),
    "words_among_them_splits": (
        table_with("word", "train", "test", "bus", "car", "ship", "plane", "bike", labels=True),
        Accepted(),
    ),
    "splits_in_a_column_with_gaps": (
        table_with("phase", "train", "", "test", labels=True),
        Refused("split", ("'phase'", "remove the column")),
    ),
    "folds_beside_labels": (
        table_with("Fold", 0, 1, 2, labels=True),
        Accepted(told=("'Fold'", "data.label_column")),
        Accepted(classes=("0", "1", "2"), options={"label_column": "Fold"}),
    ),
    "flags_of_training_beside_labels": (
        table_with("is_train", True, False, labels=True),
        Accepted(told=("'is_train'", "validation, test")),
    ),
    "phases_without_labels": (
        table_with("phase", "train", "test"),
        Accepted(COUNT, (), ignored=COUNT, told=("'phase'", *NO_CLASSES)),
        Accepted(COUNT, ignored=COUNT, told=("'phase'",), options={"labels": "filename"}),
        Accepted(classes=("test", "train"), options={"label_column": "phase"}),
    ),
    "folds_without_labels": (
        table_with("fold", 0, 1, 2),
        Accepted(classes=(), ignored=1, told=("'fold'", *NO_CLASSES)),
        Accepted(classes=("0", "1", "2"), options={"label_column": "fold"}),
    ),
    "phases_of_cells": (
        table_with("phase", "G1", "S", "G2"),
        Accepted(classes=("G1", "G2", "S")),
    ),
}


@register(
    Refused("split", ("'Usage'", "'Ignored'")),
    Accepted(classes=("Ignored", "PublicTest", "Training"), options={"label_column": "Usage"}),
)
def list_with_ignored_images(root: Path) -> Path:
    """A table that is itself the source."""
    return table_with("Usage", "Training", "PublicTest", "Ignored", labels=True)(root) / "info.csv"


@register(Accepted(COUNT), Accepted(COUNT, options={"split": "test"}))
def splits_with_odd_splits(root: Path) -> Path:
    """Folders of splits, with a table that calls them differently."""
    tree(root, "train", "test")
    lines = [f"{name}/{i:03d}.png,{CLASSES[i % 2]},{name if i else 'public'}\n" for name in ("train", "test")
             for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name,label,split\n" + "".join(lines))
    return root


def names_in_both_splits(root: Path, table: str = "metadata.csv", **rows: range) -> Path:
    """Folders of splits of images with the same names, with a table of bare names for all of them."""
    tree(root, "train", "test")
    lines = [f"{i:03d}.png,{split},{CLASSES[(i + (split == 'test')) % 2]}\n" for split in rows for i in rows[split]]
    (root / table).write_text("file_name,split,label\n" + "".join(lines))
    return root


def names_with_their_split(root: Path, table: str, value: Callable[[str, int], str]) -> Path:
    """Folders of splits of images with names of their own, and a table of bare names."""
    tree(root, "train", "val")
    lines = []
    for split in ("train", "val"):
        for i in range(COUNT):
            (root / split / f"{i:03d}.png").rename(root / split / f"{split}{i}.png")
            lines.append(f"{split}{i}.png,{value(split, i)},{CLASSES[i % 2]}\n")
    (root / table).write_text("file_name,split,label\n" + "".join(lines))
    return root


def folder_divided_by_a_table(*splits: str) -> Make:
    """Return a maker of one folder of images, with a table that divides them once more."""

    def make(root: Path) -> Path:
        tree(root, "train", count=TWO)
        lines = [f"train/{i:03d}.png,{splits[i % 2]},{CLASSES[i // COUNT]}\n" for i in range(TWO)]
        (root / "metadata.csv").write_text("file_name,split,label\n" + "".join(lines))
        return root

    return make


INPUTS |= {
    "names_in_both_splits": (
        lambda root: names_in_both_splits(root, train=range(COUNT), test=range(COUNT)),
        Accepted(COUNT, told=("6 of 12", "('test')")),
        Accepted(COUNT, told=("6 of 12",), options={"split": "test"}),
        Accepted(COUNT, (), ignored=1, options={"labels": "none"}),
    ),
    "names_of_another_split": (
        lambda root: names_in_both_splits(root, train=range(3), test=range(3, COUNT)),
        Refused("labels", ("no row for 3 of 6", "train/003.png")),
        Refused("labels", ("no row for 3 of 6", "test/000.png"), options={"split": "test"}),
    ),
    "rows_of_another_split_with_the_folder": (
        folder_divided_by_a_table("train", "val"),
        Accepted(told=("('val')", "used", "'train'", "6 of 12")),
    ),
    "names_of_a_split_inside_of_another": (
        lambda root: names_in_both_splits(root, train=range(3), val=range(3, COUNT), test=range(COUNT)),
        Accepted(COUNT, told=("('test')", "6 of 12", "('val')", "3 of 12")),
    ),
    "names_of_one_split_in_rows_of_another": (
        lambda root: names_with_their_split(root, "labels.csv", lambda split, i: "val" if i < 3 else split),
        Accepted(COUNT, told=("labels.csv", "used for images in 'train'")),
        Accepted(COUNT, told=("labels.csv",), options={"split": "val"}),
    ),
    "table_of_trainval": (
        lambda root: names_with_their_split(root, "trainval.csv", lambda split, i: split),
        Accepted(COUNT, told=("trainval.csv",)),
        Accepted(COUNT, told=("trainval.csv",), options={"split": "val"}),
    ),
    "table_of_a_folder_that_divides_it": (      # as in competitions
        lambda root: names_in_both_splits(root, "train.csv", train=range(3), val=range(3, COUNT)),
        Accepted(COUNT, told=("train.csv", "('val')", "3 of 6")),
    ),
    "table_in_a_folder_that_divides_it": (
        lambda root: names_in_both_splits(root, "train/metadata.csv", train=range(3), test=range(3, COUNT)),
        Accepted(COUNT, told=("metadata.csv", "('test')", "3 of 6")),
    ),
}


@register(
    Accepted(ignored=1, told=("labels.csv", "'000.png'", "disc/000.png")),
    Refused("image_column", ("'000.png'", "disc/000.png"), options={"labels": "labels.csv"}),
)
def class_folders_with_bare_names(root: Path) -> Path:
    class_folders(root)
    lines = [f"{i:03d}.png,{name}\n" for name in CLASSES for i in range(COUNT)]
    (root / "labels.csv").write_text("file_name,label\n" + "".join(lines))
    return root


@register(
    Accepted(8, ignored=4, told=("parts.csv",)),
    Accepted(8, (), ignored=4, told=("parts.csv",), options={"labels": "none"}),
    Accepted(4, ignored=8, options={"split": "test"}),
)
def class_folders_with_split_table(root: Path) -> Path:
    """Class folders beside a table that is not called metadata."""
    class_folders_with_splits(root)
    (root / "metadata.csv").rename(root / "parts.csv")
    return root


@register(
    Accepted(told=("2 images", "'train'", "disc/000.png")),
    Accepted(classes=(), told=("2 images", "'train'", "disc/000.png"), options={"labels": "none"}),
)
def class_folders_in_both_splits(root: Path) -> Path:
    """Class folders, with a table in which an image of each class is in two splits."""
    class_folders(root)
    lines = [f"{name}/{i:03d}.png,{split}\n" for name in CLASSES for i in range(COUNT)
             for split in ("train", "test")[: 2 if i == 0 else 1]]
    (root / "parts.csv").write_text("file_name,split\n" + "".join(lines))
    return root


@register(Accepted(ignored=1, told=("metadata.csv", "'split'", "'1', '0'", "validation")))
def class_folders_with_numbered_splits(root: Path) -> Path:
    class_folders_with_splits(root)
    table = root / "metadata.csv"
    table.write_text(table.read_text().replace(",train", ",0").replace(",test", ",1"))
    return root


@register(
    Refused("source", ("zebra/000.png", "data.on_bad_image skip")),
    Refused("on_bad_image", ("'zebra'", "zebra/000.png", "data.labels none"), options={"on_bad_image": "skip"}),
    Accepted(classes=(), options={"on_bad_image": "skip", "labels": "none"}),
)
def class_folders_with_unreadable_class(root: Path) -> Path:
    class_folders(root, classes=(*CLASSES, "zebra"))
    for path in (root / "zebra").iterdir():
        path.write_bytes(b"")
    return root


@register(Accepted(ignored=1))
def class_folders_and_state(root: Path) -> Path:
    """Class folders beside a file of another tool with a name that `save_to_disk` of `datasets` uses, too."""
    class_folders(root)
    (root / "state.json").write_text('{"step": 3}')
    return root


@register(Accepted(ignored=1, told=("labels.txt", ".csv", "data.labels")))
def class_folders_and_text_file(root: Path) -> Path:
    class_folders(root)
    (root / "labels.txt").write_text("0 square\n1 disc\n")
    return root


@register(
    Accepted(classes=("even", "odd"), told=("metadata.csv", "/disc"), suggested=("labels folders",)),
    Accepted(ignored=1, options={"labels": "folders"}),
)
def class_folders_that_a_table_contradicts(root: Path) -> Path:
    class_folders(root)
    lines = [f"{name}/{i:03d}.png,{('even', 'odd')[i % 2]}\n" for name in CLASSES for i in range(COUNT)]
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(lines))
    return root


@register(
    Accepted(COUNT, ignored=2, told=("train.csv", "sample.csv"), suggested=("labels",)),
    Accepted(COUNT, ("a", "b"), ignored=2, suggested=("labels",), options={"split": "test"}),
)
def tables_beside_splits(root: Path) -> Path:
    """Folders and tables of splits, and a table of another name that labels the same images, as in competitions."""
    tree(root, "train", "test")
    for name, classes in (("train", CLASSES), ("test", ("a", "b")), ("sample", ("x", "x", "y"))):
        lines = [f"{i:03d},{classes[i % len(classes)]}\n" for i in range(COUNT)]
        (root / f"{name}.csv").write_text("id,label\n" + "".join(lines))
    return root


@register(
    Accepted(COUNT, (), ignored=1, told=("test.csv",), suggested=("labels",)),
    Accepted(COUNT, options={"split": "test"}),
)
def table_of_another_split(root: Path) -> Path:
    """Bare names in a table that are also those of images of the split for training."""
    tables_beside_splits(root)
    (root / "train.csv").unlink()
    (root / "sample.csv").unlink()
    table = root / "test.csv"
    table.write_text(table.read_text().replace("a\n", "disc\n").replace("b\n", "square\n"))
    return root


@register(Accepted(COUNT, (), ignored=1, told=("test.csv", "no row for 2 of 6")))
def part_of_a_table_of_another_split(root: Path) -> Path:
    table_of_another_split(root)
    table = root / "test.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-2]))
    return root


@register(
    Refused("labels", ("train.csv", "data.labels none"), suggested=("source",)),
    Refused("labels", ("test.csv",), suggested=("source", "split"), options={"split": "test"}),
)
def tables_of_splits(root: Path) -> Path:
    """A folder of images and one table per split, as in competitions (bare names without endings)."""
    tree(root, "images", count=2 * COUNT)
    lines = [f"{i:03d},{CLASSES[i % 2]}\n" for i in range(2 * COUNT)]
    (root / "train.csv").write_text("id,label\n" + "".join(lines[:4]))
    (root / "test.csv").write_text("id,label\n" + "".join(lines[4:]))
    return root


@register(Accepted(ignored=1))
def hashes_in_parquet(root: Path) -> Path:
    """A table of features with bytes that are no images."""
    table_folder(root, "labels.csv", rows("id,label"))
    pq.write_table(pa.table({"hash": [b"0", b"1"]}), root / "features.parquet")
    return root


@register(Accepted(ignored=1))
def images_in_parquet(root: Path) -> Path:
    """Images in a parquet file, with one as a file for a web page."""
    parquet_of(["square", "disc"] * COUNT)(root)
    save_picture(root / "preview.png", 0, 0)
    return root


@register(Refused("source", ("parquet", "6")))
def images_and_images_in_parquet(root: Path) -> Path:
    parquet_of(["square", "disc"] * COUNT)(root)
    return tree(root, ".")


@register(Accepted(ignored=1, told=("features.parquet",), suggested=("labels",)))
def class_folders_with_parquet(root: Path) -> Path:
    class_folders(root)
    pq.write_table(pa.table({"a": [1, 2]}), root / "features.parquet")
    return root


@register(Refused("source", ("rename",)))
def names_not_utf_8(root: Path) -> Path:
    class_folders(root)
    os.rename(os.fsencode(root / "disc"), os.fsencode(root) + b"/caf\xe9")
    return root


@register(Refused("source", ("rename",)))
def names_with_control_characters(root: Path) -> Path:
    return class_folders(root, classes=("disc\n2", "square"))


@register(Refused("source", ("ffmpeg",)))
def videos(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    return root


@register(Refused("source", ("HEIC", "JPEG")))
def photos_of_a_phone(root: Path) -> Path:
    """HEIC files, which Pillow does not read (replicate/dreambooth#23, bmaltais/kohya_ss#1600)."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            (root / name / f"IMG_{i:04d}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    return root


@register(Accepted(ignored=1))
def some_photos_of_a_phone(root: Path) -> Path:
    class_folders(root)
    (root / "disc" / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    return root


@register(Refused("source", (".npz", "data.intensity")))
def medical_files(root: Path) -> Path:
    """DICOM and NIfTI files (perone/medicaltorch#7, matterport/Mask_RCNN#1983)."""
    for name, suffix in (("healthy", ".dcm"), ("ill", ".nii.gz")):
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            (root / name / f"{i}{suffix}").write_bytes(bytes(128) + b"DICM")
    return root


@register(Accepted(classes=("images", "masks"), told=("/images",), suggested=("source",)))
def segmentation(root: Path) -> Path:
    """Images with masks in a second folder (selimsef/dsb2018_topcoders#8)."""
    return tree(root, "images", "masks")


@register(Refused("source", ("unpack",)))
def archive(root: Path) -> Path:
    """A zip of class folders, as StyleGAN's tools write and people download."""
    import shutil

    class_folders(root / "content")
    return Path(shutil.make_archive(str(root / "images"), "zip", root / "content"))


# ------------------------------------------------------------------------------------------------------------ labels


def table_folder(root: Path, file: str, text: str) -> Path:
    """Save 12 pictures 000.png, 001.png, ... and a file that holds their labels."""
    root.mkdir(parents=True)
    for i in range(2 * COUNT):
        save_picture(root / f"{i:03d}.png", i % 2, i)
    (root / file).write_text(text)
    return root


def rows(header: str, delimiter: str = ",", suffix: str = ".png") -> str:
    """Return the text of a table of the file names and classes of `table_folder`."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(header.split(","))
    writer.writerows((f"{i:03d}{suffix}", CLASSES[i % 2]) for i in range(2 * COUNT))
    return stream.getvalue()


def columns(header: str, cells: Callable[[int], str]) -> str:
    """Return the text of a table of the file names of `table_folder`, and other cells of each row."""
    return f"{header}\n" + "".join(f"{i:03d}.png,{cells(i)}\n" for i in range(2 * COUNT))


def json_object(labels: Sequence[object]) -> str:
    """Return an object from the file names of `table_folder` to one of two labels."""
    return json.dumps({f"{i:03d}.png": labels[i % 2] for i in range(2 * COUNT)})


def table_folder_of(file: str, text: str) -> Make:
    return lambda root: table_folder(root, file, text)


INPUTS |= {
    "metadata_csv": (table_folder_of("metadata.csv", rows("file_name,label")), Accepted()),
    "metadata_jsonl": (
        table_folder_of("metadata.jsonl", "".join(
            json.dumps({"file_name": f"{i:03d}.png", "label": CLASSES[i % 2]}) + "\n" for i in range(2 * COUNT)
        )),
        Accepted(),
    ),
    "labels_csv": (table_folder_of("labels.csv", rows("id,label")), Accepted()),
    # Excel in many countries writes semicolons and a byte order mark (HumanSignal/label-studio#8569, kukur#279)
    "labels_csv_of_excel": (table_folder_of("labels.csv", "\ufeff" + rows("filename,label", ";")), Accepted()),
    # Kaggle's dog breeds
    "labels_csv_without_endings": (table_folder_of("labels.csv", rows("id,breed", suffix="")), Accepted()),
    "labels_csv_incomplete": (
        table_folder_of("labels.csv", "".join(rows("id,label").splitlines(True)[:-2])),
        Refused("labels", ("labels.csv", "no row for 2 of 12"), suggested=("source",)),
    ),
    "labels_csv_too_long": (
        table_folder_of("labels.csv", rows("id,label") + "999.png,disc\n"),
        Accepted(told=("labels.csv", "999.png")),
    ),
    "dataset_json": (
        table_folder_of("dataset.json", json.dumps(     # NVlabs/edm2#11
            {"labels": [[f"{i:03d}.png", i % 2] for i in range(2 * COUNT)]}
        )),
        Accepted(classes=NUMBERS),
    ),
    "dataset_json_number": (
        table_folder_of("dataset.json", json.dumps({"labels": 2})),
        Refused("labels", ("dataset.json", "pairs")),
    ),
    "labels_csv_nan": (
        table_folder_of("labels.csv", rows("id,label").replace("003.png,square", "003.png,nan")),
        Refused("label_column", ("003.png", "data.labels none")),
    ),
    "labels_csv_without_header": (
        table_folder_of("labels.csv", "".join(rows("", suffix="").splitlines(True)[1:])),
        Accepted(),
    ),
    "labels_csv_of_splits": (
        table_folder_of("labels.csv", "file_name,label,split\n" + "".join(
            f"{i:03d}.png,{CLASSES[i % 2]},{('train', 'test', 'public')[i // 4]}\n" for i in range(2 * COUNT)
        )),
        Refused("split", ("'split'", "labels.csv", "'public'", "validation")),
    ),
    "labels_csv_of_blank_splits": (
        table_folder_of("labels.csv", "file_name,label,split\n" + "".join(
            f"{i:03d}.png,{CLASSES[i % 2]},{'train' if i < 4 else ''}\n" for i in range(2 * COUNT)
        )),
        Refused("split", ("'split'", "labels.csv", "''", "validation")),
    ),
    "breeds_csv_incomplete": (
        table_folder_of("breeds.csv", "".join(rows("id,label").splitlines(True)[:-2])),
        Refused("labels", ("breeds.csv", "no row for 2 of 12"), suggested=("source",)),
    ),
    "breeds_csv_of_others": (
        table_folder_of("breeds.csv", "".join(rows("id,label").splitlines(True)[:3])),
        Accepted(classes=(), ignored=1, told=("breeds.csv", "no row for 10 of 12"), suggested=("source",)),
    ),
    "dataset_json_without_labels": (
        table_folder_of("dataset.json", json.dumps({"labels": None})),
        Accepted(classes=(), told=NO_CLASSES),
    ),
    "labels_csv_two_columns": (
        table_folder_of("labels.csv", columns("id,label,class", lambda i: f"{CLASSES[i % 2]},{i % 3}")),
        Refused("label_column", ("label, class",)),
        Accepted(classes=("0", "1", "2"), options={"label_column": "class"}),
        Refused("label_column", ("'id'", "label, class", "data.image_column"), options={"label_column": "id"}),
        Refused("label_column", ("'id'", "label, class"), options={"label_column": "id", "image_column": "id"}),
    ),
    "labels_csv_two_names": (
        table_folder_of("labels.csv", columns("id,class,class_name", lambda i: f"{i % 2},{CLASSES[i % 2]}")),
        Accepted(classes=NUMBERS, told=("'class'",), suggested=("label_column class_name",)),
        Accepted(options={"label_column": "class_name"}),
    ),
    "labels_csv_and_measurement": (
        table_folder_of("labels.csv", columns("id,label,y", lambda i: f"{CLASSES[i % 2]},{i}.5")),
        Accepted(),
    ),
    "labels_csv_same_header": (
        table_folder_of("labels.csv", columns("id,label,label", lambda i: f"{CLASSES[i % 2]},{i}")),
        Refused("labels", ("labels.csv", "'label'", "twice", "rename")),
    ),
    "labels_csv_open_quote": (
        table_folder_of("labels.csv", rows("id,label").replace("004.png", '"004.png')),
        Refused("labels", ("labels.csv", "line 6", "quote")),
    ),
    "labels_csv_odd_quotes": (
        table_folder_of(
            "labels.csv", rows("id,label").replace("004.png", '"004.png').replace("007.png,square", '007.png,"square"')
        ),
        Refused("labels", ("labels.csv", "line 6", "line 9", "quote")),
    ),
    "labels_csv_numbered_splits": (
        table_folder_of("labels.csv", columns("id,label,split", lambda i: f"{CLASSES[i % 2]},{i // 9}")),
        Accepted(told=("'split'", "'0', '1'", "validation")),
        Refused("split", suggested=("split train",), options={"split": "test"}),
    ),
    "labels_csv_with_splits": (
        table_folder_of(
            "labels.csv", columns("file,label,split", lambda i: f"{CLASSES[i % 2]},{'train' if i < 8 else 'test'}")
        ),
        Accepted(8, ignored=4),
        Accepted(8, (), ignored=4, told=("labels.csv", "'train'"), options={"labels": "none"}),
        Accepted(4, (), ignored=8, options={"labels": "none", "split": "test"}),
        Refused("split", ("labels.csv", "test, train"), options={"labels": "none", "split": "val"}),
    ),
    "labels_csv_in_both_splits": (
        table_folder_of("labels.csv", columns("file,label,split", lambda i: (
            f"{CLASSES[i % 2]},train\n{i:03d}.png,{CLASSES[i % 2]},{('test', 'train')[i % 2]}"
        ))),
        Accepted(told=("6 images", "'train'", "other splits", "000.png")),
    ),
    "labels_csv_name_with_space": (
        table_folder_of("labels.csv", columns("id,class,class name", lambda i: f"{i % 2},{CLASSES[i % 2]}")),
        Accepted(classes=NUMBERS, suggested=("label_column 'class name'",)),
    ),
    "labels_csv_long_numbers": (
        table_folder_of("labels.csv", columns("id,label", lambda i: f"{10**19 + i % 2}")),
        Accepted(classes=(str(10**19), str(10**19 + 1))),
    ),
    "labels_csv_declared_delimiter": (      # what Excel writes or reads, also in quotes
        table_folder_of("labels.csv", "sep=;\n" + columns("id,label", lambda i: CLASSES[i % 2]).replace(",", ";")),
        Accepted(),
    ),
    "labels_csv_declared_odd_delimiter": (
        table_folder_of("labels.csv", '"sep=^"\n' + columns("id,label", lambda i: CLASSES[i % 2]).replace(",", "^")),
        Accepted(),
    ),
    "labels_csv_empty_first_line": (
        table_folder_of("labels.csv", "\n\n" + columns("id,label", lambda i: CLASSES[i % 2]).replace(",", ";")),
        Accepted(),
    ),
    "labels_csv_commas_in_header": (
        table_folder_of("labels.csv", "id;label;notes (a, b, c, d)\n" + "".join(
            f"{i:03d}.png;{CLASSES[i % 2]};{i}\n" for i in range(TWO)
        )),
        Accepted(),
    ),
    "labels_csv_spaces_before_quotes": (
        table_folder_of("labels.csv", '"id", "label"\n' + "".join(
            f'"{i:03d}.png", "{CLASSES[i % 2]}"\n' for i in range(TWO)
        )),
        Accepted(),
    ),
    "labels_csv_commas_at_ends": (
        table_folder_of("labels.csv", columns("id,label", lambda i: f"{CLASSES[i % 2]},")),
        Accepted(),
    ),
    "labels_csv_unquoted_commas": (
        table_folder_of("labels.csv", columns("id,label", lambda i: CLASSES[i % 2] + ", red" * (i == 5))),
        Refused("labels", ("labels.csv", "line 7", "3 cells", "double quotes")),
    ),
    "labels_jsonl_nan": (
        table_folder_of("labels.jsonl", "".join(
            json.dumps({"file_name": f"{i:03d}.png", "label": CLASSES[i % 2], "score": float("nan"), "box": [i]}) + "\n"
            for i in range(TWO)
        )),
        Accepted(),
    ),
    "labels_json_nan": (
        table_folder_of("labels.json", json_object((float("nan"), "disc"))),
        Refused("label_column", ("000.png", "no label", "data.labels none")),
    ),
    "labels_json_mixed": (
        table_folder_of("labels.json", json_object((1, "1"))),
        Refused("label_column", ("000.png", "001.png", "'1' (str)", "1 (int)", "data.labels none")),
    ),
    "labels_json_truth_mixed": (
        table_folder_of("labels.json", json_object((True, 0))),
        Refused("label_column", ("001.png", "0 (int)", "True (bool)")),
    ),
    "labels_json_objects": (
        table_folder_of("labels.json", json_object([{"label": name, "box": [0, 1]} for name in CLASSES])),
        Accepted(),
    ),
    "labels_json_named_objects": (
        table_folder_of("labels.json", json.dumps(
            {str(i): {"filename": f"{(i + 1) % TWO:03d}.png", "class": CLASSES[(i + 1) % 2]} for i in range(TWO)}
        )),
        Accepted(),
    ),
    "labels_json_objects_of_objects": (
        table_folder_of("labels.json", json_object([{"label": {"name": name}} for name in CLASSES])),
        Refused("label_column", ("000.png", "an object", "'name': 'disc'", "data.labels none")),
    ),
    "labels_json_lists": (
        table_folder_of("labels.json", json_object([[name] for name in CLASSES])),
        Refused("label_column", ("000.png", "multi-label", "['disc']", "data.labels none")),
    ),
    "labels_json_twice": (
        table_folder_of("labels.json", '{"000.png": "square", ' + json_object(CLASSES)[1:]),
        Refused("labels", ("labels.json", "'000.png'", "twice")),
    ),
    "labels_jsonl_broken": (
        table_folder_of("labels.jsonl", "".join(
            json.dumps({"file_name": f"{i:03d}.png", "label": CLASSES[i % 2]})[: -3 if i == 7 else None] + "\n\n"
            for i in range(2 * COUNT)
        )),
        Refused("labels", ("labels.jsonl", "line 15")),
    ),
    "labels_jsonl_number": (
        table_folder_of("labels.jsonl", '{"file_name": "000.png", "label": "disc"}\n3\n'),
        Refused("labels", ("labels.jsonl", "line 2")),
    ),
    "labels_txt": (
        table_folder_of("labels.txt", rows("", " ")),
        Accepted(classes=(), ignored=1, told=("labels.txt", ".csv")),
        Refused("labels", ("labels.txt", ".csv"), options={"labels": "labels.txt"}),
    ),
}


@register(Accepted(ignored=4))
def pipes(root: Path) -> Path:
    """Pipes with the names of a table, an image and an array, which never end if they are read."""
    class_folders(root)
    for name in ("labels.csv", "dataset.json", "disc/pipe.png", "images.npy"):
        os.mkfifo(root / name)
    return root


@register(Refused("source", ("pipe", "write its content to a file")))
def pipe(root: Path) -> Path:
    return pipes(root) / "labels.csv"


@register(
    Refused("labels", ("metadata.csv", "labels.csv"), suggested=("labels",)),
    Accepted(ignored=1, options={"labels": "labels.csv"}),
)
def tables_that_differ(root: Path) -> Path:
    table_folder(root, "labels.csv", rows("id,label"))
    (root / "metadata.csv").write_text(columns("file_name,label", lambda i: f"{i % 3}"))
    return root


@register(
    Accepted(classes=NUMBERS, ignored=1, told=("metadata.csv", "labels.csv"), suggested=("labels",)),
    Accepted(ignored=1, options={"labels": "labels.csv"}),
)
def tables_that_agree(root: Path) -> Path:
    table_folder(root, "labels.csv", rows("id,label"))
    (root / "metadata.csv").write_text(columns("file_name,label", lambda i: f"{i % 2}"))
    return root


@register(
    Accepted(8, ignored=4, told=("parts.csv",)),
    Accepted(4, ignored=8, told=("parts.csv",), options={"split": "test"}),
    Accepted(8, (), ignored=5, options={"labels": "none"}),
)
def tables_of_labels_and_of_splits(root: Path) -> Path:
    table_folder(root, "labels.csv", rows("id,label"))
    (root / "parts.csv").write_text(columns("id,split", lambda i: "test" if i < 4 else "train"))
    return root


@register(Accepted(), Refused("labels", ("filename",), options={"labels": "folders"}))
def table_csv(root: Path) -> Path:
    """A table that is itself the source."""
    flat(root / "images")
    lines = [f"images/{name}_{i:03d}.png,{name}\n" for name in CLASSES for i in range(COUNT)]
    (root / "table.csv").write_text("image,label\n" + "".join(lines))
    return root / "table.csv"


@register(Accepted(2, (), told=("2 rows",)))
def table_that_repeats_an_image(root: Path) -> Path:
    tree(root, ".", count=1)
    (root / "table.csv").write_text("image\n000.png\n000.png\n")
    return root / "table.csv"


@register(
    Refused("label_column", ("caption", "data.labels none")),
    Refused("label_column", ("data.labels none",), options={"labels": "none", "label_column": "caption"}),
    Accepted(classes=(), options={"labels": "none"}),
    Accepted(options={"labels": "filename"}),
)
def table_of_captions(root: Path) -> Path:
    """A table whose captions are longer than names of files can be, and which names images without endings."""
    flat(root / "images")
    lines = [f"{'a word ' * 60}{name} {i},images/{name}_{i:03d}\n" for name in CLASSES for i in range(COUNT)]
    (root / "table.csv").write_text("caption,image\n" + "".join(lines))
    return root / "table.csv"


@register(
    Accepted(suggested=("labels", "split Meta"), ignored=3, classes=NUMBERS),
    Accepted(suggested=("split Meta",), ignored=2, classes=NUMBERS, options={"split": "test"}),
    Refused("label_column", ("Test.csv",), options={"split": "test", "label_column": "Klass"}),
)
def tables_of_traffic_signs(root: Path) -> Path:
    """Classes as folders for training, and in a table for testing, beside icons of the classes with a table (GTSRB)."""
    class_folders(root / "Train", classes=NUMBERS)
    for name in ("Test", "Meta"):
        tree(root / name, ".", count=TWO)
    for name in ("Train", "Test", "Meta"):
        paths = [path.relative_to(root) for path in sorted((root / name).rglob("*.png"))]
        lines = [f"{path.as_posix()},{30 + i},30,{i * 2 // len(paths)}\n" for i, path in enumerate(paths)]
        (root / f"{name}.csv").write_text("Path,Width,Height,ClassId\n" + "".join(lines))
    return root


@register(Accepted(COUNT, (), ignored=3, told=("Train.csv' and 2 more tables", "data.label_column (Width, Sort)")))
def tables_with_unknown_labels(root: Path) -> Path:
    """The table that names the images is told of, and not the first one."""
    for name in ("Test", "Train"):
        tree(root / name, ".")
    for name in ("Test", "Train", "About"):
        lines = [f"{name}/{'icon' * (name == 'About')}{i:03d}.png,{i},{i}\n" for i in range(COUNT)]
        (root / f"{name}.csv").write_text("Path,Width,Sort\n" + "".join(lines))
    return root


@register(Refused("image_column", ("pixels", ".npz", "785 in all")))
def pixels_in_columns(root: Path) -> Path:
    """MNIST as a table."""
    root.mkdir()
    cells = [["label", *(f"pixel{i}" for i in range(784))], *([str(i % 2), *["0"] * 784] for i in range(TWO))]
    (root / "mnist_train.csv").write_text("".join(",".join(line) + "\n" for line in cells))
    return root / "mnist_train.csv"


@register(Refused("image_column", ("pixels", ".npz", "785 in all")))
def pixels_without_header(root: Path) -> Path:
    """MNIST as a table, in another version."""
    root.mkdir()
    (root / "mnist_train.csv").write_text("".join(f"{5 + i % 2},{'0,' * 400}{i},{'0,' * 382}0\n" for i in range(TWO)))
    return root / "mnist_train.csv"


@register(Refused("image_column", ("pixels", ".npz", "emotion, pixels, Usage")))
def pixels_in_cells(root: Path) -> Path:
    """FER2013."""
    root.mkdir()
    lines = [f"{i % 2},{'70 80 ' * 1152},Training\n" for i in range(TWO)]
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "".join(lines))
    return root / "fer2013.csv"


@register(
    Accepted(ignored=3, told=("test.txt", "and 1 more", "`file_name` and `split`")),
    Accepted(ignored=3, told=("test.txt",), options={"labels": "folders"}),
)
def lists_of_splits(root: Path) -> Path:
    """Class folders beside lists of the images for training and testing, and of classes (Food-101)."""
    class_folders(root)
    for name, numbers in (("train", range(4)), ("test", range(4, COUNT))):
        (root / f"{name}.txt").write_text("".join(f"{kind}/{i:03d}\n" for kind in CLASSES for i in numbers))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@register(Accepted(8, ignored=7), Accepted(4, ignored=11, options={"split": "test"}))
def lists_of_splits_and_table(root: Path) -> Path:
    """The table that the note on such lists proposes."""
    lists_of_splits(root)
    lines = [f"{line},{name}\n" for name in ("train", "test") for line in (root / f"{name}.txt").read_text().split()]
    (root / "splits.csv").write_text("file_name,split\n" + "".join(lines))
    return root


def encoded(kind: int, i: int) -> dict[str, bytes | None]:
    """Return a picture as parquet files store it."""
    stream = io.BytesIO()
    picture(kind, i).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def parquet_of(labels: object, column: str = "label", **more: object) -> Make:
    def make(root: Path) -> Path:
        root.mkdir(parents=True)
        images = [encoded(i % 2, i) for i in range(2 * COUNT)]
        pq.write_table(pa.table({"image": images, column: labels, **more}), root / "table.parquet")
        return root / "table.parquet"

    return make


def parquet_of_values(image: Callable[[int], object]) -> Make:
    """Return a maker of a parquet file whose column `image` has no encoded images."""

    def make(root: Path) -> Path:
        root.mkdir(parents=True)
        table = {"image": [image(i) for i in range(TWO)], "label": [*CLASSES] * COUNT}
        pq.write_table(pa.table(table), root / "table.parquet")
        return root / "table.parquet"

    return make


def refused_twice(*told: str) -> tuple[Refused, Refused]:
    """Return the same refusal with the column of images named and without."""
    return Refused("image_column", told), Refused("image_column", told, options={"image_column": "image"})


INPUTS |= {
    "parquet_of_lists": (
        parquet_of_values(lambda i: gray(i % 2, i).tolist()),
        *refused_twice("'image'", "lists of numbers", "numpy.savez", ".npz"),
    ),
    "parquet_of_flat_lists": (
        parquet_of_values(lambda i: gray(i % 2, i).ravel().tolist()),
        *refused_twice("'image'", "lists of numbers", "numpy.savez"),
    ),
    "parquet_of_paths": (
        parquet_of_values(lambda i: f"images/{i:03d}.png"),
        *refused_twice("'image'", "text, such as 'images/000.png'", ".csv"),
    ),
    "parquet_of_base64": (
        parquet_of_values(lambda i: base64.b64encode(encoded(i % 2, i)["bytes"]).decode()),
        *refused_twice("'image'", "base64", "b64decode"),
    ),
    "parquet_of_numbers": (parquet_of_values(lambda i: i), *refused_twice("'image'", "int64", "bytes")),
    "parquet_with_phases": (
        parquet_of([*CLASSES] * COUNT, phase=["train", "test"] * COUNT, text=["a train"] * TWO),
        Accepted(told=("'phase'", "one parquet file per value")),
    ),
    "parquet_float": (
        parquet_of([0.0, 1.0] * COUNT),
        Refused("label_column", ("row 0", "float", "data.labels none")),
    ),
    "parquet_nan": (
        parquet_of(pa.array([0.0, float("nan")] * COUNT)),
        Refused("label_column", ("row 1", "data.labels none")),
    ),
    "parquet_none": (parquet_of(pa.array([0, None] * COUNT)), Refused("label_column", ("row 1",))),
    "parquet_bool": (parquet_of([False, True] * COUNT), Accepted(classes=("False", "True"))),
    "parquet_text": (parquet_of(["square", "disc"] * COUNT), Accepted()),
    # NVlabs/stylegan2-ada-pytorch#269
    "parquet_lists": (parquet_of([[0, 1], [1]] * COUNT), Refused("label_column", ("list",))),
    "parquet_digits": (
        parquet_of([str(i) for i in range(2 * COUNT)]),
        Accepted(classes=tuple(sorted(str(i) for i in range(TWO)))),
    ),
    "parquet_gap": (
        parquet_of([10, 20] * COUNT),
        Refused("label_column", ("0 is missing", "row 0", "data.labels none")),
    ),
    "parquet_empty_text": (parquet_of(["", "disc"] * COUNT), Refused("source", ("''", "row 0"))),
    "parquet_capital": (parquet_of(["square", "disc"] * COUNT, "Label"), Accepted()),
    "parquet_odd_column": (
        parquet_of(["square", "disc"] * COUNT, "breed"),
        Refused("label_column", ("breed",)),
        Accepted(options={"label_column": "breed"}),
    ),
    "parquet_two_columns": (
        parquet_of(["square", "disc"] * COUNT, **{"class": [0, 1, 2] * (2 * COUNT // 3)}),
        Refused("label_column", ("label, class",)),
        Accepted(classes=("0", "1", "2"), options={"label_column": "class"}),
    ),
    "parquet_splits": (
        parquet_of(["square", "disc"] * COUNT, split=["train"] * COUNT + ["test"] * COUNT),
        Accepted(told=("'split'", "parquet")),
    ),
    "parquet_one_class": (parquet_of(["disc"] * (2 * COUNT)), Accepted(classes=(), told=("data.label",))),
    "parquet_bytes": (
        parquet_of([b"square", b"disc"] * COUNT),
        Refused("label_column", ("'label'", "bytes", "text", "data.labels none")),
        Refused("label_column", ("'label'", "bytes", "text"), options={"label_column": "label"}),
        Accepted(classes=(), options={"labels": "none"}),
    ),
    "parquet_structs": (
        parquet_of([{"id": 0, "name": "square"}, {"id": 1, "name": "disc"}] * COUNT),
        Refused("label_column", ("'label'", "id, name", "data.labels none")),
        Refused("label_column", ("'label'", "id, name"), options={"label_column": "label"}),
    ),
    "parquet_masks": (
        parquet_of([0, 1] * COUNT, mask=[encoded(0, i) for i in range(TWO)], hash=[b"0"] * TWO),
        Accepted(classes=NUMBERS, told=("'image'",), suggested=("image_column mask",)),
        Accepted(classes=NUMBERS, options={"image_column": "image"}),
    ),
}


@register(Refused("source", ("table.parquet", "contains no images")))
def parquet_without_rows(root: Path) -> Path:
    file = parquet_of([0, 1] * COUNT)(root)
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    return file


@register(Refused("source", ("table.parquet", "contains no images")))
def folder_with_a_parquet_without_rows(root: Path) -> Path:
    file = parquet_without_rows(root)
    parquet_of([0, 1] * COUNT)(root / "more")
    return file.parent


@register(Accepted(classes=(), told=("'label=disc'", "python -c"), suggested=("source",)))
def parquet_in_partitions(root: Path) -> Path:
    """Parquet files whose labels are in the names of their folders, as Hive and Spark write them."""
    for kind, name in enumerate(CLASSES):
        (root / f"label={name}").mkdir(parents=True)
        pq.write_table(pa.table({"image": [encoded(kind, i) for i in range(COUNT)]}), root / f"label={name}/0.parquet")
    return root


def npz_of(channels: int = 3, **change: Callable[[np.ndarray, np.ndarray], object]) -> Make:
    """Return a maker of an .npz; `change` maps names of its arrays to functions of images and labels."""

    def make(root: Path) -> Path:
        root.mkdir(parents=True)
        images, labels = array(channels)
        parts = {"images": lambda x, y: x, "labels": lambda x, y: y} | change
        np.savez(root / "images.npz", **{name: part(images, labels) for name, part in parts.items() if part})
        return root / "images.npz"

    return make


INPUTS |= {
    "npz": (npz_of(), Accepted(classes=NUMBERS)),
    "npz_float_labels": (
        npz_of(labels=lambda x, y: y.astype(float)),
        Refused("source", ("row 0", "float", "data.labels none")),
    ),
    "npz_label_column": (npz_of(labels=lambda x, y: y[:, None]), Refused("source", ("labels", "(12, 1)"))),
    "npz_one_hot": (npz_of(labels=lambda x, y: np.eye(2)[y]), Refused("source", ("labels", "argmax"))),
    "npz_bool_labels": (npz_of(labels=lambda x, y: y.astype(bool)), Accepted(classes=("False", "True"))),
    "npz_gap": (
        npz_of(labels=lambda x, y: y * 5),
        Refused("source", ("1 is missing", "row 1", "data.labels none")),
    ),
    "npz_one_based": (
        npz_of(labels=lambda x, y: y + 1),
        Refused("source", ("0 is missing", "row 0", "data.labels none")),
    ),
    "npz_negative": (npz_of(labels=lambda x, y: y - 1), Refused("source", ("row 0", "-1", "data.labels none"))),
    "npz_text_labels": (npz_of(labels=lambda x, y: np.array(["square", "disc"])[y]), Accepted()),
    "npz_text_labels_and_names": (
        npz_of(
            labels=lambda x, y: np.array(["square", "disc"])[y], class_names=lambda x, y: np.array(["square", "disc"])
        ),
        Accepted(classes=("square", "disc")),
    ),
    "npz_text_labels_beyond_names": (
        npz_of(
            labels=lambda x, y: np.array(["square", "disc"])[y], class_names=lambda x, y: np.array(["disc", "hexagon"])
        ),
        Refused("source", ("row 0", "'square'", "disc, hexagon", "data.labels none")),
    ),
    "npz_bytes_labels": (
        npz_of(labels=lambda x, y: np.array([b"square", b"disc"])[y]),
        Refused("source", ("images.npz", "labels.astype(str)")),
    ),
    "npz_huge_labels": (
        npz_of(labels=lambda x, y: y.astype(np.uint64) + np.uint64(2**63)),
        Refused("source", ("row 0", str(2**63), "data.labels none")),
    ),
    "npz_object_labels": (
        npz_of(labels=lambda x, y: np.array(["a", None] * COUNT, dtype=object)),
        Refused("source", ("images.npz",)),
    ),
    "npz_without_labels": (npz_of(labels=None), Accepted(classes=(), told=("labels",))),
    **{
        f"npz_{name}": (npz_of(labels=None, **{name: lambda x, y: y}), Accepted(classes=NUMBERS))
        for name in ("label", "y", "targets", "classes")
    },
    "npz_usual_one_hot": (npz_of(labels=None, y=lambda x, y: np.eye(2)[y]), Refused("source", ("y.argmax(1)",))),
    "npz_odd_labels": (
        npz_of(labels=None, breed=lambda x, y: y, mean=lambda x, y: np.zeros(3)),
        Accepted(classes=(), told=("breed; ", "save it as 'labels'")),
    ),
    "npz_two_labels": (npz_of(y=lambda x, y: y[::-1]), Accepted(classes=NUMBERS, told=("'labels'", "not used: y"))),
    "npz_splits": (
        npz_of(split=lambda x, y: np.array(["train", "test"])[y]),
        Accepted(classes=NUMBERS, told=("'split'", "one .npz")),
    ),
    "npz_only_class_names": (
        npz_of(labels=None, class_names=lambda x, y: np.array(CLASSES)),
        Accepted(classes=(), told=("'class_names'", "no array of labels")),
    ),
    "npz_4_channels": (npz_of(4), Accepted(classes=NUMBERS, channels=4)),
    "npz_5_channels": (npz_of(5), Accepted(classes=NUMBERS, channels=5)),
    "npz_channels_first": (
        npz_of(images=lambda x, y: x.transpose(0, 3, 1, 2).copy()),
        Refused("source", ("images.npz", "transpose(0, 2, 3, 1)")),
    ),
    "npz_last_of_2_channels": (
        npz_of(images=lambda x, y: np.stack([0 * x[..., 0], x[..., 0]], axis=3)),
        Accepted(classes=NUMBERS, channels=2),
    ),
    "npz_class_names_object": (
        npz_of(class_names=lambda x, y: np.array(["disc", "square"], dtype=object)),
        Refused("source", ("class_names", "astype(str)")),
    ),
    "npz_int64": (npz_of(images=lambda x, y: x.astype(np.int64)), Accepted(classes=NUMBERS)),
    "npz_spectral": (
        npz_of(images=lambda x, y: np.repeat(x[:, :12, :, :1], 16, axis=3)),
        Refused("source", ("images.npz", "transpose(0, 2, 3, 1)", "16")),
    ),
    "npz_float": (
        npz_of(images=lambda x, y: x.astype(np.float32) / 127.5 - 1),
        Accepted(classes=NUMBERS, suggested=("intensity",)),
    ),
    "npz_uint16": (npz_of(images=lambda x, y: x.astype(np.uint16) * 257), Accepted(classes=NUMBERS)),
    "npz_of_keras": (
        npz_of(x_train=lambda x, y: x, y_train=lambda x, y: y, images=None, labels=None),
        Refused("source", ("images.npz", "x_train")),
    ),
    "npz_not_square": (
        npz_of(images=lambda x, y: x[:, :10]),
        Accepted(classes=NUMBERS, resolution=8, suggested=("fit", "resolution")),
    ),
    "npz_1000_classes": (
        npz_of(images=lambda x, y: np.tile(x[:1, :8, :8], (2000, 1, 1, 1)),
                                   labels=lambda x, y: np.repeat(np.arange(1000), 2)),
        Accepted(2000, tuple(map(str, range(1000))), resolution=8),
    ),
}


def array_each(
    suffix: str, *folders: str, make: Callable[[int, int], np.ndarray] = gray, name: str = "x", beside: str = "id"
) -> Make:
    """Return a maker of folders with one array per image; in an .npz it has a name, and a number beside it."""

    def save_array(path: Path, kind: int, i: int) -> None:
        np.save(path, make(kind, i)) if suffix == ".npy" else np.savez(path, **{name: make(kind, i), beside: kind})

    def make_all(root: Path) -> Path:
        for kind, folder in enumerate(folders):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(COUNT):
                save_array(root / folder / f"{kind}{i:03d}{suffix}", kind, i)
        return root

    return make_all


INPUTS |= {
    "npy_each": (
        array_each(".npy", ".", "."),
        Refused("source", ("12 arrays", "0000.npy", "python -c"), suggested=("source",)),
    ),
    "npy_each_in_classes": (
        array_each(".npy", *CLASSES, make=lambda k, i: np.asarray(picture(k, i))),
        Refused("source", ("12 arrays", "0000.npy", "python -c", "labels="), suggested=("source",)),
    ),
    "npy_each_float": (
        array_each(".npy", "it's", "a \"b\"", make=lambda k, i: gray(k, i) / 255),
        Refused("source", ("12 arrays", "python -c", "labels="), suggested=("source",)),
    ),
    "npz_each": (
        array_each(".npz", ".", name="image"),
        Refused("source", ("6 arrays", "0000.npz", "python -c"), suggested=("source",)),
    ),
    "npz_each_in_classes": (
        array_each(".npz", "disc/day 1", "square/day 1", name="arr_0"),
        Refused("source", ("12 arrays", "python -c", "labels="), suggested=("source",)),
    ),
    "npy_each_channels_first": (
        array_each(".npy", ".", make=lambda k, i: np.asarray(picture(k, i)).transpose(2, 0, 1)),
        Refused("source", ("6 arrays", "python -c", "moveaxis"), suggested=("source",)),
    ),
    "npy_each_narrow_channels_first": (
        array_each(".npy", ".", make=lambda k, i: np.asarray(picture(k, i))[:, :4].transpose(2, 0, 1)),
        Refused("source", ("6 arrays", "python -c", "moveaxis"), suggested=("source",)),
    ),
    "npy_of_several_each": (
        array_each(".npy", *CLASSES, make=lambda k, i: np.stack([gray(k, j) for j in range(9)])),
        Refused("source", ("0000.npy",), suggested=("source",)),
    ),
    "npz_each_with_label": (
        array_each(".npz", ".", ".", name="image", beside="label"),
        Refused("source", ("12 arrays", "python -c", '["label"]'), suggested=("source",)),
    ),
    "npz_each_of_several_channels": (
        array_each(".npz", *CLASSES, make=lambda k, i: np.dstack([gray(k, i)] * 7)),
        Refused("source", ("12 arrays", "python -c", "labels="), suggested=("source",)),
    ),
    "npy_each_of_several_shapes": (
        array_each(".npy", ".", make=lambda k, i: gray(k, i)[i:]),
        Refused("source", ("6 arrays", "PNG")),
    ),
}


@register(Refused("source", ("the images.npy",), suggested=("source",)))
def npy_beside_labels(root: Path) -> Path:
    """A folder with an array of images and one of labels, as preprocessing scripts write it."""
    root.mkdir(parents=True)
    for name, values in zip(("all labels", "the images"), reversed(array()), strict=True):
        np.save(root / f"{name}.npy", values)
    return root


@register(Refused("source", ("x_train.npy",), suggested=("source",)))
def npy_of_keras(root: Path) -> Path:
    """Arrays of gray images and labels for training and testing."""
    root.mkdir(parents=True)
    images, labels = array(1)
    for split, rows in (("test", slice(5)), ("train", slice(None))):
        np.save(root / f"x_{split}.npy", images[rows, ..., 0])
        np.save(root / f"y_{split}.npy", labels[rows])
    return root


@register(Accepted(classes=(), told=("labels",)))
def npy(root: Path) -> Path:
    root.mkdir(parents=True)
    np.save(root / "images.npy", array()[0])
    return root / "images.npy"
