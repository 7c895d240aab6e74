"""Real images described by an extractor, kept by the hash of their content."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor

from ddpm.data import ImageData
from ddpm.evaluation.estimates import Described
from ddpm.evaluation.feature_cache import tabulate
from ddpm.evaluation.features import Extractor, build_extractor
from ddpm.evaluation.reference_classifier import Judge, cached_judge

BATCH = 500             # images that are described at a time
SMALL = 16              # pixels of the images that neighbours are looked for in
RECIPE = f"area {SMALL}"


def cache_directory() -> Path:
    """Where judges and descriptions of real images are kept: DDPM_CACHE, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DDPM_CACHE") or Path(base) / "adagn-ddpm")


def readers(
    name: str, data: ImageData, device: torch.device, cache: Path, classes_are_asked_for: bool
) -> tuple[Extractor, Judge | None]:
    """The extractor, and the judge of the data's classes.

    Args:
        name: of the extractor, as in `ddpm.evaluation.features.build_extractor`.
        data: the real images.
        device: of both.
        cache: where judges are kept.
        classes_are_asked_for: whether what a judge reads is needed.

    Returns:
        The judge is the extractor itself where that was trained on these images; None where the data has no classes to
        tell apart, or has too few images of one and is not asked for.

    Raises:
        ValueError: if there is no such extractor, or a judge is needed and cannot be trained.
    """
    extractor = build_extractor(name, data, device, cache)
    if isinstance(extractor, Judge) and extractor.fingerprint == data.fingerprint:
        return extractor, extractor
    if data.num_classes < 2:
        return extractor, None
    try:
        return extractor, cached_judge(data, device, cache)
    except ValueError as problem:
        if classes_are_asked_for:
            raise
        print(f"WARNING: accuracy is left out: {problem}", file=sys.stderr)
        return extractor, None


def small(images: Tensor) -> Tensor:
    """Images as their means over blocks, 16x16 at most: uint8 (N, C, H, W) -> uint8 (N, P)."""
    side = min(SMALL, images.shape[2])
    return F.adaptive_avg_pool2d(images.double(), side).round().to(images.dtype).flatten(1)    # (N, C h w)


def describe(images: Tensor, extractor: Extractor, judge: Judge | None) -> dict[str, Tensor]:
    """What there is to know of a batch of images, uint8 (N, C, H, W): the columns of `Described`, each (N, D)."""
    features, logits = extractor.extract(images)
    columns = {"features": features, "pixels": small(images)}
    if logits is not None:
        columns["logits"] = logits
    if judge is not None:
        columns["read"] = logits.clone() if judge.digest == extractor.digest else judge.extract(images)[1]
    return columns


def description(extractor: Extractor, judge: Judge | None) -> str:
    """Digest of all that decides what `describe` makes of images."""
    parts = [extractor.digest, "" if judge is None else judge.digest, RECIPE]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def described(
    folder: Path,
    count: int,
    batch_size: int,
    read: Callable[[list[int]], Tensor],
    labels: Tensor | None,
    extractor: Extractor,
    judge: Judge | None,
    processes: PartialState,
    title: str,
) -> Described:
    """Describes images, each process its share, or reads what is there already.

    Args:
        folder: whose name stands for the images and the extractor.
        count: number of images.
        batch_size: that are described at a time.
        read: places -> uint8 (B, C, H, W).
        labels: int64 (N,), the class of each; None where that is not known.
        extractor: of the features.
        judge: that reads the classes, if any.
        processes: the processes, which all call this.
        title: what the progress bar says.
    """

    def compute(places: list[int]) -> dict[str, Tensor]:
        return describe(read(places), extractor, judge)

    columns = tabulate(folder, count, batch_size, compute, processes, title)
    return Described(
        columns["features"], columns["pixels"], columns.get("logits"), columns.get("read"), labels
    )


def described_data(
    data: ImageData, extractor: Extractor, judge: Judge | None, cache: Path, processes: PartialState
) -> Described:
    """Real images described, once for each content and extractor; arguments as in `described`."""
    folder = cache / "features" / f"{description(extractor, judge)}-{data.fingerprint}"
    labels = data.labels if data.num_classes else None

    def read(places: list[int]) -> Tensor:
        return data.__getitems__(places)[0]

    return described(folder, len(data), BATCH, read, labels, extractor, judge, processes, "real images")


def part_of(table: Described, places: Tensor) -> Described:
    """Some of the images, int64 (M,) rising places."""
    columns = [None if column is None else column.at(places) for column in table[:4]]
    return Described(*columns, None if table.labels is None else table.labels[places])
