"""The help: all options with types and defaults, the usual ones on one screen, and examples that work."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import pytest

from ddpm.cli.help import help_text
from ddpm.cli.help_pages import HELP_PAGES
from ddpm.cli.parser import CommandLine, parse_command
from ddpm.config.commands import TrainCommand
from ddpm.config.sections import OPTIONS, SECTIONS
from ddpm.config.values import Derived, choices, field_types

ROOT = Path(__file__).parents[2]
COMMANDS = list(HELP_PAGES)


def text_of(command: type, monkeypatch: pytest.MonkeyPatch, everything: bool = False, columns: int = 100) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    line = CommandLine(command, "x.py")
    return help_text(command, line.usage, line.positional, everything)


def script_of(command: type) -> str:
    return command.__name__.removesuffix("Command").lower() + ".py"


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_lines_fit_and_types_read_well(command: type, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for everything in (False, True):
        text = text_of(command, monkeypatch, everything, columns)
        # A title may be longer than the terminal; it is one line.
        assert not [line for line in text.splitlines() if len(line) > columns and not line.endswith(":")]
        assert not re.search(r"<class|PosixPath|typing|Annotated|Literal|None\b|MISSING|NoneType", text)


def test_the_usual_options_of_training_fit_on_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(TrainCommand, monkeypatch)
    assert len(text.splitlines()) <= 45
    usual = ["config", "run-dir", "data.source", "data.resolution", "model.norm", "train.steps", "train.batch_size"]
    usual += ["train.learning_rate", "tracking.wandb", "dry-run", "print-config", "help-all"]
    assert [name for name in usual if f"--{name} " not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_listed_once_with_its_choices_and_default(
    command: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(command, monkeypatch, everything=True)
    line = CommandLine(command, "x.py")
    for name, option in line.options.items():
        places = [found.start() for found in re.finditer(rf"^  {re.escape(option)}(?= |$)", text, re.MULTILINE)]
        assert len(places) == 1, option
        end = text.find("\n  --", places[0] + 1)
        entry = " ".join(text[places[0] : end if end > 0 else None].split())
        assert [choice for choice in choices(line.kinds[name]) if choice not in entry] == []
        default = line.defaults[name]
        if isinstance(default, int | float) and line.kinds[name] is not bool:
            shown = re.search(r"default: (\S+)\)", entry)
            assert shown and float(shown[1]) == default, entry
        elif name in OPTIONS:
            assert "default: " in entry, entry
    assert all(name in OPTIONS or name in SECTIONS or name in field_types(command) for name in line.options)


def test_a_default_that_is_derived_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddpm.cli.help import Option, _default_remark

    derived = Option("--a.b", Annotated[int, Derived("the data")], None, "width.")
    assert _default_remark(derived) == ["default: derived from the data"]
    assert _default_remark(derived._replace(kind=int | None)) == ["default: null"]
    assert _default_remark(derived._replace(default=[1.0, 2.5])) == ["default: 1,2.5"]


@pytest.mark.parametrize("command", COMMANDS)
def test_usual_options_exist_and_short_help_names_them(command: type, monkeypatch: pytest.MonkeyPatch) -> None:
    options = CommandLine(command, "x.py").options.values()
    text = text_of(command, monkeypatch)
    for name in HELP_PAGES[command].usual:
        assert f"--{name}" in options and f"  --{name}" in text
    for name in field_types(command):
        assert name.replace("_", "-") in text.lower() or HELP_PAGES[command].usual


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_typed_and_documents_exist(
    command: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = HELP_PAGES[command]
    assert 2 <= len(page.examples) <= 4
    monkeypatch.chdir(ROOT)
    shown = re.sub(r" \\\n\s+", " ", text_of(command, monkeypatch, columns=80))
    for comment, example in page.examples:
        assert comment in shown and example in shown       # also where it continues in the next line
        launcher, script, *arguments = shlex.split(re.sub("^accelerate launch", "python", example))
        assert launcher == "python" and script == f"scripts/{script_of(command)}"
        parse_command(command, script_of(command), arguments)
    assert page.documents and all((ROOT / name).is_file() for name in page.documents)


@pytest.mark.parametrize("word", ["-h", "--help", "--help-all"])
def test_help_wins_over_mistakes(word: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_command(TrainCommand, "train.py", ["--nothing", word])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0 and err == "" and out.startswith("usage: train.py")
