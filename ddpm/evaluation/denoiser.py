"""Metrics of the denoiser itself: its denoising error and its variational bound, and their values image by image."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor, cat

from ddpm.config.commands import EvaluateCommand
from ddpm.diffusion.guidance import padded
from ddpm.diffusion.sampling import images_per_call
from ddpm.diffusion.schedule import Denoiser
from ddpm.evaluation.estimates import Estimate, mean_estimate
from ddpm.evaluation.feature_tables import random_indices, tabulate
from ddpm.evaluation.likelihood import (
    DENOISER_BATCH_SIZE,
    bits_per_dim,
    bound_curve,
    bound_terms,
    denoising_curve,
    denoising_errors,
    eps_errors,
    error_timesteps,
)
from ddpm.evaluation.setup import DENOISER_METRICS, EvaluationSetup

IMAGES_PER_CALL = 16


def measure_denoiser(
    command: EvaluateCommand, setup: EvaluationSetup, out: Path, processes: PartialState, mixed_precision: str
) -> dict[str, Any]:
    """Measure the denoising error and the bound, on held-out images if there are any, otherwise on the reference.

    A compiled network is called with batches of the size that the images were drawn with, which is compiled already.

    Args:
        command: what to measure, and how.
        setup: the model and the real images.
        out: folder that keeps the values of each batch.
        processes: all processes.
        mixed_precision: precision in which the network computes.

    Returns:
        The entries of evaluation.json for the denoiser; empty if there is nothing to measure.
    """
    pipeline = setup.images.pipeline
    wanted = [name for name in DENOISER_METRICS if name in setup.metrics]
    if pipeline is None or not wanted or setup.reason_without_denoiser is not None:
        return {}
    data = setup.data if setup.held_out is None else setup.held_out
    schedule = pipeline.schedule
    timesteps, steps = error_timesteps(schedule), min(command.bound_steps, schedule.num_timesteps)
    batch_size = images_per_call(data.resolution, processes.device, most=DENOISER_BATCH_SIZE)
    if command.compile:
        batch_size = setup.images.batch_size
    indices = random_indices(len(data), min(len(data), command.bound_images))

    def build_denoiser(clip: bool) -> Denoiser:
        denoiser = pipeline.denoiser(clip=clip, mixed_precision=mixed_precision)
        return padded(denoiser, batch_size) if command.compile else denoiser

    def measure_all(name: str, measure: Callable[..., Tensor]) -> Tensor:
        """Return `measure(images, labels, indices)` for all images; its batches are kept on disk."""

        def compute(batch: list[int]) -> dict[str, Tensor]:
            images, classes = data.__getitems__(indices[batch])
            labels = pipeline.labels([data.class_names[c] if pipeline.class_names else None for c in classes.tolist()])
            return {name: measure(*(x.to(processes.device) for x in (images, labels, indices[batch]))).cpu()}

        rows = tabulate(out / name, len(indices), IMAGES_PER_CALL, compute, processes, DENOISER_METRICS[name])
        return rows[name][:]

    metrics: dict[str, Estimate] = {}
    images = {"count": len(indices), "held_out": setup.held_out is not None}
    found: dict[str, Any] = {"images": images, "metrics": metrics}
    if "denoising" in wanted:
        denoiser = build_denoiser(clip=False)
        measure = partial(denoising_errors, denoiser, schedule, timesteps=timesteps, seed=0, batch_size=batch_size)
        errors = measure_all("denoising", measure)
        curve = denoising_curve(errors, schedule, timesteps)
        found["denoising"] = [point._asdict() for point in curve]
        metrics["denoising_error"] = mean_estimate(eps_errors(errors, [point.sigma for point in curve]))
    if "bits_per_dim" in wanted:
        denoiser = build_denoiser(clip=True)
        measure = partial(bound_terms, denoiser, schedule, evaluations=steps, seed=0, batch_size=batch_size)
        terms = measure_all("bits_per_dim", measure)
        found["bound"] = [part._asdict() for part in bound_curve(terms, schedule)]
        metrics["bits_per_dim"] = bits_per_dim(terms)
    return found


# Metric -> the table that it is computed from, and how: rows of the table, content of evaluation.json -> (N,).
SCORES: dict[str, tuple[str, Callable[[Tensor, dict[str, Any]], Tensor]]] = {
    "denoising_error": (
        "denoising", lambda table, content: eps_errors(table, [point["sigma"] for point in content["denoising"]])
    ),
    "bits_per_dim": ("bits_per_dim", lambda table, content: table.sum(dim=1)),
}


def image_scores(folder: Path, metric: str) -> np.ndarray | None:
    """Return the contribution of each image to a metric of the denoiser; the metric is their mean.

    The images are held out, or are those of the reference if none are held out. Two evaluations of the same data with
    equal `bound_images` and `bound_steps` use the same images in the same order with the same noise, so their scores
    can be compared pairwise.

    Args:
        folder: an evaluation with evaluation.json.
        metric: name of the metric in that file.

    Returns:
        float64 (N,); None for a metric that is not a mean over images, or whose tables were deleted.
    """
    if metric not in SCORES:
        return None
    name, score = SCORES[metric]
    files = sorted((folder / name).glob("*.safetensors"))
    if not files:
        return None
    content = json.loads((folder / "evaluation.json").read_text())
    return score(cat([load_file(file)[name] for file in files]), content).numpy()
