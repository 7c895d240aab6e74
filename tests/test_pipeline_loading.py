"""What cannot be loaded as a pipeline, and the variants that can."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

ROOT = Path(__file__).parents[1]
NAMES = ["cat", "dog", "horse"]
SMALL = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8, "channel_mult": (1, 2)}
SMALL |= {"num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 8}
SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](100))


def small_unet(seed: int = 0, **changes: object) -> UNet:
    unet = UNet(**{**SMALL, **changes}).eval()
    draws = torch.Generator().manual_seed(seed)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    return unet


def quiet(pipeline: ClassConditionalPipeline) -> ClassConditionalPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def small() -> ClassConditionalPipeline:
    return quiet(ClassConditionalPipeline.from_parts(small_unet(), SCHEDULE, "v", NAMES))


@pytest.fixture(scope="module")
def saved(small: ClassConditionalPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    small.save_pretrained(folder)
    return folder


def images(pipeline: ClassConditionalPipeline, labels: object = ("cat", 2), **options: object) -> torch.Tensor:
    options = {"num_inference_steps": 5, "guidance_scale": 1.5, "batch_size": 2, "output_type": "uint8", **options}
    return pipeline(labels, **options).images


@pytest.mark.parametrize("lost", [
    "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
])
def test_a_pipeline_with_parts_missing(lost: str, saved: Path, tmp_path: Path, refused) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / lost).unlink()
    with refused(str(tmp_path / "copy"), lost):
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")


@pytest.mark.parametrize(("damage", "expected"), [
    ("cut", "unet"), ("tensor", "conv_out.bias"), ("unet/config.json", "unet"),
    ("scheduler/scheduler_config.json", "scheduler"),
])
def test_a_damaged_pipeline(damage: str, expected: str, saved: Path, tmp_path: Path, refused) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    weights = tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "tensor":
        save_file({k: v for k, v in load_file(weights).items() if k != "conv_out.bias"}, weights, {"format": "pt"})
    else:
        (tmp_path / "copy" / damage).write_text("{")
    with refused(str(tmp_path / "copy"), expected):
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")


def test_a_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("none", "some/where/else", "tests/nonesuch"):
        with refused(f"{name}: no such directory"):
            ClassConditionalPipeline.from_pretrained(name)


def test_variants_of_the_weights(small: ClassConditionalPipeline, tmp_path: Path, refused) -> None:
    small.save_pretrained(tmp_path, variant="other")
    loaded = quiet(ClassConditionalPipeline.from_pretrained(tmp_path, variant="other", use_safetensors=True))
    assert torch.equal(images(loaded), images(small))
    with refused("safe_serialization", "True"):
        small.save_pretrained(tmp_path, safe_serialization=False)


@pytest.mark.parametrize(("change", "expected"), [
    ({"_class_name": "DDPMPipeline"}, ("DDPMPipeline", "ClassConditionalPipeline")),
    ({"scheduler": ["os", "system"]}, ("['os', 'system']", "scheduler of diffusers")),
    ({"scheduler": ["diffusers", "UNet2DModel"]}, ("['diffusers', 'UNet2DModel']", "scheduler of diffusers")),
    ({"scheduler": None}, ("None", "scheduler of diffusers")),
    (None, ("model_index.json",)),
])
def test_a_foreign_index(
    change: dict | None, expected: tuple[str, ...], saved: Path, tmp_path: Path, refused
) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    file = tmp_path / "copy" / "model_index.json"
    file.write_text("{" if change is None else json.dumps({**json.loads(file.read_text()), **change}))
    with refused(*expected):
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")


def test_unknown_options_of_loading(saved: Path, refused) -> None:
    with refused("torch_dtyp ", "mean torch_dtype"):
        ClassConditionalPipeline.from_pretrained(saved, torch_dtyp=torch.float16)
