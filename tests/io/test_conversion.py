"""scripts/convert.py: what comes in samples and trains on, what goes out is diffusers' own, the rest is one line."""

import json
import math
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.atomic import damage
from ddpm.config.sections import Config, DiffusionConfig, ModelConfig
from ddpm.data import load_data
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.io.adm import from_adm, layout, without_weights
from ddpm.io.adm_flags import Flags
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import schedule_name
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.build import build_unet

ROOT = Path(__file__).parents[2]
DIGITS = [str(i) for i in range(10)]
FLAGS = {           # of a model that fits scikit-learn's digits
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "num_heads": 2, "attention_resolutions": [4],
    "channel_mult": "1,2", "class_cond": True, "learn_sigma": True, "resblock_updown": True, "noise_schedule": "linear",
}
THEIRS = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8, "num_class_embeds": 3,
}
OURS = {
    "resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 10, "channels": 16, "channel_mult": (1, 2),
    "num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 16, "norm_groups": 4,
}
TRAIN = [
    "--train.steps", "2", "--train.batch_size", "4", "--sample.steps", "2", "--sample.per_class", "1",
    "--tracking.wandb", "off", "--data.workers", "0",
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; and one thread, for more cost such small networks time."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """(script, arguments) -> exit code, what it printed, what it complained about."""

    def act(script: str, *args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code
        return code, *capfd.readouterr()

    return act


def converted(run: Run, *args: object) -> str:
    code, printed, complaint = run("convert", *args)
    assert code == 0, complaint
    return printed


def refused(run: Run, *args: object, script: str = "convert") -> str:
    code, printed, complaint = run(script, *args)
    assert code == 2 and printed == "" and complaint.count("\n") == 1 and complaint.endswith("\n"), complaint
    assert complaint.startswith(f"{script}.py: error: ")
    return complaint.removeprefix(f"{script}.py: error: ").rstrip("\n")


# ------------------------------------------------------------------------------------------------ the reference's files


def write_reference(path: Path, **other: Any) -> Flags:
    """A file as the reference writes it, of random weights, and its flags."""
    flags = Flags.read({**FLAGS, **other})
    classes = 10 if flags.class_cond else None
    unet = without_weights(
        **flags.architecture(), in_channels=1, out_channels=1 + flags.learn_sigma, num_classes=classes
    )
    weights = {name: torch.empty(shape) for name, (_, shape) in layout(unet, flags.class_cond).items()}
    torch.save(random_weights(weights, seed=0), path)
    return flags


def test_a_file_of_weights_becomes_a_pipeline_that_draws_and_trains_on(run: Run) -> None:
    flags = write_reference(Path("model.pt"))
    Path("flags.yaml").write_text(json.dumps(FLAGS))
    Path("names.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    printed = converted(
        run, "model.pt", "--flags", "flags.yaml", "--class-names", "names.txt", "--out", "models/of it"
    )
    assert damage(Path("models/of it")) is None
    pipeline = load_pipeline(Path("models/of it"))
    assert pipeline.prediction == "eps" and pipeline.class_names == [f"digit {i}" for i in range(10)]
    assert torch.equal(pipeline.schedule.betas, SCHEDULES["linear"](1000))
    x, t, y = inputs(pipeline.unet)
    expected = from_adm(
        torch.load("model.pt"), **flags.architecture(), in_channels=1, out_channels=2, num_classes=10
    )
    with torch.no_grad():
        assert torch.equal(pipeline.unet(x, t, y).sample, expected(x, t, y).sample)

    draw, train = (line.partition(": python scripts/")[2] for line in printed.splitlines()[1:])
    script, *args = shlex.split(draw)
    code, _, complaint = run(script.removesuffix(".py"), *args, "--steps", 2, "--per-class", 1, "--out", "drawn")
    assert code == 0 and len([*Path("drawn").rglob("*seed*.png")]) == 10, complaint
    script, *args = shlex.split(train.replace("FOLDER", "digits"))
    code, trained, complaint = run(script.removesuffix(".py"), *args, *TRAIN, "--run-dir", "tuned")
    assert code == 0, complaint
    assert "architecture and weights of models/of it" in trained
    tuned = load_pipeline(Path("tuned")).unet
    assert tuned.config.channels == 32 and tuned.config.out_channels == 2 and tuned.null_label == 10
    start = expected.state_dict()
    start.pop("class_embed.weight")
    moved = max(float((tuned.state_dict()[name] - p).abs().max()) for name, p in start.items())
    assert 0 < moved < 1e-3         # two steps of at most 1e-4


def test_an_unconditional_model_draws(run: Run) -> None:
    write_reference(Path("model.pt"), class_cond=False, learn_sigma=False)
    Path("flags.json").write_text(json.dumps({**FLAGS, "class_cond": False, "learn_sigma": False}))
    converted(run, "model.pt", "--flags", "flags.json", "--out", "model")
    assert load_pipeline(Path("model")).class_names == []
    code, _, complaint = run("sample", "model", "--steps", 2, "--per-class", 3, "--out", "drawn")
    assert code == 0 and len([*Path("drawn").rglob("*seed*.png")]) == 3, complaint


def test_mistakes_with_files_of_weights(run: Run) -> None:
    write_reference(Path("model.pt"))
    Path("few.txt").write_text("a\nb\n")
    Path("twice.txt").write_text("a\nb\na\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("good.yaml").write_text(json.dumps(FLAGS))
    Path("wrong.yaml").write_text("num_chanels: 3\n")
    Path("wide.yaml").write_text(json.dumps({**FLAGS, "num_channels": 64}))
    Path("broken.yaml").write_text("a: [1\n")
    Path("list.yaml").write_text("- 1\n")
    Path("text.pt").write_text("hello")
    good = ("model.pt", "--flags", "good.yaml")
    for args, expected in {
        ("none.pt",): r"^none\.pt: no such file or folder$",
        ("text.pt", "--preset", "imagenet64"): r"^text\.pt: damaged, or no dict of tensors as torch\.save writes it",
        ("model.pt",): r"^preset: not given for model\.pt; no preset fits, so give --flags FILE$",
        ("model.pt", "--preset", "imagenet46"): r"^preset: 'imagenet46' is not one of .*did you mean imagenet64\?$",
        ("model.pt", "--preset", "imagenet64"): r"^model\.pt: the weights are not of this .*no preset fits either$",
        ("model.pt", "--flags", "none.yaml"): r"^none\.yaml: No such file",
        ("model.pt", "--flags", "wrong.yaml"): r"^flags: num_chanels is not a flag .*did you mean num_channels\?",
        ("model.pt", "--flags", "wide.yaml"): r"^model\.pt: .*time_embed\.0\.weight is 128 x 32, not 256 x 64; no pres",
        ("model.pt", "--flags", "broken.yaml"): r"^flags: broken\.yaml cannot be read: .*line 2",
        ("model.pt", "--flags", "list.yaml"): r"^flags: list\.yaml holds no names and values",
        ("model.pt", "--to", "diffusers"): r"^model\.pt: ",
        (*good, "--preset", "imagenet64"): r"^preset: says what the flags say",
        (*good, "--class-names", "few.txt"): r"^class_names: few\.txt has 2 names, and the model 10 classes$",
        (*good, "--class-names", "twice.txt"): r"^class_names: twice\.txt has 'a' twice",
        (*good, "--class-names", "binary.txt"): r"^class_names: binary\.txt is no text$",
        (*good, "--null-class"): r"^null_class: does not belong to a file of weights; leave --null-class out$",
        (*good, "--schedule", "linear"): r"^schedule: does not belong to a file of weights",
        (*good, "--to", "difusers"): r"^to: 'difusers' .*did you mean diffusers\?",
    }.items():
        line = refused(run, *args, "--out", "out")
        assert re.search(expected, line), line
        assert not Path("out").exists() and not Path(".out.tmp").exists()


# --------------------------------------------------------------------------------------------------- where it may write


def test_only_earlier_conversions_are_replaced(run: Run) -> None:
    write_reference(Path("model.pt"))
    Path("flags.yaml").write_text(json.dumps(FLAGS))
    convert = ("model.pt", "--flags", "flags.yaml", "--out")
    Path("empty").mkdir()
    converted(run, *convert, "empty")
    first = load_file("empty/unet/diffusion_pytorch_model.safetensors")
    write_reference(Path("model.pt"), learn_sigma=False)
    Path("flags.yaml").write_text(json.dumps({**FLAGS, "learn_sigma": False}))
    converted(run, *convert, "empty")
    second = load_file("empty/unet/diffusion_pytorch_model.safetensors")
    assert len(first["conv_out.bias"]) == 2 and len(second["conv_out.bias"]) == 1

    Path("empty/notes.txt").write_text("mine")
    assert "empty holds other things" in refused(run, *convert, "empty")
    assert Path("empty/notes.txt").read_text() == "mine" and damage(Path("empty")) is None
    Path("empty/notes.txt").unlink()
    Path("empty/class_names.txt").write_text("")
    assert "empty holds other things" in refused(run, *convert, "empty")
    assert "out: flags.yaml is a file" in refused(run, *convert, "flags.yaml")
    assert "out: . holds the model" in refused(run, *convert, ".")
    Path("other").mkdir()
    Path("other/file").touch()
    assert "out: other holds other things than an earlier conversion" in refused(run, *convert, "other")
    line = refused(run, ours(Path("pipeline")), "--to", "diffusers", "--out", "pipeline")
    assert "out: pipeline holds the model that is to be converted" in line


# -------------------------------------------------------------------------------------------------- diffusers' folders


def write_theirs(folder: Path, **other: Any) -> UNet2DModel:
    model = random_weights(UNet2DModel(**{**THEIRS, **other}), seed=1).eval()
    model.save_pretrained(folder)
    return model


def write_scheduler(folder: Path, scheduler: Any) -> None:
    scheduler.save_pretrained(folder)


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
        assert "it cannot be fine-tuned: the noise schedule of " in printed
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
        ("nothing",): r"^nothing: holds no config\.json of a UNet2DModel$",
        ("run",): r"^run: holds no config\.json .*it is a run of this program, which --to diffusers converts$",
        (ours(Path("ours")),): r"^ours/unet: holds a UNet, not a UNet2DModel; it is a model of this program, whi",
        ("json",): r"^json/config\.json: cannot be read as JSON$",
        ("other",): r"^other: holds a UNet2DConditionModel, not a UNet2DModel$",
        ("theirs",): r"^schedule: theirs has no scheduler that says it; give --schedule, one of linear, cosine, sigm",
        ("theirs", "--schedule", "linear"): r"^prediction: theirs has no scheduler .*one of eps, v, x_0$",
        ("theirs", "--schedule", "linaer", "--prediction", "v"): r"^schedule: 'linaer' .*did you mean linear\?",
        ("theirs", *process, "--num-timesteps", "1"): r"^num_timesteps: 1 is out of range; allowed: 2 or more$",
        ("theirs", *process, "--preset", "imagenet64"): r"^preset: does not belong to a UNet2DModel; leave --preset ",
        ("with", "--schedule", "cosine"): r"^schedule: with/scheduler/scheduler_config\.json says it; leave --schedule",
        ("with", "--num-timesteps", "5"): r"^num_timesteps: with/.* leave --num-timesteps out$",
        ("eps", *process): r"^eps/config\.json: norm_eps: 1e-06 of the UNet2DModel cannot be held; only 1e-05 can$",
        ("odd", *process): r"^odd/config\.json: out_channels: 3 is neither in_channels nor, with a variance, twice 1$",
        ("damaged", *process): r"^damaged: damaged, or has weights of another config\.json; fetch it again$",
        ("swapped", *process): r"^swapped: (damaged, or )?has weights of another config\.json",
        ("pickled", *process): r"^pickled: needs .*safetensors; diffusion_pytorch_model\.bin can run any code$",
        ("bare", *process): r"^bare: needs diffusion_pytorch_model\.safetensors; there are no weights in it$",
        ("unknown",): r"^unknown/scheduler/scheduler_config\.json: 'MyScheduler' is no scheduler of diffusers$",
        ("flow",): r"^flow/.*: a FlowMatchEulerDiscreteScheduler has no betas; only processes of discrete steps",
        ("predicts",): r"^predicts/.*: prediction_type: 'flow' is not one of epsilon, v_prediction, sample",
        ("betas",): r"^betas/.*: cannot be used: none is not implemented",
        ("ones",): r"^ones/.*: cannot be used: betas must be two or more numbers in \(0, 1\)",
    }.items():
        line = refused(run, *args, "--out", "out")
        assert re.search(expected, line), line
        assert not Path("out").exists()


# ------------------------------------------------------------------------------------------------------- to diffusers


def ours(folder: Path, process: tuple[str, str] = ("cosine", "v"), **other: Any) -> Path:
    """A pipeline of random weights."""
    unet = random_weights(UNet(**{**OURS, **other}), seed=2)
    names = [f"class {i}" for i in range(unet.config.num_classes)]
    schedule = NoiseSchedule(SCHEDULES[process[0]](1000))
    ClassConditionalPipeline.from_parts(unet.eval(), schedule, process[1], names).save_pretrained(folder)
    return folder


def test_diffusers_alone_loads_and_draws_the_same(run: Run) -> None:
    printed = converted(run, ours(Path("ours")), "--to", "diffusers", "--out", "theirs")
    assert "0, and 10 stands for no class" in printed
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
    assert ("the second half of the output's channels is the variance" in printed) == ("out_channels" in other)
    assert ("takes no class_labels" in printed) == ("num_classes" in other)
    assert ("stands for no class" in printed) == (other.keys() <= {"out_channels", "norm", "resample"})
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
    assert line == (
        "model.norm_groups: the norms have 8, 16, 24, 32 groups, depending on their width, and UNet2DModel has one "
        "number for all; a model trained with model.norm_groups 8 could be held"
    )
    assert not Path("out").exists() and not [*Path(".").glob(".out*")]
    assert "null_class: does not belong to a model of this program" in refused(
        run, digits, "--to", "diffusers", "--null-class", "--out", "out"
    )
    Path("nothing").mkdir()
    assert "nothing: holds neither" in refused(run, "nothing", "--to", "diffusers", "--out", "out")


# -------------------------------------------------------------------------------------------------------- fine-tuning


V = ("cosine", "v")                 # the defaults of a run


def config_of(pretrained: Path, **model: Any) -> Config:
    return Config(model=ModelConfig(pretrained=str(pretrained), **model))


def test_a_run_starts_from_the_pretrained_weights() -> None:
    pretrained = load_pipeline(ours(Path("pretrained"), num_classes=3)).unet
    unet = build_unet(config_of(Path("pretrained"), channels=64, dropout=0.2), load_data("digits"))
    assert unet.config.dropout == 0.2 and unet.config.channels == 16 and unet.null_label == 10
    for (name, p), q in zip(unet.named_parameters(), pretrained.parameters(), strict=True):
        assert p.requires_grad
        if name != "class_embed.weight":
            assert torch.equal(p, q), name
    assert torch.equal(unet.class_embed.weight[10], pretrained.class_embed.weight[3])       # the null class
    fresh = UNet(**{**OURS, "num_classes": 10}, seed=Config().train.seed).class_embed.weight
    assert torch.equal(unet.class_embed.weight[:10], fresh[:10])


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "groupnorm_matched"},
        {"norm": "groupnorm_matched", "conditioning": "cross_attention"},
        {"norm": "adarms", "conditioning": "timestep", "conditioned_depths": [4]},
    ],
)
def test_a_run_keeps_the_pretrained_architecture(options: dict) -> None:
    """With other classes the embedding would be widened to another number."""
    pretrained = load_pipeline(ours(Path("pretrained"), num_classes=300, **options)).unet
    unet = build_unet(config_of(Path("pretrained")), load_data("digits"))
    assert {key: unet.config[key] for key in options} == options
    assert unet.class_embed.weight.shape == (11, pretrained.class_embed.embedding_dim)
    for (name, p), q in zip(unet.named_parameters(), pretrained.parameters(), strict=True):
        assert name == "class_embed.weight" or torch.equal(p, q), name


@pytest.mark.parametrize(
    ("option", "value"), [("norm", "adaln"), ("conditioning", "cross_attention"), ("conditioned_depths", "decoder")]
)
def test_what_diffusers_cannot_hold_is_refused_by_name(run: Run, option: str, value: str) -> None:
    line = refused(run, ours(Path("ours"), **{option: value}), "--to", "diffusers", "--out", "theirs")
    assert f"model.{option}: {value} cannot be held by UNet2DModel" in line and not Path("theirs").exists()


def test_class_embeddings_follow_their_names(tmp_path: Path) -> None:
    unet = random_weights(UNet(**{**OURS, "num_classes": 3, "null_class": False}), seed=3)
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["7", "bird", "2"]).save_pretrained("pretrained")
    old = unet.class_embed.weight
    new = build_unet(config_of(Path("pretrained")), load_data("digits")).class_embed.weight
    assert torch.equal(new[7], old[0]) and torch.equal(new[2], old[2])
    others = [i for i in range(11) if i not in (2, 7)]
    fresh = UNet(**{**OURS, "num_classes": 10}).class_embed.weight
    assert torch.equal(new[others], fresh[others])
    without = Config(model=ModelConfig(pretrained="pretrained"), diffusion=DiffusionConfig(label_dropout=0))
    assert build_unet(without, load_data("digits")).null_label is None
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["a", "b", "c"]).save_pretrained("others")
    strangers = Config(model=ModelConfig(pretrained="others"), diffusion=DiffusionConfig(label_dropout=0))
    assert torch.equal(build_unet(strangers, load_data("digits")).class_embed.weight, fresh[:10])


@pytest.mark.parametrize(
    ("other", "process", "options", "expected"),
    [
        ({"out_channels": 2}, V, [], r"^diffusion\.learned_variance: False here, .*learned_variance true$"),
        ({}, V, ["--diffusion.learned_variance", "true"], r"set --diffusion\.learned_variance false$"),
        ({}, ("linear", "v"), [], r"^diffusion\.schedule: cosine here, .*linear; set --diffusion\.schedule linear$"),
        ({}, ("cosine", "eps"), [], r"^diffusion\.prediction: v here, .* set --diffusion\.prediction eps$"),
        ({}, V, ["--diffusion.num_timesteps", "500"], r"^diffusion\.num_timesteps: 500 .*num_timesteps 1000$"),
        ({}, V, ["--diffusion.zero_terminal_snr", "true"], r"^diffusion\.zero_terminal_snr: True .*_snr false$"),
        (
            {"in_channels": 3, "out_channels": 3, "resolution": 16, "attention_resolutions": (8,)},
            ("linear", "eps"),
            [],
            r"^data\.resolution: 8 here, .*set --data\.resolution 16 --data\.channels 3 --diffusion\.schedule linear "
            r"--diffusion\.prediction eps$",
        ),
    ],
)
def test_what_does_not_fit_names_the_options_that_would(
    other: dict, process: tuple[str, str], options: list[str], expected: str, run: Run
) -> None:
    pretrained = ours(Path("pretrained"), process, **other)
    args = [*TRAIN, "--model.pretrained", pretrained, *options, "--run-dir", "tuned"]
    line = refused(run, *args, script="train")
    assert re.search(expected, line), line
    assert not Path("tuned").exists()
    if "data" not in line:
        code, _, complaint = run("train", *args, *line.rpartition("; set ")[2].split(" "), "--dry-run")
        assert code == 0, complaint


def test_pretrained_models_that_cannot_be_used(run: Run) -> None:
    unet = UNet(**OURS)
    betas = NoiseSchedule(torch.linspace(1e-3, 0.1, 1000))
    ClassConditionalPipeline.from_parts(unet, betas, "v", DIGITS).save_pretrained("unnamed")
    Path("empty").mkdir()
    for name, expected in {
        "none": r"^model\.pretrained: none is not there; a run needs it whenever it starts or goes on",
        "empty": r"^model\.pretrained: empty: holds neither checkpoints nor a pipeline",
        "unnamed": r"^model\.pretrained: the noise schedule of 1000 steps is none of linear, cosine, sigmoid$",
    }.items():
        line = refused(run, *TRAIN, "--model.pretrained", name, "--run-dir", "tuned", script="train")
        assert re.search(expected, line), line


def test_a_run_goes_on_from_its_checkpoint_not_from_the_pretrained_weights(run: Run) -> None:
    ours(Path("pretrained"))
    shutil.copytree("pretrained", "kept")
    args = [*TRAIN, "--model.pretrained", "pretrained", "--train.decay", "constant", "--train.warmup_steps", "0"]
    assert run("train", *args, "--train.steps", 2, "--run-dir", "whole")[0] == 0
    assert run("train", *args, "--train.steps", 1, "--run-dir", "parted")[0] == 0
    weights = Path("pretrained/unet/diffusion_pytorch_model.safetensors")
    before = weights.read_bytes()
    random_weights(UNet(**OURS), seed=99).save_pretrained("pretrained/unet")        # other weights, by now
    assert weights.read_bytes() != before
    code, printed, complaint = run("train", *args, "--train.steps", 2, "--run-dir", "parted")
    assert code == 0 and "going on from" in printed, complaint
    last = Path("checkpoints/step_00000002/training/model.safetensors")
    whole, parted = load_file("whole" / last), load_file("parted" / last)
    assert all(torch.equal(whole[name], parted[name]) for name in whole)

    line = refused(run, *args, "--model.pretrained", "kept", "--train.steps", 2, "--run-dir", "parted", script="train")
    assert "parted: holds a run with other settings: model.pretrained (pretrained there, kept now)" in line
    shutil.rmtree("pretrained")
    line = refused(run, *args, "--train.steps", 2, "--run-dir", "parted", script="train")
    assert line.startswith("model.pretrained: pretrained is not there; a run needs it whenever it starts or goes on")


# -------------------------------------------------------------------------------------------------- names of schedules


@pytest.mark.parametrize("steps", [100, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_known_by_its_betas(name: str, steps: int) -> None:
    betas = SCHEDULES[name](steps)
    assert schedule_name(NoiseSchedule(betas)) == (name, False)
    assert schedule_name(NoiseSchedule(betas.float())) == (name, False)             # as float32 schedulers keep them
    assert schedule_name(NoiseSchedule(with_zero_terminal_snr(betas))) == (name, True)


# ------------------------------------------------------------------------------------------------------------- tools


def inputs(unet: UNet) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100)
    size = unet.config.resolution
    x = torch.randn(3, unet.config.in_channels, size, size, generator=draws)
    rows = len(unet.class_embed.weight)
    return x, torch.tensor([0, 421, 999]), torch.tensor([0, rows - 1, rows // 2])


def assert_equal_outputs(unet: UNet, theirs: UNet2DModel, conditional: bool = True) -> None:
    x, t, y = inputs(unet)
    with torch.no_grad():
        a, b = unet(x, t, y).sample, theirs(x, t, **({"class_labels": y} if conditional else {})).sample
    # Relative to the largest: float32 sums in another order.
    assert float((a - b).abs().max() / b.abs().max()) < 1e-5 and b.std() > 1e-2


@torch.no_grad()
def random_weights(tensors: Any, seed: int) -> Any:
    """A module or a dict of tensors, filled with what leaves nothing at zero and keeps activations of order 1."""
    draws = torch.Generator().manual_seed(seed)
    for name, p in tensors.named_parameters() if isinstance(tensors, nn.Module) else tensors.items():
        if p.ndim > 1:
            p.normal_(generator=draws).div_(math.sqrt(p[0].numel()))
        else:
            gain = name.endswith("weight") and re.search(r"norm|in_layers\.0|out_layers\.0|out\.0", name)
            p.normal_(generator=draws).mul_(0.2).add_(1.0 if gain else 0.0)
    return tensors
