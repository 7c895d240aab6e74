"""The throughput benchmark of tests/benchmarks runs, so that a figure can be measured when it is needed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_both_sides_are_measured_with_equal_parameters(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(8, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(8) % 2)
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "throughput.py"), "--batch", "2", "--rounds", "1"]
    command += ["--source", str(tmp_path / "images.npz")]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300).stdout
    ours, theirs = (
        int(re.search(rf"^{side} +([\d,]+) parameters", output, re.M)[1].replace(",", ""))
        for side in ("ours", "diffusers")
    )
    # The class embeddings differ in size: the data has 2 classes and the null class, diffusers' side 11.
    assert abs(ours - theirs) < 0.01 * ours
    assert "ratio of medians" in output
