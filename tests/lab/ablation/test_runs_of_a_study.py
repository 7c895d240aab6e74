import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, SampleConfig
from ddpm.config.study import Study
from ddpm.config.yaml_files import read_config
from ddpm.diffusion.divergence import Diverged
from ddpm.lab.ablation import ablate as runner
from ddpm.lab.ablation import study_report as report
from ddpm.lab.ablation.ablate import ablate
from ddpm.lab.ablation.planned_runs import list_planned_runs, list_sweep_runs, read_divergence, take_shard
from ddpm.processes import InUse
from ddpm.training.run_directory import RunDirectory


class Workshop:
    """Replace training, evaluation, timing and the page, and count the calls."""

    def __init__(
        self, made: tuple[Callable[..., None], Callable[..., Path]], read: Callable[[Path], Config]
    ) -> None:
        self._write_training, self._write_evaluation = made
        self._read = read
        self.trained: list[Path] = []
        self.evaluated: list[Path] = []
        self.timed = 0
        self.before: Callable[[Config, Path], None] = lambda config, path: None

    def train(self, config: Config, path: Path) -> None:
        self.before(config, path)
        with RunDirectory(path):
            self.trained.append(path)
            self._write_training(config, path)

    def evaluate(self, command: EvaluateCommand, settings: SampleConfig) -> Path:
        """Write an accuracy that decreases with weight decay and learning rate, and varies a little with the seed."""
        self.evaluated.append(command.model)
        train = self._read(command.model / "config.yaml").train
        accuracy = 0.9 - 0.4 * train.weight_decay - 10 * train.learning_rate + 1e-3 * (train.seed % 7)
        return self._write_evaluation(command, settings, {"accuracy": accuracy, "frechet_distance": 1 - accuracy})

    def time_steps(self, configs: dict[str, Config], data: Any, **rounds: int) -> dict[str, list[float]]:
        self.timed += 1
        return {name: [0.1, 0.2, 0.3] for name in configs}


@pytest.fixture
def workshop(
    made: tuple[Callable[..., None], Callable[..., Path]],
    read_once: Callable[[Path], Config],
    monkeypatch: pytest.MonkeyPatch,
) -> Workshop:
    shop = Workshop(made, read_once)
    data = SimpleNamespace(summary=lambda: "images", fingerprint="d" * 8)
    for name in ("train", "evaluate", "time_steps"):
        monkeypatch.setattr(runner, name, getattr(shop, name))
    monkeypatch.setattr(runner, "build_data", lambda config: data)
    monkeypatch.setattr(runner, "describe_data", lambda data: data.summary())
    monkeypatch.setattr(runner, "check_evaluation", lambda study, data: None)
    monkeypatch.setattr(runner, "measure_arms", lambda study, data: {a.name: runner.Size(10, 20) for a in study.arms})
    monkeypatch.setattr(runner, "gc", SimpleNamespace(collect=lambda: 0))       # a tenth of a second each
    monkeypatch.setattr(report, "render_study", lambda outcome: "<html></html>")
    return shop


def outcome(path: Path) -> dict[str, Any]:
    return json.loads((path / "outcome.json").read_text())


@pytest.mark.parametrize("number", [1, 2, 3, 4, 9, 11])
def test_shards_partition_the_runs(study: Callable[..., Study], number: int) -> None:
    planned = list_planned_runs(study(), Path("runs"), {})
    parts = [take_shard(planned, (i, number)) for i in range(1, number + 1)]
    assert sorted(t.path for part in parts for t in part) == sorted(t.path for t in planned)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [t.arm for t in planned[:3]] == ["plain", "again", "decayed"]      # part of a study has all arms in it


def test_directories_and_seeds_of_runs(study: Callable[..., Study]) -> None:
    found = list_planned_runs(study(), Path("runs"), {"again": 0.5})[4]
    assert found.path == Path("runs/again/seed_1")
    assert (found.config.train.seed, found.config.train.learning_rate) == (101, 0.5)
    tried = list_sweep_runs(study(learning_rates=(0.01, 0.003)), Path("runs"))
    assert tried[4].path == Path("runs/again/lr_0.003/seed_1000000")
    assert tried[4].config.train.seed == 1_000_100 and tried[4].config.train.learning_rate == 0.003
    planned = list_planned_runs(study(), Path("runs"), {})
    assert not {t.config.train.seed for t in tried} & {t.config.train.seed for t in planned}


def test_a_study_is_made_once(tmp_path: Path, study: Callable[..., Study], workshop: Workshop) -> None:
    ablate(study(), {"study.yaml": "question: ?\n"}, tmp_path / "study")
    path = tmp_path / "study"
    assert len(workshop.trained) == len(workshop.evaluated) == 9
    assert (path / "study.yaml").read_text() == "question: ?\n"
    assert json.loads((path / "study.json").read_text())["study"]["metric"] == "accuracy"
    assert (path / "report.html").read_text() == "<html></html>"
    assert json.loads((path / "timing.json").read_text())["median_seconds"]["plain"] == 0.2
    found = outcome(path)
    assert found["deciding"]["decayed"]["verdict"] == "worse"
    assert found["deciding"]["decayed"]["value"] == pytest.approx(-0.2)
    assert found["deciding"]["decayed"]["level"] == pytest.approx(0.975)     # two comparisons share 5 %
    assert found["exploratory"]["frechet_distance"]["decayed"]["level"] == 0.95
    before, timed = (path / "outcome.json").read_bytes(), workshop.timed
    ablate(study(), {"study.yaml": "question: ?\n"}, path)
    assert len(workshop.trained) == 9 and workshop.timed == timed
    assert (path / "outcome.json").read_bytes() == before


def test_a_study_goes_on_with_images_that_have_moved(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    """Every run is continued once, which remembers the new place and makes no step; then there is nothing to do."""
    ablate(study(), {}, tmp_path)
    place = {"data.source": "new/place"}
    arms = [replace(arm, config=arm.config.with_options(place)) for arm in study().arms]
    moved = study(arms=tuple(arms), base=study().base.with_options(place))
    for _ in range(2):
        ablate(moved, {}, tmp_path)
        assert len(workshop.trained) == 2 * 9
    assert {read_config(run / "config.yaml").data.source for run in workshop.trained} == {"new/place"}


def test_registration_comes_before_the_first_run(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    def check(config: Config, path: Path) -> None:
        assert (tmp_path / "study.json").is_file() and (tmp_path / "study.yaml").is_file()

    workshop.before = check
    ablate(study(), {"study.yaml": ""}, tmp_path)
    assert workshop.trained


def test_a_dry_run_writes_nothing(tmp_path: Path, study: Callable[..., Study], workshop: Workshop, capsys: Any) -> None:
    ablate(study(), {}, tmp_path / "study", dry_run=True)
    assert not (tmp_path / "study").exists() and not workshop.trained
    said = capsys.readouterr().out
    assert all(word in said for word in ("3 arms x 3 seeds", "9 runs", "9 to train", "0 min 7 s"))    # 36 x 0.2 s


def test_interrupted_and_in_shards_it_ends_the_same(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop, capsys: Any
) -> None:
    ablate(study(), {}, tmp_path / "whole")

    def interrupt(config: Config, path: Path) -> None:
        if len(workshop.trained) == 9 + 4:
            workshop.before = lambda config, path: None
            raise SystemExit(143)

    workshop.before = interrupt
    with pytest.raises(SystemExit) as stopped:
        ablate(study(), {}, tmp_path / "again")
    assert stopped.value.code == 143 and not (tmp_path / "again" / "outcome.json").exists()
    ablate(study(), {}, tmp_path / "again")

    ablate(study(), {}, tmp_path / "parts", (1, 2))
    assert not (tmp_path / "parts" / "outcome.json").exists()
    assert "4 of 9 runs" in capsys.readouterr().err
    ablate(study(), {}, tmp_path / "parts", (2, 2))
    whole = (tmp_path / "whole" / "outcome.json").read_bytes()
    assert (tmp_path / "again" / "outcome.json").read_bytes() == whole
    assert (tmp_path / "parts" / "outcome.json").read_bytes() == whole


def test_a_run_that_diverges_is_counted_and_not_tried_again(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    tries = []

    def diverge(config: Config, path: Path) -> None:
        if path == tmp_path / "decayed" / "seed_1":
            tries.append(path)
            raise Diverged("train.max_skipped: not finite", 17)

    workshop.before = diverge
    ablate(study(), {}, tmp_path)
    file = tmp_path / "decayed" / "seed_1" / "diverged.json"
    assert json.loads(file.read_text()) == {"step": 17, "message": "train.max_skipped: not finite"}
    ablate(study(), {}, tmp_path)
    assert len(tries) == 1
    found = outcome(tmp_path)
    assert found["deciding"]["decayed"]["pairs"] == 2 and found["deciding"]["again"]["pairs"] == 3
    assert "1 of 3 runs of decayed" in found["verdicts"][1]
    assert [run["diverged"] for run in found["runs"]["decayed"]] == [None, "train.max_skipped: not finite", None]
    assert any("decayed" in note and "seed 1" in note and "pair" in note for note in found["notes"])


def test_a_model_with_outputs_that_are_not_finite_has_diverged(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(command: EvaluateCommand, settings: SampleConfig) -> Path:
        if command.model == tmp_path / "plain" / "seed_0":
            raise Diverged("the denoiser's answer is not finite")
        return workshop.evaluate(command, settings)

    monkeypatch.setattr(runner, "evaluate", evaluate)
    ablate(study(), {}, tmp_path)
    assert read_divergence(tmp_path / "plain" / "seed_0") == "the denoiser's answer is not finite"


def test_a_run_that_another_process_holds_is_skipped(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop, capsys: Any
) -> None:
    def held(config: Config, path: Path) -> None:
        if path.parent.name == "again" and path.name == "seed_2":
            raise InUse(f"{path}: in use by process 1 on here")

    workshop.before = held
    ablate(study(), {}, tmp_path)
    assert len(workshop.trained) == 8 and not (tmp_path / "outcome.json").exists()
    said = capsys.readouterr()
    assert "again, seed 2" in said.out and "1 of 9 runs" in said.err and "again, seed 2" in said.err
    workshop.before = lambda config, path: None
    ablate(study(), {}, tmp_path)
    assert len(outcome(tmp_path)["runs"]["again"]) == 3


def test_any_other_error_names_the_run(tmp_path: Path, study: Callable[..., Study], workshop: Workshop) -> None:
    def fail(config: Config, path: Path) -> None:
        if len(workshop.trained) == 1:
            raise ValueError("data.source: gone")

    workshop.before = fail
    with pytest.raises(ValueError, match=r"^again, seed 0: data.source: gone$"):
        ablate(study(), {}, tmp_path)


def test_an_evaluation_without_the_deciding_metric_stops_the_study(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    for _ in range(2):      # and so does the same command again
        with pytest.raises(ValueError, match=r"metric: .*recall.*accuracy, frechet_distance"):
            ablate(study(metric="recall"), {}, tmp_path)
    assert len(set(workshop.trained)) == 1


def test_a_sweep_gives_each_arm_its_own_learning_rate(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    swept = study(learning_rates=(0.01, 0.001, 0.02), seeds=(0,))

    def diverge(config: Config, path: Path) -> None:
        if config.train.learning_rate == 0.001 and "decayed" in path.parts:
            raise Diverged("not finite", 1)

    workshop.before = diverge
    with pytest.raises(ValueError, match=r"learning_rates: 4 of 9 runs.*again"):
        ablate(swept, {}, tmp_path, (1, 2))
    ablate(swept, {}, tmp_path, (2, 2))
    ablate(swept, {}, tmp_path, (1, 2))
    chosen = json.loads((tmp_path / "sweep.json").read_text())
    assert {arm: found["learning_rate"] for arm, found in chosen.items()} == {
        "plain": 0.001, "again": 0.001, "decayed": 0.01
    }
    assert chosen["decayed"]["metrics"]["0.001"] is None and chosen["decayed"]["metrics"]["0.02"] == pytest.approx(
        0.9 - 0.2 - 0.2 + 1e-3 * (1_000_000 % 7)
    )
    assert [chosen[arm]["at_an_end"] for arm in ("plain", "decayed")] == [True, False]
    for arm, rate in (("plain", 0.001), ("decayed", 0.01)):
        assert read_config(tmp_path / arm / "seed_0" / "config.yaml").train.learning_rate == rate
    notes = outcome(tmp_path)["notes"]
    assert sum("learning rate" in note and "0.001" in note for note in notes) == 2


def test_an_arm_that_diverges_at_every_rate_does_not_end_the_study(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop
) -> None:
    def diverge(config: Config, path: Path) -> None:
        if "decayed" in path.parts:
            raise Diverged("not finite", 1)

    workshop.before = diverge
    ablate(study(learning_rates=(0.01, 0.001), seeds=(0,)), {}, tmp_path)
    chosen = json.loads((tmp_path / "sweep.json").read_text())
    assert [chosen[arm]["diverged"] for arm in ("plain", "again", "decayed")] == [False, False, True]
    found = outcome(tmp_path)
    assert ["learning rate" in run["diverged"] for run in found["runs"]["decayed"]] == [True]
    assert found["deciding"]["decayed"]["pairs"] == 0 and found["deciding"]["again"]["pairs"] == 1


def test_rates_are_not_ranked_by_two_classifiers(
    tmp_path: Path, study: Callable[..., Study], workshop: Workshop, made: tuple[Any, Callable[..., Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def evaluate(command: EvaluateCommand, settings: SampleConfig) -> Path:
        classifier = "k" if "lr_0.001" in command.model.parts else "j"
        return made[1](command, settings, {"accuracy": 0.5}, classifier * 64)

    monkeypatch.setattr(runner, "evaluate", evaluate)
    with pytest.raises(ValueError, match=r"^learning_rates: .*extractor\.digest.*jj.*kk.*DDPM_CACHE"):
        ablate(study(learning_rates=(0.01, 0.001), seeds=(0,)), {}, tmp_path)


def test_a_run_that_was_continued_by_hand_is_no_run_of_the_study(
    workshop: Workshop, study: Callable[..., Study], tmp_path: Path
) -> None:
    """Its configuration is that of the study again, but it was not at each step."""
    ablate(study(seeds=(0, 1)), {}, tmp_path)
    changed = tmp_path / "plain" / "seed_1"
    facts = json.loads((changed / "run.json").read_text())
    changes = [{"step": 3, "option": "sample.steps", "old": 1, "new": 2}]
    for option in ("train.batch_size", "train.steps"):
        changes.append({"step": 5, "option": option, "old": 7, "new": 8})
    shutil.rmtree(changed / "pipeline")         # so that it is begun again
    (changed / "run.json").write_text(json.dumps(facts | {"changes": changes[:1]}))
    ablate(study(seeds=(0, 1)), {}, tmp_path)
    shutil.rmtree(changed / "pipeline")
    (changed / "run.json").write_text(json.dumps(facts | {"changes": changes}))
    with pytest.raises(ValueError, match=r"plain, seed 1: .*train\.batch_size, train\.steps; move it elsewhere"):
        ablate(study(seeds=(0, 1)), {}, tmp_path)
