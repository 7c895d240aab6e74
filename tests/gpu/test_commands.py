"""On a GPU, every command runs and gives the results that it gives on a CPU.

Commands that do not depend on each other run at the same time on the GPU. The tests take one to two minutes; nothing is
timed.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from small_runs import DEVICE, SMALL

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 150        # seconds, of a command

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
# The libraries round the inputs of products to TF32 unless configured otherwise, which is not what a CPU computes.
FULL_PRECISION = {"NVIDIA_TF32_OVERRIDE": "0"}

STUDY = """
question: Does a study run on this device?
base:
  model: {channels: 16, channel_mult: [1, 2], head_channels: 16}
  train: {steps: 20, warmup_steps: 5, batch_size: 32, checkpoint_every: 20, sample_every: 0}
  sample: {per_class: 1, steps: 5}
  tracking: {wandb: "off"}
metric: accuracy
evaluation: {count: 120, sampler: dpmpp, steps: 5, timestep_spacing: logsnr, metrics: accuracy}
arms:
  both: {}
  timestep: {model.conditioning: timestep}
seeds: [0]
"""


# -------------------------------------------------------------------------------------------------------- commands


class Command:
    """A script that runs in a process of its own.

    Args:
        output: file that takes what it prints.
        script: name of the script.
        options: its command line.
        environment: variables that differ from this process's.
    """

    def __init__(self, output: Path, script: str, *options: object, environment: dict[str, str] | None = None) -> None:
        self.output = output
        environment = {**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})}
        words = [sys.executable, f"scripts/{script}", *map(str, options)]
        with output.open("w") as file:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def end(self, code: int = 0) -> str:
        """Wait for the end of the script, and return what it printed.

        Args:
            code: the exit code that is expected.
        """
        try:
            found = self.process.wait(TIME_LIMIT)
        finally:
            self.process.kill()
        text = self.output.read_text()
        assert found == code, text[-4000:]
        return text


class Commands(NamedTuple):
    """Commands that were started together.

    Attributes:
        folder: of all that they write.
        dry: a dry run of the first command of the README.
        digits: 40 steps of that command.
        curve_gpu: 10 steps of that command in full precision.
        curve_cpu: the same on the CPU.
        evaluated: training with an evaluation every 20 steps.
        study: two arms with one seed of 20 steps.
        refused: float16 training without a GPU.
    """

    folder: Path
    dry: Command
    digits: Command
    curve_gpu: Command
    curve_cpu: Command
    evaluated: Command
    study: Command
    refused: Command


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Start the commands that depend on no other, and end those that still run after the tests."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "study.yaml").write_text(STUDY)

    def train(name: str, *options: object, environment: dict[str, str] | None = None) -> Command:
        options = ("--run-dir", folder / name, "--tracking.wandb", "off", "--train.log_every", 1, *options)
        return Command(folder / f"{name}.txt", "train.py", *options, environment=environment)

    curve = "--train.steps", 10, "--train.sample_every", 0, "--sample.per_class", 1, "--sample.steps", 2
    evaluation = "--evaluation.every", 20, "--evaluation.count", 240, "--evaluation.steps", 5
    started = Commands(
        folder,
        dry=train("dry", "--dry_run"),
        digits=train("digits", "--train.steps", 40),
        curve_gpu=train("curve_gpu", *curve, environment=FULL_PRECISION),
        curve_cpu=train("curve_cpu", *curve, environment=ON_CPU),
        evaluated=train("evaluated", "--train.steps", 40, *evaluation, *SMALL),
        study=Command(
            folder / "study.txt", "ablate.py", "--study", folder / "study.yaml", "--run-dir", folder / "study"
        ),
        refused=train("refused", "--train.mixed_precision", "fp16", environment=ON_CPU),
    )
    yield started
    for command in started[1:]:
        command.process.kill()
        command.process.wait()


@pytest.fixture(scope="module")
def digits(commands: Commands) -> Path:
    """Return the run directory of 40 steps of digits."""
    commands.digits.end()
    return commands.folder / "digits"


def metrics(run: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_dry_run_tells_device_memory_and_time(commands: Commands) -> None:
    said = commands.dry.end()
    for start, content in (("devices", DEVICE), ("memory", r"[0-9.]+ [GM]B\b"), ("time", r"[0-9.]+ m?s\b")):
        assert re.search(rf"^{start}\b.*{content}", said, re.MULTILINE), said
    assert not (commands.folder / "dry").exists()


def test_training_lowers_the_loss(commands: Commands, digits: Path) -> None:
    assert f"1 process on {DEVICE}" in commands.digits.output.read_text()
    losses = [line["loss"] for line in metrics(digits)]
    assert len(losses) == 40 and sum(losses[-5:]) / 5 < 0.6 * losses[0], losses
    assert (digits / "samples" / "step_00000040.png").is_file() and (digits / "pipeline").is_dir()


def test_losses_and_gradients_are_those_of_the_cpu(commands: Commands) -> None:
    commands.curve_gpu.end()
    commands.curve_cpu.end()
    here, there = (metrics(commands.folder / name) for name in ("curve_gpu", "curve_cpu"))
    for key in ("loss", "grad_norm"):
        assert here[0][key] == pytest.approx(there[0][key], rel=1e-4)
        assert [line[key] for line in here] == pytest.approx([line[key] for line in there], rel=1e-2)


def test_float16_without_a_gpu_is_refused_in_one_line(commands: Commands) -> None:
    said = commands.refused.end(2).strip().splitlines()
    assert len(said) == 1 and "train.mixed_precision: fp16 needs a GPU" in said[0], said


def test_training_evaluates(commands: Commands) -> None:
    commands.evaluated.end()
    run = commands.folder / "evaluated"
    found = {line["step"]: line for line in metrics(run) if "evaluation/frechet_distance" in line}
    assert [*found] == [20, 40]
    assert all(math.isfinite(line[f"evaluation/{name}"]) for line in found.values()
               for name in ("frechet_distance", "kernel_distance", "accuracy"))
    assert (run / "best" / "model_index.json").is_file()


def test_a_study_runs_and_reports(commands: Commands) -> None:
    commands.study.end()
    run = commands.folder / "study"
    outcome = json.loads((run / "outcome.json").read_text())
    assert {*outcome["runs"]} == {"both", "timestep"} and (run / "report.html").is_file()
    assert json.loads((run / "timing.json").read_text())["machine"] == torch.cuda.get_device_name()


def test_probe_writes_its_page(commands: Commands, digits: Path) -> None:
    page = commands.folder / "probe.html"
    options = "--images", 20, "--timesteps", 4, "--samples", 1
    Command(commands.folder / "probe.txt", "probe.py", digits, "--out", page, *options).end()
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["mean_ablations"] and found["sensitivity"] and found["swap"] is not None, found["left_out"]


@pytest.fixture(scope="module")
def evaluations(commands: Commands, digits: Path) -> tuple[dict, dict]:
    """Evaluate the digits run on the GPU, then the same images with the same classifier on the CPU."""
    folder = commands.folder
    found = []
    for name, environment in (("evaluated_gpu", FULL_PRECISION), ("evaluated_cpu", ON_CPU)):
        cache = folder / f"{name}_cache"
        if found:       # a reference classifier that the CPU trains would be another
            shutil.copytree(folder / "evaluated_gpu_cache" / "classifiers", cache / "classifiers")
        options = "--count", 240, "--steps", 10, "--bound_images", 16, "--bound_steps", 5, "--out", folder / name
        Command(
            folder / f"{name}.txt", "evaluate.py", digits, *options,
            environment={**environment, "DDPM_CACHE": str(cache)},
        ).end()
        found.append(json.loads((folder / name / "evaluation.json").read_text()))
    return found[0], found[1]


def test_evaluation_writes_all_metrics(commands: Commands, evaluations: tuple[dict, dict]) -> None:
    here, _ = evaluations
    assert {*here["metrics"]} >= {
        "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "inception_score",
        "accuracy", "memorized", "denoising_error", "bits_per_dim",
    }
    assert not here["skipped"]
    assert (commands.folder / "evaluated_gpu" / "neighbors.png").is_file()


def test_metrics_are_those_of_the_cpu(evaluations: tuple[dict, dict]) -> None:
    here, there = ({name: metric["value"] for name, metric in found["metrics"].items()} for found in evaluations)
    # Of what is counted, among drawn or among real images, one more or less is rounding.
    of_images = dict.fromkeys(("precision", "density", "accuracy", "memorized"), 240)
    of_images |= dict.fromkeys(("recall", "coverage"), 1797)
    allowed = {name: {"abs": 1.1 / of_images[name]} if name in of_images else {"rel": 1e-3} for name in there}
    different = {name: (here[name], there[name]) for name in there
                 if here[name] != pytest.approx(there[name], **allowed[name])}
    assert here.keys() == there.keys() and not different, different
