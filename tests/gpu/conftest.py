"""What the tests of this folder share: they need a CUDA GPU, and are skipped where there is none."""

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skip all tests of this folder without a CUDA GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    # Read when cuBLAS starts: without it, torch refuses deterministic algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
