"""A parquet file as CIFAR-10's, a folder of photographs and 28x28 gray images: train, resume, sample."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SMALL = ["--train.batch_size", "8", "--train.lr_schedule", "constant", "--train.checkpoint_every", "2"]
SMALL += ["--sample.steps", "3", "--sample.per_class", "2"]
SMALL += ["--tracking.wandb", "off", "--model.channels", "16", "--model.head_channels", "16"]


def script(name: str, *args: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cifar10(tmp_path: Path) -> list[str]:
    """Write a parquet file with the columns, encoding and class names of CIFAR-10 on the hub; random 32x32 pixels."""
    draws = np.random.default_rng(0)
    columns = {
        "img": [Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(40)],
        "label": [i % 10 for i in range(40)],
    }
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=CIFAR10_CLASSES)})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "test.parquet")
    source = ["--data.source", str(tmp_path / "test.parquet")]
    return [*source, "--data.horizontal_flip", "true", "--model.attention_resolutions", "[16]"]


def folder(tmp_path: Path) -> list[str]:
    """Photograph-like RGB files of several sizes."""
    draws = np.random.default_rng(0)
    for name in ("apple", "pear", "plum"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = draws.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.jpg")
    size = ["--data.resolution", "16", "--model.attention_resolutions", "[8]"]
    return ["--data.source", str(tmp_path / "images"), *size]


def gray28(tmp_path: Path) -> list[str]:
    """28x28 gray, as MNIST; three levels: 28, 14, 7."""
    draws = np.random.default_rng(0)
    for name in ("zero", "one"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = draws.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    levels = ["--model.channel_mult", "[1, 2, 2]", "--model.attention_resolutions", "[7]"]
    return ["--data.source", str(tmp_path / "images"), *levels]


SHAPES = {cifar10: (3, 32, 32, 10), folder: (3, 16, 16, 3), gray28: (1, 28, 28, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("source", SHAPES)
def test_train_go_on_sample(source, tmp_path):
    run = tmp_path / "run"
    options = [*source(tmp_path), *SMALL, "--run-dir", str(run)]
    script("train", *options, "--train.steps", "3")
    assert "step_00000003" in script("train", *options, "--train.steps", "5")
    channels, height, width, classes = SHAPES[source]
    script("sample", str(run), "--per-class", "3", "--format", "png,npz", "--out", str(tmp_path / "out"))
    drawn = np.load(tmp_path / "out" / "samples.npz")
    assert drawn["images"].shape == (3 * classes, height, width, channels) and drawn["images"].dtype == np.uint8
    assert drawn["labels"].tolist() == [c for c in range(classes) for _ in range(3)]
    assert len(list((tmp_path / "out").glob("*/seed*.png"))) == 3 * classes

    # The run, its checkpoint and its exported pipeline draw the same; so do two processes.
    last = run / "checkpoints" / "step_00000005"
    images = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").glob("*/seed*.png")}
    for i, model in enumerate((last, run / "pipeline")):
        script("sample", str(model), "--per-class", "3", "--out", str(tmp_path / f"out{i}"))
        again = tmp_path / f"out{i}"
        assert images == {str(p.relative_to(again)): p.read_bytes() for p in again.glob("*/seed*.png")}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(ROOT / "scripts" / "sample.py"), str(run), "--per-class", "3", "--batch-size", "4"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "grid.png").exists()
    for name in images:
        alone, together = (np.asarray(Image.open(tmp_path / d / name)).astype(int) for d in ("out", "two"))
        assert abs(alone - together).max() <= 1, name       # other batch shape and threads: one gray level
