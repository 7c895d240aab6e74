"""Features of images, extracted once and cached on disk under the digest of images and extractor."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor

from ddpm.atomic import json_digest
from ddpm.data import ImageData
from ddpm.evaluation.extractors import Extractor, build_extractor
from ddpm.evaluation.feature_tables import Features, tabulate
from ddpm.evaluation.reference_classifier import ReferenceClassifier, cached_classifier, why_untrainable

IMAGES_PER_TABLE_FILE = 500
THUMBNAIL_SIZE = 16     # pixels; nearest neighbors are searched among downscaled images
TABLE_FORMAT = f"2; area {THUMBNAIL_SIZE}"


def load_extractors(
    name: str, data: ImageData, device: torch.device, cache: Path, require_classifier: bool
) -> tuple[Extractor, ReferenceClassifier | None]:
    """Load the feature extractor and the reference classifier.

    Args:
        name: of the extractor, as for `ddpm.evaluation.extractors.build_extractor`.
        data: the real images.
        device: where both compute.
        cache: folder of cached classifiers.
        require_classifier: whether the run needs a classifier.

    Returns:
        The classifier is the extractor itself if that was trained on these images. It is None if the data has fewer
        than two classes, or has too few images in a class and no classifier is required.

    Raises:
        ValueError: if there is no such extractor, or a classifier is required and cannot be trained.
    """
    extractor = build_extractor(name, data, device, cache)
    if isinstance(extractor, ReferenceClassifier) and extractor.fingerprint == data.fingerprint:
        return extractor, extractor
    if data.num_classes < 2:
        return extractor, None
    if (reason := why_untrainable(data)) is not None:
        if require_classifier:
            raise ValueError(f"metrics: accuracy needs a classifier, and {reason}; add images, or use other metrics")
        print(f"WARNING: skipping accuracy: {reason}", file=sys.stderr)
        return extractor, None
    return extractor, cached_classifier(data, device, cache)


def downscale(images: Tensor) -> Tensor:
    """Average images over blocks, to 16x16 or less: uint8 (N, C, H, W) -> uint8 (N, P)."""
    side = min(THUMBNAIL_SIZE, images.shape[2])
    return F.adaptive_avg_pool2d(images.double(), side).round().to(images.dtype).flatten(1)    # (N, C h w)


def extract_features(images: Tensor, extractor: Extractor, classifier: ReferenceClassifier | None) -> dict[str, Tensor]:
    """Compute the columns of `Features` for a batch of images, uint8 (N, C, H, W): name -> (N, D)."""
    features, logits = extractor.extract(images)
    columns = {"features": features, "pixels": downscale(images)}
    if logits is not None:
        columns["logits"] = logits
    if classifier is not None:
        same = logits if classifier.digest == extractor.digest else None
        columns["class_logits"] = classifier.extract(images)[1] if same is None else same.clone()
    return columns


def feature_digest(extractor: Extractor, classifier: ReferenceClassifier | None) -> str:
    """Return a digest of everything that determines the result of `extract_features`, apart from the images."""
    return json_digest([extractor.digest, "" if classifier is None else classifier.digest, TABLE_FORMAT], length=16)


def tabulate_features(
    folder: Path,
    count: int,
    batch_size: int,
    read: Callable[[list[int]], Tensor],
    labels: Tensor | None,
    extractor: Extractor,
    classifier: ReferenceClassifier | None,
    processes: PartialState,
    title: str,
) -> Features:
    """Extract features into a table on disk, distributed over the processes; existing batches are reused.

    Args:
        folder: its name must identify the images and the extractor.
        count: number of images.
        batch_size: images per call of `read`.
        read: indices -> uint8 (B, C, H, W).
        labels: int64 (N,), the class of each image; None if unknown.
        extractor: computes the features.
        classifier: classifies the images; None without a classifier.
        processes: all of them call this function.
        title: label of the progress bar.
    """

    def compute(indices: list[int]) -> dict[str, Tensor]:
        return extract_features(read(indices), extractor, classifier)

    columns = tabulate(folder, count, batch_size, compute, processes, title)
    return Features(**columns, labels=labels)


def cached_features(
    data: ImageData, extractor: Extractor, classifier: ReferenceClassifier | None, cache: Path, processes: PartialState
) -> Features:
    """Return features of real images from the cache, extracting them if necessary; see `tabulate_features`."""
    folder = cache / "features" / f"{feature_digest(extractor, classifier)}-{data.fingerprint}"
    labels = data.labels if data.num_classes else None

    images = folder, len(data), IMAGES_PER_TABLE_FILE, lambda indices: data.__getitems__(indices)[0], labels
    return tabulate_features(*images, extractor, classifier, processes, "real images")
