"""Images with five channels, from the data to every page: training, sampling, evaluating, comparing and probing."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from ddpm.cli import compare, evaluate, probe, push, sample, train
from ddpm.evaluation import reference_classifier
from ddpm.evaluation.metrics import METRICS

CHANNELS, SIDE, COUNT = 5, 8, 40
TRAIN = ["--model.channels", "8", "--model.head_channels", "8", "--train.batch_size", "4", "--tracking.wandb", "off"]
TRAIN += ["--train.steps", "10", "--train.checkpoint_every", "5", "--sample.steps", "2", "--sample.per_class", "2"]
TRAIN += ["--tracking.tensorboard", "true"]


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Train a reference classifier for few steps, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_classifier, "STEPS", (3, 3))
        patch.setenv("DDPM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(sys, "argv", ["ddpm"])
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of two classes with five channels each, as an .npz."""
    draws = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2
    images = draws.integers(0, 120, (COUNT, SIDE, SIDE, CHANNELS)) + 120 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(["--data.source", str(source), *TRAIN, "--run-dir", str(folder)])
    return folder


def test_a_run_continues_exactly(run: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000010")
    train.main(["--data.source", str(source), *TRAIN, "--run-dir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "resuming" in out and f"{CHANNELS} channels" in out and "3 tiles" in out
    last = Path("checkpoints/step_00000010/training/model.safetensors")
    whole, parted = load_file(run / last), load_file(tmp_path / "run" / last)
    assert whole["conv_in.weight"].shape[1] == CHANNELS
    assert all(np.array_equal(whole[name], parted[name]) for name in whole)


def test_the_sample_grid_shows_all_channels(run: Path) -> None:
    with Image.open(run / "samples" / "step_00000010.png") as grid:
        enlarged = 48                       # pixels, of one tile
        assert grid.height == 2 * (enlarged + 2) + 2 and grid.width > 2 * 3 * enlarged
    with Image.open(run / "samples" / "data.png") as images:
        assert images.width > images.height         # three tiles each
    assert next((run / "tensorboard").glob("events*")).stat().st_size > grid.height


def test_samples_are_written_as_npz_and_evaluated(
    run: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sample.main([str(run), "--out", str(tmp_path / "png")])
    assert "--format npz" in capsys.readouterr().err and not (tmp_path / "png").exists()
    sample.main([str(run), "--per-class", "10", "--format", "npz", "--out", str(tmp_path / "out")])
    with np.load(tmp_path / "out" / "samples.npz") as arrays:
        assert arrays["images"].shape == (20, SIDE, SIDE, CHANNELS)
    evaluate.main([str(tmp_path / "out"), "--reference", str(source), "--bootstrap", "20"])
    (report,) = (tmp_path / "out-evaluations").glob("*/evaluation.json")
    assert {"kernel_distance", "accuracy"} <= json.loads(report.read_text())["metrics"].keys()


@pytest.mark.slow
def test_a_model_is_evaluated_compared_and_probed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--count", "20", "--bootstrap", "20", "--bound-images", "8", "--bound-steps", "2"]
    evaluate.main([str(run), *options])
    (report,) = (run / "evaluations").glob("*/evaluation.json")
    content = json.loads(report.read_text())
    assert {"bits_per_dim", "denoising_error", "memorized", "accuracy"} <= content["metrics"].keys()
    assert content["skipped"].keys() <= METRICS.keys()
    with np.load(report.parent / content["samples"]["folder"] / "samples.npz") as arrays:
        assert arrays["images"].shape == (20, SIDE, SIDE, CHANNELS)
    with Image.open(report.parent / "neighbors.png") as picture:
        assert picture.width > 10 * 3 * 48
    evaluate.main([str(run), *options])                 # again: nothing to do

    compare.main([str(run), "--out", str(tmp_path / "comparison.html")])
    assert "3 tiles" in (tmp_path / "comparison.html").read_text()
    quick = ["--images", "32", "--timesteps", "3", "--samples", "2"]
    probe.main([str(run), *quick, "--out", str(tmp_path / "probe.html")])
    assert json.loads((tmp_path / "probe.json").read_text())["swap"]["picture"]
    capsys.readouterr()
    push.main([str(run), "--to", "owner/name", "--dry-run"])
    assert 'output_type="np"' in (run / "pipeline" / "README.md").read_text()


def test_extractors_for_photographs_are_refused(run: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([str(run), "--extractor", "inception"])
    assert "extractor" in (said := capsys.readouterr().err) and "5" in said and "classifier" in said


def test_a_pretrained_model_of_other_channels_is_refused(
    run: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with np.load(source) as arrays:
        np.savez(tmp_path / "rgb.npz", images=arrays["images"][..., :3], labels=arrays["labels"])
    options = ["--data.source", str(tmp_path / "rgb.npz"), "--model.pretrained", str(run / "pipeline")]
    with pytest.raises(SystemExit, match="2"):
        train.main([*options, *TRAIN, "--run-dir", str(tmp_path / "tuned")])
    assert "data.channels" in (said := capsys.readouterr().err) and "5" in said and "3" in said
    assert not (tmp_path / "tuned").exists()
