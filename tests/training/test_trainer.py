"""The trainer's promises that one process can show."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from ddpm.atomic import write_directory_atomically
from ddpm.config.sections import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
)
from ddpm.data import ImageData, load_data
from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.objective import diffusion_loss
from ddpm.models.norm import NORMS
from ddpm.training.batches import apply_label_shuffle, load_micro_batches, micro_batch_positions
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.checkpoint import find_checkpoint
from ddpm.training.derived_options import derive_config
from ddpm.training.optim import learning_rate
from ddpm.training.orders import EpochOrder
from ddpm.training.sample_grid import SampleGrid
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import MetricsFile, TensorBoard, Wandb
from ddpm.training.train import train
from ddpm.training.trainer import Trainer

SMALL = Config(
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(
        steps=6, batch_size=8, warmup_steps=2, log_every=2, checkpoint_every=3, sample_every=3, max_skipped=2
    ),
    sample=SampleConfig(steps=2, per_class=2),
    tracking=TrackingConfig(wandb="off"),
)


def trainer_of(config: Config) -> Trainer:
    data = load_data("digits")
    config = derive_config(config, data)
    return Trainer(config, Accelerator(cpu=True), data, build_schedule(config), build_unet(config, data), Path())


def one_step(trainer: Trainer) -> None:
    trainer.train_step(trainer.load_inputs())


def test_every_sample_is_seen_once_an_epoch_whatever_the_batch():
    data = load_data("digits")
    sequence = EpochOrder(len(data), seed=3)
    n = len(data)
    first = [sequence.index(p) for p in range(n)]
    second = [sequence.index(p) for p in range(n, 2 * n)]
    assert sorted(first) == sorted(second) == list(range(n))
    assert first != second


def test_shuffled_labels_are_a_permutation_that_only_training_sees(tmp_path, monkeypatch):
    def shuffled(**options: object) -> Config:
        return replace(SMALL, data=replace(SMALL.data, shuffle_labels=True), train=replace(SMALL.train, **options))

    data = load_data("digits")
    seen = apply_label_shuffle(data, shuffled(seed=5))
    assert torch.equal(seen.labels.bincount(), data.labels.bincount())
    # Of independent labels about a tenth are right: 1797 / 10 with a standard deviation of 12.7.
    assert 120 < int((seen.labels == data.labels).sum()) < 240
    assert torch.equal(seen.__getitems__([0, 9])[0], data.__getitems__([0, 9])[0])
    assert (seen.fingerprint, seen.class_names, len(seen)) == (data.fingerprint, data.class_names, len(data))
    # A function of the seed, and of no other number.
    others = {"steps": 99, "batch_size": 3, "learning_rate": 1.0, "gradient_accumulation_steps": 3}
    again = apply_label_shuffle(data, shuffled(seed=5, **others))
    assert torch.equal(seen.labels, again.labels)
    assert not torch.equal(seen.labels, apply_label_shuffle(data, shuffled(seed=6)).labels)
    assert torch.equal(apply_label_shuffle(data, SMALL).labels, data.labels)
    assert "shuffle_labels" not in shuffled().data.load_options()
    # What is trained on, and what measures while training.
    trainer = trainer_of(shuffled(seed=5))
    position, images, labels = next(load_micro_batches(trainer.samples, trainer.timeline, 0, 0, 1, trainer.config))
    indices = [EpochOrder(len(data), seed=5).index(p) for p in position.tolist()]
    assert torch.equal(images, data.__getitems__(indices)[0]) and torch.equal(labels, seen.labels[indices])

    class Stop(Exception):
        pass

    def build_metrics(config: Config, given: ImageData, accelerator: Accelerator) -> None:
        assert torch.equal(given.labels, data.labels)
        raise Stop

    monkeypatch.setattr("ddpm.training.train.build_in_training_metrics", build_metrics)
    with pytest.raises(Stop):
        train(shuffled(seed=5), tmp_path)


@pytest.mark.parametrize("processes, accumulation", [(1, 1), (2, 1), (4, 2), (1, 8)])
def test_parts_cover_a_step(processes, accumulation):
    config = TrainConfig(batch_size=16)
    ranks = range(processes)
    timeline = Timeline.of(config)
    parts = [part for r in ranks for part in micro_batch_positions(timeline, 5, r, processes, accumulation)]
    covered = [position for part in parts for position in part]
    assert sorted(covered) == list(range(80, 96))


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_learning_rate(decay):
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=2.0, lr_schedule=decay)
    rates = [learning_rate(Timeline.of(config), step) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 100) and rates[99] == pytest.approx(2.0)
    assert max(rates) == pytest.approx(2.0)
    if decay == "cosine":
        assert rates[550] == pytest.approx(1.0)         # half-way through the cosine
        assert rates[-1] < 1e-4
        assert all(a > b for a, b in pairwise(rates[100:]))
    else:
        assert set(rates[99:]) == {2.0}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("learned_variance", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_norm_learns(norm, learned_variance):
    """The loss falls to less than two thirds within 40 steps."""
    config = replace(
        SMALL,
        model=replace(SMALL.model, norm=norm, channels=16),
        diffusion=DiffusionConfig(learned_variance=learned_variance),
        train=replace(SMALL.train, steps=41, batch_size=64, learning_rate=3e-3),
    )
    trainer = trainer_of(config)
    losses = []
    for _ in range(41):
        trainer.sums = dict.fromkeys(trainer.sums, 0)
        one_step(trainer)
        losses.append(trainer.sums["loss"])
    assert sum(losses[-5:]) / 5 < 2 / 3 * losses[0]


def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted(monkeypatch):
    trainer = trainer_of(SMALL)
    factor = 1.0

    def scaled_loss(*inputs) -> torch.Tensor:
        return factor * diffusion_loss(*inputs)

    monkeypatch.setattr("ddpm.diffusion.objective.diffusion_loss", scaled_loss)
    one_step(trainer)

    def everything() -> list[torch.Tensor]:
        moments = [value for state in trainer.optimizer.optimizer.state.values() for value in state.values()]
        return [t.clone() for t in [*trainer.unet.parameters(), *trainer.ema.model.parameters(), *moments]]

    before = everything()
    factor = math.nan
    one_step(trainer)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert trainer.skipped == trainer.skipped_in_a_row == 1
    factor = 1.0
    one_step(trainer)
    assert trainer.skipped == 1 and trainer.skipped_in_a_row == 0
    factor = math.inf
    one_step(trainer)
    one_step(trainer)
    with pytest.raises(Diverged) as given_up:
        one_step(trainer)
    assert "train.max_skipped" in str(given_up.value) and "train.learning_rate" in str(given_up.value)
    assert given_up.value.step == trainer.step == 6


def test_bf16_trains(tmp_path):
    options = ["--train.mixed_precision", "bf16", "--train.steps", "3", "--dry-run", "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "scripts/train.py", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "bf16" in done.stdout, done.stderr


def test_a_run_directory_holds_what_it_should(tmp_path):
    run = tmp_path / "run"
    train(SMALL, run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4, 6]
    assert [r["samples"] for r in records] == [16, 32, 48]
    assert all({"loss", "learning_rate", "grad_norm", "images_per_s", "skipped"} <= r.keys() for r in records)
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["data.png", "step_00000003.png", "step_00000006.png"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["class_names"] == [str(i) for i in range(10)]
    assert (run / "pipeline" / "model_index.json").is_file()


def test_tensorboard_on_request(tmp_path):
    pytest.importorskip("tensorboard")
    train(replace(SMALL, tracking=TrackingConfig(wandb="off", tensorboard=True)), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4, 6]
    assert sorted(events.Tags()["images"]) == ["data", "grid"]      # `samples` is a number


def test_tensorboard_takes_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard(tmp_path)
    tracker.log({"step": 3, "samples": 24, "loss": None, "evaluation/settings": "0123abcd", "evaluation/accuracy": 0.5})
    tracker.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["evaluation/accuracy", "samples"]
    assert [(e.step, e.value) for e in events.Scalars("evaluation/accuracy")] == [(3, 0.5)]


def test_wandb_tells_grids_from_numbers(tmp_path, monkeypatch):
    """A key of wandb has one type; `samples` is a number."""
    logged = []
    run = SimpleNamespace(log=logged.append, define_metric=lambda *args, **kw: None)
    client = SimpleNamespace(init=lambda **kw: run, Settings=lambda **kw: None, Image=lambda path: ("image", path))
    monkeypatch.setitem(sys.modules, "wandb", client)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Wandb(TrackingConfig(wandb="offline"), tmp_path, "id", {})
    record = {"step": 3, "samples": 24, "evaluation/settings": "0123abcd"}
    tracker.log(record)
    tracker.image(tmp_path / "x.png", 3)
    assert logged == [record, {"grid": ("image", str(tmp_path / "x.png")), "step": 3}]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        pytest.param({"WANDB_MODE": "online"}, marks=pytest.mark.slow),
        pytest.param({"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}, marks=pytest.mark.slow),
    ],
)
def test_wandb_never_stops_a_run(environment, tmp_path):
    """Offline by default; online without a key or a server falls back, within seconds."""
    command = [sys.executable, "scripts/train.py", "--run-dir", str(tmp_path / "run"), "--train.steps", "2"]
    command += ["--model.channels", "8", "--model.head_channels", "8", "--sample.steps", "2", "--sample.per_class", "1"]
    # A port of this machine where nothing answers.
    inherited = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    environment = {**inherited, "WANDB_BASE_URL": "http://127.0.0.1:9", **environment}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert ("wandb is used offline" in done.stderr) == (environment.get("WANDB_MODE") == "online")


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics = MetricsFile(path, step=2)
    metrics.log({"step": 3, "loss": 0.5})
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_grid_appears_whole(tmp_path, monkeypatch):
    """A process that is killed while it writes leaves no grid, so that it is drawn when the run goes on."""
    seen = []

    class Torn:
        def save(self, target, *args, **kw):
            with target.open("wb") if isinstance(target, Path) else target as file:
                file.write(b"half")
                file.flush()
                seen.append([p.name for p in tmp_path.glob("samples/*.png")])
                raise KeyboardInterrupt

    trainer = trainer_of(SMALL)
    grid = SampleGrid(SMALL, trainer.accelerator, trainer.pipeline, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ddpm.training.sample_grid.labeled_grid", lambda *parts: Torn())
        with pytest.raises(KeyboardInterrupt):
            grid.observe(3, None)
    assert seen == [[]] and not list((tmp_path / "samples").iterdir())
    logged = []
    grid.observe(3, SimpleNamespace(image=lambda path, step: logged.append((path, step))))
    assert logged == [(grid.file(3), 3)]
    with Image.open(grid.file(3)) as picture:
        assert picture.format == "PNG" and picture.width > 8


def test_a_run_whose_first_checkpoint_failed_begins_again(tmp_path, monkeypatch, refused):
    """The next save tells, after steps that a run without a checkpoint has not made otherwise."""
    def fail(path: Path, tensors: dict) -> str:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch, refused("step_00000003", "No space", "complete checkpoint: none"):
        patch.setattr("ddpm.training.snapshot.write_tensors", fail)
        train(SMALL, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    train(SMALL, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000003", "step_00000006"]


def test_a_checkpoint_that_was_being_replaced_is_found(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")

    checkpoint = tmp_path / "step_00000003"
    write_directory_atomically(checkpoint, fill)
    checkpoint.rename(tmp_path / ".step_00000003.old")
    (tmp_path / ".step_00000006.tmp").mkdir()
    assert find_checkpoint(tmp_path) == checkpoint
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_on_demand_data_trains_the_same(tmp_path):
    """Images decoded by workers while training give the run that images in memory give."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(60):
        folder = tmp_path / "images" / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    source = DataConfig(source=str(tmp_path / "images"))
    for name, data in {"memory": source, "demand": replace(source, memory_gb=1e-9)}.items():
        train(replace(SMALL, data=data), tmp_path / name)
    metrics = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("memory", "demand")
    ]
    assert metrics[0] == metrics[1]
