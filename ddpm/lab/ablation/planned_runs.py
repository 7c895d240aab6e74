"""The runs of a study: their configurations, directories and states."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddpm.atomic import write_json
from ddpm.config.changes import NOT_FREE, Change, change_kind, differences
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, SampleConfig
from ddpm.config.study import STUDY_METRICS, Study
from ddpm.config.yaml_files import read_config
from ddpm.lab.comparison.runs import Evaluation, Run, read_run
from ddpm.training.run_record import KnownRun


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study needs: one arm with one seed, and the learning rate if it belongs to a sweep.

    Attributes:
        arm: name of its arm.
        seed: seed in the study; the arm may shift it.
        learning_rate: learning rate of a sweep; None for a run of the study itself.
        config: configuration of the run.
        path: its run directory.
    """

    arm: str
    seed: int
    learning_rate: float | None
    config: Config
    path: Path

    @property
    def name(self) -> str:
        """Display name."""
        rate = "" if self.learning_rate is None else f" with learning rate {self.learning_rate:g}"
        return f"{self.arm}, seed {self.seed}{rate}"


def list_planned_runs(study: Study, path: Path, rates: Mapping[str, float]) -> list[PlannedRun]:
    """Return the runs of a study, seed by seed, so that an unfinished study has some runs of every arm.

    Args:
        study: the study.
        path: its directory.
        rates: learning rate of each arm as chosen by a sweep; empty without one.
    """
    return [
        PlannedRun(arm.name, seed, None, study.config(arm, seed, rates.get(arm.name)), path / arm.name / f"seed_{seed}")
        for seed in study.seeds
        for arm in study.arms
    ]


def list_sweep_runs(study: Study, path: Path) -> list[PlannedRun]:
    """Return the runs of the learning rate sweep, in the same order."""
    seed = study.sweep_seed
    return [
        PlannedRun(
            arm.name, seed, rate, study.config(arm, seed, rate), path / arm.name / f"lr_{rate:g}" / f"seed_{seed}"
        )
        for rate in study.learning_rates
        for arm in study.arms
    ]


def take_shard(runs: Sequence[PlannedRun], shard: tuple[int, int]) -> list[PlannedRun]:
    """Return shard i of n: every n-th run, beginning with the i-th."""
    return list(runs[shard[0] - 1 :: shard[1]])


def evaluation_folder(run: Path) -> Path:
    """Return the folder of the study's own evaluation of a run."""
    return run / "evaluations" / "study"


def evaluate_command(study: Study, run: Path) -> EvaluateCommand:
    """Return the evaluation command of the study for a run."""
    guide = study.evaluation.get("guide")       # str, because it is registered as JSON
    options = {**study.evaluation, "guide": None if guide is None else Path(guide)}
    return EvaluateCommand(model=run, out=evaluation_folder(run), **options)


def sampling_settings(study: Study, config: Config) -> SampleConfig:
    """Return the sampling options of the evaluation: the study's, and the run's section `sample` for the others."""
    given = {key: value for key, value in study.evaluation.items() if hasattr(config.sample, key) and value is not None}
    return dataclasses.replace(config.sample, **given)


def check_metric(study: Study, result: Path) -> None:
    """Check that an evaluation has the deciding metric of the study.

    Args:
        study: the study.
        result: path of evaluation.json.

    Raises:
        ValueError: if the metric is missing; the message says why and lists the others.
    """
    content = json.loads(result.read_text())
    if study.metric not in content["metrics"]:
        why = content["skipped"].get(STUDY_METRICS[study.metric])
        raise ValueError(
            f"metric: the evaluation has no {study.metric}{f' ({why})' if why else ''}; choose one of its metrics: "
            f"{', '.join(content['metrics']) or 'none'}"
        )


def read_divergence(path: Path) -> str | None:
    """Return the message of a diverged run; None if it did not diverge."""
    file = path / "diverged.json"
    return json.loads(file.read_text())["message"] if file.is_file() else None


def record_divergence(path: Path, step: int | None, message: str) -> None:
    """Record that a run diverged; it is not trained again, and counts as diverged."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "diverged.json", {"step": step, "message": message})


def check_unchanged(planned: PlannedRun) -> None:
    """Check that a run that was begun has had the settings of the study at each step.

    Raises:
        ValueError: if it was continued with other settings by scripts/train.py; names the options and the remedy.
    """
    run = KnownRun.read(planned.path)
    if run is None:
        return
    kinds = NOT_FREE - {Change.SAME_IMAGES}
    changed = [*differences(run.config, planned.config, kinds)]
    changed += [c["option"] for c in run.facts.get("changes", []) if change_kind(c["option"]) in kinds]
    if changed:
        raise ValueError(
            f"{planned.name}: {planned.path} was continued with settings that are not those of the study: "
            f"{', '.join(dict.fromkeys(changed))}; move it elsewhere, so that this command trains the run again"
        )


def is_finished(planned: PlannedRun, study: Study) -> bool:
    """Return whether a run is finished: trained and evaluated, or diverged.

    A run with other settings or without the deciding metric is not finished; starting it again reports the problem.
    """
    if read_divergence(planned.path) is not None:
        return True
    last = planned.path / "checkpoints" / f"step_{planned.config.train.steps:08d}"
    if not ((planned.path / "run.json").is_file() and last.is_dir() and (planned.path / "pipeline").is_dir()):
        return False
    if differences(read_config(planned.path / "config.yaml"), planned.config, NOT_FREE):
        return False
    evaluation = find_study_evaluation(read_run(planned.path, planned.name))
    return evaluation is not None and study.metric in evaluation.content["metrics"]


def find_study_evaluation(run: Run) -> Evaluation | None:
    """Return the study's evaluation of the newest weights of a run; None if it does not exist.

    Other evaluations of the run are ignored.
    """
    folder = evaluation_folder(run.path)
    return next((e for e in run.evaluations if e.folder == folder and e.weights == run.newest_weights), None)
