"""The record of an evaluation: its figures with their floors, pictures, and evaluation.json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddpm.atomic import atomic_write
from ddpm.config.commands import EvaluateCommand
from ddpm.data import ImageData
from ddpm.evaluation.class_accuracy import class_accuracies, confusion
from ddpm.evaluation.estimates import Described, Figure
from ddpm.evaluation.feature_cache import some_places
from ddpm.evaluation.image_source import Read, digest_of, relative
from ddpm.evaluation.memorisation import nearest_pairs
from ddpm.evaluation.metrics import METRICS, Metric, Options
from ddpm.evaluation.neighbour_pictures import confusion_picture, neighbours_picture
from ddpm.evaluation.reference import part_of
from ddpm.evaluation.reference_classifier import Judge
from ddpm.evaluation.setup import OF_THE_DENOISER, Bench
from ddpm.io.provenance import versions

PAIRS = 10              # nearest neighbours that are shown


class Tables(NamedTuple):
    """Images as the extractor describes them.

    Attributes:
        samples: those that are evaluated.
        reference: the real ones.
        held_out: other real ones, if there are any.
    """

    samples: Described
    reference: Described
    held_out: Described | None

    def floor(self, judge: Judge | None, as_the_judge_reads: bool) -> tuple[Described, Described]:
        """Real images in place of the samples, as many where there are as many, and what they are measured against.

        Held-out images against the reference; without any, half of the reference at most against the rest of it. What
        the judge reads is told from images that it was not trained on: those that it was are read better.
        """
        count, reference = self.samples.features.shape[0], self.reference
        total = reference.features.shape[0]
        if self.held_out is not None:
            there = self.held_out.features.shape[0]
            return part_of(self.held_out, some_places(there, min(count, there))), reference
        if as_the_judge_reads:
            return part_of(reference, judge.held_out_places), reference
        chosen = some_places(total, min(count, total // 2))
        rest = torch.ones(total, dtype=torch.bool)
        rest[chosen] = False
        return part_of(reference, chosen), part_of(reference, rest.nonzero()[:, 0])


def measure(command: EvaluateCommand, bench: Bench, tables: Tables) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of all metrics that apply, each with the floor, and why others do not."""
    figures: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    options = Options(replicates=command.bootstrap, held_out=tables.held_out)
    for name in bench.of_images:
        metric = METRICS[name]
        reason = metric.applies(tables.samples) or bench.lack(name, tables.reference)
        if reason is not None:
            skipped[name] = reason
            continue
        found = metric.measure(tables.samples, tables.reference, options)
        floor = measure_floor(metric, name, found, bench, tables, options) if metric.floor else {}
        for key, figure in found.items():
            own = as_json(figure, bench.subject.count)
            figures[key] = {**own, "better": metric.better[key], "floor": floor.get(key)}
    return figures, skipped


def measure_floor(
    metric: Metric, name: str, found: dict[str, Figure], bench: Bench, tables: Tables, options: Options
) -> dict[str, dict[str, Any]]:
    """What real images get in place of the samples, by figure.

    Where there are not as many real images, `samples` is what equally many samples get against the same real images:
    distances are larger the fewer images there are, so only these two may be set against each other.
    """
    read = name == "accuracy" or (name == "inception_score" and bench.extractor is bench.judge)
    real, rest = tables.floor(bench.judge, as_the_judge_reads=read)
    count, total = real.features.shape[0], tables.samples.features.shape[0]
    if min(count, rest.features.shape[0]) < metric.needs(real):
        return {}
    floor = metric.measure(real, rest, options)
    if name != "accuracy" and (count != total or rest is not tables.reference):     # a share is not biased
        as_many = part_of(tables.samples, some_places(total, min(count, total)))
        found = metric.measure(as_many, rest, options._replace(replicates=0))
    return {
        key: {**as_json(figure, count), "samples": found[key].value} for key, figure in floor.items() if key in found
    }


def as_json(figure: Figure, count: int) -> dict[str, Any]:
    """A figure with the number of images that it was made from."""
    return {**figure._asdict(), "count": figure.count or count}


def finish(
    command: EvaluateCommand,
    bench: Bench,
    tables: Tables | None,
    model: dict[str, Any],
    out: Path,
    read: Read | None,
) -> None:
    """Measures, and writes the pictures and at last evaluation.json; without tables only what the denoiser gave."""
    figures, skipped = ({}, {}) if tables is None else measure(command, bench, tables)
    for name, figure in model.get("figures", {}).items():
        figures[name] = {**as_json(figure, model["images"]["count"]), "better": "lower", "floor": None}
    if bench.subject.pipeline is None:
        skipped |= {name: "there is no model" for name in OF_THE_DENOISER if name in bench.metrics}
    matrix, classes = None, None
    if "accuracy" in figures:
        matrix = confusion(tables.samples.read, tables.samples.labels)
        of_class = class_accuracies(matrix, bench.data.class_names)
        classes = {name: figure._asdict() for name, figure in of_class.items()}
        with atomic_write(out / "confusion.png") as file:
            confusion_picture(matrix, bench.data.class_names).save(file, "PNG")
    if "memorised" in figures:
        pairs = nearest_pairs(tables.samples.pixels, tables.reference.pixels, PAIRS)
        images, real = read(pairs.samples.tolist()), bench.data.__getitems__(pairs.training)[0]
        with atomic_write(out / "neighbours.png") as file:
            neighbours_picture(images, real, pairs.distances.tolist()).save(file, "PNG")
    subject, judge = bench.subject, bench.judge
    result = {
        "model": None if subject.pipeline is None else {"name": subject.name, "weights": subject.identity["weights"]},
        "samples": {
            "count": subject.count,
            "digest": digest_of(subject.identity),
            "source": subject.name,
            "settings": subject.identity.get("settings"),
            "guide": subject.identity.get("guide"),
            "folder": None if subject.folder is None else relative(subject.folder, out),
        },
        "reference": {**described_as(bench.data), "trained_on": bench.trained_on_reference},
        "held_out": None if bench.held_out is None else described_as(bench.held_out),
        "extractor": {
            "name": bench.extractor.name,
            "digest": bench.extractor.digest,
            "features": None if tables is None else tables.samples.features.shape[1],
        },
        "judge": None if judge is None else {
            "digest": judge.digest,
            **{key: value for key, value in judge.accuracy._asdict().items() if key != "count"},
            "held_out": judge.held_out,
        },
        "figures": figures,
        "skipped": skipped,
        "class_names": list(bench.data.class_names),
        "class_accuracies": classes,
        "confusion": None if matrix is None else matrix.tolist(),
        "denoising": model.get("denoising"),
        "bound": model.get("bound"),
        "likelihood_images": model.get("images"),
        "bootstrap": command.bootstrap,
        "bound_steps": command.bound_steps,
        "versions": versions(),
    }
    with atomic_write(out / "evaluation.json") as file:
        file.write(_as_text(result).encode())


def _as_text(result: dict[str, Any]) -> str:
    """JSON to be read, but for the confusions: a row of them is a line."""
    rows = ",\n    ".join(map(json.dumps, result["confusion"] or []))
    text = json.dumps({**result, "confusion": None if result["confusion"] is None else "HERE"}, indent=2)
    return text.replace('"confusion": "HERE"', f'"confusion": [\n    {rows}\n  ]') + "\n"


def described_as(data: ImageData) -> dict[str, Any]:
    """Real images, for the record."""
    return {"summary": data.summary(), "fingerprint": data.fingerprint, "count": len(data)}
