"""The default command trains on a folder of images of any size."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm.cli.train import main
from ddpm.config.yaml_files import read_config
from ddpm.data import load_data
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.derived_options import derive_config

ONE_STEP = ["--model.channels", "8", "--model.head_channels", "8", "--train.steps", "1", "--train.batch_size", "2"]
ONE_STEP += ["--sample.steps", "1", "--sample.per_class", "1", "--tracking.wandb", "off"]


def image_folder(folder: Path, size: tuple[int, int]) -> Path:
    """A folder of two classes with two images each."""
    for i, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", size, (80 * i, 80 * j, 120)).save(folder / name / f"{j}.png")
    return folder


# Sizes of the images, and the resolutions with attention: those of the levels that are at most 16 pixels, without the
# resolution of the images.
@pytest.mark.parametrize(("size", "options", "expected"), [
    ((16, 16), [], "8x8"),
    ((28, 28), [], "14x14 and 7x7"),
    ((28, 20), [], "10x10 and 5x5"),
    ((32, 32), [], "16x16 and 8x8"),
    ((64, 64), [], "16x16 and 8x8"),
    ((64, 64), ["--model.channel_mult", "[1, 2]"], "no resolution"),
    ((64, 64), ["--model.channel_mult", "[1, 2, 2, 2]"], "16x16 and 8x8"),
    ((28, 20), ["--data.resolution", "64", "--model.channel_mult", "[1, 2, 2]"], "16x16"),
    ((16, 16), ["--model.attention_resolutions", "[16, 8]"], "16x16 and 8x8"),
    ((16, 16), ["--model.attention_resolutions", "[]"], "no resolution"),
])
def test_attention_follows_the_resolution(
    size: tuple[int, int],
    options: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    folder = image_folder(tmp_path / "images", size)
    argv = ["--data.source", str(folder), "--train.batch_size", "2", *options]
    main([*argv, "--run-dir", str(tmp_path / "run"), "--dry-run"])
    assert f"attention at {expected}" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_saved_model_has_the_resolved_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    folder = image_folder(tmp_path / "images", (28, 20))
    main(["--data.source", str(folder), "--run-dir", str(tmp_path / "run"), *ONE_STEP])
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    unet = ClassConditionalPipeline.from_pretrained(checkpoint).unet
    assert isinstance(unet, UNet) and tuple(unet.config.attention_resolutions) == (10, 5)
    stored = read_config(tmp_path / "run/config.yaml")
    assert stored.model.attention_resolutions == [10, 5] and stored.model.channel_mult == [1, 2, 2]
    # The null of the resolution is not among them.
    assert derive_config(stored, load_data(str(folder))) == stored


def test_attention_on_digits_is_that_of_the_documented_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    main(["--data.source", "digits", "--run-dir", str(tmp_path / "run"), "--dry-run"])
    assert "attention at 4x4" in capsys.readouterr().out
