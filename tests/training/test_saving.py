"""Runs that are killed, stopped or out of disk space while a checkpoint is being written."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddpm.atomic import find_damage, list_checkpoints, step_of

ROOT = Path(__file__).parents[2]
STEPS = 40
MEASURED = ("images_per_s", "memory_gb")
OPTIONS = [
    *("--model.channels", "16", "--model.head_channels", "16", "--model.dropout", "0.1", "--data.augment", "0.3"),
    *("--train.steps", str(STEPS), "--train.batch_size", "32", "--train.log_every", "1"),
    *("--train.checkpoint_every", "5", "--train.sample_every", "10", "--sample.steps", "2", "--sample.per_class", "1"),
    *("--tracking.wandb", "off"),
]
TRAIN, SLOW = [str(ROOT / "scripts" / "train.py")], [str(Path(__file__).with_name("slow_disk.py")), "0.3"]
TWO = [
    *("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def start(script: list[str], run: Path, *options: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start training; with a limit, no file may have more than so many kilobytes, as on a full disk."""
    command = [sys.executable, *script, "--run-dir", str(run), *OPTIONS, *options]
    if limit is not None:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def logged(run: Path) -> list[int]:
    """The steps in metrics.jsonl; a line may be incomplete."""
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if line[-1] == "}"]


def wait_for_save(process: subprocess.Popen[str], run: Path) -> None:
    """Until a checkpoint is being written."""
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/.step_*.tmp")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was begun"
        time.sleep(0.005)


def contents(run: Path) -> dict[str, object]:
    """All that must not depend on interruptions: every tensor, counter, record and picture."""
    (*_, last) = list_checkpoints(run / "checkpoints")
    assert step_of(last) == STEPS and find_damage(last) is None
    assert not list((run / "checkpoints").glob(".*"))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "records": [{key: value for key, value in record.items() if key not in MEASURED} for record in records],
        "state": (last / "training/state.json").read_text(),
        **{path.name: path.read_bytes() for path in (run / "samples").iterdir()},
        **{str(path.relative_to(last)): path.read_bytes() for path in last.rglob("*.safetensors")},
        "export": (run / "pipeline/unet/diffusion_pytorch_model.safetensors").read_bytes(),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    run = tmp_path_factory.mktemp("runs") / "whole"
    process = start(TRAIN, run)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return contents(run)


@pytest.mark.slow
def test_killed_while_saving_again_and_again(uninterrupted: dict[str, object], tmp_path: Path) -> None:
    """Kill -9 at random times of a save, each time of a later one; the same run comes out, bit for bit."""
    run, draw, unfinished = tmp_path / "run", random.Random(0), 0
    for _ in range(5):
        before = step_of(next(reversed(list_checkpoints(run / "checkpoints")), None))
        process = start(SLOW, run)
        wait_for_save(process, run)
        time.sleep(draw.uniform(0, 1.2))        # of the 0.9 seconds and more that it takes; the next one may have begun
        process.kill()
        process.communicate()
        kept = list_checkpoints(run / "checkpoints")
        assert len(kept) <= 2 and not any(map(find_damage, kept))       # what has a name is complete
        unfinished += bool(list(run.glob("checkpoints/.step_*")))
        # One interval and the save that was being written: the steps after the last checkpoint are of these.
        newest = step_of(kept[-1]) if kept else 0
        assert newest >= before and max(logged(run)) <= newest + 2 * 5 + 1
    assert unfinished > 0
    process = start(TRAIN, run)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert contents(run) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_saving(number: int, uninterrupted: dict[str, object], tmp_path: Path) -> None:
    """The step at which it stops has a complete checkpoint when the command returns."""
    run = tmp_path / "run"
    process = start(SLOW, run)
    wait_for_save(process, run)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert step_of(newest) == max(logged(run)) < STEPS and f"step {step_of(newest)}" in out
    assert find_damage(newest) is None and not list((run / "checkpoints").glob(".*"))
    process = start(TRAIN, run)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert contents(run) == uninterrupted


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if ": error" in line and line.startswith(("train.py", "slow_disk.py"))]


@pytest.mark.slow
@pytest.mark.parametrize("launch", [[], TWO], ids=["one process", "two processes"])
def test_a_full_disk_ends_all_processes_with_one_message(launch: list[str], tmp_path: Path) -> None:
    """At the next save, or at the end; what was complete before is kept."""
    run = tmp_path / "run"
    process = start([*launch, *TRAIN], run, "--train.steps", "5")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for steps, last in ((20, 10), (8, 8)):      # the save of step 10 fails, which that of 15 reports; or the last one
        process = start([*launch, *TRAIN], run, "--train.steps", str(steps), limit=100)
        _, err = process.communicate(timeout=300)
        (line,) = errors(err)
        failed = f"step_{last:08d}"
        assert failed in line and "step_00000005" in line and "File too large" in line, err
        assert "run the same command again" in line and "error in process" not in line
        assert process.returncode == 2 or (launch and "exitcode  : 2 " in err), err
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000005"]
        assert last <= max(logged(run)) <= last + 5
    process = start([*launch, *TRAIN], run, "--train.steps", "8")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and (run / "checkpoints" / "step_00000008").is_dir(), err
