"""Measure how the metrics react to damaged real images, with time and memory.

python tests/benchmarks/evaluation.py digits --out quality
python tests/benchmarks/evaluation.py train.parquet --held-out test.parquet --count 10000 --out quality

The samples are held-out real images (or half of the images, where none are held out), damaged; the reference is the
other real images. All features are those of the reference classifier. Writes evaluation.json, and prints a table with a
column per metric.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.cache import cache_directory
from ddpm.data import load_data
from ddpm.evaluation.feature_tables import Features, random_indices
from ddpm.evaluation.features import extract_features
from ddpm.evaluation.metrics import METRICS, Options
from ddpm.evaluation.reference_classifier import ReferenceClassifier, cached_classifier

COLUMNS = ("frechet_distance", "frechet_distance_infinity", "kernel_distance", "precision", "recall", "density",
           "coverage", "inception_score", "accuracy", "memorized")


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images with a Gaussian of `sigma` pixels."""
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()
    channels = images.shape[1]
    found = F.pad(images.float(), (radius,) * 4, mode="replicate")
    found = F.conv2d(found, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    found = F.conv2d(found, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return found.round().clamp(0, 255).to(torch.uint8)


def add_noise(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise of `sigma` gray levels."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def damages(
    images: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, images and labels of each damage; `reference` are the other real images."""
    chance = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=chance)
    classes = int(labels.max()) + 1
    yield "none", images, labels
    for sigma in (0.4, 0.7, 1.0):
        yield f"blur {sigma:g} pixels", blur(images, sigma), labels
    for sigma in (10, 25, 60):
        yield f"noise {sigma} levels", add_noise(images, sigma), labels
    for share in (0.1, 0.5):
        swapped = labels.clone()
        some = order[: round(share * len(labels))]
        swapped[some] = (labels[some] + 1) % classes
        yield f"{share:.0%} of the classes swapped", images, swapped
    for kept in (8, 5, 2):
        left = torch.nonzero(labels < kept * classes // 10)[:, 0]
        chosen = left[torch.randint(len(left), (len(images),), generator=chance)]
        yield f"{kept} of 10 classes only", images[chosen], labels[chosen]
    for modes in (0.5, 0.05):
        chosen = order[: round(modes * len(images))].repeat(round(1 / modes))[: len(images)]
        yield f"{modes:.0%} of the images, repeated", images[chosen], labels[chosen]
    for share in (0.1, 0.5, 1.0):
        copied, copied_labels = images.clone(), labels.clone()
        some = order[: min(round(share * len(images)), len(reference))]
        copied[some], copied_labels[some] = reference[: len(some)], reference_labels[: len(some)]
        yield f"{share:.0%} copies of training images", copied, copied_labels


def extract_all(images: Tensor, labels: Tensor, classifier: ReferenceClassifier) -> Features:
    """Extract features in memory."""
    parts = [extract_features(part, classifier, classifier) for part in images.split(500)]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Features(**columns, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference")
    parser.add_argument("--held-out")
    parser.add_argument("--count", type=int)
    parser.add_argument("--baseline-only", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = load_data(args.reference)
    classifier = cached_classifier(data, torch.device("cpu"), cache_directory())
    if args.held_out:
        other = load_data(args.held_out)
        images, labels = other.__getitems__(random_indices(len(other), min(len(other), args.count or len(other))))
        real, real_labels = data.__getitems__(random_indices(len(data), min(len(data), args.count or len(data))))
    else:
        chosen = torch.zeros(len(data), dtype=torch.bool)
        chosen[random_indices(len(data), len(data) // 2)] = True
        images, labels = data.__getitems__(chosen.nonzero()[:, 0])
        real, real_labels = data.__getitems__((~chosen).nonzero()[:, 0])
    start = time.perf_counter()
    reference = extract_all(real, real_labels, classifier)
    print(f"{len(images)} images against {len(real)}; features of the reference: {time.perf_counter() - start:.1f} s")
    options = Options(replicates=100)
    rows = {}
    for name, damaged, damaged_labels in damages(images, labels, real, real_labels):
        start = time.perf_counter()
        samples = extract_all(damaged, damaged_labels, classifier)
        metrics = {}
        for metric in METRICS.values():
            if metric.why_inapplicable(samples) is None:
                metrics |= metric.measure(samples, reference, options)
        rows[name] = {key: metric._asdict() for key, metric in metrics.items()}
        if name == "none":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"features and metrics: {time.perf_counter() - start:.1f} s; peak memory so far {peak:.2f} GiB\n")
            print("| damage | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 1))
        cells = [f"{rows[name][key]['value']:.3g}" if key in rows[name] else "" for key in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        if args.baseline_only:
            break
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evaluation.json").write_text(json.dumps({"images": len(images), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
