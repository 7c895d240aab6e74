"""The results of an evaluation: metrics with their real-data baselines, pictures, and evaluation.json."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddpm.atomic import atomic_write, json_digest, write_json
from ddpm.config.commands import EvaluateCommand
from ddpm.data import ImageData
from ddpm.evaluation.classes import class_accuracies, confusion_matrix
from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.feature_tables import Features, random_indices
from ddpm.evaluation.features import select_images
from ddpm.evaluation.image_source import ReadImages
from ddpm.evaluation.memorisation import nearest_pairs
from ddpm.evaluation.metrics import METRICS, Metric, Options
from ddpm.evaluation.plots import draw_confusion, draw_neighbours
from ddpm.evaluation.reference_classifier import ReferenceClassifier
from ddpm.evaluation.setup import DENOISER_METRICS, EvaluationSetup
from ddpm.io.provenance import versions

PAIRS = 10              # nearest neighbours in the picture


class Tables(NamedTuple):
    """Features of all images of an evaluation.

    Attributes:
        samples: the evaluated images.
        reference: the real images.
        held_out: other real images; None if there are none.
    """

    samples: Features
    reference: Features
    held_out: Features | None

    def real_images(self, classifier: ReferenceClassifier | None, for_classifier: bool) -> tuple[Features, Features]:
        """Return real images in place of the samples, as many if possible, and the reference to compare them with.

        These are held-out images against the reference or, without any, up to half of the reference against the rest.
        Classifier-based metrics use only images held out from the classifier's training; it is more accurate on images
        it has seen.
        """
        count, reference = self.samples.features.shape[0], self.reference
        total = reference.features.shape[0]
        if self.held_out is not None:
            there = self.held_out.features.shape[0]
            return select_images(self.held_out, random_indices(there, min(count, there))), reference
        if for_classifier:
            return select_images(reference, classifier.held_out_indices), reference
        chosen = random_indices(total, min(count, total // 2))
        rest = torch.ones(total, dtype=torch.bool)
        rest[chosen] = False
        return select_images(reference, chosen), select_images(reference, rest.nonzero()[:, 0])


def measure_images(command: EvaluateCommand, setup: EvaluationSetup, tables: Tables) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute all applicable image metrics with their baselines; also return why others were skipped."""
    metrics: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    options = Options(replicates=command.bootstrap, held_out=tables.held_out)
    for name in setup.image_metrics:
        metric = METRICS[name]
        reason = metric.applies(tables.samples) or setup.why_not(name, tables.reference)
        if reason is not None:
            skipped[name] = reason
            continue
        found = metric.measure(tables.samples, tables.reference, options)
        real_baseline = measure_real_baseline(metric, name, found, setup, tables, options) if metric.real_baseline else {}
        for key, estimate in found.items():
            own = estimate_json(estimate, setup.subject.count)
            metrics[key] = {**own, "better": metric.better[key], "real_baseline": real_baseline.get(key)}
    return metrics, skipped


def measure_real_baseline(
    metric: Metric, name: str, found: dict[str, Estimate], setup: EvaluationSetup, tables: Tables, options: Options
) -> dict[str, dict[str, Any]]:
    """Compute a metric for real images in place of the samples, by name of the estimate.

    If there are fewer real images, `samples` is the value of equally many samples against the same real images:
    distances are biased upwards for small numbers of images, so only these two values can be compared.
    """
    for_classifier = name == "accuracy" or (name == "inception_score" and setup.extractor is setup.classifier)
    real, rest = tables.real_images(setup.classifier, for_classifier)
    count, total = real.features.shape[0], tables.samples.features.shape[0]
    if min(count, rest.features.shape[0]) < metric.needs(real):
        return {}
    real_baseline = metric.measure(real, rest, options)
    if name != "accuracy" and (count != total or rest is not tables.reference):     # a proportion is unbiased
        as_many = select_images(tables.samples, random_indices(total, min(count, total)))
        found = metric.measure(as_many, rest, options._replace(replicates=0))
    return {
        key: {**estimate_json(estimate, count), "samples": found[key].value}
        for key, estimate in real_baseline.items()
        if key in found
    }


def estimate_json(metric: Estimate, count: int) -> dict[str, Any]:
    """Return an estimate with the number of images that it is based on."""
    return {**metric._asdict(), "count": metric.count or count}


def write_evaluation(
    command: EvaluateCommand,
    setup: EvaluationSetup,
    tables: Tables | None,
    model: dict[str, Any],
    out: Path,
    read: ReadImages | None,
) -> None:
    """Compute the metrics, and write the pictures and finally evaluation.json.

    Args:
        command: what is evaluated.
        setup: its images and extractors.
        tables: features of the images; None if only the denoiser is measured.
        model: results of `measure_denoiser`.
        out: the folder.
        read: reads the evaluated images; None without `tables`.
    """
    metrics, skipped = ({}, {}) if tables is None else measure_images(command, setup, tables)
    for name, metric in model.get("metrics", {}).items():
        metrics[name] = {**estimate_json(metric, model["images"]["count"]), "better": "lower", "real_baseline": None}
    if setup.subject.pipeline is None:
        skipped |= {name: "there is no model" for name in DENOISER_METRICS if name in setup.metrics}
    matrix, classes = None, None
    if "accuracy" in metrics:
        matrix = confusion_matrix(tables.samples.read, tables.samples.labels)
        of_class = class_accuracies(matrix, setup.data.class_names)
        classes = {name: metric._asdict() for name, metric in of_class.items()}
        with atomic_write(out / "confusion.png") as file:
            draw_confusion(matrix, setup.data.class_names).save(file, "PNG")
    if "memorised" in metrics:
        pairs = nearest_pairs(tables.samples.pixels, tables.reference.pixels, PAIRS)
        images, real = read(pairs.samples.tolist()), setup.data.__getitems__(pairs.training)[0]
        with atomic_write(out / "neighbours.png") as file:
            draw_neighbours(images, real, pairs.distances.tolist()).save(file, "PNG")
    subject, classifier = setup.subject, setup.classifier
    result = {
        "model": None if subject.pipeline is None else {"name": subject.name, "weights": subject.identity["weights"]},
        "samples": {
            "count": subject.count,
            "digest": json_digest(subject.identity),
            "source": subject.name,
            "settings": subject.identity.get("settings"),
            "guide": subject.identity.get("guide"),
            "folder": None if subject.folder is None else os.path.relpath(subject.folder, out),
        },
        "reference": {**_data_facts(setup.data), "trained_on": setup.trained_on_reference},
        "held_out": None if setup.held_out is None else _data_facts(setup.held_out),
        "extractor": {
            "name": setup.extractor.name,
            "digest": setup.extractor.digest,
            "features": None if tables is None else tables.samples.features.shape[1],
        },
        "classifier": None if classifier is None else {
            "digest": classifier.digest,
            **{key: value for key, value in classifier.accuracy._asdict().items() if key != "count"},
            "held_out": classifier.held_out,
        },
        "metrics": metrics,
        "skipped": skipped,
        "class_names": list(setup.data.class_names),
        "class_accuracies": classes,
        "confusion": None if matrix is None else matrix.tolist(),
        "denoising": model.get("denoising"),
        "bound": model.get("bound"),
        "likelihood_images": model.get("images"),
        "bootstrap": command.bootstrap,
        "bound_steps": command.bound_steps,
        "versions": versions(),
    }
    write_json(out / "evaluation.json", result)


def _data_facts(data: ImageData) -> dict[str, Any]:
    """Return the facts about real images that evaluation.json contains."""
    return {"summary": data.summary(), "fingerprint": data.fingerprint, "count": len(data)}
