"""Real images are read for an evaluation as they were for training: same scale, same square, same frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, DataConfig
from ddpm.data import ImageData
from ddpm.data.overview import data_facts
from ddpm.evaluation.image_source import load_held_out, load_real_images, reference_config, trained_intensity


def write(root: Path, highest: float, kind: type = np.float32) -> str:
    """Write two classes of two images each, whose brightest value is `highest`, and return their folder."""
    ramp = np.arange(64).reshape(8, 8) / 63
    for index in range(4):
        folder = root / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ramp * highest * (index + 1) / 4).astype(kind)).save(folder / f"{index}.tif")
    return str(root)


def write_run(run: Path, config: DataConfig, data: ImageData) -> Path:
    run.mkdir()
    (run / "config.yaml").write_text(Config(data=config).to_yaml())
    (run / "run.json").write_text(json.dumps({"data": data_facts(data)}))
    return run


def brightest(data: ImageData) -> int:
    return int(data.__getitems__(range(len(data)))[0].max())


@pytest.mark.parametrize("options", [{}, {"intensity": [0, 1000]}])
def test_other_images_have_the_scale_of_the_models_images(options: dict, tmp_path: Path) -> None:
    """By themselves, images up to 100 would be scaled to 255; in the scale of the model's they are a tenth of it."""
    config = DataConfig(source=write(tmp_path / "train", 1000), **options)
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    command = EvaluateCommand(model=run, reference=write(tmp_path / "other", 100))
    other = load_real_images(reference_config(command, None), "reference", trained_intensity(run))
    assert brightest(other) == round(255 / 10) and other.intensity == (0, 1000)
    own = reference_config(EvaluateCommand(model=run), None)
    again = load_real_images(own, "reference", trained_intensity(run))
    assert again.fingerprint == json.loads((run / "run.json").read_text())["data"]["fingerprint"]


def test_images_of_eight_bits_are_not_scaled_like_deeper_ones(tmp_path: Path) -> None:
    config = DataConfig(source=write(tmp_path / "train", 4000, np.uint16))
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    assert trained_intensity(run) == (0, 4095)
    command = EvaluateCommand(model=run, reference=write(tmp_path / "other", 255, np.uint8))
    assert brightest(load_real_images(reference_config(command, None), "reference", trained_intensity(run))) == 255


def test_held_out_images_have_the_scale_of_the_reference(tmp_path: Path) -> None:
    config = DataConfig(source=write(tmp_path / "train", 1000))
    reference = load_real_images(config, "reference")
    command = EvaluateCommand(model=tmp_path, held_out=write(tmp_path / "other", 100))
    held_out = load_held_out(command, config, reference)
    assert held_out is not None and brightest(held_out) == round(255 / 10)


def test_another_source_is_read_with_the_fit_and_frames_of_the_run(tmp_path: Path) -> None:
    config = DataConfig(source=write(tmp_path / "train", 1), fit="pad", frames="all", label_column=None)
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    other = reference_config(EvaluateCommand(model=run, reference="digits"), None)
    assert (other.source, other.fit, other.frames) == ("digits", "pad", "all")
