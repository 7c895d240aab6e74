"""Run directories as they are read back: settings, facts, curves and evaluations. What is wrong is told here, once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Any

from ddpm.atomic import digests
from ddpm.config.yaml_files import read_config

EVALUATED = "evaluation/"               # what the keys of figures in metrics.jsonl begin with
EVALUATED_BY = "evaluation/settings"    # digest of what decides those of a record

Kinds = Mapping[str, type | UnionType]
Point = tuple[float, float]

# What is read of evaluation.json: key -> what it may hold.
_EVALUATION: Kinds = {"samples": dict, "reference": dict, "extractor": dict, "figures": dict}
_PARTS: dict[str, Kinds] = {
    "samples": {"count": int},
    "reference": {"fingerprint": str, "summary": str},
    "extractor": {"name": str, "digest": str, "features": int | None},
    "model": {"weights": str},
    "held_out": {"fingerprint": str, "summary": str},
    "judge": {"digest": str, "value": float | int, "low": float | int, "high": float | int, "held_out": int},
    "likelihood_images": {"count": int, "held_out": bool},
}
_NULLABLE: Kinds = {"settings": dict | None, "folder": str | None}      # of the samples
_REAL: Kinds = {"value": float | int, "low": float | int | None, "high": float | int | None, "count": int}
_FIGURE: Kinds = {**_REAL, "better": str, "floor": dict | None}
_POINT: Kinds = {"noise_level": float | int, "x_0_error": float | int, "standard_error": float | int}
_MISSING = object()


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        folder: where it is.
        content: of its evaluation.json.
        written: when, in seconds since 1970; copying may change it.
    """

    folder: Path
    content: dict[str, Any]
    written: float

    @property
    def weights(self) -> str | None:
        """Digest of the weights that drew the images; None for somebody else's images."""
        model = self.content.get("model")
        return None if model is None else model["weights"]

    @property
    def images(self) -> Path | None:
        """The folder of the drawn images; None where there is none, or it is gone."""
        named = self.content["samples"].get("folder")
        path = None if named is None else self.folder / named
        return path if path is not None and path.is_dir() else None


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        name: for people, distinct among the runs that are read together.
        path: of the directory.
        config: key such as "train.steps" -> value.
        facts: of run.json.
        records: of metrics.jsonl, in order; each has a number `step`.
        left_out: whole lines of metrics.jsonl that are no records.
        newest_weights: what evaluations call the weights of the newest checkpoint; None where there is none.
        evaluations: those of the newest weights first, then those with most figures, then the latest written.
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
        """Images that were trained on when a record was written."""
        samples = record.get("samples")
        return samples if finite(samples) else record["step"] * self.config["train.batch_size"]

    def curve(self, key: str) -> list[Point]:
        """Images seen, and the value there; what is no finite number is left out."""
        return self._points(self.records, key)

    def evaluation_curve(self, key: str) -> list[tuple[str | None, list[Point]]]:
        """A curve in parts, each measured with the same settings.

        Args:
            key: such as "evaluation/accuracy".

        Returns:
            Digest of the settings (None where records do not tell it) and points as of `curve`, in order.
        """
        parts = groupby((record for record in self.records if key in record), _settings)
        found = [(digest, self._points(part, key)) for digest, part in parts]
        return [(digest, points) for digest, points in found if points]

    @property
    def evaluation_settings(self) -> set[str | None]:
        """Digests of the settings of all evaluations while training; None stands for those that do not tell it."""
        return {_settings(r) for r in self.records if any(key.startswith(EVALUATED) for key in r)}

    @property
    def newest_grid(self) -> Path | None:
        """The sample grid that training drew last."""
        grids = (self.path / "samples").glob("step_*.png")
        return max((file for file in grids if step_of(file).isdecimal()), default=None)

    def _points(self, records: Sequence[dict[str, Any]], key: str) -> list[Point]:
        return [(self.seen(record), record[key]) for record in records if finite(record.get(key))]


def finite(value: Any) -> bool:
    """Whether something is a number, and none that charts and intervals cannot show."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def step_of(grid: Path) -> str:
    """The step in the name of a sample grid, as it stands there."""
    return grid.stem.removeprefix("step_")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Reads run directories.

    Args:
        paths: one or more.

    Raises:
        ValueError: if one is no run directory, is given twice, or holds a file that cannot be read.
    """
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path.resolve() == other.resolve():
                raise ValueError(f"{path}: given twice; name each run once")
    names = [path.resolve().name for path in paths]
    # Directories of one name are told apart by their paths.
    return [read_run(p, name if names.count(name) == 1 else str(p)) for p, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str) -> Run:
    """Reads one run directory.

    Raises:
        ValueError: if it is none, or holds a file that cannot be read.
    """
    if not ((path / "config.yaml").is_file() and (path / "run.json").is_file()):
        missing = "no such directory" if not path.is_dir() else "no run directory, config.yaml or run.json is missing"
        raise ValueError(f"{path}: {missing}; name directories that scripts/train.py --run-dir made")
    sections = read_config(path / "config.yaml").to_dict()
    config = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    facts = _json(path / "run.json")
    check = _checker(path / "run.json", "restore it")
    check(facts, {"data": dict})
    check(facts["data"], {"summary": str, "fingerprint": str}, "data.")
    records, left_out = _records(path / "metrics.jsonl")
    weights = _newest_weights(path / "checkpoints")
    evaluations = [_evaluation(file) for file in (path / "evaluations").glob("*/evaluation.json")]
    evaluations.sort(
        key=lambda e: (e.weights == weights, len(e.content["figures"]), e.written, str(e.folder)), reverse=True
    )
    return Run(name, path, config, facts, records, left_out, weights, evaluations)


def _newest_weights(checkpoints: Path) -> str | None:
    for checkpoint in sorted(checkpoints.glob("step_*"), reverse=True):
        try:
            listed = digests(checkpoint)
        except ValueError:
            continue        # damaged, so that nothing loads it
        files = sorted(name for name in listed if name.startswith("unet/") and name.endswith(".safetensors"))
        if files:
            return "+".join(listed[name] for name in files)
    return None


def _evaluation(file: Path) -> Evaluation:
    content = _json(file)
    check = _checker(file, "run scripts/evaluate.py again")
    check(content, _EVALUATION)
    for part, kinds in _PARTS.items():
        if content.get(part) is not None:
            check(content, {part: dict})
            check(content[part], kinds, f"{part}.")
    samples = content["samples"]
    check(samples, {key: kind for key, kind in _NULLABLE.items() if key in samples}, "samples.")
    for name, figure in content["figures"].items():
        check(content["figures"], {name: dict}, "figures.")
        check(figure, _FIGURE, f"figures.{name}.")
        if figure["floor"] is not None:
            check(figure["floor"], _REAL, f"figures.{name}.floor.")
    for i, point in enumerate(content.get("denoising") or ()):
        check(point, _POINT, f"denoising.{i}.")
    return Evaluation(file.parent, content, file.stat().st_mtime)


def _checker(file: Path, advice: str) -> Callable[..., None]:
    """Something that refuses content of a file in one line."""

    def check(content: dict[str, Any], kinds: Kinds, within: str = "") -> None:
        for key, kind in kinds.items():
            value = content.get(key, _MISSING)
            if not isinstance(value, kind):
                problem = "is missing" if value is _MISSING else f"is {str(value)[:40]!r}"
                raise ValueError(f"{file}: {within}{key} {problem}; {advice}")

    return check


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file}: cannot be read as JSON: {problem}; restore it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds no names and values; restore it")
    return content


def _records(file: Path) -> tuple[list[dict[str, Any]], int]:
    if not file.exists():
        return [], 0
    # What follows the last line break is a line that is being written, or was when the run was killed.
    lines = file.read_bytes().split(b"\n")[:-1]
    records = [record for record in map(_record, lines) if record is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and finite(record.get("step")) else None


def _settings(record: dict[str, Any]) -> str | None:
    digest = record.get(EVALUATED_BY)
    return digest if isinstance(digest, str) else None
