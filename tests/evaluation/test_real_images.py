"""Real images are read for an evaluation as they were for training: same scale, same square, same frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.config.commands import EvaluateCommand
from ddpm.config.places import find_places
from ddpm.config.sections import Config, DataConfig
from ddpm.data import ImageData
from ddpm.data.overview import data_facts
from ddpm.evaluation.image_source import (
    describe_leak,
    load_held_out,
    load_real_images,
    load_reference,
    reference_config,
    trained_intensity,
)


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
    facts = {"data": data_facts(data), "places": find_places(config)}
    (run / "run.json").write_text(json.dumps(facts))
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


def test_images_of_eight_bits_are_not_scaled_like_those_of_more(tmp_path: Path) -> None:
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


def test_held_out_images_that_are_copies_are_counted(tmp_path: Path) -> None:
    config = DataConfig(source=write(tmp_path / "train", 1000))
    reference = load_real_images(config, "reference")
    other = Path(write(tmp_path / "other", 100))
    command = EvaluateCommand(model=tmp_path, held_out=str(other))
    assert describe_leak(load_held_out(command, config, reference), reference, "training") is None
    (other / "b/1.tif").write_bytes((tmp_path / "train/b/3.tif").read_bytes())
    told = describe_leak(load_held_out(command, config, reference), reference, "training")
    assert told is not None and "1 of 4" in told and "training" in told


def test_another_source_is_read_with_the_fit_and_frames_of_the_run(tmp_path: Path) -> None:
    config = DataConfig(source=write(tmp_path / "train", 1), fit="pad", frames="all", label_column=None)
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    other = reference_config(EvaluateCommand(model=run, reference="digits"), None)
    assert (other.source, other.fit, other.frames) == ("digits", "pad", "all")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that names its images by a relative path; the working directory is another one."""
    monkeypatch.chdir(tmp_path)
    config = DataConfig(source="images", split="train[:]")
    write(tmp_path / "images", 1000)
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return run


def fingerprint(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["data"]["fingerprint"]


def test_the_images_of_a_run_are_found_from_any_directory(started: Path) -> None:
    write(Path("images"), 1)            # others with the same name
    config, data = load_reference(EvaluateCommand(model=started), None)
    assert data.fingerprint == fingerprint(started)
    # Held-out images are recognized as rows of the same source, however its path is written.
    command = EvaluateCommand(model=started, held_out="../images", held_out_split="train[2:]")
    with pytest.raises(ValueError, match=r"^held_out_split: 2 images"):
        load_held_out(command, config, data)


def test_a_run_that_was_moved_with_its_images(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (started.parent / "images").rename("images")
    _, data = load_reference(EvaluateCommand(model=started), None)
    assert data.fingerprint == fingerprint(started)


def test_images_that_have_moved_are_named_as_the_message_says(started: Path, refused) -> None:
    (started.parent / "images").rename("moved")
    with refused("reference: ", str(started.parent / "images"), "--reference NEW --reference-split 'train[:]'",
                 f"scripts/train.py --run-dir {started} --data.source NEW"):
        load_reference(EvaluateCommand(model=started), None)
    command = EvaluateCommand(model=started, reference="moved", reference_split="train[:]")
    assert load_reference(command, None)[1].fingerprint == fingerprint(started)
    with refused("reference: ", "'nowhere/at/all'"):
        load_reference(EvaluateCommand(model=started, reference="nowhere/at/all"), None)


def test_a_table_of_labels_is_found_and_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", 1000)
    names = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.tif"))
    table = Path("labels.csv")
    table.write_text("file_name,label\n" + "".join(f"{name},{'xy'[i % 2]}\n" for i, name in enumerate(names)))
    config = DataConfig(source="images", labels="labels.csv")
    run = write_run(tmp_path / "run", config, load_real_images(config, "reference"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert load_reference(EvaluateCommand(model=run), None)[1].fingerprint == fingerprint(run)
    (tmp_path / "labels.csv").rename("moved.csv")
    with refused("data.labels: ", f"--run-dir {run} --data.labels NEW"):
        load_reference(EvaluateCommand(model=run), None)


def test_a_remedy_has_the_option_as_it_is_typed(tmp_path: Path, refused) -> None:
    with refused("held_out_split: ", "--held-out-split train"):
        load_real_images(DataConfig(source=write(tmp_path / "train", 1), split="tets"), "held_out")
