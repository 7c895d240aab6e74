"""The runs of a study: which there are, where they are, and how each stands."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ddpm.atomic import write_json
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, SampleConfig, differences
from ddpm.config.study import FIGURES, Study
from ddpm.config.yaml_files import read_config
from ddpm.lab.comparison.runs import Evaluation, Run, read_run

Item = TypeVar("Item")


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        arm: name of its arm.
        seed: as the study numbers it; an arm may shift it.
        learning_rate: that a sweep tries; None for a run of the study itself.
        config: what it trains.
        path: its run directory.
    """

    arm: str
    seed: int
    learning_rate: float | None
    config: Config
    path: Path

    @property
    def name(self) -> str:
        """For people."""
        rate = "" if self.learning_rate is None else f" with learning rate {self.learning_rate:g}"
        return f"{self.arm}, seed {self.seed}{rate}"


def trials(study: Study, path: Path, rates: Mapping[str, float]) -> list[Trial]:
    """The runs of a study, arms varying fastest, so that whatever part of them is there has all arms in it.

    Args:
        study: what is studied.
        path: its directory.
        rates: arm -> learning rate that a sweep chose; empty without one.
    """
    return [
        Trial(arm.name, seed, None, study.config(arm, seed, rates.get(arm.name)), path / arm.name / f"seed_{seed}")
        for seed in study.seeds
        for arm in study.arms
    ]


def sweep_trials(study: Study, path: Path) -> list[Trial]:
    """The runs that choose each arm's learning rate, in the same order."""
    seed = study.sweep_seed
    return [
        Trial(arm.name, seed, rate, study.config(arm, seed, rate), path / arm.name / f"lr_{rate:g}" / f"seed_{seed}")
        for rate in study.learning_rates
        for arm in study.arms
    ]


def part_of(items: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """Part i of n: every n-th from the i-th on."""
    return list(items[shard[0] - 1 :: shard[1]])


def evaluation_folder(run: Path) -> Path:
    """Where the study's own evaluation of a run is; one of other options is refused there."""
    return run / "evaluations" / "study"


def evaluate_command(study: Study, run: Path) -> EvaluateCommand:
    """How the study has a run evaluated."""
    guide = study.evaluation.get("guide")       # text, as it is registered
    options = {**study.evaluation, "guide": None if guide is None else Path(guide)}
    return EvaluateCommand(model=run, out=evaluation_folder(run), **options)


def drawing_settings(study: Study, config: Config) -> SampleConfig:
    """How its evaluation draws images: the options of the study, and for the others the run's own section `sample`."""
    names = {f.name for f in dataclasses.fields(SampleConfig)}
    given = {key: value for key, value in study.evaluation.items() if key in names and value is not None}
    return dataclasses.replace(config.sample, **given)


def check_metric(study: Study, result: Path) -> None:
    """Refuses an evaluation that has not the figure that decides.

    Args:
        study: with the metric.
        result: an evaluation.json.

    Raises:
        ValueError: names the figures that there are, and why this is not among them.
    """
    content = json.loads(result.read_text())
    if study.metric not in content["figures"]:
        why = content["skipped"].get(FIGURES[study.metric])
        raise ValueError(
            f"metric: the evaluation has no {study.metric}{f' ({why})' if why else ''}; its figures are "
            f"{', '.join(content['figures']) or 'none'}"
        )


def divergence(path: Path) -> str | None:
    """Where and how the numbers of a run stopped being finite; None if they did not."""
    file = path / "diverged.json"
    return json.loads(file.read_text())["message"] if file.is_file() else None


def note_divergence(path: Path, step: int | None, message: str) -> None:
    """Writes that down; the run is not trained again, and is counted."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "diverged.json", {"step": step, "message": message})


def is_settled(trial: Trial, study: Study) -> bool:
    """Whether nothing of a run is left to do: it is trained and evaluated, or has diverged.

    A run of other settings, or without the deciding figure, is not: to make it again tells what is wrong.
    """
    if divergence(trial.path) is not None:
        return True
    last = trial.path / "checkpoints" / f"step_{trial.config.train.steps:08d}"
    if not ((trial.path / "run.json").is_file() and last.is_dir() and (trial.path / "pipeline").is_dir()):
        return False
    if differences(read_config(trial.path / "config.yaml"), trial.config):
        return False
    evaluation = evaluation_of(read_run(trial.path, trial.name))
    return evaluation is not None and study.metric in evaluation.content["figures"]


def evaluation_of(run: Run) -> Evaluation | None:
    """The study's evaluation of a run's newest weights; None if it is not there.

    Others may stand beside it: what they measure, and how, is not the study's.
    """
    place = evaluation_folder(run.path)
    return next((e for e in run.evaluations if e.folder == place and e.weights == run.newest_weights), None)
