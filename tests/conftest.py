"""What several test files share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first command of the README makes: runs/digits where it is there, else a new one (1 to 2 minutes)."""
    run = ROOT / "runs" / "digits"
    if not (run / "pipeline").exists():
        run = tmp_path_factory.mktemp("runs") / "digits"
        train = [sys.executable, "scripts/train.py", "--run-dir", str(run), "--tracking.wandb", "off"]
        subprocess.run(train, cwd=ROOT, check=True)
    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads cost small networks more than they save, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for judges and described images that all tests share, and the commands that they start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DDPM_CACHE"] = str(folder)
    return folder
