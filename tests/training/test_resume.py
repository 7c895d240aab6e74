"""A run that was interrupted and started again is the run that was not."""

import ast
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
STEPS = 40
MEASURED = ("images_per_s", "memory_gb")
OPTIONS = {
    "model.channels": 16,
    "model.head_channels": 16,
    "model.dropout": 0.1,
    "data.horizontal_flip": "true",
    "data.balance": "true",
    "data.augment": 0.3,
    "train.steps": STEPS,
    "train.batch_size": 32,
    "train.log_every": 3,
    "train.checkpoint_every": 8,
    "train.sample_every": 0,
    "sample.steps": 2,
    "sample.per_class": 1,
    "evaluation.every": 16,
    "evaluation.count": 230,
    "evaluation.steps": 2,
    "tracking.wandb": "off",
}


def command(run: Path, **changes) -> list[str]:
    options = {**OPTIONS, **changes}
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return [sys.executable, str(ROOT / "scripts" / "train.py"), "--run-dir", str(run), *flags]


def train(run: Path, **changes) -> subprocess.CompletedProcess:
    return subprocess.run(command(run, **changes), capture_output=True, text=True, timeout=300)


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has a line of that step or a later one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be interrupted"


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimizer, counters, metrics and best model are equal bit for bit, timings aside."""
    last = f"checkpoints/step_{STEPS:08d}"
    for name in ("training/model", "training/augmentation", "training/optimizer", "unet/diffusion_pytorch_model"):
        a, b = load_file(one / last / f"{name}.safetensors"), load_file(other / last / f"{name}.safetensors")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert (one / last / "training/state.json").read_text() == (other / last / "training/state.json").read_text()

    def metrics(run: Path) -> list[dict]:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in record.items() if key not in MEASURED} for record in records]

    assert metrics(one) == metrics(other)
    for samples in ("data", f"step_{STEPS:08d}"):
        assert (one / f"samples/{samples}.png").read_bytes() == (other / f"samples/{samples}.png").read_bytes()

    def best(run: Path) -> dict:
        facts = json.loads((run / "best" / "best.json").read_text())
        assert facts["identity"].pop("run") == json.loads((run / "run.json").read_text())["id"]
        return facts

    assert best(one) == best(other)
    weights = "best/unet/diffusion_pytorch_model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = train(run)
    assert done.returncode == 0, done.stderr
    return run


ALSO = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGKILL)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *ALSO])
def test_interrupted_run_equals_the_whole(uninterrupted, tmp_path, number):
    run = tmp_path / "run"
    first = subprocess.Popen(command(run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_step(run, random.Random(number).choice([9, 15, 21]), first)
    first.send_signal(number)
    out, _ = first.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert first.returncode == -number
    else:
        assert first.returncode == 128 + number
        assert str(run) in out      # what to start again
    second = train(run)
    assert second.returncode == 0, second.stderr
    assert str(run / "checkpoints") in second.stdout
    assert_same_run(uninterrupted, run)


@pytest.mark.slow
def test_damaged_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path):
    run = tmp_path / "run"
    three = command(run, **{"train.keep_checkpoints": 3})
    first = subprocess.Popen(three, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(run, 21, first)
    first.kill()
    first.wait()
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    weights = newest / "training" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    second = train(run)
    assert second.returncode == 0, second.stderr
    assert str(newest) in second.stderr and "training/model.safetensors" in second.stderr
    assert_same_run(uninterrupted, run)


def test_a_complete_run_is_left_alone(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    again = train(uninterrupted)
    assert again.returncode == 0
    assert f"step {STEPS}" in again.stdout
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_other_settings_are_refused_by_name(uninterrupted):
    other = train(uninterrupted, **{"model.channels": 32, "train.seed": 1})
    assert other.returncode == 2
    assert "model.channels (16" in other.stderr and "train.seed (0" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_directory_in_use_is_refused(tmp_path):
    run = tmp_path / "run"
    long = {"train.steps": 5000}
    first = subprocess.Popen(command(run, **long), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_step(run, 1, first)
        second = train(run, **long)
        assert second.returncode == 2
        assert str(run) in second.stderr and f"process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_nothing_in_a_run_is_a_pickle(uninterrupted):
    """Every file is text, PNG or safetensors, so nothing that a resume or a sampler reads can run code.

    The code that a pipeline carries is for diffusers' `trust_remote_code`; this package does not import it.
    """
    for path in uninterrupted.rglob("*"):
        if path.is_file() and path.name != ".lock":
            assert path.suffix in (".json", ".jsonl", ".yaml", ".md", ".png", ".safetensors", ".py"), path
    code = [path.relative_to(uninterrupted).name for path in uninterrupted.rglob("*.py")]
    assert set(code) == {"ddpm_pipeline.py", "ddpm_unet.py"}
    for path in (ROOT / "ddpm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert {k.arg: ast.unparse(k.value) for k in node.keywords}["weights_only"] == "True", path
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("pickle.")), path
