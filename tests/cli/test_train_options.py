"""The command line of scripts/train.py: what is read, in which order, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ddpm.cli.parser import parse_command
from ddpm.cli.train import main
from ddpm.config.commands import TrainCommand
from ddpm.config.sections import OPTIONS, SECTIONS, Config, ModelConfig, TrainConfig


def parse_train(argv: list[str]) -> TrainCommand:
    return parse_command(TrainCommand, "train.py", argv)


FILES: dict[str, str | bytes] = {
    "chanels.yaml": "model:\n  chanels: 8\n",
    "modle.yaml": "modle:\n  channels: 8\n",
    "type.yaml": "model:\n  channels: many\n",
    "range.yaml": "train:\n  steps: 0\n",
    "contradiction.yaml": "diffusion:\n  prediction: eps\n  zero_terminal_snr: true\n",
    "broken.yaml": "model: [1, 2\n",
    "list.yaml": "- 1\n- 2\n",
    "number.yaml": "model: 3\n",
    "nothing.yaml": "model:\ntrain:\n  steps: 3\n",
    "twice.yaml": "train: {steps: 1, steps: 2}\n",
    "nan.yaml": "train:\n  learning_rate: .nan\n",
    "binary.yaml": b"\xff\xfe\x00\x01",
    "section.yaml": "chanels: 8\n",
    "run.yaml": "run_dir: [3]\n",
}
# Arguments, and texts that the message has to contain.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "option": (["--model.chanels", "8"], ["model.chanels", "did you mean --model.channels?"]),
    "option=": (["--model.chanels=8"], ["model.chanels", "did you mean --model.channels?"]),
    "section": (["--modle.channels", "8"], ["modle.channels", "did you mean --model.channels?"]),
    "nothing near": (["--zzzzzz", "8"], ["zzzzzz is not an option"]),
    "abbreviation": (["--run", "here"], ["run", "did you mean --run-dir?"]),
    "type": (["--model.channels", "many"], ["model.channels", "'many'", "whole number"]),
    "type of a list's entry": (["--model.channel_mult", "[1, x]"], ["model.channel_mult", "'x'", "numbers"]),
    "list with spaces": (["--model.channel_mult", "1 2 4"], ["model.channel_mult", "'1 2 4'", "1,2,4"]),
    "list in several words": (["--model.channel_mult", "1", "2"], ["'2'", "--model.channel_mult", "1,2,4"]),
    "empty entry of a list": (["--model.channel_mult", "1,,2"], ["model.channel_mult", "'1,,2'", "entry"]),
    "broken list": (["--model.channel_mult", "[1,2"], ["model.channel_mult", "'[1,2'", "[1, 2.5]"]),
    "fraction for a whole number": (["--train.steps", "1.5"], ["train.steps", "'1.5'", "whole number"]),
    "not a number": (["--train.learning_rate", "nan"], ["train.learning_rate", "'nan'", "number"]),
    "truth value": (["--data.horizontal_flip", "maybe"], ["data.horizontal_flip", "'maybe'", "true or false"]),
    "range": (["--train.steps", "0"], ["train.steps: 0", "1 or more"]),
    "range of a float": (["--model.dropout", "1.0"], ["model.dropout: 1.0", "0 to less than 1"]),
    "choice": (["--tracking.wandb", "onlin"], ["tracking.wandb", "'onlin'", "off, offline, online", "mean online?"]),
    "choice or list": (["--model.condition_at", "8x8"], ["model.condition_at", "encoder", "[8, 16]"]),
    "contradiction": (
        ["--diffusion.prediction", "eps", "--diffusion.zero_terminal_snr", "true"],
        ["diffusion.prediction", "diffusion.zero_terminal_snr", "use v or x_0"],
    ),
    "value missing": (["--model.channels"], ["model.channels", "--model.channels VALUE"]),
    "value missing before an option": (["--model.channels", "--dry-run"], ["model.channels", "--model.channels VALUE"]),
    "value for a switch": (["--dry-run=yes"], ["dry-run", "give --dry-run alone"]),
    "stray word": (["stray"], ["'stray'", "--help"]),
    "option in a file": (["--config", "chanels.yaml"], ["chanels.yaml", "model.chanels", "mean model.channels?"]),
    "section in a file": (["--config", "modle.yaml"], ["modle.channels", "did you mean model.channels?"]),
    "type in a file": (["--config", "type.yaml"], ["model.channels", "'many'", "whole number"]),
    "range in a file": (["--config", "range.yaml"], ["train.steps: 0", "1 or more"]),
    "not a number in a file": (["--config", "nan.yaml"], ["train.learning_rate", "number"]),
    "contradiction in a file": (["--config", "contradiction.yaml"], ["diffusion.prediction", "use v or x_0"]),
    "contradiction with a file": (
        ["--config", "contradiction.yaml", "--diffusion.prediction", "eps"], ["diffusion.prediction", "use v or x_0"],
    ),
    "bad YAML": (["--config=broken.yaml"], ["config", "broken.yaml", "line 1", "bracket"]),
    "option twice in a file": (["--config=twice.yaml"], ["config", "'steps'", "remove one"]),
    "list in a file": (["--config", "list.yaml"], ["config", "names and values"]),
    "number for a section": (["--config", "number.yaml"], ["config", "model: '3'"]),
    "nothing for a section": (["--config", "nothing.yaml"], ["config", "model", "channels"]),
    "not text": (["--config", "binary.yaml"], ["config", "binary.yaml"]),
    "missing file": (["--config", "missing.yaml"], ["config", "missing.yaml", "exist"]),
    "folder for a file": (["--config", "."], ["config", ". is not a file"]),
    "file of a section": (["--model", "section.yaml"], ["section.yaml", "model.chanels", "mean model.channels?"]),
    "type of another option in a file": (["--config", "run.yaml"], ["run_dir: ['3']", "path"]),
    "mistyped switch": (["--dry-rum"], ["dry-rum", "did you mean --dry-run?"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(mistake: str, refused: Callable[..., str]) -> None:
    argv, named = MISTAKES[mistake]
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(parse_train, argv)
    assert [text for text in named if text not in line] == [], line


def test_only_the_first_process_complains(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for argv in (["--model.chanels", "8"], ["--train.steps", "0"]):
        with pytest.raises(SystemExit) as exit_:
            parse_train(argv)
        assert exit_.value.code == 2 and capsys.readouterr().err == ""


def test_no_arguments_are_the_defaults() -> None:
    command = parse_train([])
    assert command.config == Config() and command.directory == Path("runs/digits") and not command.dry_run


def test_a_written_configuration_is_read_back() -> None:
    model = ModelConfig(channel_mult=[1, 1.5, 2], norm="groupnorm")
    config = Config(model=model, train=TrainConfig(learning_rate=1e-4))
    Path("config.yaml").write_text(config.to_yaml())
    assert parse_train(["--config", "config.yaml"]).config == config


def test_printed_configuration_reads_back(capsys: pytest.CaptureFixture) -> None:
    given = ["--model.channels", "48", "--train.learning_rate", "1e-4", "--model.channel_mult", "[1, 1, 2]"]
    main([*given, "--print-config"])
    printed = capsys.readouterr().out
    assert {*SECTIONS} <= {*yaml.safe_load(printed)}
    Path("printed.yaml").write_text(printed)
    assert parse_train(["--config", "printed.yaml"]).config == parse_train(given).config
    assert parse_train(given).config.model.channel_mult == [1, 1, 2]


@pytest.mark.parametrize(("option", "value", "expected"), [
    ("train.learning_rate", "1e-3", 0.001),
    ("train.seed", "-0", 0),
    ("data.horizontal_flip", "yes", True),
    ("data.image_column", "null", None),
    ("data.source", "null", "null"),
    ("data.resolution", "16", 16),
    ("model.channel_mult", "[1,2,4]", [1.0, 2.0, 4.0]),
    ("model.condition_at", "[4]", [4]),
    ("model.condition_at", "encoder", "encoder"),
    ("sample.guidance_interval", "[0.3,3]", [0.3, 3.0]),
])
def test_values_have_the_types_of_the_options(option: str, value: str, expected: object) -> None:
    section, name = option.split(".")
    for argv in ([f"--{option}", value], [f"--{option}={value}"]):
        found = getattr(getattr(parse_train(argv).config, section), name)
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(("argv", "option", "expected"), [
    (["--model.channel_mult=[1]", "--model.channel_mult+=[3,4]", "--model.channel-mult+", "5"], "channel_mult",
     [1, 3, 4, 5]),
    (["--model.channel_mult", "[2]", "--model.channel_mult+", "3"], "channel_mult", [2, 3]),
    (["--model.attention_resolutions=[16]", "--model.attention_resolutions+", "8"], "attention_resolutions", [16, 8]),
    (["--model.condition_at+", "4"], "condition_at", [4]),
])
def test_a_list_can_be_appended_to(argv: list[str], option: str, expected: list[float]) -> None:
    assert getattr(parse_train(argv).config.model, option) == expected


def test_nothing_is_appended_to_a_list_that_is_not_known_yet(refused) -> None:
    line = refused(parse_train, ["--model.channel_mult+", "3"])
    assert line.startswith("--model.channel_mult: ") and "append" in line


def test_later_options_override_earlier_ones() -> None:
    Path("a.yaml").write_text("model:\n  channels: 48\n  dropout: 0.5\ntrain:\n  learning_rate: 1e-4\n")
    Path("b.yaml").write_text("model:\n  channels: 64\n")
    config = parse_train(["--config", "a.yaml", "--model.channels", "16"]).config
    assert (config.model.channels, config.model.dropout, config.train.learning_rate) == (16, 0.5, 1e-4)
    assert config.model.norm == ModelConfig().norm and config.train.steps == TrainConfig().steps
    assert parse_train(["--model.channels", "16", "--config", "a.yaml"]).config.model.channels == 48
    both = parse_train(["--config", "a.yaml", "--config", "b.yaml"]).config.model
    assert (both.channels, both.dropout) == (64, 0.5)


def test_an_option_with_two_values_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "f.yaml").write_text("train: {steps: 2}")
    files = ["--config", str(tmp_path / "f.yaml"), "--config", str(tmp_path / "f.yaml")]
    parse_train([*files, "--train.steps", "3", "--train.steps=3", "--model.condition_at+=8", "--model.condition_at+=4"])
    assert capsys.readouterr().err == ""
    assert parse_train(["--train.steps", "3", "--train.steps=4"]).config.train.steps == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: --train.steps: ") and "3 and 4" in line


def test_a_contradiction_in_a_file_can_be_overridden() -> None:
    Path("contradiction.yaml").write_text(str(FILES["contradiction.yaml"]))
    config = parse_train(["--config", "contradiction.yaml", "--diffusion.prediction", "v"]).config
    assert config.diffusion.zero_terminal_snr and config.diffusion.prediction == "v"


def test_a_file_may_hold_the_other_options_too() -> None:
    Path("a.yaml").write_text("run_dir: here\ntrain: {steps: 3}\n")
    command = parse_train(["--config", "a.yaml"])
    assert command.directory == Path("here") and command.config.train.steps == 3


def test_a_section_can_be_a_file_of_its_own() -> None:
    Path("model.yaml").write_text("channels: 48\n")
    assert parse_train(["--model", "model.yaml"]).config.model == ModelConfig(channels=48)


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_both_spellings(spelling: str) -> None:
    assert parse_train([spelling]).dry_run
    assert parse_train(["--model.head-channels", "16", "--train.batch-size=8"]).config == parse_train(
        ["--model.head_channels=16", "--train.batch_size", "8"]
    ).config
    assert parse_train(["--run_dir", "here"]) == parse_train(["--run-dir=here"])


def test_the_run_directory_is_named_after_the_source() -> None:
    assert parse_train(["--data.source", "/data/My Images"]).directory == Path("runs/My-Images")
    assert parse_train(["--data.source", "owner/cifar10"]).directory == Path("runs/cifar10")
    assert parse_train(["--run-dir", "here"]).directory == Path("here")


def test_the_shell_leaves_a_tilde_after_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("train: {steps: 3}")
    command = parse_train(["--config=~/a.yaml", "--run-dir=~/run"])
    assert command.directory == tmp_path / "run" and command.config.train.steps == 3


def test_a_run_without_an_option_is_one_to_continue(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "run.json"):
        (tmp_path / "run" / name).write_text("{}")
    assert f"--run-dir {tmp_path / 'run'}" in refused(parse_train, [str(tmp_path / "run")])


def test_help_names_every_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_train(["--help-all", "--model.chanels", "8"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert [o for o in (*OPTIONS, "run-dir", "dry-run", "config", "print-config") if f"--{o}" not in text] == []
