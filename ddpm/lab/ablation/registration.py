"""What a study is, written down before its first run: nobody chooses the question after seeing the answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.atomic import json_digest, write_json, write_text
from ddpm.config.study import Study
from ddpm.data import ImageData
from ddpm.io.provenance import git_commit, versions

_MISSING = object()
SHOWN = 5           # differences that are named


def register(study: Study, documents: Mapping[str, str], data: ImageData, path: Path) -> dict[str, Any]:
    """Writes study.json and the files that the study keeps, or checks that they are of the same study.

    Args:
        study: what is studied.
        documents: names and texts of the files that the study keeps, as `study_documents` returns them.
        data: the images that its arms are trained on.
        path: its directory; made if it does not exist.

    Returns:
        study.json as it stands: study, digest, data, versions, git_commit.

    Raises:
        ValueError: if the directory holds another study, the same on other data, one that was changed since, a single
            run, or runs of nobody knows what.
        OSError: if it may not be written to.
    """
    resolved = json.loads(json.dumps(study.to_dict()))
    file = path / "study.json"
    if (path / "run.json").exists():
        raise ValueError(f"{path}: is the directory of a single run; name another with --run-dir")
    made = _some_run(path)      # looked for first: another shard may register and begin in between
    if file.exists():
        known = registered(path)
        _check_same(_flat(known["study"]), _flat(resolved), path)
        if known["data"]["fingerprint"] != data.fingerprint:
            raise ValueError(
                f"{path}: holds a study on other data ({known['data']['summary']} there, {data.summary()} now); "
                "name another directory with --run-dir"
            )
        return known
    if made is not None:
        raise ValueError(
            f"{path}: holds runs, as {made.relative_to(path)}, but not study.json, which says what was asked before "
            "them; restore it, or name another directory with --run-dir"
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


def registered(path: Path) -> dict[str, Any]:
    """study.json of a directory.

    Raises:
        ValueError: if there is none, it cannot be read, or it was changed since it was written.
    """
    file = path / "study.json"
    if not file.is_file():
        raise ValueError(f"{path}: holds no study, study.json is missing; name a --run-dir of scripts/ablate.py")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file}: cannot be read as JSON: {problem}; restore it") from None
    if not isinstance(facts, dict) or json_digest(facts.get("study")) != facts.get("digest"):
        raise ValueError(f"{file}: study.json was changed after it was written (its digest is another); restore it")
    return facts


def _some_run(path: Path) -> Path | None:
    """A run of a study, or of its sweep, that has begun; None if there is none."""
    patterns = ("*/seed_*/run.json", "*/seed_*/diverged.json", "*/lr_*")
    return next((found for pattern in patterns for found in path.glob(pattern)), None)


def _check_same(known: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changed = [
        f"{key} ({_short(known.get(key, _MISSING))} there, {_short(now.get(key, _MISSING))} now)"
        for key in known | now
        if known.get(key, _MISSING) != now.get(key, _MISSING)
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ValueError(
            f"{path}: holds another study: {', '.join(changed[:SHOWN])}{more}; name another directory with --run-dir"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested names and values as dotted keys; lists of named things by their names, which tell the order too."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        names = [item["name"] for item in value]
        return {key: ", ".join(names), **_flat(dict(zip(names, value, strict=True)), key)}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}" if key else str(name)).items()}


def _short(value: Any) -> str:
    text = "missing" if value is _MISSING else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
