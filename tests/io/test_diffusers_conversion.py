"""scripts/convert.py from and to diffusers' UNet2DModel."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from toy_models import (
    Run,
    assert_equal_outputs,
    converted,
    inputs,
    ours,
    refused,
    write_scheduler,
    write_theirs,
)

from ddpm.diffusion.schedule import SCHEDULES
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import schedule_name

pytestmark = pytest.mark.usefixtures("workplace")


# -------------------------------------------------------------------------------------------------- diffusers' folders


def test_a_bare_unet2d_becomes_a_pipeline(run: Run) -> None:
    theirs = write_theirs(Path("theirs"))
    process = ("--schedule", "cosine", "--num-timesteps", 50, "--prediction", "v")
    printed = converted(run, "theirs", *process, "--null-class", "--out", "ours")
    assert "2 classes and the null class" in printed and "--diffusion.num_timesteps 50" in printed
    pipeline = load_pipeline(Path("ours"))
    assert pipeline.prediction == "v" and torch.equal(pipeline.schedule.betas, SCHEDULES["cosine"](50))
    assert pipeline.class_names == ["0", "1"] and pipeline.unet.null_label == 2
    assert_equal_outputs(pipeline.unet, theirs)


SCHEDULERS = {
    "ddpm, linear": (DDPMScheduler(), "eps", ("linear", False)),
    "ddim, scaled linear, v": (DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"), "v", None),
    "dpm++, cosine, x_0": (
        DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
        "x_0",
        ("cosine", False),
    ),
    "cosine, without signal at the end": (
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        "v",
        ("cosine", True),
    ),
    "of 400 steps": (DDIMScheduler(400, 1e-4 * 2.5, 0.02 * 2.5), "eps", ("linear", False)),
    "diffusers' sigmoid": (DDPMScheduler(beta_schedule="sigmoid"), "eps", None),
    "given betas": (DDPMScheduler(3, trained_betas=[0.1, 0.25, 0.5]), "eps", None),
}


@pytest.mark.parametrize("arrangement", ["subfolders", "one folder"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_pipeline_of_diffusers_says_its_process(kind: str, arrangement: str, run: Run) -> None:
    scheduler, prediction, name = SCHEDULERS[kind]
    theirs = write_theirs(Path("theirs/unet" if arrangement == "subfolders" else "theirs"))
    write_scheduler(Path("theirs/scheduler" if arrangement == "subfolders" else "theirs"), scheduler)
    Path("theirs/model_index.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "cow"}}))
    printed = converted(run, "theirs", "--out", "ours")
    pipeline = load_pipeline(Path("ours"))
    assert pipeline.prediction == prediction and pipeline.class_names == ["cat", "dog", "cow"]
    # The scheduler multiplies in float32.
    found, expected = pipeline.schedule.alphas_cumprod.float(), scheduler.alphas_cumprod
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-7)
    assert_equal_outputs(pipeline.unet, theirs)
    if name is None:
        assert "not possible: the noise schedule of " in printed
    else:
        assert schedule_name(pipeline.schedule) == name


def test_names_given_go_before_those_of_the_folder(run: Run) -> None:
    write_theirs(Path("theirs"))
    write_scheduler(Path("theirs"), DDPMScheduler())
    Path("theirs/model_index.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "cow"}}))
    Path("names.txt").write_text("Katze\nHund\n\nKuh \n", encoding="utf-8")
    converted(run, "theirs", "--class-names", "names.txt", "--out", "ours")
    assert load_pipeline(Path("ours")).class_names == ["Katze", "Hund", "Kuh"]


def test_an_unconditional_unet2d(run: Run) -> None:
    theirs = write_theirs(Path("theirs"), num_class_embeds=None)
    printed = converted(run, "theirs", "--schedule", "linear", "--prediction", "eps", "--out", "ours")
    assert "no classes, " in printed
    unet = load_pipeline(Path("ours")).unet
    assert_equal_outputs(unet, theirs, conditional=False)


def test_mistakes_with_folders(run: Run) -> None:
    process = ("--schedule", "linear", "--prediction", "eps")
    write_theirs(Path("theirs"))
    write_theirs(Path("eps"), norm_eps=1e-6)
    write_theirs(Path("odd"), out_channels=3)
    for name in ("damaged", "swapped", "pickled", "bare"):
        shutil.copytree("theirs", name)
    weights = "diffusion_pytorch_model.safetensors"
    Path("damaged", weights).write_bytes(Path("theirs", weights).read_bytes()[:5000])
    Path("pickled", weights).rename("pickled/diffusion_pytorch_model.bin")
    Path("bare", weights).unlink()
    write_theirs(Path("wider"), layers_per_block=2)
    Path("swapped/config.json").write_text(Path("wider/config.json").read_text())
    write_theirs(Path("with/unet"))
    write_scheduler(Path("with/scheduler"), DDPMScheduler())
    for name, config in {
        "unknown": {"_class_name": "MyScheduler"},
        "sigmas": {"_class_name": "KarrasVeScheduler"},
        "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        "predicts": {"_class_name": "DDPMScheduler", "prediction_type": "flow"},
        "betas": {"_class_name": "DDPMScheduler", "beta_schedule": "none"},
        "ones": {"_class_name": "DDPMScheduler", "trained_betas": [1.0, 1.0]},
    }.items():
        write_theirs(Path(name, "unet"))
        Path(name, "scheduler").mkdir()
        Path(name, "scheduler", "scheduler_config.json").write_text(json.dumps(config))
    Path("json").mkdir()
    Path("json/config.json").write_text("{")
    Path("nothing").mkdir()
    Path("other").mkdir()
    Path("other/config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    Path("run/checkpoints").mkdir(parents=True)
    for args, expected in {
        ("nothing",): r"^nothing: .*config\.json of a UNet2DModel$",
        ("run",): r"^run: .*--to diffusers$",
        (ours(Path("ours")),): r"^ours/unet: .*--to diffusers$",
        ("json",): r"^json/config\.json: cannot be read as JSON$",
        ("other",): r"^other: .*UNet2DConditionModel, not a UNet2DModel$",
        ("theirs",): r"^schedule: theirs .*--schedule, one of linear, cosine, sigm",
        ("theirs", "--schedule", "linear"): r"^prediction: theirs .*--prediction, one of eps, v, x_0$",
        ("theirs", "--schedule", "linaer", "--prediction", "v"): r"^schedule: 'linaer' .*did you mean linear\?",
        ("theirs", *process, "--num-timesteps", "1"): r"^num-timesteps: 1 .*2 or more$",
        ("theirs", *process, "--preset", "imagenet64"): r"^preset: .*omit --preset$",
        ("with", "--schedule", "cosine"): r"^schedule: with/scheduler/scheduler_config\.json .*omit --schedule$",
        ("with", "--num-timesteps", "5"): r"^num-timesteps: with/.* omit --num-timesteps$",
        ("eps", *process): r"^eps/config\.json: norm_eps: 1e-06 .*allowed: 1e-05$",
        ("odd", *process): r"^odd/config\.json: out_channels: 3 .*allowed is in_channels, 1, or twice",
        ("damaged", *process): r"^damaged: .*download it again$",
        ("swapped", *process): r"^swapped: .*weights do not match config\.json",
        ("pickled", *process): r"^pickled: needs diffusion_pytorch_model\.safetensors; .*\.bin ",
        ("bare", *process): r"^bare: needs diffusion_pytorch_model\.safetensors",
        ("unknown",): r"^unknown/scheduler/scheduler_config\.json: 'MyScheduler' ",
        ("flow",): r"^flow/.*FlowMatchEulerDiscreteScheduler has no betas",
        ("predicts",): r"^predicts/.*: prediction_type: 'flow' .*epsilon, v_prediction, sample",
        ("betas",): r"^betas/.*: .*none is not implemented",
        ("ones",): r"^ones/.*: .*betas.*\(0, 1\)",
    }.items():
        line = refused(run, *args, "--out", "out")
        assert re.search(expected, line), line
        assert not Path("out").exists()


# ------------------------------------------------------------------------------------------------------- to diffusers


def test_diffusers_alone_loads_and_draws_the_same(run: Run) -> None:
    printed = converted(run, ours(Path("ours")), "--to", "diffusers", "--out", "theirs")
    assert ", and 10 means no class" in printed
    namespace = {"UNet2DModel": UNet2DModel, "DDIMScheduler": DDIMScheduler}
    exec("\n".join(printed.splitlines()[1:3]), namespace)               # as printed
    unet, scheduler = namespace["unet"].eval(), namespace["scheduler"]
    assert Path("theirs/class_names.txt").read_text() == "".join(f"class {i}\n" for i in range(10))

    pipeline = load_pipeline(Path("ours"))
    assert_equal_outputs(pipeline.unet, unet)
    labels = [3, 0, 7]
    x = start = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(x, t, class_labels=torch.tensor(labels)).sample
            x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    drawn = pipeline(labels, noise=start, num_inference_steps=10, output_type="uint8", batch_size=3).images
    expected = ((x.clamp(-1, 1) + 1) * 127.5).round()
    # diffusers keeps its tables in float32; an image value may fall to the other side of a half.
    assert float((drawn.float() - expected).abs().max()) <= 1 and expected.std() > 10


@pytest.mark.parametrize(
    "other", [{"out_channels": 2}, {"null_class": False}, {"num_classes": 0}, {"norm": "groupnorm", "resample": "conv"}]
)
def test_out_and_back(other: dict, run: Run) -> None:
    printed = converted(run, ours(Path("ours"), ("sigmoid", "x_0"), **other), "--to", "diffusers", "--out", "theirs")
    assert ("variance" in printed) == ("out_channels" in other)
    assert ("no class_labels" in printed) == ("num_classes" in other)
    assert ("means no class" in printed) == (other.keys() <= {"out_channels", "norm", "resample"})
    first = load_pipeline(Path("ours"))
    names = ["--class-names", "theirs/class_names.txt"] if first.class_names else []
    null = ["--null-class"] if first.class_names and first.unet.config.null_class else []
    converted(run, "theirs", *names, *null, "--out", "back")
    back = load_pipeline(Path("back"))
    assert back.class_names == first.class_names and back.prediction == "x_0"
    assert torch.equal(back.schedule.betas, first.schedule.betas) and back.unet.null_label == first.unet.null_label
    x, t, y = inputs(first.unet)
    with torch.no_grad():
        a, b = first.unet(x, t, y).sample, back.unet(x, t, y).sample
    assert float((a - b).abs().max() / a.abs().max()) < 1e-5


def test_what_diffusers_cannot_hold_is_refused(run: Run) -> None:
    digits = ours(Path("digits"), channels=32, head_channels=32, norm_groups=32)
    line = refused(run, digits, "--to", "diffusers", "--out", "out")
    assert re.search("^model.norm_groups: .*8, 16, 24, 32 .*model.norm_groups 8", line), line
    assert not Path("out").exists() and not [*Path(".").glob(".out*")]
    line = refused(run, digits, "--to", "diffusers", "--null-class", "--out", "out")
    assert re.search("^null-class: .*omit --null-class$", line), line
    Path("nothing").mkdir()
    assert "nothing: " in refused(run, "nothing", "--to", "diffusers", "--out", "out")
