"""Loading of a data source as ImageData."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm.data.decode import UnreadableImage, is_gray, unreadable_if_it_fails
from ddpm.data.images import ImageData, OnDemand
from ddpm.data.records import Pictures, located
from ddpm.data.request import DataRequest
from ddpm.data.slices import parse_split
from ddpm.data.sources import load_records
from ddpm.names import lookup

ON_BAD_IMAGE = {"error": False, "skip": True}  # whether to omit the image
_CHUNK = 256  # images per task of the thread pool, enough to hide its overhead
MAX_HASHED = 65_536  # maximum number of images read for the fingerprint, evenly spaced


def load_data(
    source: str = "digits",
    resolution: int | None = None,
    *,
    split: str = "train",
    image_column: str | None = None,
    label_column: str | None = None,
    labels: str = "auto",
    channels: int | None = None,
    on_bad_image: str = "error",
    memory_gb: float = 4.0,
) -> ImageData:
    """Return the labeled images of a source: upright, square, and of equal size and channels.

    The shorter side becomes `resolution` (antialiased), and the center is kept. Images are decoded once into memory if
    they fit, otherwise on access. With `skip` all images are decoded once at the beginning in either case, because
    omitting an image later would shift the indices of the others.

    Args:
        source: `digits`; a folder of images, with or without folders of classes and of splits; a table that lists
            images; a parquet file, or a folder of them; an .npz; a folder written by `save_to_disk`; or the name of a
            dataset on the Hugging Face Hub.
        resolution: height and width in pixels, 1 or more; None for the shorter side of the first image.
        split: the split to read. A single file, and a folder without splits, is `train`. Rows are selected as in
            `train[:1500]`, `train[-500:]` or `train[10%:20%]`, in the order of the source; classes are those of the
            whole split. Another letter case or a usual synonym finds the split, too (`val`, `Validation`, `dev`).
        image_column: the column of images; None to infer it.
        label_column: the column of labels (ids or names); None to infer it.
        labels: `auto`, `none` to ignore labels, `filename` for the part of the file names before the first underscore,
            or the path of a table of file names and labels. Without labels, or if all are equal, there are no classes:
            `class_names` is empty, and all labels are 0.
        channels: 1 (gray) or 3 (RGB); None for 1 if the first image is gray, otherwise 3.
        on_bad_image: `error`, or `skip` to omit and count unreadable images.
        memory_gb: maximum size of images in memory, in 1e9 bytes of uint8 pixels; above 0.

    Raises:
        ValueError: if an option is out of range, the source or a column does not exist, a label is unusable, all
            selected rows of several classes have one class, or an image is unreadable; names the option.
    """
    if resolution is not None and resolution < 1:
        raise ValueError(f"data.resolution: {resolution} is out of range; allowed: 1 or more pixels")
    if channels not in (None, 1, 3):
        raise ValueError(f"data.channels: {channels} is not one of 1 (gray), 3 (RGB)")
    if not memory_gb > 0:
        raise ValueError(f"data.memory_gb: {memory_gb} is out of range; allowed: above 0")
    skip = lookup(ON_BAD_IMAGE, on_bad_image, "data.on_bad_image")

    asked = parse_split(split)
    records = load_records(DataRequest(source, asked.split, image_column, label_column, labels))
    part = replace(asked, split=records.split).part(len(records.labels))
    ids = records.labels[part.start : part.stop]
    if records.class_names and len(ids.unique()) < 2:
        raise ValueError(
            f"data.split: all images of {split!r} have class {records.class_names[int(ids[0])]!r}; a class-conditional "
            "model needs two classes: select other rows, or train without classes with data.labels none"
        )
    rows = torch.arange(part.start, part.stop)
    first = _first_image(records.pictures, rows, source, skip)
    store = OnDemand(
        records.pictures,
        rows=rows,
        channels=channels or (1 if is_gray(first) else 3),
        resolution=resolution or min(first.size),
    )
    fits = math.prod(store.shape) <= memory_gb * 1e9
    pixels = torch.empty(store.shape, dtype=torch.uint8) if fits else None
    bad = _decode_all(store, pixels, skip) if fits or skip else []
    if len(bad) == len(store.rows):
        raise _all_bad(source, len(bad))

    if bad:
        good = torch.ones(len(rows), dtype=torch.bool)
        good[bad] = False
        rows, ids = rows[good], ids[good]
        pixels = None if pixels is None else pixels[good]
    store = replace(store, rows=rows)
    identity = {"split": str(part), "classes": records.class_names, "size": [store.channels, store.resolution]}
    return ImageData(
        store if pixels is None else pixels,
        ids,
        records.class_names,
        skipped=len(bad),
        fingerprint=_fingerprint(identity, ids, store),
        part=part,
    )


def _first_image(pictures: Pictures, rows: torch.Tensor, source: str, skip: bool) -> Image.Image:
    """Return the first image, or the first readable one with `skip`; it determines size and channels by default."""
    for row in rows.tolist():
        try:
            with located(pictures, row), unreadable_if_it_fails():
                image = pictures.open(row)
                image.load()
                return image
        except UnreadableImage:
            if not skip:
                raise
    raise _all_bad(source, len(rows))


def _decode_all(store: OnDemand, out: torch.Tensor | None, skip: bool) -> list[int]:
    """Decode every image into `out` (uint8 (N, C, H, W)), or only to check it.

    Returns:
        The sorted indices of unreadable images.

    Raises:
        ValueError: for an unreadable image, unless `skip`.
    """

    def decode(indices: range) -> list[int]:
        bad = []
        for index in indices:
            try:
                pixels = store.decode(int(store.rows[index]))
            except UnreadableImage:
                if not skip:
                    raise
                bad.append(index)
            else:
                if out is not None:
                    out[index] = pixels
        return bad

    count = len(store.rows)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with ThreadPoolExecutor() as pool:
        return [row for bad in pool.map(decode, chunks) for row in bad]


def _fingerprint(identity: dict[str, Any], labels: torch.Tensor, store: OnDemand) -> str:
    digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16)
    digest.update(labels.numpy().tobytes())
    sample = np.linspace(0, len(labels) - 1, min(len(labels), MAX_HASHED)).astype(np.int64)
    for row in store.rows[sample].tolist():
        with located(store.pictures, row):
            data = store.pictures.read(row)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _all_bad(source: str, count: int) -> ValueError:
    return ValueError(f"data.source: {source!r} has no readable image; all {count:,} were skipped")
