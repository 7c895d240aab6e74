"""What a result was produced with: the weights, the versions of packages, the commit, and changes of settings."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ddpm import __version__
from ddpm.atomic import digests, sha256
from ddpm.config.changes import Change, change_kind
from ddpm.config.values import spell_value

SHOWN_CHANGES = 5       # maximum number of changes that a message lists
# Settings that results of older versions do not have on record, and the values that these had.
LATER_SETTINGS = {"mixed_precision": "fp32", "compile": False}


def weights_digest(directory: Path) -> str:
    """Return a SHA-256 that identifies the weights of a pipeline directory, from its manifest if it has one."""
    found = {name: value for name, value in digests(directory).items() if re.fullmatch(r"unet/.*\.safetensors", name)}
    found = found or {f"unet/{f.name}": sha256(f) for f in (directory / "unet").glob("*.safetensors")}
    return "+".join(found[name] for name in sorted(found))


def versions() -> dict[str, str]:
    """Return the versions of all packages that a result may depend on."""
    packages = {name: version(name) for name in ("diffusers", "accelerate")}
    return {"adagn-ddpm": __version__, "python": platform.python_version(), "torch": torch.__version__, **packages}


def git_commit() -> str | None:
    """Return the commit of the code, with `+changes` if the working tree differs; None outside a repository."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def settings_on_record(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are recorded with a result, without LATER_SETTINGS that have the value of older results.

    So equal settings have equal records and digests in all versions.
    """
    later = LATER_SETTINGS.items()
    return {key: value for key, value in settings.items() if (key, value) not in later}


def describe_changes(recorded: Any, present: Any) -> str:
    """Return how recorded settings differ from the present ones, such as `sample.steps (50 there, 20 now)`.

    Args:
        recorded: JSON values that were saved with a result; nested values get dotted names.
        present: what would be saved now.

    Returns:
        The first SHOWN_CHANGES differences, or an empty string if the two are equal as JSON.
    """
    old, new = _flatten(recorded), _flatten(json.loads(json.dumps(present)))
    pairs = {key: (old.get(key, "not set"), new.get(key, "not set")) for key in old | new}
    changes = [f"{key} ({_cut(a)} there, {_cut(b)} now)" for key, (a, b) in pairs.items() if a != b]
    more = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
    return ", ".join(changes[:SHOWN_CHANGES]) + more


def describe_history(changes: Sequence[Mapping[str, Any]], step: int | None = None) -> str:
    """Return the changes of settings that affect the weights of a run, such as `train.batch_size 64 to 32 at step 400`.

    Args:
        changes: the records in run.json.
        step: training step of the weights; None for the last.
    """
    kinds = Change.LENGTH, Change.BY_NAME
    made = [c for c in changes if change_kind(c["option"]) in kinds and (step is None or c["step"] < step)]
    return ", ".join(f"{c['option']} {_short(c['old'])} to {_short(c['new'])} at step {c['step']}" for c in made)


def _short(value: Any) -> str:
    return f"({value['summary']})" if isinstance(value, dict) else spell_value(value)


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted keys; lists of named entries also yield their names, in order."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        names = [item["name"] for item in value]
        return {key: ", ".join(names), **_flatten(dict(zip(names, value, strict=True)), key)}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flatten(item, f"{key}.{name}".lstrip(".")).items()}


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"      # two digests may differ at the end only
