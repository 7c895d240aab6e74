"""The pipeline: loaded with the package and without it, saved again, with other schedulers; labels; what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from ddpm import pipeline as pipeline_module
from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.models.unet import UNet
from ddpm.pipeline import PREDICTION_TYPES, SAMPLER_OF, ClassConditionalPipeline
from ddpm.single_file import bundle

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


# --------------------------------------------------------------------------------------------------- round trips


def test_the_package_loads_what_it_saved(small: ClassConditionalPipeline, saved: Path) -> None:
    loaded = quiet(ClassConditionalPipeline.from_pretrained(saved))
    assert type(loaded) is ClassConditionalPipeline and type(loaded.unet) is UNet and not loaded.unet.training
    assert loaded.class_names == NAMES and loaded.prediction == "v"
    assert torch.equal(loaded.schedule.betas, SCHEDULE.betas)
    assert torch.equal(images(loaded), images(small))
    assert len(set(images(small).flatten(1).sum(1).tolist())) == 2


def test_another_way_of_conditioning_comes_back(tmp_path: Path) -> None:
    """Also with blends, and classes of their own at each level."""
    unet = small_unet(norm="groupnorm_matched", conditioning="cross_attention", condition_at=(4,))
    pipeline = quiet(ClassConditionalPipeline.from_parts(unet, SCHEDULE, "v", NAMES))
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded = quiet(ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline"))
    labels = ["cat", {"cat": 0.5, "dog": 0.5}, ["dog", "cat"], ["cat", "dog"]]
    drawn = images(pipeline, labels, seeds=[0] * 4)
    assert torch.equal(images(loaded, labels, seeds=[0] * 4), drawn)
    cat, blend, cat_below, dog_below = drawn
    # The class acts at 4 pixels only: what is said of the finer level does not matter.
    assert torch.equal(cat, cat_below) and not torch.equal(cat, dog_below) and not torch.equal(cat, blend)


STRANGER = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ddpm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPackage())
import diffusers, numpy as np, torch
from diffusers import DiffusionPipeline
folder, again, result = sys.argv[1:]
torch.set_num_threads(1)

def draw(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "guidance_scale": 1.5, "batch_size": 2, "output_type": "uint8", **options}
    return pipeline(["cat", 2], **options).images.numpy()

pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
first = draw(pipeline)
pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
pipeline.save_pretrained(again)
swapped = draw(DiffusionPipeline.from_pretrained(again, trust_remote_code=True))
assert not any(name.split(".")[0] == "ddpm" for name in sys.modules)
np.savez(result, first=first, swapped=swapped)
"""


def test_people_without_the_package(small: ClassConditionalPipeline, saved: Path, tmp_path: Path) -> None:
    """Bit-equal images, also after they swapped the scheduler and saved again; and back with the package."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STRANGER, str(saved), str(tmp_path / "again"), str(tmp_path / "result.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "might require" not in done.stderr and "Expected types" not in done.stderr, done.stderr
    found = np.load(tmp_path / "result.npz")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)        # as many as there
    try:
        assert np.array_equal(found["first"], images(small).numpy())
        assert np.array_equal(found["swapped"], images(small, sampler="dpmpp").numpy())
        back = quiet(ClassConditionalPipeline.from_pretrained(tmp_path / "again"))
        assert back.sampler == "dpmpp" and np.array_equal(images(back).numpy(), found["swapped"])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("scheduler", SAMPLER_OF)
def test_a_swapped_scheduler_is_the_sampler(scheduler: str, saved: Path, tmp_path: Path) -> None:
    loaded = quiet(ClassConditionalPipeline.from_pretrained(saved))
    named = images(loaded, sampler=SAMPLER_OF[scheduler])
    loaded.scheduler = getattr(diffusers, scheduler).from_config(loaded.scheduler.config)
    assert loaded.sampler == SAMPLER_OF[scheduler] in SAMPLERS
    assert torch.equal(images(loaded), named)
    loaded.save_pretrained(tmp_path / "again")
    again = quiet(ClassConditionalPipeline.from_pretrained(tmp_path / "again"))
    assert type(again.scheduler).__name__ == scheduler and torch.equal(images(again), named)
    assert torch.equal(again.schedule.betas, SCHEDULE.betas) and again.prediction == "v"


def test_a_scheduler_without_a_sampler(saved: Path, refused) -> None:
    loaded = ClassConditionalPipeline.from_pretrained(saved)
    loaded.scheduler = diffusers.PNDMScheduler.from_config(loaded.scheduler.config)
    with refused("scheduler: 'PNDMScheduler'", *SAMPLER_OF):
        images(loaded)
    assert len(images(quiet(loaded), sampler="unipc")) == 2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_comes_back(prediction: str, tmp_path: Path) -> None:
    betas = SCHEDULES["linear"](100)
    schedule = NoiseSchedule(betas if prediction == "eps" else with_zero_terminal_snr(betas))
    made = quiet(ClassConditionalPipeline.from_parts(small_unet(), schedule, prediction, NAMES))
    made.save_pretrained(tmp_path)
    loaded = quiet(ClassConditionalPipeline.from_pretrained(tmp_path))
    assert loaded.prediction == prediction in PREDICTION_TYPES
    for sampler in SAMPLERS:
        assert torch.equal(images(made, sampler=sampler), images(loaded, sampler=sampler))


def test_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pipeline_module, "snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(saved))
    loaded = ClassConditionalPipeline.from_pretrained("somebody/model", revision="v1", trust_remote_code=True)
    assert asked == [("somebody/model", {"revision": "v1"})] and loaded.class_names == NAMES


def test_parts_in_place_of_the_saved_ones(saved: Path) -> None:
    other = small_unet(seed=5)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50)     # betas of its own, not given as such
    loaded = ClassConditionalPipeline.from_pretrained(saved, unet=other, scheduler=scheduler)
    assert loaded.unet is other and loaded.sampler == "ddpm" and loaded.schedule.num_timesteps == 50


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_precision_draws(dtype: torch.dtype, small: ClassConditionalPipeline, saved: Path) -> None:
    loaded = quiet(ClassConditionalPipeline.from_pretrained(saved, torch_dtype=dtype))
    assert loaded.unet.dtype == dtype
    difference = (images(loaded, [{"cat": 1}, 2]).int() - images(small).int()).abs()
    assert int(difference.max()) <= 1 if dtype == torch.float64 else float(difference.float().mean()) < 4


def test_pushing_while_saving_would_leave_the_code_behind(
    small: ClassConditionalPipeline, tmp_path: Path, refused
) -> None:
    with refused("push_to_hub", "scripts/push.py"):
        small.save_pretrained(tmp_path, push_to_hub=True)


def test_shipped_code_is_what_runs_here(saved: Path) -> None:
    shipped = {"ddpm_pipeline.py": "ddpm.pipeline", "unet/ddpm_unet.py": "ddpm.models.unet"}
    for file, module in shipped.items():
        source = (saved / file).read_text()
        assert source.split("\n\n\n", 1)[1] == bundle(module, "", "").split("\n\n\n", 1)[1]
        assert not [line for line in source.splitlines() if line.lstrip().startswith(("from ddpm", "import ddpm"))]
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["ddpm_pipeline", "ClassConditionalPipeline"]
    assert index["unet"] == ["ddpm_unet", "UNet"]
