"""Reads run directories: configuration, run.json, training curves and evaluations; damaged files are reported here."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import getitem
from pathlib import Path
from typing import Any, TypeGuard

from ddpm.atomic import digests
from ddpm.config.yaml_files import read_config

EVALUATED = "evaluation/"               # prefix of the metrics in metrics.jsonl that were measured during training
EVALUATED_BY = "evaluation/settings"    # digest of the settings that they were measured with

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
        records: the lines of metrics.jsonl, in order; each has a number `step`.
        left_out: number of complete lines of metrics.jsonl that are not records.
        newest_weights: digest of the weights of the newest checkpoint, as evaluations record it; None without one.
        evaluations: those of the newest weights first, then by number of metrics, then the latest first.
    """

    name: str
    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    records: Sequence[dict[str, Any]]
    left_out: int
    newest_weights: str | None
    evaluations: Sequence[Evaluation]

    def seen(self, record: dict[str, Any]) -> float:
        """Return the number of training images that had been seen when a record was written."""
        samples = record.get("samples")
        return samples if finite(samples) else record["step"] * self.config["train.batch_size"]

    def curve(self, key: str) -> list[CurvePoint]:
        """Return (images seen, value) of all records with a finite value."""
        return self._points(self.records, key)

    def evaluation_curve(self, key: str) -> list[tuple[str | None, list[CurvePoint]]]:
        """Return the segments of a curve, each measured with the same settings.

        Args:
            key: such as "evaluation/accuracy".

        Returns:
            Digest of the settings (None if the records do not have one) and points as in `curve`, in order.
        """
        segments = groupby((record for record in self.records if key in record), _settings_digest)
        found = [(digest, self._points(segment, key)) for digest, segment in segments]
        return [(digest, points) for digest, points in found if points]

    @property
    def evaluation_settings(self) -> set[str | None]:
        """Digests of the settings of all evaluations during training; None for records without one."""
        return {_settings_digest(r) for r in self.records if any(key.startswith(EVALUATED) for key in r)}

    @property
    def newest_grid(self) -> Path | None:
        """The newest sample grid of training."""
        grids = (self.path / "samples").glob("step_*.png")
        return max((file for file in grids if step_of(file).isdecimal()), default=None)

    def _points(self, records: Iterable[dict[str, Any]], key: str) -> list[CurvePoint]:
        return [(self.seen(record), record[key]) for record in records if finite(record.get(key))]


def finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that charts and intervals can show."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def step_of(grid: Path) -> str:
    """Return the step in the file name of a sample grid."""
    return grid.stem.removeprefix("step_")


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
            raise ValueError(f"{path}: given twice; name each run once")
    names = [path.name for path in resolved]
    # Directories with the same name are shown with their paths.
    return [read_run(p, name if names.count(name) == 1 else str(p)) for p, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str) -> Run:
    """Read one run directory.

    Raises:
        ValueError: if it is not a run directory or contains a damaged file.
    """
    if not ((path / "config.yaml").is_file() and (path / "run.json").is_file()):
        problem = "config.yaml or run.json is missing" if path.is_dir() else "no such directory"
        raise ValueError(f"{path}: {problem}; name a run directory, as made by scripts/train.py --run-dir")
    sections = read_config(path / "config.yaml").to_dict()
    config = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    facts = _read_json(path / "run.json", RUN_KEYS, "restore the file or train again")
    records, left_out = _read_records(path / "metrics.jsonl")
    weights = _newest_weights(path / "checkpoints")
    evaluations = []
    for file in (path / "evaluations").glob("*/evaluation.json"):
        content = _read_json(file, EVALUATION_KEYS, "run scripts/evaluate.py again")
        evaluations.append(Evaluation(file.parent, content, file.stat().st_mtime))
    evaluations.sort(
        key=lambda e: (e.weights == weights, len(e.content["metrics"]), e.written, str(e.folder)), reverse=True
    )
    return Run(name, path, config, facts, records, left_out, weights, evaluations)


def _read_json(file: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """Read a JSON object, and check that it has these keys."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for key in keys:
            reduce(getitem, key.split("."), content)
    except (ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{file}: is damaged or of another version ({problem!r}); {remedy}") from None
    return content


def _newest_weights(checkpoints: Path) -> str | None:
    for checkpoint in sorted(checkpoints.glob("step_*"), reverse=True):
        with suppress(ValueError):          # a damaged checkpoint, which is never loaded
            listed = digests(checkpoint)
            files = sorted(name for name in listed if name.startswith("unet/") and name.endswith(".safetensors"))
            if files:
                return "+".join(listed[name] for name in files)
    return None


def _read_records(file: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records of metrics.jsonl, and the number of complete lines that are not records."""
    # Anything after the last line break is a line that is being written, or was when the run was killed.
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    records = []
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line.decode())
            if isinstance(record, dict) and finite(record.get("step")):
                records.append(record)
    return records, len(lines) - len(records)


def _settings_digest(record: dict[str, Any]) -> str | None:
    digest = record.get(EVALUATED_BY)
    return digest if isinstance(digest, str) else None
