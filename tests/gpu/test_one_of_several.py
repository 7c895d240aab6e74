"""A process that was launched as one of several, though it is the only one, trains what a process alone trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import DEVICE, SMALL

ROOT = Path(__file__).parents[2]


def losses(folder: Path, *options: str, launched: bool) -> list[float]:
    """Train for four steps and return their losses; nothing but progress and known warnings may be printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    if launched:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            environment["MASTER_PORT"] = str(listening.getsockname()[1])
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"ACCELERATE_USE_CPU": "true"} if DEVICE == "cpu" else {}
    words = [sys.executable, "scripts/train.py", *SMALL, "--run-dir", str(folder), "--train.steps", "4", *options]
    words += ["--train.batch_size", "64", "--train.log_every", "1", "--train.deterministic", "true"]
    words += ["--train.sample_every", "0", "--sample.per_class", "1", "--sample.steps", "1"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert DEVICE == "cpu" or "Grad strides" not in done.stderr, done.stderr       # 1x1 convolutions on a CPU have it
    assert "FutureWarning" not in done.stderr, done.stderr
    assert "destroy_process_group" not in done.stderr, done.stderr
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_messages_accumulation_and_exit_of_a_group(tmp_path: Path) -> None:
    """Messages go through gloo and gradients through the group of the device, also with four micro-batches."""
    alone = losses(tmp_path / "alone", launched=False)
    assert losses(tmp_path / "one", launched=True) == pytest.approx(alone, rel=1e-5)
    # Float32 sums in another order; as for two processes on a CPU.
    parts = losses(tmp_path / "four", "--train.gradient_accumulation_steps", "4", launched=True)
    assert parts == pytest.approx(alone, rel=1e-5)
