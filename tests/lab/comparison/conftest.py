"""Run directories like those of training and evaluation, written without running either."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.config.sections import Config, ModelConfig, TrainConfig

NAMES = ["cat", "dog & <co>"]
SETTINGS = {
    "sampler": "ddim", "steps": 50, "guidance_scale": 1.0, "guidance_interval": None, "batch_size": 100, "seed": 0
}


def _make_run(path: Path, steps: int = 30, seed: int = 0, **config: Any) -> Path:
    """Write a run directory after `steps` steps of 64 images."""
    sections = {"train": TrainConfig(steps=steps, seed=seed), **config}
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(Config(**sections).to_yaml())
    data = {"summary": "1,797 images, 8x8", "fingerprint": "f" * 32}
    facts = {"class_names": NAMES, "parameters": 827745, "multiply_adds": 18767872, "seed": seed, "data": data}
    (path / "run.json").write_text(json.dumps(facts))
    lines = [{"step": s, "samples": 64 * s, "loss": 1 / s} for s in range(10, steps + 1, 10)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "samples").mkdir()
    Image.new("L", (40, 20), 128).save(path / "samples" / f"step_{steps:08d}.png")
    return path


def _estimate(
    value: float, half: float | None, better: str = "lower", real_baseline: float | None = None
) -> dict[str, Any]:
    ends = {"low": None if half is None else value - half, "high": None if half is None else value + half}
    real = {"value": real_baseline, "low": None, "high": None, "count": 250, "samples": value + 11}
    if real_baseline is None:
        real = None
    return {"value": value, **ends, "count": 500, "better": better, "real_baseline": real}


def _add_evaluation(run: Path, name: str = "ddim50-classifier", written: float = 1e9, **changes: Any) -> Path:
    """Write an evaluation with images; `changes` replace values of evaluation.json, with __ between nested keys."""
    folder, drawn = run / "evaluations" / name, run / "evaluations" / "samples" / name
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    for c, row in enumerate(["cat", "dog & _co_"]):
        (drawn / row).mkdir(parents=True)
        for j in range(3):
            Image.fromarray(pixels[c, j]).save(drawn / row / f"seed{2 * j + c:06d}.png")
    levels = (0.01, 0.1, 1.0, 10.0)
    content = {
        "model": {"weights": "w" * 64, "name": str(run)},
        "samples": {"count": 500, "digest": "d", "settings": dict(SETTINGS), "guide": None, "source": str(run),
                    "folder": f"../samples/{name}"},
        "reference": {"summary": "1,797 images, 8x8", "fingerprint": "f" * 32, "count": 1797, "trained_on": True},
        "held_out": None,
        "extractor": {"name": "classifier", "digest": "e" * 64, "features": 112},
        "classifier": {"digest": "e" * 64, "value": 0.97, "low": 0.95, "high": 0.98, "held_out": 360},
        "metrics": {"frechet_distance": _estimate(20.0, 3.0, real_baseline=1.5),
                    "accuracy": _estimate(0.8, 0.03, "higher", 0.97),
                    "recall": _estimate(0.5, None, "higher"), "bits_per_dim": _estimate(3.0, 0.1),
                    "memorized": _estimate(0.01, 0.01)},
        "skipped": {"inception_score": "the extractor has no classes"},
        "confusion": [[240, 10], [40, 210]],
        "class_names": NAMES,
        "denoising": [{"timestep": i, "sigma": x, "x_0_error": 0.01 * x, "standard_error": 0.001 * x,
                       "eps_error": 0.1} for i, x in enumerate(levels)],
        "likelihood_images": {"count": 128, "held_out": False},
        "bound_steps": 20,
        "versions": {},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    (folder / "evaluation.json").write_text(json.dumps(content))
    os.utime(folder / "evaluation.json", (written, written))
    return folder


def _add_checkpoint(run: Path, step: int, digest: str) -> Path:
    """Write the manifest of a checkpoint."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "MANIFEST.json").write_text(json.dumps({"unet/model.safetensors": digest, "training.safetensors": "y"}))
    return folder


def _monitor(run: Path, *digests: str) -> None:
    """Append evaluations during training to metrics.jsonl, one for each digest of settings."""
    with (run / "metrics.jsonl").open("a") as file:
        for i, digest in enumerate(digests):
            seen = {"step": 100 + i, "samples": 6400 + 64 * i}
            record = {**seen, "evaluation/kernel_distance": 0.5 + i, "evaluation/settings": digest}
            file.write(json.dumps(record) + "\n" + json.dumps({**seen, "loss": 1.0}) + "\n")


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Return `_make_run`."""
    return _make_run


@pytest.fixture(scope="session")
def estimate() -> Callable[..., dict[str, Any]]:
    """Return `_estimate`."""
    return _estimate


@pytest.fixture(scope="session")
def add_evaluation() -> Callable[..., Path]:
    """Return `_add_evaluation`."""
    return _add_evaluation


@pytest.fixture(scope="session")
def add_checkpoint() -> Callable[..., Path]:
    """Return `_add_checkpoint`."""
    return _add_checkpoint


@pytest.fixture(scope="session")
def monitor() -> Callable[..., None]:
    """Return `_monitor`."""
    return _monitor


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Return two runs that differ in norm and length; the second has a worse distance and a better accuracy."""
    a, b = _make_run(tmp_path / "a"), _make_run(tmp_path / "b", steps=50, model=ModelConfig(norm="groupnorm"))
    _add_evaluation(a)
    _add_evaluation(b, metrics__frechet_distance=_estimate(26.0, 4.0, real_baseline=1.5),
                    metrics__bits_per_dim=_estimate(3.05, 0.1),
                    metrics__accuracy=_estimate(0.9, 0.02, "higher", 0.97))
    return a, b
