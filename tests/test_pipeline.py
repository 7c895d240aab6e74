"""The pipeline: loaded with the package and without it, saved again, with other schedulers; labels; what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ddpm import pipeline as pipeline_module
from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.sampling import Walk
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
    unet = small_unet(norm="groupnorm_matched", conditioning="cross_attention", conditioned_depths=(4,))
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


def test_a_scheduler_that_is_no_sampler(saved: Path) -> None:
    loaded = ClassConditionalPipeline.from_pretrained(saved)
    loaded.scheduler = diffusers.PNDMScheduler.from_config(loaded.scheduler.config)
    with pytest.raises(ValueError, match=r"^scheduler: 'PNDMScheduler' is not one of DDIMScheduler, "):
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


def test_pushing_while_saving_would_leave_the_code_behind(small: ClassConditionalPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^push_to_hub: call `push_to_hub\(name\)` or scripts/push\.py"):
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


# -------------------------------------------------------------------------------------------------- parts missing


@pytest.mark.parametrize(("lost", "expected"), [
    ("model_index.json", r"has no model_index\.json, so it is no pipeline$"),
    ("unet/config.json", r"the pipeline is not whole, unet/config\.json is missing$"),
    ("unet/diffusion_pytorch_model.safetensors", r"not whole, unet/diffusion_pytorch_model\.safetensors is missing$"),
    ("scheduler/scheduler_config.json", r"not whole, scheduler/scheduler_config\.json is missing$"),
])
def test_a_pipeline_with_parts_missing(lost: str, expected: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / lost).unlink()
    with pytest.raises(ValueError, match=expected) as error:
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "expected"), [
    ("cut", r"unet: cannot be loaded: "),
    ("tensor", r"unet: the weights are not whole, conv_out\.bias is missing$"),
    ("unet/config.json", r"unet: cannot be loaded: "),
    ("scheduler/scheduler_config.json", r"scheduler: cannot be read$"),
])
def test_a_damaged_pipeline(damage: str, expected: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    weights = tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "tensor":
        save_file({k: v for k, v in load_file(weights).items() if k != "conv_out.bias"}, weights, {"format": "pt"})
    else:
        (tmp_path / "copy" / damage).write_text("{")
    with pytest.raises(ValueError, match=expected) as error:
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["none", "some/where/else", "tests/nonesuch"])
def test_a_place_that_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=rf"^{name}: no such directory"):
        ClassConditionalPipeline.from_pretrained(name)


def test_variants_of_the_weights(small: ClassConditionalPipeline, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path, variant="other")
    loaded = quiet(ClassConditionalPipeline.from_pretrained(tmp_path, variant="other", use_safetensors=True))
    assert torch.equal(images(loaded), images(small))
    with pytest.raises(ValueError, match=r"^safe_serialization: only True is possible"):
        small.save_pretrained(tmp_path, safe_serialization=False)


@pytest.mark.parametrize(("change", "expected"), [
    ({"_class_name": "DDPMPipeline"}, r"holds a DDPMPipeline, not a ClassConditionalPipeline$"),
    ({"scheduler": ["os", "system"]}, r"\['os', 'system'\] is no scheduler of diffusers$"),
    ({"scheduler": ["diffusers", "UNet2DModel"]}, r"is no scheduler of diffusers$"),
    ({"scheduler": None}, r"None is no scheduler of diffusers$"),
    (None, r"model_index\.json: cannot be read$"),
])
def test_a_foreign_index(change: dict | None, expected: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    file = tmp_path / "copy" / "model_index.json"
    file.write_text("{" if change is None else json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=expected):
        ClassConditionalPipeline.from_pretrained(tmp_path / "copy")


def test_unknown_options_of_loading(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"^torch_dtyp is not an option of .*; did you mean torch_dtype\?$"):
        ClassConditionalPipeline.from_pretrained(saved, torch_dtyp=torch.float16)


# ------------------------------------------------------------------------------------------------------- drawing


def test_labels_in_every_form(small: ClassConditionalPipeline) -> None:
    by_id = images(small, [0, 2, 3 - 1])
    assert torch.equal(images(small, ["cat", "horse", "2"]), by_id)
    assert torch.equal(images(small, "cat"), images(small, 0)) and len(images(small, {"cat": 1.0})) == 1
    # A blend of one class is that class, and so is one class at every depth; up to the order of a matrix product.
    for same in ([{"cat": 1}, {2: 1.0}, {"horse": 1, "dog": 0}], [["cat"] * 2, "horse", [2, "2"]]):
        assert int((images(small, same).int() - by_id.int()).abs().max()) <= 1
    for same in (np.array([0, 2, 2]), torch.tensor([0, 2, 2]), [np.int64(0), 2, "2"]):
        assert torch.equal(images(small, same, seeds=np.int64(0)), by_id)
    assert torch.equal(images(small, torch.tensor(2)), images(small, "horse"))
    assert torch.equal(images(small, torch.tensor([[0, 1], [2, 2]])), images(small, [["cat", "dog"], ["horse"] * 2]))
    assert torch.equal(images(small, "cat", seeds=Walk(3, 9, 0.5)), images(small, ["cat"], seeds=[Walk(3, 9, 0.5)]))
    null = images(small, [None], guidance_scale=1.0)
    assert not torch.equal(null, images(small, ["cat"], guidance_scale=1.0))


def test_depths_meet_in_the_middle(small: ClassConditionalPipeline) -> None:
    """Exchanging the classes of the levels changes the image, and each level has a say."""
    of = {tuple(pair): images(small, [list(pair)]) for pair in (("cat", "cat"), ("dog", "cat"), ("cat", "dog"))}
    assert len({tuple(image.flatten().tolist()) for image in of.values()}) == 3


@pytest.mark.parametrize(("options", "expected"), [
    ({"labels": ["kat"]}, r"^classes: 'kat' is not a class; did you mean cat\?"),
    ({"labels": []}, r"^classes: none given"),
    ({"labels": [3]}, r"^classes: id 3 is out of range; allowed are 0 to 2$"),
    ({"labels": [["cat", "dog", "dog"]]}, r"^classes: 3 labels were given for the 2 resolutions"),
    ({"seeds": [1, 1.5]}, r"^seeds: \[1, 1\.5\] are not all whole numbers$"),
    ({"guidance_interval": [3, 0.3]}, r"^guidance_interval: \[3, 0\.3\] is out of range"),
    ({"guidance_interval": [0.3]}, r"^guidance_interval: \[0\.3\] is out of range"),
    ({"guidance_rescale": 5}, r"^guidance_rescale: 5 is out of range; allowed: 0 to 1$"),
    ({"eta": 2.0}, r"^sample\.eta: 2\.0 is out of range; allowed: 0 to 1$"),
    ({"batch_size": -1}, r"^sample\.batch_size: -1 is out of range"),
    ({"batch_size": 0}, r"^sample\.batch_size: 0 is out of range"),
    ({"num_inference_steps": 5.0}, r"^sample\.steps: 5\.0 is no whole number$"),
    ({"labels": [{"cat": None}]}, r"^classes: the weights .* are not all numbers$"),
    ({"labels": [{"cat": "x"}]}, r"^classes: the weights .* are not all numbers$"),
    ({"seeds": [1, -2]}, r"^seeds: -2 is out of range; allowed: 0 to 2\^63 - 1$"),
    ({"seeds": [1, 2, 3]}, r"^seeds: 3 were given for 2 labels"),
    ({"num_inference_steps": 101}, r"^sample\.steps: 101 is out of range; the model has timesteps for 1 to 100$"),
    ({"sampler": "dpm"}, r"^sample\.sampler: 'dpm' is not one of"),
    ({"output_type": "pill"}, r"^output_type: 'pill' is not one of pil, np, pt, uint8; did you mean pil\?$"),
    ({"noise": torch.zeros(2, 1, 4, 4)}, r"^noise: its shape is \(2, 1, 4, 4\), not \(2, 1, 8, 8\)$"),
])
def test_wrong_arguments(options: dict, expected: str, small: ClassConditionalPipeline) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        images(small, **options)
    assert "\n" not in str(error.value)


def test_guidance_without_a_null_class() -> None:
    made = ClassConditionalPipeline.from_parts(small_unet(null_class=False), SCHEDULE, "v", NAMES)
    with pytest.raises(ValueError, match=r"^sample\.guidance: the model was trained without a null class"):
        images(made)
    with pytest.raises(ValueError, match=r"^classes: the model has no null class"):
        images(made, [None], guidance_scale=1.0)


@pytest.mark.parametrize(("changes", "schedule", "expected"), [
    ({"resolution": 16, "attention_resolutions": (8,)}, SCHEDULE, r"^guide: its resolution is 16, the model's is 8"),
    ({"in_channels": 3, "out_channels": 3}, SCHEDULE, r"^guide: its in_channels is 3, the model's is 1"),
    ({"num_classes": 5}, SCHEDULE, r"^guide: its num_classes is 5, the model's is 3"),
    ({"names": ["dog", "cat", "horse"]}, SCHEDULE, r"^guide: its classes are others, or in another order"),
    ({}, NoiseSchedule(SCHEDULES["linear"](100)), r"^guide: its noise schedule is another"),
    ({}, NoiseSchedule(SCHEDULES["cosine"](50)), r"^guide: its noise schedule is another"),
])
def test_a_guide_that_does_not_fit(changes: dict, schedule: NoiseSchedule, expected: str, small) -> None:
    changes = dict(changes)
    names = changes.pop("names", NAMES if "num_classes" not in changes else [str(i) for i in range(5)])
    guide = ClassConditionalPipeline.from_parts(small_unet(**changes), schedule, "v", names)
    with pytest.raises(ValueError, match=expected):
        images(small, guide=guide)


def test_a_smaller_guide_and_one_of_another_prediction(small: ClassConditionalPipeline) -> None:
    guide = ClassConditionalPipeline.from_parts(small_unet(1, channels=4, head_channels=4), SCHEDULE, "x_0", NAMES)
    assert not torch.equal(images(small, guide=guide, guidance_scale=2.0), images(small, guidance_scale=2.0))
    with pytest.raises(ValueError, match=r"^guide: has no effect at a guidance of 1"):
        images(small, guide=guide, guidance_scale=1.0)


def test_labels_that_a_guide_cannot_take(small: ClassConditionalPipeline) -> None:
    other = ClassConditionalPipeline.from_parts(small_unet(null_class=False), SCHEDULE, "v", NAMES)
    flat = small_unet(channel_mult=(1,), attention_resolutions=())
    shallow = ClassConditionalPipeline.from_parts(flat, SCHEDULE, "v", NAMES)
    assert len(images(small, guide=other)) == len(images(small, guide=shallow)) == 2
    for labels, guide, expected in (
        ([None, "cat"], other, "only one has a null class"),
        ([{"cat": 1.0}], other, "only one has a null class"),
        ([["cat", "dog"]], shallow, "another number of resolutions"),
    ):
        with pytest.raises(ValueError, match=rf"^guide: .*{expected}"):
            images(small, labels, guide=guide)


def test_nothing_to_guide_by() -> None:
    made = ClassConditionalPipeline.from_parts(small_unet(num_classes=0), SCHEDULE, "v", [])
    with pytest.raises(ValueError, match=r"^sample\.guidance: the model has no classes"):
        images(made, [None])
    assert images(quiet(made), [None], guidance_scale=1.0).shape == (1, 1, 8, 8)


def test_names_by_number() -> None:
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=50)
    made = ClassConditionalPipeline(small_unet(), scheduler, {0: "a", 1: "b", 2: "c"})
    assert made.class_names == ["a", "b", "c"]


def test_output_types(small: ClassConditionalPipeline) -> None:
    grey = images(small)
    pil = images(small, output_type="pil")
    assert [type(image) for image in pil] == [Image.Image] * 2 and pil[0].mode == "L"
    assert np.array_equal(np.stack([np.asarray(image) for image in pil]), grey[:, 0].numpy())
    assert torch.equal(images(small, output_type="pt"), grey.float() / 255)
    assert images(small, output_type="np").shape == (2, 8, 8, 1)
    assert torch.equal(small([0, 2], num_inference_steps=5, guidance_scale=1.5, batch_size=2, output_type="uint8",
                             return_dict=False)[0], grey)
    rgb = quiet(ClassConditionalPipeline.from_parts(small_unet(in_channels=3, out_channels=3), SCHEDULE, "v", NAMES))
    assert images(rgb, output_type="pil")[0].mode == "RGB"


def test_inversion_and_back(small: ClassConditionalPipeline) -> None:
    drawn = images(small, guidance_scale=1.0, clip=False, num_inference_steps=50)
    noise = small.invert(drawn, ["cat", 2], 50, iterations=8)
    again = images(small, noise=noise, clip=False, guidance_scale=1.0, num_inference_steps=50)
    inside = (drawn > 0) & (drawn < 255)            # what was cut off at black and white is lost
    assert inside.any() and int((again.int() - drawn.int())[inside].abs().max()) <= 3
    with pytest.raises(ValueError, match=r"^images: torch\.float32 .*allowed is torch\.uint8 \(2, 1, 8, 8\)$"):
        small.invert(drawn.float(), ["cat", 2])
