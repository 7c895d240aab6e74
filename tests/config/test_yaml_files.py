"""Configuration files: what is written reads back equal, and mistakes are one line with the file and the option."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from ddpm.config.changes import NOT_FREE, differences
from ddpm.config.commands import SampleCommand
from ddpm.config.run_folders import sample_settings
from ddpm.config.sections import (
    SECTIONS,
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
)
from ddpm.config.yaml_files import read_config, read_flags

UNUSUAL = Config(
    DataConfig(source="images", resolution=28, channels=3, image_column="on", horizontal_flip=True, memory_gb=1e-3),
    ModelConfig(channels=48, channel_mult=[1, 1.5, 2.0], attention_resolutions=[], norm="groupnorm", dropout=0.25),
    DiffusionConfig("sigmoid", num_timesteps=77, zero_terminal_snr=True, prediction="x_0", class_dropout_prob=0),
    TrainConfig(learning_rate=1e-4, lr_schedule="constant", ema_half_life=1e6, seed=2**63 - 1),
    SampleConfig(sampler="ddpm", eta=1, guidance_scale=1.5, guidance_interval=[0.3, 3], seed=2**62 - 1),
    TrackingConfig(wandb="off", wandb_project="null", tensorboard=True),
)


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["defaults", "unusual"])
def test_a_written_configuration_reads_back_equal(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert read_config(file) == config
    assert Config(**{name: section(**config.to_dict()[name]) for name, section in SECTIONS.items()}) == config


def test_numbers_with_an_exponent_and_in_quotes_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("train: {learning_rate: 1e-3, steps: '10'}\nmodel: {channel_mult: ['1', 2]}\n")
    config = read_config(file)
    assert (config.train.learning_rate, config.train.steps, config.model.channel_mult) == (0.001, 10, [1.0, 2.0])


def test_a_file_without_some_sections_has_their_defaults(tmp_path: Path) -> None:
    known = Config().to_dict()
    for name in ("evaluation", "tracking"):
        del known[name]
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump(known))
    assert differences(read_config(file), Config(evaluation=EvaluationConfig(every=10)), NOT_FREE) == {}


MISTAKES: dict[str, tuple[str | bytes, list[str]]] = {
    "option": ("model:\n  chanels: 8\n", ["model.chanels", "did you mean model.channels?"]),
    "section": ("modle:\n  channels: 8\n", ["modle.channels", "did you mean model.channels?"]),
    "type": ("model:\n  channels: many\n", ["model.channels", "'many'", "whole number"]),
    "choice": ("model:\n  norm: adagm\n", ["model.norm", "'adagm'", "did you mean adagn?"]),
    "range": ("train:\n  steps: 0\n", ["train.steps", "1 or more"]),
    "not a number": ("train:\n  learning_rate: .nan\n", ["train.learning_rate", "number"]),
    "contradiction": (
        "diffusion:\n  prediction: eps\n  zero_terminal_snr: true\n", ["diffusion.prediction", "use v or x_0"],
    ),
    "truth value for a number": ("train:\n  steps: yes\n", ["train.steps", "'yes'", "whole number"]),
    "option twice": ("train: {steps: 1, steps: 2}\n", ["'steps'", "line 1", "remove one"]),
    "section twice": ("train: {steps: 1}\ntrain: {seed: 2}\n", ["'train'", "line 2", "remove one"]),
    "broken": ("model: [1, 2\n", ["line 1", "bracket"]),
    "tab": ("model:\n\tchannels: 3\n", ["line 2", "tab", "spaces"]),
    "deep": ("[" * 3000, ["nested too deeply"]),
    "list": ("- 1\n- 2\n", ["names and values"]),
    "words": ("hello\n", ["'hello'", "names and values"]),
    "empty": ("", ["names and values"]),
    "number for a section": ("model: 3\n", ["model: '3'", "channels"]),
    "nothing for a section": ("model:\ntrain:\n  steps: 3\n", ["model: ", "channels"]),
    "not text": (b"\xff\xfe\x00\x01", ["mistake.yaml"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_with_the_file(mistake: str, tmp_path: Path) -> None:
    content, named = MISTAKES[mistake]
    file = tmp_path / "mistake.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refused:
        read_config(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: ") and "\n" not in message
    assert [text for text in named if text not in message] == []


def test_flags_of_another_code_base(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text('{"image_size": 64, "num_heads": "4"}')
    assert read_flags(file) == {"image_size": "64", "num_heads": "4"}
    file.write_text("[1]")
    with pytest.raises(ValueError, match=r"^flags: .*flags\.json.*image_size: 64"):
        read_flags(file)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run/checkpoints/step_1").mkdir(parents=True)
    config = dataclasses.replace(Config(), sample=SampleConfig(steps=7, guidance_scale=3.0, per_class=2))
    (tmp_path / "run/config.yaml").write_text(config.to_yaml())
    (tmp_path / "run/run.json").write_text("{}")
    return tmp_path / "run"


def test_sample_settings_are_those_of_the_run_unless_given(run: Path) -> None:
    for model in (run, run / "checkpoints/step_1"):
        settings = sample_settings(SampleCommand(model=model, guidance_scale=1.5, sampler="ddpm"))
        assert settings == SampleConfig(steps=7, guidance_scale=1.5, per_class=2, sampler="ddpm")
    assert sample_settings(SampleCommand(model=run.parent)) == SampleConfig()
    interval = sample_settings(SampleCommand(model=run, guidance_interval=[0.3, 3])).guidance_interval
    assert interval == [0.3, 3.0]


@pytest.mark.parametrize(("change", "named"), [
    ({"eta": 2}, ["eta", "0 to 1"]),
    ({"guidance_interval": [3, 1]}, ["guidance_interval", "low < high"]),
    ({"sampler": "euler_"}, ["sampler", "did you mean euler?"]),
])
def test_sample_settings_out_of_range_are_refused(run: Path, change: dict, named: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        sample_settings(SampleCommand(model=run, **change))
    assert [text for text in named if text not in str(refused.value)] == []
