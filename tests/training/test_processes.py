"""One process, two processes and accumulation train the same model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ddpm.processes
from ddpm.cli.train import main
from ddpm.config.sections import Config
from ddpm.config.study_files import read_study
from ddpm.lab.ablation.ablate import ablate
from ddpm.training.train import train

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--model.channels", "16", "--model.head_channels", "16", "--data.horizontal_flip", "true"),
    *("--data.balance", "true", "--data.augment", "0.3"),
    *("--train.steps", "20", "--train.batch_size", "32", "--train.learning_rate", "1e-3"),
]
TWO = [
    *("launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


def accelerate(*args: str, cpu: bool = True, folder: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"ACCELERATE_USE_CPU": "true"} if cpu else {})
    environment |= {} if cpu else {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)


def record(out: Path, processes: int, *extra: str) -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    script = [str(Path(__file__).with_name("record_steps.py")), str(out), *OPTIONS, *extra]
    if processes == 1:
        done = subprocess.run([sys.executable, *script], capture_output=True, text=True, timeout=300)
    else:
        done = accelerate(*TWO, *script)
    assert done.returncode == 0, done.stderr
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, torch.Tensor]:
    return record(folder / "alone", 1)[0]


TWO_PROCESSES = [pytest.param(2, accumulation, marks=pytest.mark.slow) for accumulation in (1, 2)]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 2), *TWO_PROCESSES])
def test_equals_one_process(alone, folder, processes, accumulation):
    records = record(
        folder / f"{processes}x{accumulation}", processes, "--train.gradient_accumulation_steps", str(accumulation)
    )
    # The same samples, augmentation, classes, timesteps and noise in every step, bit for bit.
    steps = len(alone["losses"])
    for name in ("position", "x_0", "labels", "t", "noise", "augment_labels"):
        whole = alone[f"seen.{name}"].unflatten(0, (steps, -1))
        shares = torch.cat([r[f"seen.{name}"].unflatten(0, (steps, -1)) for r in records], dim=1)
        assert torch.equal(whole, shares), name

    # The first gradient, relative to its largest entry: float32 sums over 32 images of 64 pixels in another order,
    # whose rounding errors add up to about sqrt(2048) * 2^-24 = 2.7e-6.
    largest = max(g.abs().max() for name, g in alone.items() if name.startswith("gradient."))
    for r in records:
        for name, gradient in alone.items():
            if name.startswith("gradient."):
                assert (gradient - r[name]).abs().max() <= 3e-6 * largest, name

    # The losses of 20 steps, within 1e-5: what is left of those rounding errors after 20 updates.
    for r in records:
        torch.testing.assert_close(r["losses"], alone["losses"], rtol=1e-5, atol=0)


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_number_of_processes(tmp_path):
    """The same weights, evaluated by one process and by two, whose shares are unequal."""
    script = [str(ROOT / "scripts" / "train.py"), *OPTIONS, "--train.steps", "4", "--tracking.wandb", "off"]
    script += ["--sample.steps", "2", "--sample.per_class", "1"]
    command = [sys.executable, *script, "--run-dir", str(tmp_path / "1")]
    trained = subprocess.run(command, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    script += ["--evaluation.every", "4", "--evaluation.count", "230", "--evaluation.steps", "3"]
    metrics = {}
    for processes in (1, 2):
        command = [*script, "--run-dir", str(tmp_path / str(processes))]
        if processes == 1:
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
        else:
            done = accelerate(*TWO, *command)
        assert done.returncode == 0, done.stderr
        last = json.loads((tmp_path / str(processes) / "metrics.jsonl").read_text().splitlines()[-1])
        metrics[processes] = {key: value for key, value in last.items() if key.startswith("evaluation/")}
        assert (tmp_path / str(processes) / "best" / "best.json").is_file()
    assert len(metrics[1]) == 4 and metrics[1].pop("evaluation/settings") == metrics[2].pop("evaluation/settings")
    # Batches are the same whoever draws them; float64 sums may differ in order.
    assert metrics[2] == pytest.approx(metrics[1], rel=1e-6)


@pytest.mark.slow
def test_two_processes_continue_a_run_with_another_batch_size(tmp_path, monkeypatch):
    """A run of one process that two processes continue makes the steps that one process makes."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    quick = ["--train.log_every", "1", "--train.sample_every", "0", "--sample.steps", "1", "--sample.per_class", "1"]
    main([*OPTIONS, *quick, "--train.steps", "2", "--tracking.wandb", "off", "--run-dir", str(tmp_path / "1")])
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    change = ["--train.steps", "6", "--train.batch_size", "24", "--allow-change", "train.batch_size"]
    main(["--run-dir", str(tmp_path / "1"), *change])
    done = accelerate(*TWO, str(ROOT / "scripts" / "train.py"), "--run-dir", str(tmp_path / "2"), *change)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("train.batch_size: 32 becomes 24")]) == 1
    alone, together = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in "12"
    )
    assert [r["samples"] for r in together] == [r["samples"] for r in alone] == [32, 64, 88, 112, 136, 160]
    # As in `test_equals_one_process`.
    assert [r["loss"] for r in together] == pytest.approx([r["loss"] for r in alone], rel=1e-5)


EXTRACTOR = """
import os
import torch

class Mine:
    classes, digest = None, "mine"

    def extract(self, images):
        drawn = len(images.unique()) > 17       # real digits have 17 gray levels
        value = float("nan") if drawn and os.environ.get("RANK") == "1" else 1.0
        return torch.cat([images.flatten(1)[:, :2] / 255, torch.full((len(images), 1), value)], dim=1), None
"""

# The names of the threads are printed after the exit handlers that ddpm registers.
TRAIN_PY = """
import atexit
import os

@atexit.register
def print_threads():
    names = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
    print("threads:", *names, flush=True)

from ddpm.cli.train import main

main()
"""


@pytest.mark.slow
def test_a_fault_of_one_process_while_it_describes_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(EXTRACTOR)
    (tmp_path / "train.py").write_text(TRAIN_PY)
    script = [str(tmp_path / "train.py"), *OPTIONS, "--run-dir", str(tmp_path / "run")]
    script += ["--tracking.wandb", "off"]
    script += ["--train.steps", "1", "--sample.steps", "1", "--sample.per_class", "1", "--sample.batch_size", "10"]
    script += ["--evaluation.every", "1", "--evaluation.count", "40", "--evaluation.steps", "3"]
    done = accelerate(*TWO, *script, "--evaluation.extractor", "mine:Mine", folder=tmp_path)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "train.py: error" in line)
    assert "error in process 1: extractor: mine:Mine.extract" in line and "finite" in line
    # The launcher has a traceback of its own, and its table shows the exit code of the process that failed first.
    assert "gloo" not in done.stderr.lower() and done.stderr.count("Traceback") <= 1
    assert "exitcode  : 2 " in done.stderr
    # A thread of gloo that works while the interpreter shuts down aborts its process now and then, on a busy machine.
    assert "threads:" in done.stdout and "gloo" not in done.stdout


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a second process, which has read other images."""

    def gather(found: list[Any]) -> list[Any]:
        if isinstance(found[0], dict) and "data.source" in found[0]:
            return [*found, dict.fromkeys(found[0], "other")]
        return found

    monkeypatch.setattr(ddpm.processes, "gather_object", gather)


def test_processes_train_on_the_same_images(other_machine, refused, tmp_path):
    with refused("data.source", "process 1", "same files"):
        train(Config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_of_a_study_use_the_same_images(other_machine, refused, tmp_path):
    study = read_study(ROOT / "configs" / "studies" / "own.yaml", {"data.source": "digits"})
    with refused("data.source", "process 1", "same files"):
        ablate(study, {}, tmp_path / "study")


@pytest.mark.slow
def test_copies_of_the_images_that_differ_are_refused(tmp_path):
    """Each process has a folder of images of its own, as on two machines."""
    for machine in range(2):
        for label in range(2):
            folder = tmp_path / str(machine) / "images" / str(label)
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("L", (8, 8), 40 * label + 8 * machine + i).save(folder / f"{i}.png")
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\nfrom ddpm.cli.train import main\n"
        "os.chdir(os.environ['LOCAL_RANK'])\nmain([*sys.argv[1:]])\n"
    )
    done = accelerate(*TWO, str(script), *OPTIONS, "--data.source", "images", "--dry-run", folder=tmp_path)
    (line,) = (line for line in done.stderr.splitlines() if "train.py: error" in line)
    assert "data.source" in line and "process 1" in line and "exitcode  : 2 " in done.stderr


@pytest.mark.slow
def test_a_launch_of_independent_runs_is_refused(tmp_path):
    """`--multi_gpu` on a machine without GPUs starts processes that do not know of each other."""
    script = [str(ROOT / "scripts" / "train.py"), "--run-dir", str(tmp_path / "run"), *OPTIONS]
    done = accelerate(*TWO, *script, cpu=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "train.py: error:" in line]
    assert len(lines) == 1 and "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_to_one_process_saves_for_all(tmp_path):
    """A signal that reaches one process only stops all of them after the same step; the same command goes on."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *TWO, str(ROOT / "scripts" / "train.py")]
    command += ["--run-dir", str(run), *OPTIONS, "--train.steps", "60", "--train.log_every", "1"]
    command += ["--tracking.wandb", "off"]
    command += ["--train.sample_every", "0", "--sample.steps", "2", "--sample.per_class", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launched = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 5:
        assert launched.poll() is None and time.monotonic() < deadline, "the run did not get under way"
        time.sleep(0.05)
    holder = int((run / ".lock").read_text().split()[1])        # the main process
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    (other,) = (int(child) for child in children if int(child) != holder)
    os.kill(other, signal.SIGTERM)
    out, _ = launched.communicate(timeout=120)
    assert str(run) in out
    (saved,) = (run / "checkpoints").iterdir()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert int(saved.name.removeprefix("step_")) == len(lines) < 60
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert str(saved) in again.stdout
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == list(range(1, 61))
