"""All that an evaluation needs, made ready before anything is drawn."""

from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from ddpm import __version__
from ddpm.commands import EvaluateCommand
from ddpm.config import SampleConfig
from ddpm.data import ImageData
from ddpm.evaluation.classes import check_classes
from ddpm.evaluation.features import Extractor
from ddpm.evaluation.judge import Judge
from ddpm.evaluation.metrics import METRICS
from ddpm.evaluation.reference import description, readers
from ddpm.evaluation.subject import Subject, drawn, given, held_out_data, is_model, read_data, reference_config
from ddpm.exchange.loading import load_pipeline
from ddpm.names import lookup

OF_THE_DENOISER = {"denoising": "denoising error", "bits_per_dim": "variational bound"}


class Bench(NamedTuple):
    """All that an evaluation needs.

    Attributes:
        subject: the images.
        data: the real ones.
        held_out: real ones that the model was not trained on, if there are any.
        extractor: of the features.
        judge: that reads classes; None where the data has none.
        metrics: which.
    """

    subject: Subject
    data: ImageData
    held_out: ImageData | None
    extractor: Extractor
    judge: Judge | None
    metrics: list[str]


def prepare(command: EvaluateCommand, settings: SampleConfig, processes: PartialState, cache: Path) -> Bench:
    """Reads the real images, loads the model or looks at the images, and has a judge trained where there is none."""
    known = {**METRICS, **OF_THE_DENOISER}
    names = list(known) if command.metrics is None else [n.strip() for n in command.metrics.split(",") if n.strip()]
    for name in names:
        lookup(known, name, "metrics")
    pipeline = load_pipeline(command.model).to(processes.device) if is_model(command.model) else None
    config = reference_config(command, pipeline)
    data = read_data(config, "reference")
    subject = given(command, data) if pipeline is None else drawn(command, settings, data, pipeline)
    if pipeline is None and subject.labels is not None and "accuracy" in names:
        check_classes(subject.labels, data.class_names)
    held_out = held_out_data(command, config, data)
    asked = command.metrics is not None and "accuracy" in names
    extractor, judge = readers(command.extractor, data, processes.device, cache, asked)
    return Bench(subject, data, held_out, extractor, judge, names)


def identify(command: EvaluateCommand, bench: Bench) -> dict[str, Any]:
    """All that decides what is in evaluation.json."""
    return {
        "version": __version__,
        "samples": bench.subject.identity,
        "reference": bench.data.fingerprint,
        "held_out": None if bench.held_out is None else bench.held_out.fingerprint,
        "description": description(bench.extractor, bench.judge),
        "metrics": bench.metrics,
        **{name: getattr(command, name) for name in ("bootstrap", "bound_images", "bound_steps")},
    }
