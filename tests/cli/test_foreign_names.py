"""Options that have another name in other programs: the message says what to type here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.cli.help_pages import HELP_PAGES
from ddpm.cli.parser import CommandLine, parse_command
from ddpm.config.commands import AblateCommand, EvaluateCommand, SampleCommand, TrainCommand
from ddpm.config.foreign_names import FOREIGN_NAMES, INSTEAD, suggest_option
from ddpm.config.sections import OPTIONS, SECTIONS, Config

# Command, option, and what the message names.
EXPECTED = [
    (TrainCommand, "--lr", "--train.learning_rate?"),
    (TrainCommand, "--train.lr", "--train.learning_rate?"),
    (TrainCommand, "--learning-rate", "--train.learning_rate?"),
    (TrainCommand, "--epochs", "train.steps"),
    (TrainCommand, "--num_epochs", "train.steps"),
    (TrainCommand, "--image_size", "--data.resolution?"),
    (TrainCommand, "--resolution", "--data.resolution?"),
    (TrainCommand, "--train_data_dir", "--data.source?"),
    (TrainCommand, "--batch-size", "--train.batch_size or --sample.batch_size"),
    (TrainCommand, "--bs", "--train.batch_size?"),
    (TrainCommand, "--output_dir", "--run-dir?"),
    (TrainCommand, "--resume", "same command"),
    (TrainCommand, "--resume_from_checkpoint", "same command"),
    (TrainCommand, "--mixed-precision", "--train.mixed_precision, --sample.mixed_precision or "),
    (TrainCommand, "--fp16", "--train.mixed_precision?"),
    (TrainCommand, "--num_workers", "--data.workers?"),
    (TrainCommand, "--device", "CUDA_VISIBLE_DEVICES"),
    (TrainCommand, "--gpu", "CUDA_VISIBLE_DEVICES"),
    (TrainCommand, "--save_every", "--train.checkpoint_every?"),
    (TrainCommand, "--data.flip", "--data.horizontal_flip?"),
    (TrainCommand, "--guidance", "--sample.guidance_scale?"),
    (TrainCommand, "--norm", "--model.norm?"),
    (TrainCommand, "--modle.norm", "--model.norm?"),
    (TrainCommand, "-lr", "--train.learning_rate?"),
    (TrainCommand, "--num_processes", "accelerate launch"),
    (TrainCommand, "--ema_decay", "train.ema_half_life in images"),
    (TrainCommand, "--use_ema", "always averaged"),
    (TrainCommand, "--kimg", "x 1000 / train.batch_size"),
    (TrainCommand, "--num_heads", "/ number of heads"),
    (TrainCommand, "--num_head_channels", "--model.head_channels?"),
    (TrainCommand, "--microbatch", "train.batch_size / (processes x microbatch)"),
    (TrainCommand, "--per_device_train_batch_size", "x devices"),
    (TrainCommand, "--block_out_channels", "model.channel_mult"),
    (TrainCommand, "--val_split", "scripts/evaluate.py"),
    (TrainCommand, "--save_model_epochs", "number of images / train.batch_size"),
    (EvaluateCommand, "--val_split", "--held-out-split?"),
    (TrainCommand, "--nothing-like-it", "--help-all"),
    (SampleCommand, "--n", "--per-class?"),
    (SampleCommand, "--num_inference_steps", "--steps?"),
    (SampleCommand, "--cfg", "--guidance-scale?"),
    (SampleCommand, "--prompt", "--classes?"),
    (SampleCommand, "--fp16", "--mixed-precision?"),
    (EvaluateCommand, "--torch_compile", "--compile?"),
    (SampleCommand, "--checkpoint", "first word"),
    (SampleCommand, "--output-dir", "--out?"),
    (EvaluateCommand, "--num_samples", "--count?"),
    (AblateCommand, "--config", "--study?"),
    (AblateCommand, "--data.sorce", "--data.source?"),
]


@pytest.mark.parametrize(("command", "option", "named"), EXPECTED)
def test_the_message_says_what_to_type(command: type, option: str, named: str, refused: Callable[..., str]) -> None:
    for words in ([option, "3"], [f"{option}=3"]):
        line = refused(parse_command, command, "x.py", words)
        assert line.startswith(f"{option} is not an option") and named in line


@pytest.mark.parametrize("name", sorted(FOREIGN_NAMES))
def test_what_is_named_exists(name: str) -> None:
    """For each name, some command has an option to suggest, or there is a sentence; no name is that option itself."""
    instead = FOREIGN_NAMES[name]
    known = [option for command in HELP_PAGES for option in CommandLine(command, "x.py").options]
    assert name == name.lower().replace("-", "_") and name not in instead
    assert [entry for entry in instead if " " not in entry and entry not in known] == []


def test_no_name_has_two_meanings() -> None:
    assert len(FOREIGN_NAMES) == sum(len(names.split()) for names in INSTEAD.values())


def test_a_section_is_never_suggested(refused: Callable[..., str]) -> None:
    for section in SECTIONS:
        for option in (f"--{section}s", f"--{section[:-1]}", f"--{section}.x", f"--{section}.lr"):
            line = refused(parse_command, TrainCommand, "train.py", [option, "1"])
            assert f"--{section}?" not in line and f"--{section} " not in line


def test_in_a_file_options_have_no_dashes(refused: Callable[..., str]) -> None:
    for content, named in (
        ("lr: 1e-4", "did you mean train.learning_rate?"),
        ("train: {lr: 1e-4}", "train.lr is not an option; did you mean train.learning_rate?"),
        ("train: {epochs: 3}", "train.steps"),
        ("norm: adagn", "did you mean model.norm?"),
        ("data: {flip: true}", "did you mean data.horizontal_flip?"),
    ):
        Path("a.yaml").write_text(content)
        line = refused(parse_command, TrainCommand, "train.py", ["--config", "a.yaml"])
        assert line.startswith("--config: a.yaml: ") and named in line


def test_options_with_a_typing_error_are_found() -> None:
    for option in OPTIONS:
        for broken in (option[:-1], option.replace(".", "-", 1), option.replace("_", ""), option.upper() + "x"):
            if broken not in OPTIONS and broken.rpartition(".")[2] not in FOREIGN_NAMES:
                assert f"did you mean {option}?" in suggest_option(broken, OPTIONS) or len(option) < 12, broken


def test_the_name_of_an_option_tells_where_its_value_is_from(refused: Callable[..., str]) -> None:
    Path("a.yaml").write_text("train: {steps: 0}\n")
    from_file = refused(parse_command, TrainCommand, "train.py", ["--config", "a.yaml"])
    assert from_file.startswith("--config: a.yaml: train.steps: 0")
    both = refused(parse_command, TrainCommand, "train.py", ["--config", "a.yaml", "--train.steps", "-1"])
    assert both.startswith("--train.steps: -1")
    assert parse_command(TrainCommand, "train.py", ["--config", "a.yaml", "--train.steps", "2"]).config == (
        Config().with_options({"train.steps": 2})
    )


WORDS = [
    (["\u2014dry-run"], "type --dry-run"),
    (["\u2013train.steps", "3"], "type --train.steps"),
    (["train.steps=3"], "type --train.steps 3"),
    (["train.steps", "3"], "type --train.steps 3"),
    (["--model.norm", "adagn", "groupnorm"], "--model.norm takes one value"),
    (["--dry-run", "true"], "--dry-run takes no value"),
    (["--model.channel_mult", "1", "2"], "by commas"),
    (["mine.yaml"], "--config mine.yaml"),
    (["images"], "--data.source images"),
]


@pytest.mark.parametrize(("words", "named"), WORDS)
def test_words_that_belong_to_no_option(words: list[str], named: str, refused: Callable[..., str]) -> None:
    Path("images").mkdir()
    assert named in refused(parse_command, TrainCommand, "train.py", words)
