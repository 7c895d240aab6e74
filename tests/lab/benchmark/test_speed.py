"""What takes processes of their own, or time: peak memory, the speed of training, and the script for a GPU."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from ddpm.cli.benchmark import main
from ddpm.lab.benchmark.fresh_process import call_in_processes

ROOT = Path(__file__).parents[3]
LEAST_SPEED = 0.8       # of diffusers'; ratios of medians of few rounds vary by about 10 % on a shared machine


def test_processes_return_fail_or_are_ended() -> None:
    calls = {"root": (math.sqrt, (4.0,)), "pid": (os.getpid, ())}
    found = call_in_processes(calls, math.inf)
    assert found["root"] == 2.0 and found["pid"] != os.getpid()
    with pytest.raises(RuntimeError, match=r"^root:(.|\n)*ValueError"):
        call_in_processes({"root": (math.sqrt, (-1.0,))}, math.inf)
    start = time.monotonic()
    assert call_in_processes({"sleep": (time.sleep, (60.0,))}, start + 1) == {}
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_training_is_not_slower_than_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    main(["--rounds", "7", "--only", "training", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "benchmark.json").read_text())["comparisons"]["training"]
    assert found["ratio"] >= LEAST_SPEED, found


@pytest.mark.slow
def test_memory_and_launches_are_measured_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    main(["--only", "memory,launches", "--batch-size", "16", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "benchmark.json").read_text())["comparisons"]
    for part in ("memory", "launches"):
        assert found[part]["ratio"] == found[part]["diffusers"]["median"] / found[part]["ours"]["median"]
    # Weights, gradient, two moments and an average of 0.8 million parameters in fp32 are 17 MB, without activations.
    assert all(17 < found["memory"][side]["median"] < 1000 for side in ("ours", "diffusers"))
    assert {*found["launches"]["waits"]} == {"ours", "diffusers"}


@pytest.fixture
def gpu_script() -> ModuleType:
    """Import tests/gpu/run.py."""
    spec = importlib.util.spec_from_file_location("gpu_run", ROOT / "tests" / "gpu" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_for_a_gpu_collects_what_its_parts_say(
    gpu_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With parts that a CPU can do in seconds; there, tests that need a GPU are skipped."""
    tests, benchmark = gpu_script.PARTS["tests"][1], gpu_script.PARTS["cifar"][1]
    parts = {
        "tests": (100, (*tests[:-1], "tests/gpu/test_one_of_several.py")),
        "cifar": (100, (*benchmark, "--batch-size", "2", "--only", "data")),
        "endless": (1, ("-c", "import time; time.sleep(60)")),
        "late": (100, ("-c", "")),
    }
    monkeypatch.setattr(gpu_script, "PARTS", parts)
    monkeypatch.setattr(gpu_script, "LEAST", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["run.py", "--parts", ",".join(parts), "--out", str(tmp_path), "--limit", "150"])
    assert gpu_script.main() == 1           # a part was ended
    found = json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "results.txt").read_text() == capsys.readouterr().out
    assert found["tests"]["exit_code"] == 0 and found["tests"]["tests"]["counts"] == {"SKIPPED": 1}
    assert found["cifar"]["exit_code"] == 0 and {*found["cifar"]["benchmark"]["comparisons"]} == {"data"}
    assert found["endless"]["exit_code"] is None and found["late"]["exit_code"] == 0


def test_every_part_for_a_gpu_runs_what_there_is(gpu_script: ModuleType) -> None:
    for _, (script, *_) in gpu_script.PARTS.values():
        assert script == "-m" or (ROOT / script).is_file()
    assert {*gpu_script.USUAL.split(",")} <= {*gpu_script.PARTS}


@pytest.mark.slow
def test_the_script_of_five_minutes_trains_and_evaluates(tmp_path: Path) -> None:
    """With digits and a small network, on a CPU."""
    options = {
        "model.channels": 16, "model.head_channels": 16, "model.attention_resolutions": 4,
        "data.horizontal_flip": "false", "train.steps": 4, "train.batch_size": 16, "train.warmup_steps": 1,
        "train.log_every": 2, "train.mixed_precision": "fp32", "sample.mixed_precision": "fp32", "sample.per_class": 1,
    }
    words = [sys.executable, "tests/gpu/five_minutes.py", "--source", "digits", "--out", str(tmp_path)]
    words += ["--count", "240", "--options", *(str(word) for option in options.items() for word in option)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = {path.name for path in tmp_path.iterdir()}
    assert found >= {"metrics.jsonl", "grid.png", "evaluation.json", "seconds.json"}
    assert {*json.loads((tmp_path / "seconds.json").read_text())} == {"training", "evaluation"}
    metrics = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert {"frechet_distance", "kernel_distance", "accuracy"} <= {*metrics}
