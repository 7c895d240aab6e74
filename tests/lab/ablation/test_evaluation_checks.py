import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ddpm.config.sections import Config, DataConfig, DiffusionConfig, SampleConfig
from ddpm.config.study import Arm, Study
from ddpm.data import ImageData
from ddpm.data.slices import Part
from ddpm.lab.ablation.evaluation_checks import check_all_are_trained_on, check_evaluation, describe_unmeasured
from ddpm.lab.ablation.planned_runs import evaluate_command
from ddpm.training.build import build_data

BASE = Config(data=DataConfig(split="train[:300]"), sample=SampleConfig(steps=10))
SHORT = dataclasses.replace(BASE, diffusion=DiffusionConfig(num_timesteps=20, class_dropout_prob=0.0))


@pytest.fixture(scope="module")
def images() -> ImageData:
    return build_data(BASE)


def study_of(**evaluation: Any) -> Study:
    return Study("?", (Arm("a", {}, BASE), Arm("short", {}, SHORT)), (0,), "accuracy", (), evaluation)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "sampler": ({"sampler": "dmpp"}, r"evaluation\.sampler: .*dpmpp"),
    "timestep_spacing": ({"timestep_spacing": "logsn"}, r"evaluation\.timestep_spacing: .*logsnr"),
    "steps of one arm": ({"steps": 30}, r"evaluation\.steps: .*20.*arm short"),
    "eta": ({"sampler": "dpmpp", "eta": 0.5}, r"evaluation\.eta: .*dpmpp"),
    "guidance of one arm": ({"guidance_scale": 2.0}, r"evaluation\.guidance_scale: .*use 1.*arm short"),
    "extractor": ({"extractor": "jugde"}, r"evaluation\.extractor: .*classifier"),
    "own extractor": ({"extractor": "nowhere_at_all:Mine"}, r"evaluation\.extractor: .*nowhere_at_all"),
    "guide": ({"guide": "runs/nowhere"}, r"evaluation\.guide: .*runs/nowhere"),
    "split that is not there": ({"held_out_split": "tset[:3]"}, r"evaluation\.held_out_split: .*tset"),
    "rows that are trained on": ({"held_out_split": "train[250:400]"}, r"evaluation\.held_out_split: 50 "),
    "all that is trained on": ({"held_out_split": "train[:300]"}, r"evaluation\.held_out_split: .*images"),
    "source that is not there": ({"held_out": "/nowhere/at/all"}, r"evaluation\.held_out: .*/nowhere/at/all"),
    "reference that is not there": ({"reference": "/nowhere/at/all"}, r"evaluation\.reference: .*/nowhere/at/all"),
    "rows that are trained on, of another reference": (
        {"reference": "digits", "reference_split": "train[400:500]", "held_out_split": "train[290:400]"},
        r"evaluation\.held_out_split: .*\b10\b",
    ),
    "rows that are trained on, of another split of the same source": (
        {"reference_split": "train[400:500]", "held_out_split": "train[290:400]"},
        r"evaluation\.held_out_split: .*\b10\b",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_first_run(mistake: str, images: ImageData) -> None:
    evaluation, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match=rf"^{expected}") as refused:
        check_evaluation(study_of(**evaluation), images)
    assert "\n" not in str(refused.value)


def test_held_out_images_of_another_source_are_named_by_their_option(tmp_path: Path, images: ImageData) -> None:
    """The reference is a folder, so only the comparison with the training images can find the mistake."""
    for i, name in enumerate(images.class_names):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 20 * i).save(tmp_path / name / "image.png")
    with pytest.raises(ValueError, match=r"^evaluation\.held_out: 300 "):
        check_evaluation(study_of(reference=str(tmp_path), held_out="digits"), images)


@pytest.mark.parametrize("evaluation", [
    {}, {"held_out_split": "train[300:]"}, {"sampler": "dpmpp", "steps": 20, "timestep_spacing": "logsnr"},
    {"reference": "digits", "reference_split": "train[400:500]", "held_out_split": "train[600:]"},
])
def test_valid_options_are_accepted(evaluation: dict[str, Any], images: ImageData) -> None:
    check_evaluation(study_of(**evaluation), images)


def check_own(folder: Path, counts: dict[str, int], split: str, held_out_split: str, copied: bool = False) -> None:
    """Check a study like configs/studies/own.yaml of class folders with a few images each.

    If `copied`, the last image of the first class is a copy of the first.
    """
    for kind, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            value = 0 if copied and (kind, i) == (0, count - 1) else 20 * i + kind
            Image.new("L", (8, 8), value).save(folder / name / f"{i}.png")
    base = Config(data=DataConfig(source=str(folder), split=split), sample=SampleConfig(steps=10))
    evaluation = {"held_out_split": held_out_split, "metrics": "denoising"}
    norm = {"model.norm": "groupnorm"}
    arms = Arm("a", {}, base), Arm("b", norm, base.with_options(norm))
    check_evaluation(Study("?", arms, (0,), "denoising_error", (), evaluation), build_data(base))


@pytest.mark.parametrize("counts", [{"a": 5, "b": 5}, {"a": 4, "b": 4}, {"a": 20, "b": 3}])
def test_few_images_of_each_class_are_enough(counts: dict[str, int], tmp_path: Path) -> None:
    check_own(tmp_path, counts, "train[:80%]", "train[80%:]")


@pytest.mark.parametrize("counts", [{"a": 2, "b": 2}, {"a": 3, "b": 3}, {"a": 20, "b": 2}])
def test_fewer_are_divided_in_the_middle_as_the_error_says(counts: dict[str, int], tmp_path: Path, refused) -> None:
    halves = "train[:50%]", "train[50%:]"
    with refused("evaluation.held_out_split", "class", "add images", *halves):
        check_own(tmp_path, counts, "train[:80%]", "train[80%:]")
    check_own(tmp_path, counts, *halves)


def test_one_image_of_a_class_cannot_be_divided(tmp_path: Path, refused) -> None:
    with refused("evaluation.held_out_split", "selects no rows", "add images"):
        check_own(tmp_path, {"a": 1, "b": 1}, "train[:80%]", "train[80%:]")
    with refused("data.split", "class 'a' has only one image", "add images"):
        check_own(tmp_path, {"a": 1, "b": 1}, "train[:50%]", "train[50%:]")


def test_one_image_is_not_enough_for_an_error_with_its_interval(tmp_path: Path, refused) -> None:
    with refused("metric: denoising_error", "2 real images or more", "add images"):
        check_own(tmp_path, {"all": 4}, "train[:75%]", "train[75%:]")
    check_own(tmp_path, {"all": 4}, "train[:50%]", "train[50%:]")


def test_copies_of_training_images_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    counts, parts = {"a": 5, "b": 5}, ("train[:80%]", "train[80%:]")
    check_own(tmp_path, counts, *parts)
    assert "copies" not in capsys.readouterr().err
    check_own(tmp_path, counts, *parts, copied=True)
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING: ") and "1 of 2 held-out images" in warning and "training" in warning


def test_a_guide_is_a_path() -> None:
    assert evaluate_command(study_of(guide="runs/weak"), Path("run")).guide == Path("runs/weak")
    assert evaluate_command(study_of(), Path("run")).guide is None


def test_classes_that_are_only_held_out_are_refused(refused) -> None:
    """A source in the order of its classes: the last is not trained on."""
    labels = torch.arange(3).repeat_interleave(10)
    part = Part("train", 0, 20, 30)
    pixels = torch.zeros(30, 1, 8, 8, dtype=torch.uint8)
    names = ("cat", "dog", "owl")
    data = ImageData(pixels[:20], labels[:20], names, part=part)
    held_out = ImageData(pixels[20:], labels[20:], names, part=Part("train", 20, 30, 30))
    with refused("held_out_split", "'owl'", "shuffle"):
        check_all_are_trained_on(held_out, data)
    check_all_are_trained_on(data, data)


def test_classes_without_held_out_images_are_named() -> None:
    labels = torch.tensor([0, 0, 2, 2])
    held_out = ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels, ("cat", "dog", "owl"))
    [line] = describe_unmeasured("denoising_error", held_out)
    assert line.startswith("evaluation.held_out_split: ") and "1 of 3" in line and "dog" in line and "cat" not in line
    for all_labels, names in ((labels // 2, ("cat", "owl")), (labels * 0, ())):
        assert describe_unmeasured("denoising_error", ImageData(held_out.pixels, all_labels, names)) == []
