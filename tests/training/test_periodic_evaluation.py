"""Evaluation while training: what it writes, what it costs, and that no interruption loses or doubles it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddpm.config.sections import (
    Config,
    EvaluationConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
)
from ddpm.evaluation.in_training import MONITORED
from ddpm.training import checkpoint as checkpoint_module
from ddpm.training import sample_grid as grid_module
from ddpm.training import train as train_module
from ddpm.training import trainer as trainer_module
from ddpm.training.checkpoint import CheckpointWriter
from ddpm.training.periodic_evaluation import BestModel
from ddpm.training.tracking import SPEED, MetricsFile, has_record
from ddpm.training.train import train

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CONFIG = Config(
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(
        steps=40, batch_size=8, log_every=8, checkpoint_every=20, keep_checkpoints=9, sample_every=0, warmup_steps=2
    ),
    sample=SampleConfig(steps=2, per_class=1),
    evaluation=EvaluationConfig(every=20, count=230, steps=3),
    tracking=TrackingConfig(wandb="off"),
)


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def evaluations(run: Path) -> list[dict]:
    return [record for record in records(run) if any(key.startswith("evaluation/") for key in record)]


def training(run: Path) -> list[dict]:
    rest = [record for record in records(run) if not any(key.startswith("evaluation/") for key in record)]
    return [{key: value for key, value in record.items() if key not in SPEED} for record in rest]


def best(run: Path) -> dict:
    return json.loads((run / "best" / "best.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(CONFIG, folder)
    return folder


def test_the_curve_and_the_best_model(run: Path) -> None:
    lines = evaluations(run)
    assert [(line["step"], line["samples"]) for line in lines] == [(20, 160), (40, 320)]
    keys = {"step", "samples", *(f"evaluation/{name}" for name in (*MONITORED, "settings"))}
    assert all(line.keys() == keys for line in lines)
    (settings,) = {line["evaluation/settings"] for line in lines}
    assert re.fullmatch("[0-9a-f]{8}", settings)
    facts, key = best(run), "evaluation/frechet_distance"
    (chosen,) = (line for line in lines if line[key] == min(line[key] for line in lines))
    assert (facts["step"], facts["samples"], facts["value"]) == (chosen["step"], chosen["samples"], chosen[key])
    assert facts["identity"]["metric"] == "frechet_distance"
    averaged = run / "checkpoints" / f"step_{facts['step']:08d}" / WEIGHTS
    assert (run / "best" / WEIGHTS).read_bytes() == averaged.read_bytes()


def test_training_does_not_feel_it(run: Path, tmp_path: Path) -> None:
    """The same losses and weights, bit for bit, as without any evaluation."""
    train(replace(CONFIG, evaluation=EvaluationConfig()), tmp_path / "run")
    assert training(run) == training(tmp_path / "run") and not evaluations(tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()
    assert (run / "pipeline" / WEIGHTS).read_bytes() == (tmp_path / "run" / "pipeline" / WEIGHTS).read_bytes()


def test_other_settings_replace_the_best_model(run: Path, tmp_path: Path) -> None:
    """A run that is complete can still be evaluated, at its last step; another metric is another comparison."""
    steps = replace(CONFIG.train, steps=20, lr_schedule="constant")
    train(replace(CONFIG, train=steps, evaluation=EvaluationConfig()), tmp_path / "run")
    train(replace(CONFIG, train=steps), tmp_path / "run")
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [20] and best(tmp_path / "run")["step"] == 20
    accuracy = replace(CONFIG.evaluation, metric="accuracy", every=15)
    train(replace(CONFIG, train=replace(steps, steps=30), evaluation=accuracy), tmp_path / "run")
    facts = best(tmp_path / "run")
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [20, 30]
    assert facts["identity"]["metric"] == "accuracy" and facts["step"] == 30
    assert facts["value"] == evaluations(tmp_path / "run")[-1]["evaluation/accuracy"]


def test_default_training_imports_nothing_of_it(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from ddpm.config.sections import Config, ModelConfig, SampleConfig, TrackingConfig, TrainConfig
        from ddpm.training.train import train
        small = ModelConfig(channels=8, head_channels=8)
        shortly = TrainConfig(steps=1, batch_size=8)
        train(Config(model=small, train=shortly, sample=SampleConfig(steps=1, per_class=1),
                     tracking=TrackingConfig(wandb="off")), Path({str(tmp_path / "run")!r}))
        print([name for name in sys.modules if name.startswith("ddpm.evaluation")])
    """
    code = "\n".join(line.removeprefix("        ") for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['ddpm.evaluation', 'ddpm.evaluation.modulation']"


# ----------------------------------------------------------------------------------------------------- interruptions

SHORT = replace(
    CONFIG,
    train=replace(CONFIG.train, steps=8, log_every=3, checkpoint_every=3, keep_checkpoints=1),
    evaluation=replace(CONFIG.evaluation, every=2, count=10),
)
BEST_OF_SHORT = 6       # a checkpoint's step; step 4 is the best until then, after the checkpoint at step 3
STAGES = [
    (MetricsFile, "log"),
    (BestModel, "offer"),
    (CheckpointWriter, "save"),
    (checkpoint_module, "write_directory_atomically"),      # on a thread: the loop goes on, but leaves no more marks
    (trainer_module, "export_pipeline"),
]


class Killed(BaseException):
    """Ends a run where it stands."""


class Brightness:
    """Stands for InTrainingMetrics: the distance of the mean gray level from a wanted one, without a classifier."""

    labels, seeds = torch.arange(10), list(range(10))
    better = "lower"

    def __init__(self, wanted: float, **identity: Any) -> None:
        self.wanted, self.identity = wanted, {"metric": "frechet_distance", **identity}

    def extract_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"levels": images.flatten(1).double().mean(dim=1)}

    def measure(self, columns: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"frechet_distance": abs(float(columns["levels"].mean()) - self.wanted)}


def watched_by(patch: pytest.MonkeyPatch, wanted: float, **identity: Any) -> None:
    patch.setattr(train_module, "build_in_training_metrics", lambda *parts: Brightness(wanted, **identity))


def counted(patch: pytest.MonkeyPatch, event: Callable[[], None]) -> None:
    """Lets `event` happen before everything that leaves a mark in the run directory."""

    def after_event(act: Callable) -> Callable:
        def acted(*args, **kw):
            event()
            return act(*args, **kw)

        return acted

    for owner, name in STAGES:
        patch.setattr(owner, name, after_event(getattr(owner, name)))


def state(run: Path) -> tuple[list[dict], dict, bytes]:
    """All that must not depend on interruptions."""
    lines = [{key: value for key, value in record.items() if key not in SPEED} for record in records(run)]
    facts = best(run)
    assert facts["identity"].pop("run") == json.loads((run / "run.json").read_text())["id"]
    assert not list(run.glob(".best*"))
    return lines, facts, (run / "best" / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An uninterrupted run, how many events it had, and the brightness of its best step."""
    folder, events = tmp_path_factory.mktemp("short"), []
    with pytest.MonkeyPatch.context() as patch:
        watched_by(patch, 0.0)
        train(SHORT, folder / "before")
        levels = {line["step"]: line["evaluation/frechet_distance"] for line in evaluations(folder / "before")}
        watched_by(patch, levels[BEST_OF_SHORT])
        counted(patch, lambda: events.append(None))
        train(SHORT, folder / "run")
    lines, facts, _ = whole = state(folder / "run")
    steps = [(line["step"], "loss" in line) for line in lines]
    assert steps == [(2, False), (3, True), (4, False), (6, True), (6, False), (8, True), (8, False)]
    values = [line["evaluation/frechet_distance"] for line in evaluations(folder / "run")]
    assert values[0] > values[1] > values[2] == 0 < values[3] and facts["step"] == BEST_OF_SHORT
    return SimpleNamespace(state=whole, events=len(events), brightness=levels[BEST_OF_SHORT])


@pytest.mark.slow
def test_killed_at_every_stage(short: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before each line, each checkpoint, each model that may be the best, and the export."""
    watched_by(monkeypatch, short.brightness)
    # Lines, checkpoints that are begun, folders of checkpoints and of the export, evaluations, the export.
    assert short.events == 7 + 3 + (3 + 1) + 4 + 1
    for last in range(short.events):
        run, left = tmp_path / str(last), last

        def event() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            counted(patch, event)
            with pytest.raises(Killed):
                train(SHORT, run)
        train(SHORT, run)
        assert state(run) == short.state, last


def test_killed_again_and_again(
    short: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each process gets a little further than the checkpoint that it goes on from, and is killed."""
    watched_by(monkeypatch, short.brightness)
    run, lives = tmp_path / "run", 0
    while not (run / "pipeline").exists():
        lives += 1
        left = 8        # from a checkpoint to the next complete one there are no more

        def event() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            counted(patch, event)
            try:
                train(SHORT, run)
            except Killed:
                assert lives < 9
    assert lives > 2
    assert state(run) == short.state


def test_a_line_cut_short_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "evaluation/settings": "a"}\n{"step": 2, "evaluation/setti')
    assert has_record(file, 4, "evaluation/settings", "a") and has_record(file, 2, "loss", 1.0)
    assert not has_record(file, 2, "evaluation/settings", "a") and not has_record(file, 4, "loss", 1.0)
    assert not has_record(file, 4, "evaluation/settings", "b") and not has_record(file, 4, "evaluation/other", "a")


def test_other_settings_evaluate_the_last_step_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """However often the settings go back and forth; earlier steps keep the records that they have."""
    run = tmp_path / "run"
    for seed in (0, 1, 1, 0, 1, 2):
        watched_by(monkeypatch, 0.0, seed=seed)
        train(SHORT, run)
    found = [(line["step"], line["evaluation/settings"]) for line in evaluations(run)]
    first, second, third = dict.fromkeys(settings for _, settings in found)
    assert found == [(2, first), (4, first), (6, first), (8, first), (8, second), (8, third)]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert [re.search(r"seed \(. there, . now\)", line)[0] for line in warnings] == [
        "seed (0 there, 1 now)", "seed (1 there, 2 now)"
    ]


def test_a_signal_at_any_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In each step, evaluation and grid, the last ones too: a run that says it is complete has all its parts."""
    config = replace(
        SHORT,
        train=replace(SHORT.train, steps=3, sample_every=2),
        evaluation=replace(SHORT.evaluation, every=2),
    )
    left = -1       # moments until the signal; none below 0

    def moment(act: Callable) -> Callable:
        def acted(*args, **kw):
            nonlocal left
            if left == 0:
                signal.raise_signal(signal.SIGTERM)
            left -= 1
            return act(*args, **kw)

        return acted

    watched_by(monkeypatch, 0.0)
    monkeypatch.setattr(Brightness, "extract_features", moment(Brightness.extract_features))
    monkeypatch.setattr(trainer_module, "prepare_inputs", moment(trainer_module.prepare_inputs))
    monkeypatch.setattr(grid_module, "labeled_grid", moment(grid_module.labeled_grid))

    def parts(run: Path) -> tuple:
        grids = {file.name: file.read_bytes() for file in (run / "samples").iterdir()}
        return state(run), grids, (run / "pipeline" / WEIGHTS).read_bytes()

    train(config, tmp_path / "whole")
    moments = -1 - left
    whole = parts(tmp_path / "whole")
    assert moments == 3 + 2 + 2 and len(whole[1]) == 3         # steps, evaluations, grids; and the picture of the data
    capsys.readouterr()
    ends = []
    for number in range(moments):
        run, left = tmp_path / str(number), number
        try:
            train(config, run)
        except SystemExit as end:
            assert end.code == 128 + signal.SIGTERM
            printed = capsys.readouterr().out
            assert "run the same command again" in printed and "is complete" not in printed
            ends.append("interrupted")
            train(config, run)
        else:
            ends.append("complete")
        assert "is complete" in capsys.readouterr().out
        assert parts(run) == whole, number
    # A signal after the last step changes nothing; before that there is something left to do.
    assert ends == ["interrupted"] * 5 + ["complete"] * 2
