"""Loading of a data source as ImageData."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm.data.counts import format_count
from ddpm.data.folders.split_names import split_groups
from ddpm.data.images import ImageData, OnDemand
from ddpm.data.notes import (
    count_classes,
    describe_balance,
    describe_brightness,
    describe_copies,
    describe_decisions,
    describe_gray_content,
)
from ddpm.data.pixels.decisions import FormatOptions, pixel_facts
from ddpm.data.pixels.decode import IntensityRange, UnreadableImage
from ddpm.data.pixels.fits import FITS
from ddpm.data.pixels.frames import FRAMES, FramePictures
from ddpm.data.pixels.pixel_cache import PixelCache, StorageLimits
from ddpm.data.pixels.reading import evenly_spaced, examine_decoded, read_pictures
from ddpm.data.pixels.survey import MAX_SURVEYED
from ddpm.data.records import Pictures, Records, located
from ddpm.data.request import DataRequest
from ddpm.data.slices import Part, parse_split
from ddpm.data.sources.kinds import load_records
from ddpm.names import lookup

ON_BAD_IMAGE = {"error": False, "skip": True}  # whether to omit the image
BRIGHTNESS_IMAGES = 256  # that are decoded to find the brightest value, if they are not in memory


def load_data(
    source: str = "digits",
    resolution: int | None = None,
    *,
    split: str = "train",
    image_column: str | None = None,
    label_column: str | None = None,
    labels: str = "auto",
    channels: int | None = None,
    intensity: Sequence[float] | None = None,
    fit: str = "crop",
    frames: str = "first",
    default_intensity: IntensityRange | None = None,
    on_bad_image: str = "error",
    memory_gb: float = 4.0,
    cache_gb: float = 64.0,
) -> ImageData:
    """Return the labeled images of a source: upright, square, and of equal size and channels.

    How pictures become pixels is decided from all pictures of the split, so that their order does not matter (above
    65,536, from so many, evenly spaced). Images are decoded into a file of the cache, where later calls find them, or
    into memory if they are small or the cache cannot be used. If they do not fit, they are decoded on access. With
    `skip` all images are decoded once at the beginning in any case, because omitting an image later would shift the
    indices of the others.

    Args:
        source: `digits`; a folder of images, with or without folders of classes and of splits; a table that lists
            images; a parquet file, or a folder of them; an .npz or .npy; a folder written by `save_to_disk`; or the
            name of a dataset on the Hugging Face Hub.
        resolution: height and width in pixels, 1 or more; None for the side of the largest square that fits in nine
            of ten images, rounded down to a multiple of 4, from 4 to 64.
        split: the split to read. A single file, and a folder without splits, is `train`. Rows are selected as in
            `train[:1500]`, `train[-500:]` or `train[10%:20%]`, in the order of the source, or from a folder of images
            with classes in proportion from each class; classes are those of the whole split. Another letter case or a
            usual synonym finds the split, too (`val`, `Validation`, `dev`).
        image_column: the column of images; None to infer it.
        label_column: the column of labels (ids or names); None to infer it.
        labels: `auto`, `none` to ignore labels, `folders` for class folders whatever tables there are, `filename` for
            the part of the file names before the first underscore, or the path of a table of file names and labels (of
            an .npy of labels, if the source is an .npy). Without labels, or if all are equal, there are no classes:
            `class_names` is empty, and all labels are 0.
        channels: 1 (gray), 3 (RGB), 2 or 4 (the same with alpha, which otherwise is composited over white), or the
            number that arrays have; None for 3 if any image has color, otherwise 1, or for the number of arrays.
        intensity: the values [low, high] that become 0 and 255; others are clipped. None keeps values of uint8, and
            scales others by one range for all images: the bit depth in use for integers (0 to 255, 1023, 4095, 16383
            or 65535), otherwise from the lowest to the highest value.
        fit: how images become squares: `crop` (the center), `pad` (with black) or `stretch`.
        frames: of animations and files with several pages: `first`, or `all` as one image each.
        default_intensity: the same for values that are not uint8, in place of the derived range, as for images that are
            compared with those of another source.
        on_bad_image: `error`, or `skip` to omit and count unreadable images.
        memory_gb: maximum size of images in memory, in 1e9 bytes of uint8 pixels; above 0.
        cache_gb: maximum size of images in the cache, likewise; 0 to use none. `ddpm.data.pixels.pixel_cache` says what
            is cached, where, and when it is found.

    Raises:
        ValueError: if an option is out of range, the source or a column does not exist, a label is unusable, all
            selected rows of several classes have one class, or an image is unreadable, or with `skip` all of a class;
            names the option.
    """
    options = _check_options(resolution, channels, intensity, default_intensity, fit)
    if not memory_gb > 0:
        raise ValueError(f"data.memory_gb: {memory_gb} is out of range; allowed: above 0")
    if not cache_gb >= 0:
        raise ValueError(f"data.cache_gb: {cache_gb} is out of range; allowed: 0 or more")
    skip = lookup(ON_BAD_IMAGE, on_bad_image, "data.on_bad_image")
    expand = lookup(FRAMES, frames, "data.frames")

    selection = parse_split(split)
    request = DataRequest(source, selection.split, image_column, label_column, labels)
    records = load_records(request)
    part = replace(selection, split=records.split).part(len(records.labels))
    used, notes = _select_rows(records, part, split)
    if records.class_names and len(used.labels.unique()) < 2:
        raise ValueError(
            f"data.split: all images of {split!r} have class {records.class_names[int(used.labels[0])]!r}; a "
            f"class-conditional model needs two classes: {_other_rows(records)}, {request.classless_remedy}"
        )
    expanded = expand(used.pictures, used.rows)
    if expanded is not None:
        notes += (f"each frame or page is an image: {len(expanded):,}, in {format_count(len(used), 'file')}",)
        used = _select_frames(expanded, records)

    limits = StorageLimits(memory_gb * 1e9, cache_gb * 1e9)
    survey, target, pixels, bad, facts, cache = read_pictures(
        source, used.pictures, used.rows, options, skip, limits
    )
    if bad:
        good = torch.ones(len(used), dtype=torch.bool)
        good[bad] = False
        if records.class_names:
            _check_classes_left(used, good, records.class_names, request)
        used = used.take(good)
    store = OnDemand(used.pictures, used.rows, target)
    if facts is None:
        facts = examine_decoded(_some_pixels(store), survey, target)._replace(gray=False)
    identity = {"split": _identify_part(part), "classes": records.class_names} | pixel_facts(survey, target)
    if expanded is not None:
        identity["frames"] = "all"
    content = _identify(identity, used.labels, records.pictures, used.files, cache)
    copies: Iterable[str] = ()
    if records.class_names:
        labels_of_files = records.labels[content.files]
        copies = describe_copies(content.hashes, labels_of_files, content.files, records.pictures.where)
    return ImageData(
        store if pixels is None else pixels,
        used.labels,
        records.class_names,
        skipped=len(bad),
        fingerprint=content.fingerprint,
        contents=content.hashes,
        part=part,
        format=target,
        survey=survey,
        frames=frames,
        ignored=records.ignored,
        notes=(
            *records.notes,
            *notes,
            *describe_decisions(survey, options, target),
            *describe_brightness(facts, survey, target),
            *describe_gray_content(facts, options),
            *describe_balance(count_classes(used.labels, len(records.class_names)), records.class_names),
            *copies,
        ),
    )


def _check_options(
    resolution: int | None,
    channels: int | None,
    intensity: Sequence[float] | None,
    default_intensity: IntensityRange | None,
    fit: str,
) -> FormatOptions:
    """Return the options of the format; raise ValueError if one is out of range."""
    if resolution is not None and resolution < 1:
        raise ValueError(f"data.resolution: {resolution} is out of range; allowed: 1 or more pixels")
    if channels is not None and channels < 1:
        raise ValueError(f"data.channels: {channels} is out of range; allowed: 1 or more")
    if intensity is not None and not (len(intensity) == 2 and -math.inf < intensity[0] < intensity[1] < math.inf):
        raise ValueError(f"data.intensity: {list(intensity)} is out of range; allowed: [low, high] with low < high")
    lookup(FITS, fit, "data.fit")
    intensity_range = None if intensity is None else (float(intensity[0]), float(intensity[1]))
    return FormatOptions(resolution, channels, intensity_range, default_intensity, fit)


@dataclass(frozen=True)
class _Selection:
    """The images that are used: N pictures of a source, or frames of them, with their labels.

    Attributes:
        pictures: the pictures of the source, or their frames.
        rows: int64 (N,), those of the images in `pictures`.
        files: int64 (N,), those of their files in the source.
        labels: int64 (N,).
    """

    pictures: Pictures
    rows: torch.Tensor
    files: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    def take(self, chosen: torch.Tensor) -> "_Selection":
        """Return some of the images; `chosen` is bool (N,)."""
        return _Selection(self.pictures, self.rows[chosen], self.files[chosen], self.labels[chosen])


def _select_rows(records: Records, part: Part, split: str) -> tuple[_Selection, tuple[str, ...]]:
    """Return the images of a part of a source, and a note if it is not a range of rows of the source."""
    order, notes = torch.arange(part.total), tuple[str, ...]()
    if part.stop - part.start < part.total:
        if records.stratified:
            order = interleave_classes(records.labels)
            notes = (f"{split} takes the same part of each class",)
        elif not records.class_names:
            notes = (f"{split} takes images in the order of the source, which may be that of folders",)
    rows = order[part.start : part.stop].sort().values
    return _Selection(records.pictures, rows, rows, records.labels[rows]), notes


def _select_frames(frames: FramePictures, records: Records) -> _Selection:
    """Return all frames as images, each with the label of its file."""
    files = torch.tensor([file for file, _ in frames.frames])
    return _Selection(frames, torch.arange(len(frames)), files, records.labels[files])


def _check_classes_left(
    used: _Selection, good: torch.Tensor, class_names: Sequence[str], request: DataRequest
) -> None:
    """Check that each class has a readable image; `good` is bool (N,), whether an image is readable."""
    left = set(used.labels[good].tolist())
    lost = next((index for index in (~good).nonzero()[:, 0].tolist() if int(used.labels[index]) not in left), None)
    if lost is not None:
        raise ValueError(
            f"data.on_bad_image: no image of class {class_names[int(used.labels[lost])]!r} is readable, such as "
            f"{used.pictures.where(int(used.rows[lost]))}, and a class without images cannot be learned; replace the "
            f"images, or remove the class, {request.classless_remedy}"
        )


def _other_rows(records: Records) -> str:
    """Return what to do about a slice with one class."""
    if not records.stratified:
        return "select other rows, or shuffle the rows of the source"
    counts = records.labels.bincount(minlength=len(records.class_names))
    single = [name for name, count in zip(records.class_names, counts.tolist(), strict=True) if count < 2]
    if single:
        return f"class {single[0]!r} has only one image, which cannot be divided; add images"
    return f"add images, or divide them in the middle, as {records.split}[:50%] and {records.split}[50%:]"


def _identify_part(part: Part) -> str:
    """Return the rows of a split, with the same name for all usual names of it, such as `val` and `validation`.

    The name counts so that what is measured on one split is never taken for what is measured on another.
    """
    return str(part._replace(split=split_groups([part.split])[part.split] or part.split))


def interleave_classes(labels: torch.Tensor) -> torch.Tensor:
    """Return an order of rows in which any part of it has the classes in about the proportions of the whole.

    Row i of the n rows of a class is placed at (i + 1/2) / n of the order.

    Args:
        labels: int64 (N,).
    """
    counts = labels.bincount()
    by_class = labels.argsort(stable=True)
    place = torch.empty(len(labels), dtype=torch.float64)
    within = torch.cat([(torch.arange(count) + 0.5) / count for count in counts.tolist()])
    place[by_class] = within.double()
    return place.argsort(stable=True)


def _some_pixels(store: OnDemand) -> torch.Tensor:
    """Decode a few readable images: uint8 (N, C, H, W)."""
    found = []
    for index in evenly_spaced(len(store.rows), BRIGHTNESS_IMAGES):
        try:
            found.append(store[torch.tensor([index])])
        except UnreadableImage:     # reported where it is used
            continue
    return torch.cat(found) if found else torch.empty(0, *store.shape[1:], dtype=torch.uint8)


class _Content(NamedTuple):
    """What identifies the images of a source.

    Attributes:
        fingerprint: see `ImageData`.
        hashes: int64 (M,), one for each file that was read for the fingerprint.
        files: int64 (M,), their rows in the source.
    """

    fingerprint: str
    hashes: torch.Tensor
    files: torch.Tensor


def _identify(
    identity: dict[str, Any], labels: torch.Tensor, pictures: Pictures, files: torch.Tensor, cache: PixelCache | None
) -> _Content:
    """Return a digest of facts, of the label of each image, and of the content of their files.

    Args:
        identity: the facts.
        labels: int64 (N,).
        pictures: of the source.
        files: int64 (N,), the rows of the images' files in it.
        cache: that has the pixels, and remembers what is read here; None without one.
    """
    files = files.unique_consecutive()
    files = files[evenly_spaced(len(files), MAX_SURVEYED)]

    def read() -> dict[str, str]:
        digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16)
        digest.update(labels.numpy().tobytes())
        hashes = bytearray()
        for row in files.tolist():
            with located(pictures, row):
                data = pictures.read(row)
            digest.update(len(data).to_bytes(8, "little") + data)
            hashes += hashlib.blake2b(data, digest_size=8).digest()
        return {"fingerprint": digest.hexdigest(), "hashes": hashes.hex()}

    inputs = [identity, hashlib.blake2b(labels.numpy().tobytes()).hexdigest()]
    content = read() if cache is None else cache.recall(inputs, read)
    hashes = np.frombuffer(bytes.fromhex(content["hashes"]), "<i8").astype(np.int64)
    return _Content(content["fingerprint"], torch.from_numpy(hashes), files)
