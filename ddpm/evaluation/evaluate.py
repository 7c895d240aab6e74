"""What scripts/evaluate.py does: images, described by an extractor, measured against real ones."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ddpm.atomic import atomic_write
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SampleConfig
from ddpm.evaluation.denoiser import measure_denoiser
from ddpm.evaluation.estimates import Described
from ddpm.evaluation.image_source import Read, digest_of, features_folder, located, output_folder
from ddpm.evaluation.reference import cache_directory, described, described_data, description
from ddpm.evaluation.results import Tables, finish
from ddpm.evaluation.setup import Bench, identify, prepare
from ddpm.evaluation.text_table import as_table
from ddpm.processes import check_launch, first_on_main, join_processes, on_main


class Clock:
    """Seconds of each stage, and the most memory that was held."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Counts what is done inside as `stage`."""
        start = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self._seconds.items())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return f"{stages}; peak memory {peak:.2f} GiB"


def evaluate(command: EvaluateCommand, settings: SampleConfig) -> Path:
    """Draws or reads images, measures them, and writes evaluation.json and pictures; goes on where it was interrupted.

    Args:
        command: what to evaluate, and how.
        settings: how images are drawn.

    Returns:
        Path of evaluation.json.

    Raises:
        ValueError: for anything in the command, the data or the images that cannot work.
    """
    processes = join_processes(timedelta(hours=12))
    check_launch(processes.num_processes, "evaluate.py")
    clock, cache = Clock(), cache_directory()
    with clock.timing("preparing"):
        directories = broadcast_object_list([on_main(processes, lambda: located(command))])[0]
        bench = first_on_main(processes, lambda: prepare(command, settings, processes, cache, directories))
    identity = identify(command, bench)
    kind = "images" if bench.subject.pipeline is None else f"{settings.sampler}{settings.steps}"
    out = output_folder(command, f"{kind}-{bench.extractor.name}-{digest_of(identity)[:6]}")
    on_main(processes, lambda: check_folder(out, identity))
    result = out / "evaluation.json"
    if not broadcast_object_list([result.exists()])[0]:
        tables, read = None, None
        if bench.of_images:
            with clock.timing("real images"):
                reference, held_out = describe_real(bench, cache, processes)
                on_main(processes, lambda: check_asked(bench, reference))
            with clock.timing("images"):
                read = bench.subject.get()
            with clock.timing("features"):
                tables = Tables(describe_samples(command, bench, read, processes), reference, held_out)
        with clock.timing("likelihood"):
            model = measure_denoiser(command, bench, out, processes)
        with clock.timing("metrics"):
            on_main(processes, lambda: finish(command, bench, tables, model, out, read))
    if processes.is_main_process:
        print(as_table(json.loads(result.read_text())))
        print(f"{clock}\n{result}")
    return result


def check_folder(out: Path, identity: dict[str, Any]) -> None:
    """Makes the folder, or refuses one that holds another evaluation."""
    file, text = out / "identity.json", json.dumps(identity, indent=2) + "\n"
    if file.exists():
        if file.read_text() != text:
            old = json.loads(file.read_text())
            different = ", ".join(key for key in identity if old.get(key) != identity[key])
            raise ValueError(
                f"{out}: holds another evaluation ({different} differ); remove it, or name another folder with --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        stream.write(text.encode())


def describe_real(bench: Bench, cache: Path, processes: PartialState) -> tuple[Described, Described | None]:
    """The reference and what is held out, kept in the cache."""
    of_data = [
        None if data is None else described_data(data, bench.extractor, bench.judge, cache, processes)
        for data in (bench.data, bench.held_out)
    ]
    return of_data[0], of_data[1]


def check_asked(bench: Bench, reference: Described) -> None:
    """Refuses a metric that was asked for and cannot be had, before any image is drawn."""
    for name in bench.of_images if bench.asked else ():
        lack = bench.lack(name, reference)
        if lack is not None:
            more = "use more images" if bench.subject.pipeline is None else "raise --count"
            remedy = f"{more}, or choose" if lack.startswith("needs") and " real " not in lack else "choose"
            raise ValueError(f"{name}: {lack}; {remedy} others with --metrics")


def describe_samples(command: EvaluateCommand, bench: Bench, read: Read, processes: PartialState) -> Described:
    """The images that are evaluated, kept for other evaluations of them."""
    subject = bench.subject
    key = digest_of([subject.identity, subject.batch_size, description(bench.extractor, bench.judge)])[:16]
    return described(
        features_folder(command, key),
        subject.count,
        subject.batch_size,
        read,
        subject.labels,
        bench.extractor,
        bench.judge,
        processes,
        "features",
    )
