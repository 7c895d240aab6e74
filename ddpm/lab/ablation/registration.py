"""Registers a study before its first run, so that the question cannot be changed after seeing the answer."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.atomic import json_digest, read_json, write_json, write_text
from ddpm.config.changes import Change, change_kind
from ddpm.config.run_folders import run_of
from ddpm.config.sections import Config, flatten
from ddpm.config.study import Study
from ddpm.data import ImageData
from ddpm.io.provenance import describe_changes, git_commit, versions
from ddpm.training.run_directory import ANOTHER, find_other_use

SAMPLING = ("sample.", "evaluation.")       # sections that do not affect training, but the images that are measured
# Files and directories of the study's runs and of its sweep.
RUNS = ("*/seed_*/run.json", "*/seed_*/diverged.json", "*/lr_*/seed_*")


def check_study_directory(path: Path, source: str) -> None:
    """Check that a directory can be that of a study, before anything is written.

    Args:
        path: the directory; it need not exist.
        source: the option data.source.

    Raises:
        ValueError: if it is, or is in, the directory of a run, the folder of images or a directory with another use.
    """
    run = run_of(path)
    if run is not None:
        raise ValueError(f"run_dir: {path} is {'' if run == path else 'in '}the directory of the run {run}; {ANOTHER}")
    holds_study = (path / "study.json").is_file() or _find_runs(path)
    if not holds_study and (problem := find_other_use(path, source)) is not None:
        raise ValueError(f"run_dir: {path} {problem}")


def _find_runs(path: Path) -> list[Path]:
    """Return files and directories of runs of the study in a directory."""
    return [run for pattern in RUNS for run in path.glob(pattern)]


def register(study: Study, documents: Mapping[str, str], data: ImageData, path: Path) -> dict[str, Any]:
    """Write study.json and the files of the study, unless `find_registration` finds them.

    Args:
        study: the study.
        documents: names and contents of the files that the directory keeps, such as study.yaml.
        data: the training images of its arms.
        path: directory of the study; created if it does not exist.

    Returns:
        The content of study.json: study, digest, data, versions, git_commit.

    Raises:
        ValueError: if the directory contains another study, the same study on other data, a changed study.json, or
            runs without study.json.
        OSError: if the directory is not writable.
    """
    known = find_registration(study, data, path)
    if known is not None:
        return known
    path.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        write_text(path / name, text)
    resolved = _resolve(study)
    facts = {
        "digest": json_digest(resolved),
        "data": {"summary": data.summary(), "fingerprint": data.fingerprint},
        "versions": versions(),
        "git_commit": git_commit(),
        "study": resolved,
    }
    write_json(path / "study.json", facts)
    return facts


def find_registration(study: Study, data: ImageData, path: Path) -> dict[str, Any] | None:
    """Return the content of study.json in a directory; None if there is none yet.

    Args:
        study: the study.
        data: the training images of its arms.
        path: directory of the study.

    Raises:
        ValueError: if the directory contains another study, the same study on other data, a changed study.json, or
            runs without study.json.
    """
    begun = _find_runs(path)    # before study.json is read: another shard may register and begin in between
    if (path / "study.json").exists():
        known = read_registration(path)
        if changes := describe_changes(_deciding_values(known["study"]), _deciding_values(_resolve(study))):
            raise ValueError(f"{path}: contains another study: {changes}; {ANOTHER}")
        # The images may have moved, as long as they are the same.
        if known["data"]["fingerprint"] != data.fingerprint:
            raise ValueError(
                f"{path}: contains a study on other data ({known['data']['summary']} there, {data.summary()} now); "
                f"{ANOTHER}"
            )
        return known
    if begun:
        raise ValueError(
            f"{path}: contains runs such as {begun[0].relative_to(path)} but no study.json; restore it, or "
            f"{ANOTHER}"
        )
    return None


def _resolve(study: Study) -> dict[str, Any]:
    """Return a study as JSON values."""
    return json.loads(json.dumps(study.to_dict()))


def _deciding_values(study: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values of a study on which its results depend.

    Those are all but the place of the images, whose content is compared separately, and the options of training that do
    not affect a result. Options that did not exist when the study was registered have their defaults.
    """
    study = copy.deepcopy(study)
    for arm in study["arms"]:
        options = flatten(Config().with_options(flatten(arm["config"])).to_dict())
        free = {option for option in options if change_kind(option) is Change.FREE and not option.startswith(SAMPLING)}
        arm["config"] = {option: value for option, value in options.items() if option not in free | {"data.source"}}
    return study


def read_registration(path: Path) -> dict[str, Any]:
    """Read study.json of a directory.

    Raises:
        ValueError: if it is missing, damaged, or was changed after it was written.
    """
    file = path / "study.json"
    if not file.is_file():
        raise ValueError(f"{path}: study.json is missing; give the --run-dir of a study of scripts/ablate.py")
    facts = read_json(file, "study", "digest", "data")
    if json_digest(facts["study"]) != facts["digest"]:
        raise ValueError(f"{file}: was changed after it was written; restore the file")
    return facts
