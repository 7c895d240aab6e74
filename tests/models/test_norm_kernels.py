"""The kernels that GPUs run, in Triton's interpreter and compiled for a GPU that is not there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def run_in_process(name: str, **environment: str) -> None:
    """Run the tests of a file of this folder; whether kernels are interpreted is decided when Triton is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    run = subprocess.run(
        [*command, str(Path(__file__).with_name(name))],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, which has wheels for Linux on x86_64 only"
)


def test_the_kernels_equal_the_plain_form() -> None:
    run_in_process("interpreted_kernels.py", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu() -> None:
    run_in_process("compiled_kernels.py")
