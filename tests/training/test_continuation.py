"""A run that continues: longer, with other settings, with images that have moved, from its directory alone."""

import json
import math
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand
from ddpm.config.sections import (
    Config,
    DataConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
    flatten,
)
from ddpm.config.yaml_files import read_config
from ddpm.data import load_data
from ddpm.diffusion.objective import diffusion_loss
from ddpm.training.batches import build_samples
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.run_record import KnownRun
from ddpm.training.step_inputs import prepare_inputs
from ddpm.training.tracking import SPEED
from ddpm.training.train import train
from ddpm.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(
        steps=6, batch_size=8, warmup_steps=3, log_every=2, checkpoint_every=100, sample_every=0, keep_checkpoints=9
    ),
    sample=SampleConfig(steps=1, per_class=1),
    tracking=TrackingConfig(wandb="off"),
)


def with_train(**options: object) -> Config:
    return replace(CONFIG, train=replace(CONFIG.train, **options))


def weights(run: Path, step: int) -> list[dict[str, torch.Tensor]]:
    """Return the weights, the moments and the averaged weights of a checkpoint."""
    names = ("training/model", "training/optimizer", "unet/diffusion_pytorch_model")
    return [load_file(run / "checkpoints" / f"step_{step:08d}" / f"{name}.safetensors") for name in names]


def equal(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def records(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in SPEED} for line in lines]


def facts(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def parse(*words: str) -> TrainCommand:
    return parse_command(TrainCommand, "train.py", [str(word) for word in words])


def start(*words: str) -> None:
    """Run the command scripts/train.py in this process."""
    command = parse(*words)
    train(command.config, command.directory, command.dry_run, command.allowed, command.continues)


class Killed(Exception):
    """Stands for SIGKILL: nothing is saved."""


@pytest.fixture
def killed_before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Start a command that is killed before a step, and then again until the end."""

    def run(step: int, *words: str) -> None:
        original = Trainer.train_step

        def step_or_die(trainer: Trainer, *args: object) -> bool:
            if trainer.step == step:
                raise Killed
            return original(trainer, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", step_or_die)
            with pytest.raises(Killed):
                start(*words)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run; tests copy it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(CONFIG, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_the_directory_alone_continues_with_its_own_configuration(run: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "config.yaml"}
    complete = derive_config(CONFIG, load_data("digits"))
    assert parse("--run-dir", run).config == complete
    start("--run-dir", run)
    assert "complete at step 6" in capsys.readouterr().out
    # Only the header of config.yaml changes, because the directory was copied.
    assert {path: path.read_bytes() for path in before} == before
    assert (run / "config.yaml").read_text().startswith(f"# python scripts/train.py --run-dir {run}\n")
    # Options override the run's configuration, and a file replaces it.
    sample = SampleConfig(steps=3, per_class=1)
    assert parse("--run-dir", run, "--sample.steps", "3").config == replace(complete, sample=sample)
    Path(run.parent / "file.yaml").write_text("model: {channels: 8, head_channels: 8}")
    assert parse("--run-dir", run, "--config", run.parent / "file.yaml").config == Config(model=CONFIG.model)


def test_the_command_in_the_first_line_works(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A name with a space, a quote and a number sign, relative to the working directory."""
    monkeypatch.chdir(run.parent)
    named = Path("it's my #1 run")
    run.rename(named)
    start("--run-dir", named)
    (header, *_) = (named / "config.yaml").read_text().splitlines()
    python, script, *words = shlex.split(header.removeprefix("# "))
    assert (python, script) == ("python", "scripts/train.py")
    monkeypatch.setattr(sys, "argv", [script, *words, "--dry-run"])
    capsys.readouterr()
    runpy.run_path(str(ROOT / script), run_name="__main__")
    assert "continues from step 6" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    assert "complete at step 6" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------- longer, and how


def reimplemented(rates: list[float], batches: list[int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Train with the given learning rates and batch sizes without the trainer; return weights and averaged weights."""
    data = load_data("digits")
    unet = build_unet(derive_config(CONFIG, data), data)
    schedule, sequence = build_schedule(CONFIG), build_samples(CONFIG, data)
    average = {name: value.clone() for name, value in unet.named_parameters()}
    optimizer = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    seen = 0
    for rate, batch in zip(rates, batches, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        position, images, labels = sequence.__getitems__(range(seen, seen + batch))
        seen += batch
        optimizer.zero_grad()
        x_0, labels, t, noise, _ = prepare_inputs(position, images, labels, CONFIG, unet.null_label)
        diffusion_loss(unet.train(), schedule, x_0, labels, t, noise, "v", "uniform").mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = 0.5 ** (batch / min(500_000, 0.05 * seen))
        average = {n: decay * average[n] + (1 - decay) * value.detach() for n, value in unet.named_parameters()}
    return dict(unet.state_dict()), average


def cosine(step: int, steps: int) -> float:
    return 3e-3 * math.cos(math.pi / 2 * (step - 3) / (steps - 3)) ** 2


FIRST = [1e-3, 2e-3, 3e-3, *(cosine(s, 6) for s in range(3, 6))]
EXTENDED = [w * cosine(s, 14) for s, w in zip(range(6, 14), [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1], strict=True)]


@pytest.mark.parametrize("batch", [8, 4])
def test_an_extension_is_what_the_rule_says(batch: int, run: Path, capsys: pytest.CaptureFixture) -> None:
    change = () if batch == 8 else ("--train.batch_size", batch, "--allow-change", "train.batch_size")
    start("--run-dir", run, "--train.steps", "14", *change)
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith("train.steps: 6 becomes 14 at step 6")]) == 1
    assert len([line for line in out.splitlines() if "train.warmup_steps" in line and "cosine" in line]) == 1
    expected = reimplemented(FIRST + EXTENDED, [8] * 6 + [batch] * 8)
    trained, _, averaged = weights(run, 14)
    for found, known in zip((trained, averaged), expected, strict=True):
        for name in known:
            # Rounding errors of float32 gradients, which AdamW turns into relative errors of the steps of 3e-3 each.
            torch.testing.assert_close(found[name], known[name], rtol=1e-4, atol=1e-5)
    assert [r["samples"] for r in records(run)] == [16, 32, 48, *(48 + batch * s for s in (2, 4, 6, 8))]
    assert (run / "samples" / "step_00000014.png").is_file() and "complete at step 14" in out
    exported = load_file(run / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(exported[name], averaged[name]) for name in averaged)
    assert "steps: 14" in (run / "pipeline" / "README.md").read_text()
    # What is on disk is never stale, and what happened is recorded.
    assert read_config(run / "config.yaml").train.steps == 14
    changes = facts(run)["changes"]
    assert (changes[0]["step"], changes[0]["option"], changes[0]["old"], changes[0]["new"]) == (6, "train.steps", 6, 14)
    assert all({"time", "versions", "git_commit"} <= change.keys() for change in changes)
    assert [change["allow_change"] for change in changes] == [False] if batch == 8 else [False, True]


SETTINGS = {
    "longer": ["--train.steps", "14"],
    "smaller batches": ["--train.steps", "14", "--train.batch_size", "4", "--allow-change", "train.batch_size"],
    "two changes": [
        *("--train.steps", "14", "--train.batch_size", "16", "--train.learning_rate", "1e-3"),
        *("--allow-change", "train.batch_size, train.learning_rate"),
    ],
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_killed_extension_equals_the_whole(
    settings: str, finished: Path, run: Path, tmp_path: Path, killed_before: Callable[..., None]
) -> None:
    """Killed before its first checkpoint, and again after it; the same command, and then the directory alone."""
    whole = shutil.copytree(finished, tmp_path / "whole")
    start("--run-dir", whole, *SETTINGS[settings], "--train.checkpoint_every", "4")
    words = ("--run-dir", run, *SETTINGS[settings], "--train.checkpoint_every", "4")
    killed_before(7, *words)
    killed_before(10, *words)
    assert KnownRun.read(run).newest_checkpoint().name == "step_00000008"
    start("--run-dir", run)
    assert equal(weights(run, 14), weights(whole, 14))
    assert records(run) == records(whole)
    assert [c["step"] for c in facts(run)["changes"]] == [6] * len(facts(whole)["changes"])


def test_the_rate_is_told_when_it_changes(run: Path, killed_before: Callable[..., None], capsys) -> None:
    """Another change at the same step counts from the same rate, and other options do not touch it."""
    def told() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "(train.warmup_steps)" in line]

    killed_before(7, "--run-dir", run, "--train.steps", "14")
    assert len(told()) == 1
    killed_before(7, "--run-dir", run, "--train.log_every", "1")
    assert told() == []
    start("--run-dir", run, "--train.steps", "9", "--train.learning_rate", "1e-3", "--allow-change",
          "train.learning_rate")
    (line,) = told()
    assert "from step 6 on" in line and "from 0 to the cosine schedule of 9 steps with peak 0.001" in line
    assert [r["learning_rate"] for r in records(run)[-3:]] == pytest.approx([w * cosine(s, 9) / 3 for s, w in (
        (6, 1 / 3), (7, 2 / 3), (8, 1)
    )])


def test_an_unfinished_run_gets_another_length(
    tmp_path: Path, killed_before: Callable[..., None], refused
) -> None:
    run, longer = tmp_path / "run", ("--train.checkpoint_every", "2")
    (tmp_path / "config.yaml").write_text(CONFIG.to_yaml())
    killed_before(5, "--config", tmp_path / "config.yaml", "--run-dir", run, *longer)
    with refused("train.steps", "3", "4", "--run-dir"):
        start("--run-dir", run, "--train.steps", "3")
    start("--run-dir", run, "--train.steps", "5")
    there = FIRST[4]
    expected = there + (cosine(4, 5) - there) / 3
    assert records(run)[-1]["step"] == 5 and records(run)[-1]["learning_rate"] == pytest.approx(expected, rel=1e-12)
    with refused("train.steps", "4", "5", "--run-dir"):
        start("--run-dir", run, "--train.steps", "4")


def test_a_longer_run_at_a_constant_rate_equals_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(with_train(lr_schedule="constant"), tmp_path / "run")
    capsys.readouterr()
    start("--run-dir", tmp_path / "run", "--train.steps", "9")
    assert "train.learning_rate" not in capsys.readouterr().out
    train(with_train(lr_schedule="constant", steps=9), tmp_path / "whole")
    assert equal(weights(tmp_path / "run", 9), weights(tmp_path / "whole", 9))


def test_harmless_options_change_and_are_written(run: Path) -> None:
    guided = ("--sample.guidance_scale", "2", "--sample.guidance_interval", "[0.1,9]")
    start("--run-dir", run, "--train.log_every", "5", *guided)
    assert read_config(run / "config.yaml").sample.guidance_interval == [0.1, 9.0]
    assert read_config(run / "config.yaml").train.log_every == 5
    assert "guidance_scale: 2.0" in (run / "pipeline" / "README.md").read_text()
    start("--run-dir", run, "--sample.guidance_interval", "null")
    assert read_config(run / "config.yaml").sample.guidance_interval is None
    assert [c["option"] for c in facts(run)["changes"]] == [
        "train.log_every", "sample.guidance_scale", "sample.guidance_interval", "sample.guidance_interval"
    ]


def test_the_images_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    """A relative path leads where it led when the run was started, and is not stored as an absolute one."""
    monkeypatch.chdir(tmp_path)
    pictures(Path("images"))
    train(replace(CONFIG, data=DataConfig("images")), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    start("--run-dir", tmp_path / "run", "--train.steps", "7")
    start("--run-dir", tmp_path / "run", "--data.source", "images", "--train.steps", "8")
    stored = [tmp_path / "run" / "config.yaml", *(tmp_path / "run" / "pipeline").rglob("*.*")]
    assert read_config(stored[0]).data.source == "images"
    assert not [file for file in stored[1:] if str(tmp_path).encode() in file.read_bytes()]
    pictures(Path("images"), 7)         # other images with the same name
    with refused("data.source", "14 images", f"own images with --data.source {tmp_path / 'images'}"):
        start("--run-dir", tmp_path / "run")
    start("--run-dir", tmp_path / "run", "--data.source", tmp_path / "images", "--dry-run")
    shutil.rmtree("images")
    (tmp_path / "images").rename(tmp_path / "moved")
    with refused("data.source", str(tmp_path / "images"), "--data.source NEW"):
        start("--run-dir", tmp_path / "run")
    start("--run-dir", tmp_path / "run", "--data.source", "../moved")


# ------------------------------------------------------------------------------------------------------------- refusals


def test_an_option_that_may_change_but_does_not(run: Path, capsys: pytest.CaptureFixture) -> None:
    start("--run-dir", run, "--allow-change", "train.batch-size,data.source", "--dry-run")
    batch, images = [line for line in capsys.readouterr().err.splitlines() if "--allow-change" in line]
    assert "train.batch_size" in batch and "8 already" in batch and "data.source" in images
    words = ("--run-dir", run, "--train.batch_size", "4", "--train.steps", "7", "--allow-change", "train.batch_size")
    start(*words)
    start(*words)                       # the same command again, as after an interruption
    assert "--allow-change train.batch_size" not in capsys.readouterr().err


def test_a_change_without_steps_is_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    slower = ("--train.learning_rate", "1e-3", "--allow-change", "train.learning_rate", "--dry-run")
    start("--run-dir", run, *slower)
    out = capsys.readouterr().out
    assert "train.steps: all 6 steps are made" in out and "the rate moves" not in out
    for words in ([*slower, "--train.steps", "7"], ["--train.log_every", "1", "--dry-run"]):
        start("--run-dir", run, *words)
        assert "steps are made" not in capsys.readouterr().out


def test_the_warmup_of_a_changed_schedule_is_told_once(run: Path, capsys: pytest.CaptureFixture) -> None:
    start("--run-dir", run, "--train.steps", "8")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "train.warmup_steps" in line]
    assert "at most 2, with --allow-change train.warmup_steps" in warning
    start("--run-dir", run)
    start("--run-dir", run, "--train.steps", "14", "--dry-run")
    # with no step left, and no change of the schedule
    start("--run-dir", run, "--train.batch_size", "4", "--allow-change", "train.batch_size", "--dry-run")
    assert "train.warmup_steps" not in capsys.readouterr().err

REFUSED = {
    "batch size": (
        ["--train.batch_size", "16"], ("train.batch_size (8 there, 16 now)", "--allow-change train.batch_size"),
    ),
    "several": (
        ["--train.batch_size", "16", "--train.beta2", "0.9"],
        ("--allow-change train.batch_size,train.beta2", "--run-dir"),
    ),
    "one of two": (
        ["--train.batch_size", "16", "--train.beta2", "0.9", "--allow-change", "train.beta2"],
        ("--allow-change train.beta2,train.batch_size;",),      # the last --allow-change of a command counts
    ),
    "width": (
        ["--model.channels", "16"],
        ("model.channels (8 there, 16 now)", "weights", "without these options", "--run-dir OTHER"),
    ),
    "one reason for several": (
        ["--model.channels", "16", "--model.norm", "groupnorm"],
        ("model.channels and model.norm cannot change, because",),
    ),
    "seed": (["--train.seed", "1"], ("train.seed (0 there, 1 now)", "--run-dir OTHER --model.pretrained ")),
    "harmless and not": (
        ["--train.seed", "1", "--allow-change", "model.gradient_checkpointing"], ("train.seed (0 there, 1 now)",),
    ),
    "null class": (
        ["--diffusion.class_dropout_prob", "0", "--allow-change", "diffusion.class_dropout_prob"],
        ("diffusion.class_dropout_prob (0.1 there, 0.0 now)", "null class", "--model.pretrained"),
    ),
    "resolution": (
        ["--data.resolution", "16"],
        ("data.resolution (null there, 16 now)", "16x16", "leave data.resolution out", "--run-dir OTHER"),
    ),
    "fewer steps": (["--train.steps", "5"], ("train.steps: 5", "6", "--run-dir")),
    "batch that does not divide": (
        ["--train.batch_size", "9", "--allow-change", "train.batch_size", "--train.gradient_accumulation_steps", "2"],
        ("train.batch_size: 9", "8 or 10", "train.gradient_accumulation_steps 1 or 3"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["", "dry"])
def test_what_a_run_does_not_survive_is_refused(case: str, dry: list[str], run: Path, refused) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    words, parts = REFUSED[case]
    with refused(*parts):
        start("--run-dir", run, *words, *dry)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_the_remedy_that_keeps_the_settings_works(run: Path, tmp_path: Path, refused, capsys) -> None:
    """The same command without --run-dir, or with a file, lacks options that the run began with."""
    (tmp_path / "file.yaml").write_text("train: {steps: 8}")
    with refused("model.channels (8 there, 32 now)", f"give --run-dir {run} without these options"):
        start("--run-dir", run, "--config", tmp_path / "file.yaml", "--model.channels", "32")
    start("--run-dir", run, "--train.steps", "8", "--dry-run")
    assert "has 2 steps left" in capsys.readouterr().out


@pytest.mark.parametrize("words", [
    ["--model.channels", "16"], ["--diffusion.prediction", "eps"], ["--data.resolution", "16"], ["--train.seed", "1"],
    ["--diffusion.class_dropout_prob", "0"], ["--train.steps", "3"],
], ids=lambda words: words[0])
@pytest.mark.parametrize("tuned", [False, True])
def test_the_remedy_works_as_it_is_written(words: list[str], tuned: bool, run: Path, tmp_path: Path) -> None:
    """It names the refused options; another run trains with them, and all other options are kept."""
    if tuned and words[0] == "--model.channels":
        pytest.skip("the option is ignored with a warning, because the pretrained model has another width")
    if tuned:
        train(replace(CONFIG, model=ModelConfig(pretrained=str(run))), tmp_path / "tuned")
        run = tmp_path / "tuned"
    with pytest.raises(ValueError, match="--run-dir OTHER") as error:
        start("--run-dir", run, *words)
    command = shlex.split(str(error.value)[str(error.value).index("--config "):])
    command[command.index("OTHER")] = str(tmp_path / "other")
    start(*command)
    key, value = words[0].removeprefix("--"), words[1]
    expected = flatten(read_config(run / "config.yaml").to_dict()) | flatten(
        {key.split(".")[0]: {key.split(".")[1]: value}}
    )
    stored = flatten(read_config(tmp_path / "other" / "config.yaml").to_dict())
    assert str(stored[key]) in (value, f"{value}.0")
    differing = {key for key in stored if stored[key] != expected[key]}
    assert differing <= {key, "model.pretrained", "model.channel_mult", "model.attention_resolutions"}


def test_copies_of_checkpoints_are_left_alone(run: Path, refused, capsys: pytest.CaptureFixture) -> None:
    checkpoints = run / "checkpoints"
    copies = [checkpoints / name for name in ("step_00000006-copy", "step_00000006_old", "step_", "step_00000009.bak")]
    for copy in (*copies, checkpoints / "step_00000009"):
        shutil.copytree(checkpoints / "step_00000006", copy)
    start("--run-dir", run, "--dry-run")
    said = capsys.readouterr()
    assert "continues from step 6" in said.out and "step_00000009 is damaged (it is a copy of step 6)" in said.err
    copies.append(checkpoints / "damaged_step_00000009")
    start("--run-dir", run, "--train.steps", "8", "--train.keep_checkpoints", "1")
    assert {path.name for path in checkpoints.iterdir()} == {"step_00000008", *(copy.name for copy in copies)}
    for lost in ("step_00000008", "damaged_step_00000009"):
        shutil.rmtree(checkpoints / lost)
    with refused("run_dir", "checkpoints are missing", "restore"):
        start("--run-dir", run)


def test_a_dry_run_names_damaged_checkpoints(run: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = run / "checkpoints" / "step_00000006"
    (damaged / "training" / "model.safetensors").write_bytes(b"")
    start("--run-dir", run, "--dry-run")
    said = capsys.readouterr()
    assert "continues from step 0" in said.out and f"WARNING: {damaged} is damaged" in said.err
    assert damaged.is_dir()


def test_in_the_folder_of_runs_the_name_of_the_images_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    pictures(tmp_path / "mine", 6)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    train(replace(CONFIG, data=DataConfig("mine")), Path("runs/mine"))
    monkeypatch.chdir(tmp_path / "runs")
    start("--run-dir", "mine", "--train.steps", "8")
    assert facts(Path("mine"))["places"] == {"mine": str(tmp_path / "mine")}


def test_a_remedy_keeps_all_options_and_works_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "mine", 6)
    pictures(tmp_path / "other", 7)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    train(replace(CONFIG, data=DataConfig("mine")), Path("run"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for words in (
        ["--train.seed", "1", "--train.steps", "5"],
        ["--train.seed", "1", "--data.source", str(tmp_path / "other"), "--allow-change", "data.source"],
        ["--train.steps", "3"],
    ):
        with pytest.raises(ValueError, match="--run-dir OTHER") as error:
            start("--run-dir", "../run", *words)
        command = shlex.split(str(error.value)[str(error.value).index("--config "):])
        command[command.index("OTHER")] = str(tmp_path / "new")
        start(*command)
        stored = flatten(read_config(tmp_path / "new" / "config.yaml").to_dict())
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert all(str(stored[key.removeprefix("--")]) == given[key] for key in given if key != "--allow-change")
        known = facts(tmp_path / "new")["data"]["summary"]
        assert known.startswith("14 images" if "--data.source" in words else "12 images")
        shutil.rmtree(tmp_path / "new")


def test_what_null_keeps_is_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    start("--run-dir", run, "--train.learning_rate", "null", "--dry-run")
    assert "train.learning_rate 0.003" in capsys.readouterr().out
    start("--run-dir", run, "--dry-run")
    assert "train.learning_rate" not in capsys.readouterr().out


def test_a_damaged_config_file_is_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its content is also in run.json, which knows what the weights were trained with."""
    content = (run / "config.yaml").read_text()
    (tmp_path / "copy.yaml").write_text(content)
    for damaged in (b"train: [", b"train: {steps: -3}", b"\xff\xfe\x00", b""):
        (run / "config.yaml").write_bytes(damaged)
        with pytest.raises(SystemExit) as exit_:
            parse("--run-dir", run)
        assert exit_.value.code == 2
        complaint = capsys.readouterr().err
        assert f"--run-dir: {run / 'config.yaml'}: " in complaint
        remedy = "train.steps: -3" if b"-3" in damaged else f"--config {run / 'run.json'}"
        assert remedy in complaint
        start("--run-dir", run, "--config", run / "run.json")
        assert read_config(run / "config.yaml") == read_config(tmp_path / "copy.yaml")


# ---------------------------------------------------------------------------------------------- after a lost checkpoint


def test_settings_before_a_change_hold_again_after_a_lost_checkpoint(tmp_path: Path) -> None:
    """Steps that are made again are those that were lost, whichever options of training have changed since."""
    first = with_train(checkpoint_every=3)
    train(first, tmp_path / "run")
    options = {
        "train.beta2": "0.9", "train.weight_decay": "0.1", "train.max_grad_norm": "0.01", "train.ema_half_life": "16",
        "train.ema_warmup": "0.5", "train.learning_rate": "1e-3", "train.batch_size": "4",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    start("--run-dir", tmp_path / "run", "--train.steps", "9", *words, "--allow-change", ",".join(options))
    whole = weights(tmp_path / "run", 9)
    for step in (6, 9):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")
    start("--run-dir", tmp_path / "run")
    assert equal(weights(tmp_path / "run", 9), whole)


def test_other_changes_that_lie_ahead_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(with_train(checkpoint_every=3), tmp_path / "run")
    dropout = ("--model.dropout", "0.1", "--allow-change", "model.dropout")
    start("--run-dir", tmp_path / "run", "--train.steps", "9", *dropout)
    assert "model.dropout: was changed" not in capsys.readouterr().err
    for step in (6, 9):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")
    start("--run-dir", tmp_path / "run")
    assert "WARNING: model.dropout: was changed at step 6, but training goes on from step 3" in capsys.readouterr().err


def test_a_run_without_its_checkpoints_does_not_begin_again(run: Path, tmp_path: Path, refused) -> None:
    (run / "checkpoints").rename(tmp_path / "checkpoints")
    metrics = (run / "metrics.jsonl").read_bytes()
    begin, weights = f"--config {run / 'config.yaml'} --run-dir OTHER", f"--model.pretrained {run / 'pipeline'}"
    for words in ([], ["--train.steps", "8"], ["--dry-run"], ["--config", run / "config.yaml"]):
        with refused("run_dir", "6 steps", "restore", begin, weights):
            start("--run-dir", run, *words)
    assert (run / "metrics.jsonl").read_bytes() == metrics
    remedy = ["--config", run / "config.yaml", "--run-dir", tmp_path / "other", "--dry-run"]
    start(*remedy)
    start(*remedy, "--model.pretrained", run / "pipeline")
    (tmp_path / "checkpoints").rename(run / "checkpoints")
    start("--run-dir", run)


def test_an_unfinished_run_without_its_checkpoints(tmp_path: Path, killed_before: Callable[..., None], refused) -> None:
    (tmp_path / "config.yaml").write_text(with_train(checkpoint_every=3, log_every=1).to_yaml())
    words = ("--config", tmp_path / "config.yaml", "--run-dir", tmp_path / "run")
    for step in (2, 5):         # the first time before a checkpoint, so that it begins again
        killed_before(step, *words)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with refused("run_dir", "restore", "--run-dir OTHER"):
        start(*words)


# -------------------------------------------------------------------------------------------------- pretrained weights


@pytest.fixture
def tuned(run: Path, tmp_path: Path) -> Path:
    """Return a run from the weights of another one, which has other classes and another width than the defaults."""
    train(replace(CONFIG, model=ModelConfig(pretrained=str(run))), tmp_path / "tuned")
    return tmp_path / "tuned"


def test_the_pretrained_model_is_not_needed_again(tuned: Path, run: Path, tmp_path: Path, refused) -> None:
    whole = shutil.copytree(tuned, tmp_path / "whole")
    start("--run-dir", whole, "--train.steps", "8")
    with refused("model.pretrained", "--run-dir OTHER"):       # another model, while the first is there
        start("--run-dir", tuned, "--model.pretrained", run / "pipeline")
    run.rename(tmp_path / "moved")
    start("--run-dir", tuned, "--train.steps", "8")
    assert equal(weights(tuned, 8), weights(whole, 8))
    start("--run-dir", tuned, "--model.pretrained", tmp_path / "moved")
    assert read_config(tuned / "config.yaml").model.pretrained == str(tmp_path / "moved")


def test_before_the_first_checkpoint_it_is_needed(
    run: Path, tmp_path: Path, killed_before: Callable[..., None], refused
) -> None:
    (tmp_path / "config.yaml").write_text(replace(CONFIG, model=ModelConfig(pretrained=str(run))).to_yaml())
    killed_before(2, "--config", tmp_path / "config.yaml", "--run-dir", tmp_path / "tuned")
    run.rename(tmp_path / "moved")
    with refused("model.pretrained", str(run), "does not exist"):
        start("--run-dir", tmp_path / "tuned")
    start("--run-dir", tmp_path / "tuned", "--model.pretrained", tmp_path / "moved")
    train(replace(CONFIG, model=ModelConfig(pretrained=str(tmp_path / "moved"))), tmp_path / "whole")
    assert equal(weights(tmp_path / "tuned", 6), weights(tmp_path / "whole", 6))


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_stored_another_architecture_continues(gone: bool, tuned: Path, run: Path) -> None:
    """Earlier versions stored the defaults of the options that a pretrained model determines."""
    file = tuned / "config.yaml"
    stored = file.read_text()
    file.write_text(stored.replace("channels: 8", "channels: 32").replace("head_channels: 8", "head_channels: 32"))
    (tuned / "run.json").write_text(json.dumps({k: v for k, v in facts(tuned).items() if k != "config"}))
    if gone:
        shutil.rmtree(run)
    start("--run-dir", tuned, "--train.steps", "7")
    assert file.read_text() == stored.replace("steps: 6", "steps: 7")
    assert [change["option"] for change in facts(tuned)["changes"]] == ["train.steps"]


# ---------------------------------------------------------------------------------------------------------- directories


def test_a_changed_config_file_counts_as_options(run: Path, refused) -> None:
    """What the weights were trained with is known even if config.yaml was edited."""
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("batch_size: 8", "batch_size: 16"))
    with refused("train.batch_size (8 there, 16 now)", f"restore train.batch_size 8 in {file}"):
        start("--run-dir", run)
    file.write_text(file.read_text().replace("batch_size: 16", "batch_size: 8").replace("steps: 6", "steps: 8"))
    start("--run-dir", run)
    assert KnownRun.read(run).timeline.segments[-1].step == 6 and facts(run)["changes"][0]["new"] == 8


def test_a_directory_alone_must_hold_a_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    new = "--config configs/digits.yaml --run-dir"
    for words in ([], ["--dry-run"], ["--allow-change", "train.beta2"]):
        with refused("run_dir: rnu ", f"{new} rnu", "--data.source FOLDER --run-dir rnu", "did you mean run?"):
            start("--run-dir", "rnu", *words)
    Path("folder").mkdir()
    shutil.copytree(run, "folder/one")
    for words in ([], ["--data.source", "digits"]):
        with refused("run_dir: folder ", "--run-dir folder/one"):
            start("--run-dir", "folder", *words)
    with refused("run_dir: ", "--run-dir 'a b'; there are the runs run"):
        start("--run-dir", "a b")
    with refused("run_dir: ", "run"):       # options of a run that continues
        start("--run-dir", "rnu", "--train.beta2", "0.9", "--allow-change", "train.beta2")
    for name in ("empty", "early/checkpoints", "early/.lock"):
        Path(name).mkdir(parents=True)
    for name in ("empty", "early"):
        with refused(f"run_dir: {name} ", f"{new} {name}"):
            start("--run-dir", name)
    shutil.copy(run / "config.yaml", "early")           # killed before run.json was written
    with refused("run_dir: early ", "--config early/config.yaml --run-dir early"):
        start("--run-dir", "early")
    start("--config", "early/config.yaml", "--run-dir", "early", "--dry-run")
    assert not Path("rnu").exists() and not Path("a b").exists()


def test_a_new_run_says_what_it_trains_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start("--run-dir", tmp_path / "run", "--train.steps", "3", "--dry-run")
    assert f"new, in {tmp_path / 'run'}, of digits" in capsys.readouterr().out


def test_directories_that_are_no_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    source = ["--data.source", str(pictures(tmp_path / "images"))]
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    shutil.copytree(run / "pipeline", tmp_path / "model")
    for name, file in (("evaluation", "evaluation.json"), ("drawn", "samples.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    cases = {
        run / "pipeline": ("run_dir", f"--run-dir {run}"),
        run / "checkpoints" / "step_00000006": ("run_dir", f"--run-dir {run}"),
        tmp_path / "model": ("run_dir", "pipeline", f"--model.pretrained {tmp_path / 'model'}"),
        study: ("run_dir", "study", "scripts/ablate.py"),
        tmp_path / "evaluation": ("run_dir", "an evaluation", "--run-dir"),
        tmp_path / "drawn": ("run_dir", "drawn", f"--data.source {tmp_path / 'drawn'}"),
        run / "run.json": ("run_dir", f"--run-dir {run}"),
        tmp_path / "model" / "model_index.json": ("run_dir", "file", "--run-dir"),
        tmp_path / "images": ("run_dir", f"--data.source {tmp_path / 'images'}"),
        tmp_path / "images" / "a": ("run_dir", "--data.source"),
    }
    for folder, parts in cases.items():
        for words in ([], ["--data.source", "digits"]):
            with refused(*parts):
                start("--run-dir", folder, *words)
    monkeypatch.chdir(tmp_path)
    with refused("run_dir", "--run-dir run,"):          # as the path was typed
        start("--run-dir", "run/pipeline")
    for folder in (tmp_path / "images", tmp_path / "images" / "run"):       # the run would become a class
        with refused("run_dir", "images", "runs/images"):
            start("--run-dir", folder, *source)
    assert not (tmp_path / "images" / "run").exists() and not (tmp_path / "images" / ".lock").exists()


def test_a_directory_in_the_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    """The directory that is proposed instead is not refused itself, wherever the command is started."""
    monkeypatch.chdir(pictures(tmp_path / "images"))
    with refused("run_dir", str(tmp_path / "runs" / "images")):
        start("--run-dir", "run", "--data.source", ".")
    start("--run-dir", tmp_path / "runs" / "images", "--data.source", ".", "--dry-run")
    monkeypatch.chdir(tmp_path)
    with refused("run_dir", " runs/images"):
        start("--run-dir", "images/run", "--data.source", "images")


# --------------------------------------------------------------------------------------------------------------- images


def pictures(folder: Path, number: int = 6, classes: str = "ab") -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            pixels = np.random.default_rng([label, i]).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def of_pictures(tmp_path: Path) -> Iterator[Path]:
    train(replace(CONFIG, data=DataConfig(str(pictures(tmp_path / "images")))), tmp_path / "run")
    yield tmp_path / "run"


def test_images_that_have_moved(of_pictures: Path, tmp_path: Path, refused, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    with refused("data.source", "does not exist", "--data.source NEW"):
        start("--run-dir", of_pictures)
    capsys.readouterr()
    moved = str(tmp_path / "moved")
    start("--run-dir", of_pictures, "--data.source", moved, "--data.split", "train[:]", "--train.steps", "8")
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("data.source:") and moved in line]) == 1
    assert read_config(of_pictures / "config.yaml").data.source == moved
    assert {c["option"] for c in facts(of_pictures)["changes"]} == {"data.source", "data.split", "train.steps"}
    start("--run-dir", of_pictures)         # from where they are now
    # As if they had always been there.
    train(replace(CONFIG, data=DataConfig(moved)), tmp_path / "other")
    start("--run-dir", tmp_path / "other", "--train.steps", "8")
    assert equal(weights(of_pictures, 8), weights(tmp_path / "other", 8))


def test_other_images(of_pictures: Path, tmp_path: Path, refused, capsys: pytest.CaptureFixture) -> None:
    pictures(tmp_path / "images", 7)        # two images are added
    with refused("data.source", "12 images", "14 images", "--allow-change data.source", "--run-dir OTHER"):
        start("--run-dir", of_pictures)
    picture = of_pictures / "samples" / "data.png"
    before = picture.read_bytes()
    start("--run-dir", of_pictures, "--train.steps", "8", "--allow-change", "data.source")
    change = next(c for c in facts(of_pictures)["changes"] if c["option"] == "data")
    assert "12 images" in change["old"]["summary"] and "14 images" in change["new"]["summary"] and change["step"] == 6
    assert change["allow_change"] and picture.read_bytes() != before
    assert facts(of_pictures)["data"] == change["new"]
    start("--run-dir", of_pictures)
    pictures(tmp_path / "images", 6, "c")
    with refused("data.source", "classes new: c", "--run-dir OTHER --model.pretrained "):
        start("--run-dir", of_pictures, "--allow-change", "data.source")


def test_other_settings_and_other_images_are_told_at_once(of_pictures: Path, tmp_path: Path, refused) -> None:
    other = with_train(batch_size=4, steps=8)
    other = replace(other, data=DataConfig(str(pictures(tmp_path / "more", 7))))
    (tmp_path / "other.yaml").write_text(other.to_yaml())
    words = ("--run-dir", of_pictures, "--config", tmp_path / "other.yaml", "--dry-run")
    remedy = "--allow-change train.batch_size,data.source"
    with refused("train.batch_size (8 there, 4 now)", "data.source (", str(tmp_path / "more"), remedy, "--run-dir"):
        start(*words)
    start(*words, *remedy.split())


def test_what_differs_is_told(of_pictures: Path, tmp_path: Path, refused) -> None:
    """The options that differ, with both values; or else that the content does."""
    with refused("data.intensity (null there, [0.0, 10.0] now)", "leave data.intensity out"):
        start("--run-dir", of_pictures, "--data.intensity", "[0, 10]")
    with refused("data.fit (crop there, pad now)", "data.intensity"):
        start("--run-dir", of_pictures, "--data.intensity", "[0, 10]", "--data.fit", "pad")
    renamed = (tmp_path / "images" / "a" / "0.png").rename(tmp_path / "images" / "a" / "renamed.png")
    with refused("data.source", "same content", "another order", "--allow-change data.source"):
        start("--run-dir", of_pictures)
    renamed.rename(tmp_path / "images" / "a" / "0.png")
    shutil.copy(tmp_path / "images" / "a" / "0.png", tmp_path / "images" / "b" / "0.png")
    with refused("data.source", "other content", "give the run's own images"):
        start("--run-dir", of_pictures)


def test_a_dry_run_says_what_would_happen(run: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    start("--run-dir", run, "--train.steps", "10", "--dry-run")
    out = capsys.readouterr().out
    assert "continues from step 6" in out and "4 steps" in out and "train.steps: 6 becomes 10" in out
    (time,) = [line for line in out.splitlines() if line.startswith("time ")]
    assert "for 4 steps" in time
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    start("--run-dir", run.parent / "none", "--dry-run", "--model.channels", "8", "--model.head_channels", "8")
    assert "new, in" in capsys.readouterr().out and not (run.parent / "none").exists()


def test_periodic_evaluation_goes_on(run: Path) -> None:
    evaluated = ("--evaluation.every", "4", "--evaluation.count", "230", "--evaluation.steps", "1")
    start("--run-dir", run, *evaluated)
    start("--run-dir", run, "--train.steps", "9", "--train.batch_size", "4", "--allow-change", "train.batch_size")
    found = [(r["step"], r["samples"]) for r in records(run) if "evaluation/settings" in r]
    assert found == [(6, 48), (8, 56), (9, 60)]
    facts_of_best = json.loads((run / "best" / "best.json").read_text())
    assert (facts_of_best["step"], facts_of_best["samples"]) in found
