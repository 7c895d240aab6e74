"""samples/data.png, the picture of the first images of a run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from ddpm.config.sections import Config, DataConfig, ModelConfig, SampleConfig, TrackingConfig, TrainConfig
from ddpm.data import ImageData, load_data
from ddpm.io.pictures import CAPTION_GAP, captioned_grid
from ddpm.training import trainer as trainer_module
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.data_picture import MAX_IMAGES, DataPicture
from ddpm.training.derived_options import derive_config
from ddpm.training.timeline import Timeline
from ddpm.training.train import train
from ddpm.training.trainer import Trainer

SMALL = Config(
    data=DataConfig(augment=0.4, horizontal_flip=True),
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(steps=1, batch_size=16, checkpoint_every=1, sample_every=0),
    sample=SampleConfig(steps=2, per_class=1),
    tracking=TrackingConfig(wandb="off"),
)


def trainer_of(config: Config, data: ImageData, path: Path) -> Trainer:
    config = derive_config(config, data)
    return Trainer(config, Accelerator(cpu=True), data, build_schedule(config), build_unet(config, data), path)


def picture_of(trainer: Trainer, path: Path, logged: list) -> DataPicture:
    picture = DataPicture(
        trainer.accelerator, path, trainer.pipeline.class_names, trainer.images_at, trainer.timeline
    )
    picture.observe(0, SimpleNamespace(image=lambda *image: logged.append(image)))
    return picture


def test_it_shows_what_the_first_step_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pixel of the images, of several micro-batches; the pictures are enlarged 8 times, from 8 to 64 pixels."""
    seen = []
    made_by = trainer_module.prepare_inputs

    def recorded(*given):
        made = made_by(*given)
        seen.append(made[0])
        return made

    monkeypatch.setattr(trainer_module, "prepare_inputs", recorded)
    config = replace(SMALL, train=replace(SMALL.train, gradient_accumulation_steps=2, steps=1))
    train(config, tmp_path)
    x_0 = torch.cat(seen)
    sheet = np.asarray(Image.open(tmp_path / "samples" / "data.png"))
    height = 64 + 15 + CAPTION_GAP      # image, one line, gap
    for i, image in enumerate(x_0[:16, 0]):
        left, top = CAPTION_GAP + i % 4 * (64 + CAPTION_GAP), CAPTION_GAP + i // 4 * height
        shown = sheet[top + 4 : top + 64 : 8, left + 4 : left + 64 : 8]
        expected = ((image + 1) * 127.5).round().byte().numpy()
        assert np.array_equal(shown, expected[:, :, None].repeat(3, axis=2)), i
    assert sheet.shape[:2] == (4 * height + CAPTION_GAP, 4 * (64 + CAPTION_GAP) + CAPTION_GAP)


def test_it_is_drawn_once_at_the_start_and_logged_under_its_name(tmp_path: Path) -> None:
    data, logged = load_data("digits"), []
    trainer = trainer_of(SMALL, data, tmp_path)
    picture = picture_of(trainer, tmp_path, logged)
    assert logged == [(tmp_path / "samples" / "data.png", 0, "data")]
    first = picture.file.read_bytes()
    (tmp_path / "again").mkdir()
    again = picture_of(trainer_of(SMALL, data, tmp_path / "again"), tmp_path / "again", [])
    assert again.file.read_bytes() == first
    picture.file.unlink()
    picture.observe(1, None)        # the run is under way
    assert not picture.file.exists()


def test_other_images_are_drawn_when_they_come(tmp_path: Path) -> None:
    """From the position that the run has reached, instead of the first images."""
    trainer = trainer_of(SMALL, load_data("digits"), tmp_path)
    history = Timeline.of(trainer.config.train, [
        {"step": 5, "option": "data", "old": {}, "new": {}},
        {"step": 7, "option": "train.beta2", "old": 0.9, "new": 0.5},
    ])
    given = []
    picture = DataPicture(
        trainer.accelerator, tmp_path, (), lambda at: given.append(at) or trainer.images_at(at), history
    )
    picture.file.parent.mkdir()
    picture.file.write_bytes(b"the images before")
    for step in (0, 4, 6, 7):
        picture.observe(step, None)
    assert picture.file.read_bytes() == b"the images before"
    picture.observe(5, SimpleNamespace(image=lambda *image: None))
    assert given == [range(5 * 16, 6 * 16)] and Image.open(picture.file).size


def test_small_batches_are_shown_together(tmp_path: Path) -> None:
    config = replace(SMALL, train=replace(SMALL.train, batch_size=4, steps=9))
    trainer, given = trainer_of(config, load_data("digits"), tmp_path), []
    for steps, shown in ((9, 36), (100, MAX_IMAGES)):
        history = Timeline.of(replace(trainer.config.train, steps=steps))
        picture = DataPicture(
            trainer.accelerator, tmp_path, (), lambda at: given.append(at) or trainer.images_at(at), history
        )
        picture.observe(0, SimpleNamespace(image=lambda *image: None))
        assert given.pop() == range(shown)


def test_a_dry_run_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(SMALL, tmp_path / "run", dry_run=True)
    assert "flip, crop, shift" in capsys.readouterr().out and not [*tmp_path.iterdir()]


def test_labels_name_the_images_that_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels as training sees them, but not those that class dropout replaces by the null class."""
    config = replace(SMALL, diffusion=replace(SMALL.diffusion, class_dropout_prob=0.9))
    trainer = trainer_of(config, load_data("digits"), tmp_path)
    given = []

    def grid(images: list, captions: list[str]) -> Image.Image:
        given.append(captions)
        return captioned_grid(images, captions)

    monkeypatch.setattr("ddpm.training.data_picture.captioned_grid", grid)
    picture_of(trainer, tmp_path, [])
    _, _, labels = trainer.samples.__getitems__(range(16))
    assert given == [[str(label) for label in labels.tolist()]]


def test_classes_whose_names_cannot_be_drawn_are_shown_by_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, given = trainer_of(SMALL, load_data("digits"), tmp_path), []
    monkeypatch.setattr(
        "ddpm.training.data_picture.captioned_grid", lambda images, names: given.extend(names) or Image.new("L", (1, 1))
    )
    names = [f"кошка {i}" if i % 2 else f"猫 {i}" for i in range(10)]
    picture = DataPicture(trainer.accelerator, tmp_path, names, trainer.images_at, trainer.timeline)
    picture.observe(0, SimpleNamespace(image=lambda *image: None))
    _, _, labels = trainer.samples.__getitems__(range(16))
    assert given == [names[label] if label % 2 else f"class {label}" for label in labels.tolist()]


def test_images_without_classes_have_no_captions(tmp_path: Path) -> None:
    data = load_data("digits")
    trainer = trainer_of(SMALL, data, tmp_path)
    picture = DataPicture(trainer.accelerator, tmp_path, (), trainer.images_at, trainer.timeline)
    picture.observe(0, SimpleNamespace(image=lambda *image: None))
    assert Image.open(picture.file).size == (4 * (64 + CAPTION_GAP) + CAPTION_GAP,) * 2
