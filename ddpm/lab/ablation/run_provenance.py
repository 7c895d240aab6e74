"""Where the runs of a study came from, told so that it is true on any machine."""

import shlex
from pathlib import Path

from ddpm.lab.comparison.runs import Evaluation, Run


def from_its_parent(study: Path, place: Path) -> str:
    """A place in the directory of a study, as seen from the directory that holds the study."""
    return str(study.resolve().name / place.relative_to(study))


def provenance(study: Path, path: Path, run: Run, evaluation: Evaluation | None) -> dict[str, str]:
    """What reproduces a run, and tells whether it was.

    Args:
        study: its directory.
        path: that of the run, STUDY/ARM/seed_N.
        run: as it is read back.
        evaluation: the study's; None where there is none.

    Returns:
        command, git_commit, versions, data, weights, evaluation.
    """
    config = shlex.quote(from_its_parent(study, path / "config.yaml"))
    again = shlex.quote(f"again/{path.parent.name}/{path.name}")
    return {
        "command": f"python scripts/train.py --config {config} --run-dir {again}",
        "git_commit": str(run.facts.get("git_commit")),
        "versions": ", ".join(f"{name} {version}" for name, version in run.facts.get("versions", {}).items()),
        "data": run.facts["data"]["fingerprint"],
        "weights": (None if evaluation is None else evaluation.weights) or run.newest_weights or "none",
        "evaluation": "none" if evaluation is None else from_its_parent(study, evaluation.folder),
    }
