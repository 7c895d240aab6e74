"""Packages that only some runs need are not imported by the others: machines without them can train and measure."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKED = ("datasets", "wandb", "torch_fidelity", "tensorboard")


def test_training_and_the_benchmark_need_neither_datasets_nor_trackers(tmp_path: Path) -> None:
    words = ["--model.channels", "8", "--model.head_channels", "8", "--train.steps", "1", "--train.warmup_steps", "1"]
    words += ["--train.batch_size", "4", "--sample.per_class", "1", "--sample.steps", "1", "--tracking.wandb", "off"]
    code = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None        # importing it fails
import ddpm.lab.benchmark.benchmark, ddpm.lab.ablation.ablate, ddpm.evaluation.evaluate, ddpm.lab.probe.probe
from ddpm.cli.train import main
main({[*words, "--run-dir", str(tmp_path / "run")]})
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
