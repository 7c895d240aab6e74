"""Reads run directories: configuration, run.json, training curves and evaluations; damaged files are reported here."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from itertools import groupby, product
from operator import getitem
from pathlib import Path
from typing import Any, TypeGuard

from ddpm.atomic import digests, list_checkpoints
from ddpm.config.run_folders import is_run, name_near_runs
from ddpm.config.yaml_files import read_config
from ddpm.io.provenance import weights_digest
from ddpm.training.tracking import EVALUATION_SETTINGS

CurvePoint = tuple[float, float]


# Keys of evaluation.json and of run.json without which nothing can be shown; dots separate nested keys.
EVALUATION_KEYS = ("samples.count", "reference.fingerprint", "extractor.digest", "metrics")
RUN_KEYS = ("data.fingerprint", "data.summary")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        folder: its directory.
        content: content of evaluation.json.
        written: modification time in seconds since 1970; copying the directory may change it.
    """

    folder: Path
    content: dict[str, Any]
    written: float

    @property
    def weights(self) -> str | None:
        """Digest of the weights that generated the images; None for images from elsewhere."""
        return (self.content.get("model") or {}).get("weights")

    @property
    def images(self) -> Path | None:
        """The folder of the generated images; None if they were not kept."""
        named = self.content["samples"].get("folder")
        return self.folder / named if named and (self.folder / named).is_dir() else None


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        name: display name, unique among the runs that are read together.
        path: the directory.
        config: value of each key such as "train.steps".
        facts: run.json.
        records: the lines of metrics.jsonl, in order.
        newest_weights: digest of the weights of the newest checkpoint, as evaluations record it; None without one.
        evaluations: those of the newest weights first, then by number of metrics, then the latest first.
    """

    name: str
    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    records: Sequence[dict[str, Any]]
    newest_weights: str | None
    evaluations: Sequence[Evaluation]

    def curve(self, key: str) -> list[CurvePoint]:
        """Return (images seen, value) of all records with a finite value."""
        return [(record["samples"], record[key]) for record in self.records if is_finite(record.get(key))]

    def evaluation_curve(self, key: str) -> list[tuple[str, list[CurvePoint]]]:
        """Return the segments of a curve, each measured with the same settings.

        Args:
            key: such as "evaluation/accuracy".

        Returns:
            Digest of the settings and points as in `curve`, in order.
        """
        measured = [record for record in self.records if is_finite(record.get(key))]
        segments = groupby(measured, lambda record: record[EVALUATION_SETTINGS])
        return [(digest, [(record["samples"], record[key]) for record in segment]) for digest, segment in segments]

    @property
    def evaluation_settings(self) -> set[str]:
        """Digests of the settings of all evaluations during training."""
        return {record[EVALUATION_SETTINGS] for record in self.records if EVALUATION_SETTINGS in record}


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that charts and intervals can show."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run directories.

    Args:
        paths: one or more.

    Raises:
        ValueError: if a path is not a run directory, is given twice, or contains a damaged file.
    """
    resolved = [path.resolve() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise ValueError(f"{path}: given twice; give each run once")
    names = [path.name for path in resolved]
    # Directories with the same name are shown with their paths.
    return [read_run(p, name if names.count(name) == 1 else str(p)) for p, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str) -> Run:
    """Read one run directory.

    Raises:
        ValueError: if it is not a run directory or contains a damaged file.
    """
    if not is_run(path):
        problem = "config.yaml or run.json is missing" if path.is_dir() else "no such directory"
        remedy = f"give a run directory, as made by scripts/train.py --run-dir{name_near_runs(path)}"
        raise ValueError(f"{path}: {problem}; {remedy}")
    sections = read_config(path / "config.yaml").to_dict()
    config = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    facts, = _parse(path / "run.json", [(path / "run.json").read_text("utf-8")], RUN_KEYS, "restore the file")
    metrics = path / "metrics.jsonl"
    # Anything after the last line break is being written, or was when the run was killed.
    lines = metrics.read_text("utf-8").split("\n")[:-1] if metrics.exists() else []
    records = _parse(metrics, lines, ("step", "samples"), "restore the file")
    weights = _newest_weights(path / "checkpoints")
    evaluations = []
    for file in (path / "evaluations").glob("*/evaluation.json"):
        remedy = f"delete {file.parent} and repeat scripts/evaluate.py, or scripts/ablate.py for a study"
        content, = _parse(file, [file.read_text("utf-8")], EVALUATION_KEYS, remedy)
        evaluations.append(Evaluation(file.parent, content, file.stat().st_mtime))
    evaluations.sort(
        key=lambda e: (e.weights == weights, len(e.content["metrics"]), e.written, str(e.folder)), reverse=True
    )
    return Run(name, path, config, facts, records, weights, evaluations)


def _parse(file: Path, texts: Sequence[str], keys: Sequence[str], remedy: str) -> list[dict[str, Any]]:
    """Parse the JSON objects in a file, and check that they have these keys."""
    try:
        contents = [json.loads(text) for text in texts]
        for content, key in product(contents, keys):
            reduce(getitem, key.split("."), content)
    except (ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{file}: is damaged or of another version ({problem!r}); {remedy}") from None
    return contents


def _newest_weights(checkpoints: Path) -> str | None:
    for checkpoint in reversed(list_checkpoints(checkpoints)):
        with suppress(ValueError):          # a damaged checkpoint, which is never loaded
            if digests(checkpoint) and (weights := weights_digest(checkpoint)):
                return weights
    return None
