"""Processes wait for one that works, however long, and end soon after one that has died."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# scripts/train.py in several processes without a launcher, which would end all of them itself. They are forked, because
# each would import the libraries for long. One of them works for some seconds while it reads the images, or at its
# fourth step. It writes the number of each process, what it prints to standard error, and its exit code to files.
TRAIN_PY = """
import os
import sys
import time
from pathlib import Path

import ddpm.training.train
import ddpm.training.trainer
from ddpm.cli.train import main

count, slow, seconds, where, *options = sys.argv[1:]

def delay(act, begins):
    def delayed(*arguments):
        if os.environ["RANK"] == slow and begins(*arguments):
            Path("working").touch()
            time.sleep(float(seconds))
        return act(*arguments)
    return delayed

if where == "data":
    ddpm.training.train.build_data = delay(ddpm.training.train.build_data, lambda *arguments: True)
else:
    module = ddpm.training.trainer
    module.set_options = delay(module.set_options, lambda optimizer, timeline, step: step == 3)
ranks = {}
for rank in range(int(count)):
    pid = os.fork()
    if pid == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.dup2(os.open(f"errors{rank}", os.O_WRONLY | os.O_CREAT), 2)
        main(options)
        sys.exit()
    ranks[pid] = rank
    Path(f"pid{rank}").write_text(str(pid))
Path("started").touch()
while ranks:
    pid, status = os.wait()
    rank = ranks.pop(pid)
    Path(f"code{rank}.new").write_text(str(os.waitstatus_to_exitcode(status)))
    Path(f"code{rank}.new").rename(f"code{rank}")
"""
TIMEOUT = 4.0           # train.timeout; the interpreter may hold its lock for a second while it loads a library
# From a death to the end of the others: the timeout, some heartbeats, and the exit on a busy machine.
MOST_SECONDS = TIMEOUT + 12

Start = Callable[[int, int, float, str], None]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return what starts processes of scripts/train.py in `tmp_path`: their number, and which works how long where."""
    started: list[subprocess.Popen] = []

    def starting(count: int, slow: int, seconds: float, where: str) -> None:
        (tmp_path / "train.py").write_text(TRAIN_PY)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        options = ["--model.channels", "16", "--model.head_channels", "16", "--train.steps", "6"]
        options += ["--train.timeout", str(TIMEOUT), "--train.sample_every", "0", "--train.batch_size", "12"]
        options += ["--sample.steps", "1", "--sample.per_class", "1", "--tracking.wandb", "off", "--run-dir", "run"]
        environment = {
            **os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "train.py", str(count), str(slow), str(seconds), where, *options]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL))

    yield starting
    for file in tmp_path.glob("pid*"):
        if not (tmp_path / file.name.replace("pid", "code")).exists():
            os.kill(int(file.read_text()), signal.SIGKILL)
    for process in started:
        process.wait()


def wait_for(file: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        said = [errors.read_text() for errors in file.parent.glob("errors*")]
        assert time.monotonic() < deadline, [file.name, *said]
        assert file.name != "working" or not any(file.parent.glob("code*")), said
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_work_longer_than_the_timeout_is_waited_for(start: Start, tmp_path: Path, slow: int) -> None:
    start(2, slow, 2.5 * TIMEOUT, "data")
    for rank in range(2):
        wait_for(tmp_path / f"code{rank}", 300)
        assert (tmp_path / f"code{rank}").read_text() == "0", (tmp_path / f"errors{rank}").read_text()
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "dead", "sent"),
    [
        ("data", 0, signal.SIGSTOP), ("data", 1, signal.SIGKILL), ("step", 0, signal.SIGKILL),
        ("step", 1, signal.SIGSTOP), ("step", 1, signal.SIGKILL),
    ],
)
def test_a_process_that_died_ends_the_others(
    start: Start, tmp_path: Path, where: str, dead: int, sent: signal.Signals
) -> None:
    """Process 0, which keeps the store of all, or another one, dies while the others wait in a message or gradient."""
    start(3, dead, 600, where)
    wait_for(tmp_path / "working", 300)
    time.sleep(1)                           # the others begin to wait
    os.kill(int((tmp_path / f"pid{dead}").read_text()), sent)
    since = time.monotonic()
    for rank in {0, 1, 2} - {dead}:
        wait_for(tmp_path / f"code{rank}", MOST_SECONDS - (time.monotonic() - since))
        errors = (tmp_path / f"errors{rank}").read_text()
        assert (tmp_path / f"code{rank}").read_text() == "2" and "Traceback" not in errors, errors
        (line,) = (line for line in errors.splitlines() if "train.py: error" in line)
        assert f"process {dead}:" in line and "train.timeout" in line, line
