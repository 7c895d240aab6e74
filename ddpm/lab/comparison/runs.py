"""Reads run directories: configuration, run.json, training curves and evaluations; damaged files are reported here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from ddpm.atomic import digests
from ddpm.config.yaml_files import read_config

EVALUATED = "evaluation/"               # prefix of the metrics in metrics.jsonl that were measured during training
EVALUATED_BY = "evaluation/settings"    # digest of the settings that they were measured with

CurvePoint = tuple[float, float]


class ImagesRecord(TypedDict):
    """A set of real images, as run.json and evaluation.json record it."""

    fingerprint: str
    summary: str


class SamplesRecord(TypedDict):
    """The generated images of an evaluation."""

    count: int
    settings: NotRequired[dict | None]
    folder: NotRequired[str | None]


class ExtractorRecord(TypedDict):
    """The feature extractor of an evaluation; `features` is None where it was not needed."""

    name: str
    digest: str
    features: int | None


class BaselineRecord(TypedDict):
    """A metric of real images in place of generated ones."""

    value: float
    low: float | None
    high: float | None
    count: int


class EstimateRecord(BaselineRecord):
    """A metric with its 95 % interval and the number of images; `better` is "lower" or "higher"."""

    better: str
    real_baseline: BaselineRecord | None


class ClassifierRecord(TypedDict):
    """Accuracy of the reference classifier on `held_out` real images that it was not trained on."""

    digest: str
    value: float
    low: float
    high: float
    held_out: int


class DenoisingRecord(TypedDict):
    """Mean squared error of x_0 at one sigma."""

    sigma: float
    x_0_error: float
    standard_error: float


class ModelRecord(TypedDict):
    """The model that generated the images."""

    weights: str


class DenoiserImagesRecord(TypedDict):
    """The real images that the denoiser was measured on."""

    count: int
    held_out: bool


class EvaluationRecord(TypedDict):
    """The keys of evaluation.json that are read here."""

    samples: SamplesRecord
    reference: ImagesRecord
    extractor: ExtractorRecord
    metrics: dict[str, EstimateRecord]
    model: NotRequired[ModelRecord | None]
    held_out: NotRequired[ImagesRecord | None]
    classifier: NotRequired[ClassifierRecord | None]
    likelihood_images: NotRequired[DenoiserImagesRecord | None]
    denoising: NotRequired[list[DenoisingRecord] | None]


class RunRecord(TypedDict):
    """The keys of run.json that every run has."""

    data: ImagesRecord


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        folder: its directory.
        content: evaluation.json, an `EvaluationRecord` with further keys.
        written: modification time in seconds since 1970; copying the directory may change it.
    """

    folder: Path
    content: dict[str, Any]
    written: float

    @property
    def weights(self) -> str | None:
        """Digest of the weights that generated the images; None for images from elsewhere."""
        model = self.content.get("model")
        return None if model is None else model["weights"]

    @property
    def images(self) -> Path | None:
        """The folder of the generated images; None if they were not kept."""
        named = self.content["samples"].get("folder")
        path = None if named is None else self.folder / named
        return path if path is not None and path.is_dir() else None


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

    def _points(self, records: Iterator[dict[str, Any]] | Sequence[dict[str, Any]], key: str) -> list[CurvePoint]:
        return [(self.seen(record), record[key]) for record in records if finite(record.get(key))]


def finite(value: Any) -> bool:
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
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path.resolve() == other.resolve():
                raise ValueError(f"{path}: given twice; name each run once")
    names = [path.resolve().name for path in paths]
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
    facts = _read_json(path / "run.json", RunRecord, "restore the file or train again")
    records, left_out = _records(path / "metrics.jsonl")
    weights = _newest_weights(path / "checkpoints")
    evaluations = []
    for file in (path / "evaluations").glob("*/evaluation.json"):
        content = _read_json(file, EvaluationRecord, "run scripts/evaluate.py again")
        evaluations.append(Evaluation(file.parent, content, file.stat().st_mtime))
    evaluations.sort(
        key=lambda e: (e.weights == weights, len(e.content["metrics"]), e.written, str(e.folder)), reverse=True
    )
    return Run(name, path, config, facts, records, left_out, weights, evaluations)


def _read_json(file: Path, kind: type, remedy: str) -> dict[str, Any]:
    """Read a JSON file that has the keys of a TypedDict, and maybe others."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        _check_type(content, kind, "")
    except ValueError as problem:
        raise ValueError(f"{file}: {problem}; {remedy}") from None
    return content


def _check_type(value: Any, kind: Any, name: str) -> None:
    """Check a JSON value against a TypedDict, dict[str, X], list[X], X | None or a plain type."""
    if isinstance(kind, UnionType):
        if value is None:
            return
        kind = next(option for option in get_args(kind) if option is not NoneType)
    plain = dict if is_typeddict(kind) else get_origin(kind) or kind
    if not isinstance(value, int | float if plain is float else plain):
        raise ValueError(f"{name or 'its content'} is {str(value)[:40]!r}")
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        if missing := kind.__required_keys__ - value.keys():
            raise ValueError(f"{name}.{min(missing)} is missing".lstrip("."))
        entries = [(key, value[key], hint) for key, hint in hints.items() if key in value]
    elif get_origin(kind) is not None:
        pairs = value.items() if plain is dict else enumerate(value)
        entries = [(key, entry, get_args(kind)[-1]) for key, entry in pairs]
    else:
        entries = []
    for key, entry, hint in entries:
        _check_type(entry, hint, f"{name}.{key}".lstrip("."))


def _newest_weights(checkpoints: Path) -> str | None:
    for checkpoint in sorted(checkpoints.glob("step_*"), reverse=True):
        try:
            listed = digests(checkpoint)
        except ValueError:
            continue        # a damaged checkpoint, which is never loaded
        files = sorted(name for name in listed if name.startswith("unet/") and name.endswith(".safetensors"))
        if files:
            return "+".join(listed[name] for name in files)
    return None


def _records(file: Path) -> tuple[list[dict[str, Any]], int]:
    if not file.exists():
        return [], 0
    # Anything after the last line break is a line that is being written, or was when the run was killed.
    lines = file.read_bytes().split(b"\n")[:-1]
    records = [record for record in map(_record, lines) if record is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and finite(record.get("step")) else None


def _settings_digest(record: dict[str, Any]) -> str | None:
    digest = record.get(EVALUATED_BY)
    return digest if isinstance(digest, str) else None
