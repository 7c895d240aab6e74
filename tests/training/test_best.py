"""The best model of a run: which one it is, whatever happens on the way."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm.atomic import find_damage
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.pipelines import load_pipeline, locate
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.periodic_evaluation import BestModel

IDENTITY = {"run": "a", "metric": "frechet_distance", "count": 3}
VALUES = [5.0, 3.0, 4.0, 3.0, 6.0]


@pytest.fixture(scope="module")
def pipeline() -> ClassConditionalPipeline:
    unet = UNet(8, 1, 1, num_classes=2, channels=8, channel_mult=(1,), attention_resolutions=(), head_channels=8)
    return ClassConditionalPipeline.from_parts(unet, NoiseSchedule(SCHEDULES["cosine"](10)), "v", ["a", "b"])


def offer(folder: Path, pipeline: ClassConditionalPipeline, value: float, step: int, **changes) -> None:
    """Offers a model all of whose biases are its step."""
    for name, parameter in pipeline.unet.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, step)
    better = changes.pop("better", "lower")
    BestModel(folder, better, {**IDENTITY, **changes}).offer(value, step, 10 * step, pipeline)


def step_of(folder: Path) -> int:
    """Of the model that is there, by its weights and by its facts."""
    facts = json.loads((folder / "best.json").read_text())
    loaded = load_pipeline(folder)
    biases = torch.cat([p.flatten() for name, p in loaded.unet.named_parameters() if name.endswith("bias")])
    assert set(biases.tolist()) == {facts["step"]} and facts["samples"] == 10 * facts["step"]
    assert find_damage(folder) is None and locate(folder) == folder
    assert not list(folder.parent.glob(".best.*"))
    return facts["step"]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_first_of_the_best_stays(better: str, pipeline: ClassConditionalPipeline, tmp_path: Path) -> None:
    signed = VALUES if better == "lower" else [-value for value in VALUES]
    kept = []
    for step, value in enumerate(signed, start=1):
        offer(tmp_path / "best", pipeline, value, step, better=better)
        kept.append(step_of(tmp_path / "best"))
    assert kept == [1, 2, 2, 2, 2]


def test_going_on_from_before_the_best(pipeline: ClassConditionalPipeline, tmp_path: Path) -> None:
    """The steps come again, and with them the same values; the best model stays what it was."""
    for step, value in [*enumerate(VALUES[:3], start=1), *enumerate(VALUES, start=1)]:
        offer(tmp_path / "best", pipeline, value, step)
    assert step_of(tmp_path / "best") == 2


@pytest.mark.parametrize("change", [{"run": "b"}, {"metric": "accuracy"}, {"count": 4, "seed": 1}], ids=str)
def test_what_cannot_be_compared_is_replaced(
    change: dict, pipeline: ClassConditionalPipeline, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Which is said, with what is different, once."""
    offer(tmp_path / "best", pipeline, 1.0, 1)
    offer(tmp_path / "best", pipeline, 0.5, 1)
    assert capsys.readouterr().err == ""
    offer(tmp_path / "best", pipeline, 2.0, 2, **change)
    assert step_of(tmp_path / "best") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"WARNING: {tmp_path / 'best'}: ")
    for key, value in {**IDENTITY, **change}.items():
        assert (f"{key} ({IDENTITY.get(key, 'not set')} there, {value} now)" in line) == (key in change)
    offer(tmp_path / "best", pipeline, 3.0, 3, **change)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file", ["best.json", "unet/diffusion_pytorch_model.safetensors", "MANIFEST.json"])
def test_a_damaged_one_is_replaced(file: str, pipeline: ClassConditionalPipeline, tmp_path: Path) -> None:
    offer(tmp_path / "best", pipeline, 1.0, 1)
    with (tmp_path / "best" / file).open("ab") as stream:
        stream.write(b"more")
    offer(tmp_path / "best", pipeline, 2.0, 2)
    assert step_of(tmp_path / "best") == 2


@pytest.mark.parametrize("stage", ["being written", "old one set aside", "new one in place"])
def test_killed_while_it_is_published(stage: str, pipeline: ClassConditionalPipeline, tmp_path: Path) -> None:
    """Its step comes again, and the offer with it."""
    best, aside, working = tmp_path / "best", tmp_path / ".best.old", tmp_path / ".best.tmp"
    offer(best, pipeline, 2.0, 1)
    shutil.copytree(best, aside)
    offer(tmp_path / "new" / "best", pipeline, 1.0, 2)
    shutil.copytree(tmp_path / "new" / "best", working)
    if stage == "being written":
        shutil.rmtree(aside)
        (working / "best.json").unlink()
    else:
        shutil.rmtree(best)
    if stage == "new one in place":
        working.rename(best)
    offer(best, pipeline, 1.0, 2)
    assert step_of(best) == 2


def test_one_set_aside_by_a_killed_process_still_counts(pipeline: ClassConditionalPipeline, tmp_path: Path) -> None:
    """A kill between the two renames of a replacement; what is offered next is worse."""
    offer(tmp_path / "best", pipeline, 2.0, 1)
    (tmp_path / "best").rename(tmp_path / ".best.old")
    offer(tmp_path / "best", pipeline, 3.0, 2)
    assert step_of(tmp_path / "best") == 1


def test_a_full_disk_leaves_the_one_before(
    pipeline: ClassConditionalPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path / "best", pipeline, 2.0, 1)

    def full(self: ClassConditionalPipeline, folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(ClassConditionalPipeline, "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            offer(tmp_path / "best", pipeline, 1.0, 2)
    assert step_of(tmp_path / "best") == 1
