"""The evaluation of scripts/evaluate.py: extract features of images and compare them with real images."""

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ddpm.atomic import atomic_write, json_digest, read_json, write_json
from ddpm.cache import SHARE_CACHE, cache_directory
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.data import ImageData
from ddpm.evaluation.classes import class_accuracies
from ddpm.evaluation.denoiser import measure_denoiser
from ddpm.evaluation.feature_tables import Features
from ddpm.evaluation.features import cached_features, feature_digest, tabulate_features
from ddpm.evaluation.image_metrics import EvaluationFeatures, estimate_json, measure_images
from ddpm.evaluation.image_source import ReadImages, evaluations_folder, find_models
from ddpm.evaluation.memorization import nearest_pairs
from ddpm.evaluation.metrics import confusion
from ddpm.evaluation.plots import draw_confusion, draw_neighbors
from ddpm.evaluation.setup import DENOISER_METRICS, EvaluationSetup, prepare_evaluation
from ddpm.evaluation.text_table import evaluation_table
from ddpm.io.pipelines import describe_compilation
from ddpm.io.provenance import describe_changes, versions
from ddpm.processes import (
    broadcast_from_main,
    check_launch,
    check_same,
    first_on_main,
    join_processes,
    on_main,
)

NEIGHBOR_PAIRS = 10        # in the picture


def evaluate(command: EvaluateCommand, settings: SampleConfig) -> Path:
    """Generate or read images, measure them, and write evaluation.json and pictures.

    An interrupted evaluation is continued.

    Args:
        command: what to evaluate, and how.
        settings: how to generate images.

    Returns:
        Path of evaluation.json.

    Raises:
        ValueError: for an invalid command, or unusable data or images.
    """
    processes = join_processes()
    check_launch(processes.num_processes, "evaluate.py")
    seconds: dict[str, float] = {}
    cache = cache_directory()
    with time_stage(seconds, "preparing"):
        models = broadcast_from_main(processes, lambda: find_models(command))
        setup = first_on_main(processes, lambda: prepare_evaluation(command, settings, processes, cache, *models))
    identity = setup.identify(command)
    images = {"model": identity["samples"], "reference": identity["reference"], "held_out": identity["held_out"]}
    check_same(processes, images)
    check_same(processes, {"extractor": identity["features"]}, SHARE_CACHE)
    kind = "images" if setup.images.pipeline is None else f"{settings.sampler}{settings.steps}"
    name = f"{kind}-{setup.extractor.name}-{json_digest(identity, length=6)}"
    out = command.out or evaluations_folder(command) / name
    on_main(processes, lambda: prepare_folder(out, identity))
    result = out / "evaluation.json"
    if not broadcast_from_main(processes, result.exists):
        features, read = None, None
        if setup.image_metrics:
            with time_stage(seconds, "real images"):
                of_data = (setup.extractor, setup.classifier, cache, processes)
                reference = cached_features(setup.data, *of_data)
                held_out = None if setup.held_out is None else cached_features(setup.held_out, *of_data)
                if command.metrics is not None:
                    on_main(processes, lambda: check_requested(setup, reference))
            with time_stage(seconds, "images"):
                read = setup.images.get()
            with time_stage(seconds, "features"):
                samples = extract_sample_features(command, setup, read, processes)
                features = EvaluationFeatures(samples, reference, held_out)
        with time_stage(seconds, "denoiser"):
            precision = settings.mixed_precision
            denoiser_results = measure_denoiser(command, setup, out, processes, precision)
        with time_stage(seconds, "metrics"):
            on_main(processes, lambda: write_evaluation(command, setup, features, denoiser_results, out, read))
    if processes.is_main_process:
        stages = ", ".join(f"{stage} {duration:.1f} s" for stage, duration in seconds.items())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(evaluation_table(json.loads(result.read_text())))
        if command.compile:
            print(describe_compilation())
        print(f"{stages}; peak memory {peak:.2f} GiB\n{result}")
    return result


@contextmanager
def time_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Measure the time spent inside, as `seconds[stage]`."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def prepare_folder(out: Path, identity: dict[str, Any]) -> None:
    """Create the folder of an evaluation, or check that it contains the same evaluation."""
    file = out / "identity.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, identity)
    if changes := describe_changes(read_json(file), identity):
        raise ValueError(f"{out}: contains another evaluation: {changes}; remove it, or choose another --out")


def check_requested(setup: EvaluationSetup, reference: Features) -> None:
    """Raise an error for a requested metric that cannot be computed, before any image is generated."""
    for name in setup.image_metrics:
        reason = setup.reason_not_computable(name, reference)
        if reason is not None:
            more = "use more images" if setup.images.pipeline is None else "raise --count"
            remedy = f"{more}, or " if reason.startswith("needs") and " real " not in reason else ""
            raise ValueError(f"{name}: {reason}; {remedy}choose other metrics with --metrics")


def extract_sample_features(
    command: EvaluateCommand, setup: EvaluationSetup, read: ReadImages, processes: PartialState
) -> Features:
    """Extract features of the evaluated images; other evaluations of the same images reuse them."""
    images, extractors = setup.images, (setup.extractor, setup.classifier)
    key = json_digest([images.identity, images.batch_size, feature_digest(*extractors)], length=16)
    folder = (command.out or evaluations_folder(command)) / "features" / key
    rows = folder, images.count, images.batch_size, read, images.labels
    return tabulate_features(*rows, *extractors, processes, "features")


def write_evaluation(
    command: EvaluateCommand,
    setup: EvaluationSetup,
    features: EvaluationFeatures | None,
    denoiser_results: dict[str, Any],
    out: Path,
    read: ReadImages | None,
) -> None:
    """Compute the metrics, and write the pictures and finally evaluation.json.

    Args:
        command: what is evaluated.
        setup: its images and extractors.
        features: of the images; None if only the denoiser is measured.
        denoiser_results: from `measure_denoiser`.
        out: the folder.
        read: reads the evaluated images; None without `features`.
    """
    metrics, skipped = ({}, {}) if features is None else measure_images(command, setup, features)
    skipped = {**setup.left_out, **skipped}
    for name, metric in denoiser_results.get("metrics", {}).items():
        own = estimate_json(metric, denoiser_results["images"]["count"])
        metrics[name] = {**own, "better": "lower", "real_baseline": None}
    images, classifier, names = setup.images, setup.classifier, setup.data.class_names
    if setup.reason_without_denoiser is not None:
        skipped |= {name: setup.reason_without_denoiser for name in DENOISER_METRICS if name in setup.metrics}
    matrix, classes = None, None
    if features is not None and "accuracy" in metrics:
        matrix = confusion(features.samples)
        classes = {name: accuracy._asdict() for name, accuracy in class_accuracies(matrix, names).items()}
        with atomic_write(out / "confusion.png") as file:
            draw_confusion(matrix, names).savefig(file, format="png")
    if features is not None and read is not None and "memorized" in metrics:
        pairs = nearest_pairs(features.samples.pixels, features.reference.pixels, NEIGHBOR_PAIRS)
        real = setup.data.__getitems__(pairs.training)[0]
        with atomic_write(out / "neighbors.png") as file:
            draw_neighbors(read(pairs.samples.tolist()), real, pairs.distances.tolist()).save(file, "PNG")
    result = {
        "model": None if images.pipeline is None else {"name": images.name, "weights": images.identity["weights"]},
        "samples": {
            "count": images.count,
            "digest": json_digest(images.identity),
            "source": images.name,
            "settings": images.identity.get("settings"),
            "guide": images.identity.get("guide"),
            "folder": None if images.folder is None else os.path.relpath(images.folder, out),
        },
        "reference": {**_data_facts(setup.data), "trained_on": setup.trained_on_reference},
        "held_out": None if setup.held_out is None else _data_facts(setup.held_out),
        "extractor": {
            "name": setup.extractor.name,
            "digest": setup.extractor.digest,
            "features": None if features is None else features.samples.features.shape[1],
        },
        "classifier": None if classifier is None else {
            "digest": classifier.digest,
            **{key: value for key, value in classifier.accuracy._asdict().items() if key != "count"},
            "held_out": classifier.held_out,
        },
        "metrics": metrics,
        "skipped": skipped,
        "class_names": list(names),
        "class_accuracies": classes,
        "confusion": None if matrix is None else matrix.tolist(),
        "denoising": denoiser_results.get("denoising"),
        "bound": denoiser_results.get("bound"),
        "likelihood_images": denoiser_results.get("images"),
        "bootstrap": command.bootstrap,
        "bound_steps": command.bound_steps,
        "versions": versions(),
    }
    write_json(out / "evaluation.json", result)


def _data_facts(data: ImageData) -> dict[str, Any]:
    """Return the facts about real images that evaluation.json contains."""
    return {"summary": data.summary(), "fingerprint": data.fingerprint, "count": len(data)}
