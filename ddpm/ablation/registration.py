"""What a study is, written down before its first run: nobody chooses the question after seeing the answer."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ddpm.data import ImageData
from ddpm.exchange.provenance import git_commit, versions
from ddpm.manifest import appearing
from ddpm.study import Study

_MISSING = object()
SHOWN = 5           # differences that are named


def register(study: Study, text: str, data: ImageData, path: Path) -> dict[str, Any]:
    """Writes study.yaml and study.json, or checks that they are of the same study.

    Args:
        study: what is studied.
        text: of its file.
        data: the images that its arms are trained on.
        path: its directory; made if it does not exist.

    Returns:
        study.json as it stands: study, digest, data, versions, git_commit.

    Raises:
        ValueError: if the directory holds another study, the same on other data, or a run.
        OSError: if it may not be written to.
    """
    resolved = json.loads(json.dumps(study.to_dict()))
    file = path / "study.json"
    if (path / "run.json").exists():
        raise ValueError(f"{path}: is the directory of a single run; name another with --run")
    if file.exists():
        known = json.loads(file.read_text())
        _check_same(_flat(known["study"]), _flat(resolved), path)
        if known["data"]["fingerprint"] != data.fingerprint:
            raise ValueError(
                f"{path}: holds a study on other data ({known['data']['summary']} there, {data.summary()} now); "
                "name another directory with --run"
            )
        return known
    path.mkdir(parents=True, exist_ok=True)
    facts = {
        "digest": hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest(),
        "data": {"summary": data.summary(), "fingerprint": data.fingerprint},
        "versions": versions(),
        "git_commit": git_commit(),
        "study": resolved,
    }
    with appearing(path / "study.yaml") as stream:
        stream.write(text.encode())
    with appearing(file) as stream:
        stream.write((json.dumps(facts, indent=2) + "\n").encode())
    return facts


def registered(path: Path) -> dict[str, Any]:
    """study.json of a directory.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    file = path / "study.json"
    if not file.is_file():
        raise ValueError(f"{path}: holds no study, study.json is missing; name a directory of scripts/ablate.py --run")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file}: cannot be read as JSON: {problem}; restore it") from None


def _check_same(known: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changed = [
        f"{key} ({_short(known.get(key, _MISSING))} there, {_short(now.get(key, _MISSING))} now)"
        for key in known | now
        if known.get(key, _MISSING) != now.get(key, _MISSING)
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ValueError(
            f"{path}: holds another study: {', '.join(changed[:SHOWN])}{more}; name another directory with --run"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested names and values as dotted keys; lists of named things by their names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: item for item in value}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}" if key else str(name)).items()}


def _short(value: Any) -> str:
    text = "missing" if value is _MISSING else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
