"""What a newcomer gets from the first command: the digits that were requested, according to a classifier."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

ROOT = Path(__file__).parents[1]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians fitted to two sets of vectors (N, D)."""
    difference = a.mean(0) - b.mean(0)
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root_trace = np.sqrt(np.clip(np.linalg.eigvals(c_a @ c_b).real, 0, None)).sum()
    return float(difference @ difference + np.trace(c_a) + np.trace(c_b) - 2 * root_trace)


@pytest.mark.slow
def test_digits(digits_run, tmp_path):
    """At least 98 % of 500 samples are classified correctly, at a Fréchet distance in pixels of at most 0.5.

    The classifier, trained on 1,500 real images, classifies 98 to 99 % of the other 297 correctly. The distance between
    those 297 and the 1,500 is 0.4 to 0.45.
    """
    sample = [sys.executable, "scripts/sample.py", str(digits_run), "--per-class", "50", "--guidance-scale", "1"]
    subprocess.run([*sample, "--format", "npz", "--out", str(tmp_path / "out")], cwd=ROOT, check=True)

    drawn = np.load(tmp_path / "out" / "samples.npz")
    samples, asked = drawn["images"].reshape(500, 64) / 127.5 - 1, drawn["labels"]
    digits = load_digits()
    images, labels = np.round(digits.images.reshape(-1, 64) * (255 / 16)) / 127.5 - 1, digits.target
    order = np.random.RandomState(0).permutation(len(images))
    known, other = order[:1500], order[1500:]
    classifier = SVC().fit(images[known], labels[known])

    accuracy = float((classifier.predict(samples) == asked).mean())
    result = {
        "accuracy": accuracy,
        "classifier_on_real": classifier.score(images[other], labels[other]),
        "distance_to_1500": frechet_distance(samples, images[known]),
        "distance_to_all": frechet_distance(samples, images),
        "real_297_to_1500": frechet_distance(images[other], images[known]),
    }
    print(json.dumps(result, indent=2))
    assert accuracy >= 0.98
    assert result["distance_to_1500"] <= 0.5
