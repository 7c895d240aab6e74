"""Registers a study before its first run, so that the question cannot be changed after seeing the answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.atomic import json_digest, write_json, write_text
from ddpm.config.study import Study
from ddpm.data import ImageData
from ddpm.io.provenance import git_commit, versions

_MISSING = object()
SHOWN_DIFFERENCES = 5   # number of differences that an error lists


def register(study: Study, documents: Mapping[str, str], data: ImageData, path: Path) -> dict[str, Any]:
    """Write study.json and the files of the study, or check that the existing ones are of the same study.

    Args:
        study: the study.
        documents: names and texts of the files that the directory keeps, as `study_documents` returns them.
        data: the training images of its arms.
        path: directory of the study; created if it does not exist.

    Returns:
        The content of study.json: study, digest, data, versions, git_commit.

    Raises:
        ValueError: if the directory contains another study, the same study on other data, a changed study.json, a
            single run, or runs without study.json.
        OSError: if the directory is not writable.
    """
    resolved = json.loads(json.dumps(study.to_dict()))
    file = path / "study.json"
    if (path / "run.json").exists():
        raise ValueError(f"{path}: is the directory of a single run; name another directory with --run-dir")
    made = _some_run(path)      # before study.json is read: another shard may register and begin in between
    if file.exists():
        known = read_registration(path)
        _check_same(_flat(known["study"]), _flat(resolved), path)
        if known["data"]["fingerprint"] != data.fingerprint:
            raise ValueError(
                f"{path}: contains a study on other data ({known['data']['summary']} there, {data.summary()} now); "
                "name another directory with --run-dir"
            )
        return known
    if made is not None:
        raise ValueError(
            f"{path}: contains runs such as {made.relative_to(path)} but no study.json; restore it, or name another "
            "directory with --run-dir"
        )
    path.mkdir(parents=True, exist_ok=True)
    facts = {
        "digest": json_digest(resolved),
        "data": {"summary": data.summary(), "fingerprint": data.fingerprint},
        "versions": versions(),
        "git_commit": git_commit(),
        "study": resolved,
    }
    for name, text in documents.items():
        write_text(path / name, text)
    write_json(file, facts)
    return facts


def read_registration(path: Path) -> dict[str, Any]:
    """Read study.json of a directory.

    Raises:
        ValueError: if it is missing, damaged, or was changed after it was written.
    """
    file = path / "study.json"
    if not file.is_file():
        raise ValueError(f"{path}: study.json is missing; name the --run-dir of a study of scripts/ablate.py")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file}: {problem}; restore the file") from None
    if not isinstance(facts, dict) or json_digest(facts.get("study")) != facts.get("digest"):
        raise ValueError(f"{file}: was changed after it was written (its digest differs); restore the file")
    return facts


def _some_run(path: Path) -> Path | None:
    """Return any run of the study or its sweep that has begun; None if there is none."""
    patterns = ("*/seed_*/run.json", "*/seed_*/diverged.json", "*/lr_*")
    return next((found for pattern in patterns for found in path.glob(pattern)), None)


def _check_same(known: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changed = [
        f"{key} ({_short(known.get(key, _MISSING))} there, {_short(now.get(key, _MISSING))} now)"
        for key in known | now
        if known.get(key, _MISSING) != now.get(key, _MISSING)
    ]
    if changed:
        more = f" and {len(changed) - SHOWN_DIFFERENCES} more" if len(changed) > SHOWN_DIFFERENCES else ""
        listed = ", ".join(changed[:SHOWN_DIFFERENCES])
        raise ValueError(f"{path}: contains another study: {listed}{more}; name another directory with --run-dir")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted keys; lists of named entries also yield their names, in order."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        names = [item["name"] for item in value]
        return {key: ", ".join(names), **_flat(dict(zip(names, value, strict=True)), key)}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}" if key else str(name)).items()}


def _short(value: Any) -> str:
    text = "missing" if value is _MISSING else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
