"""A run that continues makes pixels as it did before, even of other images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.config.sections import Config, DataConfig
from ddpm.data.overview import data_facts
from ddpm.training.build import build_data


def write(root: Path, highest: float, side: int) -> str:
    """Write two classes of two float images each, whose brightest value is `highest`, and return their folder."""
    ramp = np.arange(side * side).reshape(side, side) / (side * side - 1)
    for index in range(4):
        folder = root / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ramp * highest).astype(np.float32)).save(folder / f"{index}.tif")
    return str(root)


@pytest.mark.parametrize("options", [{}, {"fit": "pad"}, {"channels": 3}])
def test_size_channels_and_scale_are_those_of_the_run(options: dict, tmp_path: Path) -> None:
    config = Config(data=DataConfig(source=write(tmp_path / "first", 1000, 16), **options))
    first = build_data(config)
    facts = data_facts(first)
    assert build_data(config, facts).fingerprint == first.fingerprint
    other = Config(data=DataConfig(source=write(tmp_path / "other", 100, 32), **options))
    alone, continued = build_data(other), build_data(other, facts)
    assert (alone.resolution, alone.intensity) == (32, (0, 100))
    brightest = int(continued.__getitems__([0])[0].max())
    assert continued.format == first.format and abs(brightest - 255 / 10) <= 1      # rounded, and reduced from 32x32


def test_options_win_over_the_run(tmp_path: Path) -> None:
    source = write(tmp_path / "first", 1000, 16)
    facts = data_facts(build_data(Config(data=DataConfig(source=source))))
    asked = DataConfig(source=source, resolution=8, channels=3, intensity=[0, 10])
    data = build_data(Config(data=asked), facts)
    assert (data.resolution, data.channels, data.intensity) == (8, 3, (0, 10))


def test_facts_of_an_earlier_version_decide_nothing(tmp_path: Path) -> None:
    config = Config(data=DataConfig(source=write(tmp_path / "first", 1000, 16)))
    assert build_data(config, {"summary": "", "fingerprint": ""}).format == build_data(config).format
