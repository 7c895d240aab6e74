"""What the tests of this folder share: they need a CUDA GPU, and are skipped where there is none."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))       # for the module small_runs


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skip all tests of this folder without a CUDA GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    # Products of float32 are compared with those of a CPU, which the libraries otherwise round to TF32.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # cuBLAS reads this variable when it starts; without it, torch refuses deterministic algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
