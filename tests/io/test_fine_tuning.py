"""Training from pretrained weights: what is kept, and the options that the weights require."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_models import DIGITS, OURS, TRAIN, Run, ours, random_weights, refused

from ddpm.config.sections import Config, DiffusionConfig, ModelConfig
from ddpm.config.yaml_files import read_config
from ddpm.data import load_data
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import schedule_name
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.build import build_unet

pytestmark = pytest.mark.usefixtures("workplace")


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
        {"norm": "adarms", "conditioning": "timestep", "condition_at": [4]},
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


def test_the_stored_configuration_is_that_of_the_pretrained_network(run: Run) -> None:
    unet = load_pipeline(ours(Path("pretrained"), norm="groupnorm", norm_groups=8)).unet
    args = [*TRAIN, "--model.pretrained", "pretrained", "--model.channels", 64, "--train.warmup_steps", 0]
    code, printed, complaint = run("train", *args, "--run-dir", "tuned")
    [warning] = [line for line in complaint.splitlines() if "model.channels" in line]
    assert code == 0 and "WARNING" in warning and "64" in warning and "16" in warning
    assert "model.norm" not in complaint and "derived from the data: train.learning_rate" in printed
    stored = read_config(Path("tuned/config.yaml"))
    for option in ("channels", "channel_mult", "attention_resolutions", "norm", "norm_groups", "head_channels"):
        expected = unet.config[option]
        assert getattr(stored.model, option) == (list(expected) if isinstance(expected, tuple) else expected), option
    assert "channels: 16" in Path("tuned/pipeline/README.md").read_text()
    code, printed, complaint = run("train", *args, "--run-dir", "tuned")      # the same command finds the same run
    assert code == 0, complaint


@pytest.mark.parametrize(
    ("option", "value"), [("norm", "adaln"), ("conditioning", "cross_attention"), ("condition_at", "decoder")]
)
def test_what_diffusers_cannot_hold_is_refused_by_name(run: Run, option: str, value: str) -> None:
    line = refused(run, ours(Path("ours"), **{option: value}), "--to", "diffusers", "--out", "theirs")
    assert re.search(f"^model.{option}: .*{value}; allowed: ", line) and not Path("theirs").exists()


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
    without = Config(model=ModelConfig(pretrained="pretrained"), diffusion=DiffusionConfig(class_dropout_prob=0))
    assert build_unet(without, load_data("digits")).null_label is None
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["a", "b", "c"]).save_pretrained("others")
    strangers = Config(model=ModelConfig(pretrained="others"), diffusion=DiffusionConfig(class_dropout_prob=0))
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
        "nowhere": r"^model\.pretrained: nowhere ",
        "empty": r"^model\.pretrained: empty: ",
        "unnamed": r"^model\.pretrained: .*linear, cosine, sigmoid$",
    }.items():
        line = refused(run, *TRAIN, "--model.pretrained", name, "--run-dir", "tuned", script="train")
        assert re.search(expected, line), line


def test_a_run_goes_on_from_its_checkpoint_not_from_the_pretrained_weights(run: Run) -> None:
    ours(Path("pretrained"))
    shutil.copytree("pretrained", "kept")
    args = [*TRAIN, "--model.pretrained", "pretrained", "--train.lr_schedule", "constant", "--train.warmup_steps", "0"]
    assert run("train", *args, "--train.steps", 2, "--run-dir", "whole")[0] == 0
    assert run("train", *args, "--train.steps", 1, "--run-dir", "parted")[0] == 0
    weights = Path("pretrained/unet/diffusion_pytorch_model.safetensors")
    before = weights.read_bytes()
    random_weights(UNet(**OURS), seed=99).save_pretrained("pretrained/unet")        # other weights, by now
    assert weights.read_bytes() != before
    code, printed, complaint = run("train", *args, "--train.steps", 2, "--run-dir", "parted")
    assert code == 0 and "resuming from" in printed, complaint
    last = Path("checkpoints/step_00000002/training/model.safetensors")
    whole, parted = load_file("whole" / last), load_file("parted" / last)
    assert all(torch.equal(whole[name], parted[name]) for name in whole)

    other = ["kept" if arg == "pretrained" else arg for arg in args]
    line = refused(run, *other, "--train.steps", 2, "--run-dir", "parted", script="train")
    assert "parted: " in line and "model.pretrained (pretrained " in line
    shutil.rmtree("pretrained")
    code, printed, complaint = run("train", *args, "--train.steps", 2, "--run-dir", "parted")       # not needed again
    assert code == 0 and "resuming from" in printed, complaint


# -------------------------------------------------------------------------------------------------- names of schedules


@pytest.mark.parametrize("steps", [100, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_known_by_its_betas(name: str, steps: int) -> None:
    betas = SCHEDULES[name](steps)
    assert schedule_name(NoiseSchedule(betas)) == (name, False)
    assert schedule_name(NoiseSchedule(betas.float())) == (name, False)             # as float32 schedulers keep them
    assert schedule_name(NoiseSchedule(with_zero_terminal_snr(betas))) == (name, True)
