"""Every option of every command with values of the wrong kind: one line in our words, which names the option."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from ddpm.cli.help_pages import HELP_PAGES
from ddpm.cli.parser import CommandLine, parse_command
from ddpm.config.commands import TrainCommand
from ddpm.config.sections import OPTIONS
from ddpm.config.values import choices, members, ranges

NUMBERS = ["-1", "0", "1.5", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "0x10", "1 000", "1,5", "1:30", "50%"]
TEXTS = ["", " ", "many", "[", "[]", "[1,", "1,,2", "{a: 1}", "'3'", '"', "ünï", "😀", "\u2028", "-x", "yes", "null"]
NEEDED = {
    "model": ["run"], "runs": ["run"], "out": ["--out", "x"], "to": ["--to", "a/b"], "study": ["--study", "x.yaml"],
}
# What a person should not have to know. "Expected" begins messages of libraries.
FOREIGN = re.compile(r"argparse|yaml\.|PyYAML|Subtypes|Traceback|Expected|literal for|could not convert|<class")


def is_value(text: str, kind: Any) -> bool:
    """Whether a text is a value of a type, judged by Python's own conversions."""

    def number(text: str, convert: Callable[[str], float]) -> float | None:
        try:
            value = convert(text)
        except ValueError:
            return None
        return value if convert is float or abs(value) < 2**63 else None

    for member in members(kind):
        if member in (str, Path) and text.strip():
            return True
        if member is bool and text in ("true", "false", "yes", "no", "on", "off"):
            return True
        if member is type(None) and text in ("null", "none", "~"):
            return True
        limits = ranges(kind)
        if member in (int, float):
            value = number(text, member)
            if value is not None and all(limit.contains(value) for limit in limits):
                return True
        if get_origin(member) is list:
            entries = [part.strip(" '\"") for part in text.strip("[] ").split(",")] if text != "[]" else []
            plain = get_args(member)[0]
            broken = text.startswith("[") != text.endswith("]") or not all(entries) or not text
            if plain in (int, float) and not broken:
                values = [number(entry, plain) for entry in entries]
                if None not in values and all(limit.contains(values) for limit in limits):
                    return True
            elif plain is str and not broken:
                return True
    return text in choices(kind)


def wrong_values(command: type) -> Iterator[tuple[str, str]]:
    """Yield each option that takes a value, and a text that is none."""
    line = CommandLine(command, "x.py")
    for name, option in line.options.items():
        if line._is_switch(name):
            continue
        for text in [*NUMBERS, *TEXTS]:
            if not is_value(text, line.kinds[name]):
                yield option, text


def refused_line(command: type, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        parse_command(command, "x.py", argv)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1 and err.endswith("\n"), (argv, err)
    assert not FOREIGN.search(err) and len(err) < 1200, err
    return err


@pytest.mark.parametrize("command", HELP_PAGES)
def test_wrong_values_are_refused_in_one_line_with_the_option(
    command: type, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = [word for name in CommandLine(command, "x.py").required for word in NEEDED[name]]
    tried = 0
    for option, text in wrong_values(command):
        words = [f"{option}={text}"] if tried % 2 else [option, text]
        error = refused_line(command, [*needed, *words], capsys)
        assert f"error: {option}" in error, (words, error)
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("command", HELP_PAGES)
def test_a_missing_value_names_the_option(command: type, capsys: pytest.CaptureFixture[str]) -> None:
    line = CommandLine(command, "x.py")
    needed = [word for name in line.required for word in NEEDED[name]]
    for name, option in line.options.items():
        if line._is_switch(name):
            assert option in refused_line(command, [*needed, f"{option}=3"], capsys)
            assert option in refused_line(command, [option, "maybe", *needed, "x", "y", "z"], capsys) or line.positional
        else:
            assert option in refused_line(command, [*needed, option], capsys)
            assert option in refused_line(command, [option, "--help-me", *needed], capsys)


# Values of another kind in a file, as YAML.
IN_FILES = ["[]", "[[1]]", "{}", "{a: 1}", "[a, b]", "'', ", "2024-01-01", "yes and no", "1.5.2", "-", "null"]


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_values_in_a_file_name_the_file_and_the_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = OPTIONS[name]
    section, _, option = name.partition(".")
    for text in IN_FILES:
        try:
            plain = yaml.load(f"a: {text}", yaml.BaseLoader)["a"]
        except yaml.YAMLError:
            plain = None
        if text == "null" and type(None) in members(kind):
            continue
        if isinstance(plain, str) and text != "null" and is_value(plain, kind):
            continue
        if plain == [] and is_value("[]", kind):
            continue
        Path("a.yaml").write_text(f"{section}:\n  {option}: {text}\n", encoding="utf-8")
        error = refused_line(TrainCommand, ["--config", "a.yaml"], capsys)
        assert "--config: a.yaml: " in error and (f" {name}" in error or "line 2" in error), error
