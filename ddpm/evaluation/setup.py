"""All that an evaluation needs, made ready before anything is drawn."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from ddpm import __version__
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.config.yaml_files import run_of
from ddpm.data import ImageData
from ddpm.evaluation.class_accuracy import class_without_images
from ddpm.evaluation.estimates import Described
from ddpm.evaluation.features import Extractor
from ddpm.evaluation.image_source import Located, Subject, drawn, given, held_out_data, read_data, reference_config
from ddpm.evaluation.metrics import METRICS, shortage
from ddpm.evaluation.reference import description, readers
from ddpm.evaluation.reference_classifier import Judge
from ddpm.io.pipelines import load_pipeline
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
        asked: whether they were named, so that one that cannot be had is an error.
        trained_on_reference: whether the model was trained on these real images; None where that is not known.
    """

    subject: Subject
    data: ImageData
    held_out: ImageData | None
    extractor: Extractor
    judge: Judge | None
    metrics: list[str]
    asked: bool
    trained_on_reference: bool | None

    @property
    def of_images(self) -> list[str]:
        """The metrics that look at the images."""
        return [name for name in self.metrics if name in METRICS]

    def lack(self, name: str, reference: Described) -> str | None:
        """Why a metric of the images cannot be had, in a few words, as far as that is known before there are any."""
        labels, names = self.subject.labels, self.data.class_names
        missing = None if labels is None else class_without_images(labels, names)
        if name == "accuracy" and missing is not None and self.subject.pipeline is None:
            return f"there are no images of class {missing!r}"
        if name == "memorisation" and self.trained_on_reference is False:
            return "the reference is not what the model was trained on"
        return shortage(METRICS[name], self.subject.count, reference)


def prepare(
    command: EvaluateCommand, settings: SampleConfig, processes: PartialState, cache: Path, directories: Located
) -> Bench:
    """Reads the real images, loads the model or looks at the images, and has a judge trained where there is none."""
    known = {**METRICS, **OF_THE_DENOISER}
    names = list(known) if command.metrics is None else [n.strip() for n in command.metrics.split(",") if n.strip()]
    if not names:
        raise ValueError(f"metrics: none is named; allowed are {', '.join(known)}")
    for name in names:
        lookup(known, name, "metrics")
    pipeline = None if directories.model is None else load_pipeline(directories.model).to(processes.device)
    config = reference_config(command, pipeline)
    data = read_data(config, "reference")
    subject = given(command, data) if pipeline is None else drawn(command, settings, data, pipeline, directories)
    held_out = held_out_data(command, config, data)
    asked = command.metrics is not None
    extractor, judge = readers(command.extractor, data, processes.device, cache, asked and "accuracy" in names)
    return Bench(subject, data, held_out, extractor, judge, names, asked, _trained_on(command, data))


def _trained_on(command: EvaluateCommand, data: ImageData) -> bool | None:
    """Whether the run that the model is from was trained on these images; None without a run."""
    run = run_of(command.model)
    if run is None:
        return None
    return json.loads((run / "run.json").read_text())["data"]["fingerprint"] == data.fingerprint


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
