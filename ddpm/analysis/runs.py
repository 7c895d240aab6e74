"""Run directories as they are read back: settings, facts, curves and evaluations."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.commands import read_config
from ddpm.manifest import digests

_NEEDED = {"samples", "reference", "extractor", "figures"}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        folder: where it is.
        content: of its evaluation.json.
        written: when, in seconds since 1970.
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
        records: of metrics.jsonl, in order.
        evaluations: the newest first.
    """

    name: str
    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    records: Sequence[dict[str, Any]]
    evaluations: Sequence[Evaluation]

    def seen(self, record: dict[str, Any]) -> int:
        """Images that were trained on when a record was written."""
        return record.get("samples", record["step"] * self.config["train.batch_size"])

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Images seen, and the value there; what is no finite number is left out."""
        found = [(self.seen(record), record.get(key)) for record in self.records]
        return [(x, y) for x, y in found if isinstance(y, int | float) and math.isfinite(y)]

    @property
    def newest_weights(self) -> str | None:
        """What evaluations call the weights of the newest checkpoint; None where there is none."""
        for checkpoint in sorted((self.path / "checkpoints").glob("step_*"), reverse=True):
            listed = digests(checkpoint)
            files = sorted(name for name in listed if name.startswith("unet/") and name.endswith(".safetensors"))
            return "+".join(listed[name] for name in files) or None
        return None

    @property
    def newest_grid(self) -> Path | None:
        """The sample grid that training drew last."""
        return max((self.path / "samples").glob("step_*.png"), default=None)


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
        raise ValueError(f"{path}: {missing}; name directories that scripts/train.py --run made")
    sections = read_config(path / "config.yaml").to_dict()
    config = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    evaluations = [_evaluation(file) for file in (path / "evaluations").glob("*/evaluation.json")]
    evaluations.sort(key=lambda e: (e.written, str(e.folder)), reverse=True)
    return Run(name, path, config, _json(path / "run.json"), _records(path / "metrics.jsonl"), evaluations)


def _evaluation(file: Path) -> Evaluation:
    content = _json(file)
    missing = _NEEDED - content.keys()
    if missing:
        raise ValueError(f"{file}: has no {min(missing)}; run scripts/evaluate.py again")
    return Evaluation(file.parent, content, file.stat().st_mtime)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file}: cannot be read as JSON: {problem}; restore it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds no names and values; restore it")
    return content


def _records(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    records = []
    # What follows the last line break is a line that is being written, or was when the run was killed.
    for i, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{file}: line {i} cannot be read as JSON; resume the run, or remove the line") from None
    return records
