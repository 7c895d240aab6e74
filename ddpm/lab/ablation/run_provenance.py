"""Provenance of the runs of a study, with paths that hold on any machine."""

import shlex
from pathlib import Path

from ddpm.lab.comparison.runs import Evaluation, Run


def path_from_parent(study: Path, place: Path) -> str:
    """Return a path inside the directory of a study, relative to the parent of that directory."""
    return str(study.resolve().name / place.relative_to(study))


def provenance(study: Path, path: Path, run: Run, evaluation: Evaluation | None) -> dict[str, str]:
    """Return what is needed to reproduce a run and to check the result.

    Args:
        study: directory of the study.
        path: directory of the run, STUDY/ARM/seed_N.
        run: the run.
        evaluation: the study's evaluation of the run; None without one.

    Returns:
        command, git_commit, versions, data, weights, evaluation.
    """
    config = shlex.quote(path_from_parent(study, path / "config.yaml"))
    again = shlex.quote(f"again/{path.parent.name}/{path.name}")
    return {
        "command": f"python scripts/train.py --config {config} --run-dir {again}",
        "git_commit": str(run.facts.get("git_commit")),
        "versions": ", ".join(f"{name} {version}" for name, version in run.facts.get("versions", {}).items()),
        "data": run.facts["data"]["fingerprint"],
        "weights": (None if evaluation is None else evaluation.weights) or run.newest_weights or "none",
        "evaluation": "none" if evaluation is None else path_from_parent(study, evaluation.folder),
    }
