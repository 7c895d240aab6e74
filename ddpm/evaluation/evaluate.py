"""The evaluation of scripts/evaluate.py: extract features of images and compare them with real images."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ddpm.atomic import json_digest, write_json
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.evaluation.denoiser import measure_denoiser
from ddpm.evaluation.feature_tables import Features
from ddpm.evaluation.features import cache_directory, cached_features, feature_digest, tabulate_features
from ddpm.evaluation.image_source import ReadImages, evaluations_folder, find_models
from ddpm.evaluation.results import Tables, write_evaluation
from ddpm.evaluation.setup import EvaluationSetup, identify, prepare_evaluation
from ddpm.evaluation.text_table import evaluation_table
from ddpm.processes import broadcast_from_main, check_launch, first_on_main, join_processes, on_main


class Clock:
    """Measures the seconds of each stage, and the peak memory."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Measure the time spent inside as `stage`."""
        start = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self._seconds.items())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return f"{stages}; peak memory {peak:.2f} GiB"


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
    processes = join_processes(timedelta(hours=12))
    check_launch(processes.num_processes, "evaluate.py")
    clock, cache = Clock(), cache_directory()
    with clock.timing("preparing"):
        directories = broadcast_from_main(processes, lambda: find_models(command))
        setup = first_on_main(
            processes, lambda: prepare_evaluation(command, settings, processes, cache, directories)
        )
    identity = identify(command, setup)
    kind = "images" if setup.subject.pipeline is None else f"{settings.sampler}{settings.steps}"
    name = f"{kind}-{setup.extractor.name}-{json_digest(identity, length=6)}"
    out = command.out or evaluations_folder(command) / name
    on_main(processes, lambda: prepare_folder(out, identity))
    result = out / "evaluation.json"
    if not broadcast_from_main(processes, result.exists):
        tables, read = None, None
        if setup.image_metrics:
            with clock.timing("real images"):
                reference, held_out = (
                    None if data is None else cached_features(data, setup.extractor, setup.classifier, cache, processes)
                    for data in (setup.data, setup.held_out)
                )
                on_main(processes, lambda: check_requested(setup, reference))
            with clock.timing("images"):
                read = setup.subject.get()
            with clock.timing("features"):
                tables = Tables(extract_sample_features(command, setup, read, processes), reference, held_out)
        with clock.timing("likelihood"):
            model = measure_denoiser(command, setup, out, processes)
        with clock.timing("metrics"):
            on_main(processes, lambda: write_evaluation(command, setup, tables, model, out, read))
    if processes.is_main_process:
        print(evaluation_table(json.loads(result.read_text())))
        print(f"{clock}\n{result}")
    return result


def prepare_folder(out: Path, identity: dict[str, Any]) -> None:
    """Create the folder of an evaluation, or check that it contains the same evaluation."""
    file = out / "identity.json"
    if file.exists():
        old, new = json.loads(file.read_text()), json.loads(json.dumps(identity))
        different = ", ".join(key for key in new | old if old.get(key) != new.get(key))
        if different:
            raise ValueError(
                f"{out}: contains another evaluation ({different} differ); remove it, or choose another folder with "
                "--out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)


def check_requested(setup: EvaluationSetup, reference: Features) -> None:
    """Raise an error for a requested metric that cannot be computed, before any image is generated."""
    for name in setup.image_metrics if setup.asked else ():
        reason = setup.why_not(name, reference)
        if reason is not None:
            more = "use more images" if setup.subject.pipeline is None else "raise --count"
            remedy = f"{more}, or " if reason.startswith("needs") and " real " not in reason else ""
            raise ValueError(f"{name}: {reason}; {remedy}choose other metrics with --metrics")


def extract_sample_features(
    command: EvaluateCommand, setup: EvaluationSetup, read: ReadImages, processes: PartialState
) -> Features:
    """Extract features of the evaluated images; other evaluations of the same images reuse them."""
    subject = setup.subject
    key = json_digest([subject.identity, subject.batch_size, feature_digest(setup.extractor, setup.classifier)], length=16)
    folder = (command.out or evaluations_folder(command)) / "features" / key
    images = folder, subject.count, subject.batch_size, read, subject.labels
    return tabulate_features(*images, setup.extractor, setup.classifier, processes, "features")
