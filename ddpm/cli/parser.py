"""Command lines: options that are fields of a dataclass, or of the sections of a configuration.

The dataclasses convert and check the values, so that a value on the command line, in a file and in Python code has the
same rules and messages.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ddpm.atomic import read_json
from ddpm.cli.errors import one_line_errors, reject_command_line
from ddpm.cli.help import help_text
from ddpm.config.commands import Overrides
from ddpm.config.run_folders import is_run, with_places_of_run
from ddpm.config.sections import OPTIONS, SECTIONS, Config, flatten
from ddpm.config.study_files import STUDY_KEYS
from ddpm.config.values import (
    accepts_list,
    check_known,
    convert_mapping,
    convert_value,
    derived_from,
    field_types,
    split_list,
)
from ddpm.config.yaml_files import prefixed_errors, read_options

Command = TypeVar("Command")
Given = tuple[str, str | bool, bool]        # name of an option, its text, and whether it appends to a list
POSITIONAL = ("model", "runs")
OPTIONS_THAT_TAKE_FILES = ("config", *SECTIONS)


def from_command_line(command: type[Command]) -> Callable[[Callable[[Command], None]], Callable[..., None]]:
    """Decorate a function of a parsed command so that it takes the words of a command line; None means sys.argv."""

    def decorate(run: Callable[[Command], None]) -> Callable[..., None]:
        def main(argv: Sequence[str] | None = None) -> None:
            line = CommandLine(command, f"{command.__name__.removesuffix('Command').lower()}.py")
            with one_line_errors(line.names):
                run(line.read(argv))

        return main

    return decorate


def parse_command(command: type[Command], prog: str, argv: Sequence[str] | None = None) -> Command:
    """Read a command line into a dataclass whose docstring is the help. On a mistake, print one line and exit.

    The fields `model` and `runs` are positional arguments, and all others are options. A field of type Config stands
    for all options of a configuration, and files of them.

    Args:
        command: the dataclass.
        prog: name of the script, such as `train.py`.
        argv: the command line; None reads that of the program.
    """
    return CommandLine(command, prog).read(argv)


class CommandLine:
    """The options and positional arguments of a command.

    Args:
        command: the dataclass.
        prog: name of the script.

    Attributes:
        names: options, and what messages call them: as they are typed, or the file that the value is from.
    """

    def __init__(self, command: type, prog: str) -> None:
        self.command, self.prog = command, prog
        self.kinds = field_types(command)           # name of a value -> type
        self.defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(command)}
        if "config" in self.kinds:
            self.kinds |= OPTIONS | dict.fromkeys(OPTIONS_THAT_TAKE_FILES, Path)
            self.defaults |= flatten(Config().to_dict()) | dict.fromkeys(OPTIONS_THAT_TAKE_FILES)
        self.has_overrides = "overrides" in self.kinds
        if self.has_overrides:
            del self.kinds["overrides"], self.defaults["overrides"]
            if "config" not in self.kinds:
                self.kinds |= OPTIONS
                self.defaults |= dict.fromkeys(OPTIONS)
        self.positional = next((name for name in POSITIONAL if name in field_types(command)), None)
        self.names = {name: name if name == self.positional else spell(name) for name in self.kinds}
        self.options = {name: option for name, option in self.names.items() if name != self.positional}
        self.spellings = {option.replace("_", "-"): name for name, option in self.options.items()}
        self.required = [name for name, default in self.defaults.items() if default is dataclasses.MISSING]

    @property
    def usage(self) -> str:
        """The shortest command line, such as `sample.py MODEL [options]`."""
        words = [name.upper() if name == self.positional else f"{spell(name)} {name.upper()}" for name in self.required]
        return " ".join([self.prog, *words, "[options]"])

    def read(self, argv: Sequence[str] | None = None) -> Any:
        """Return the dataclass that a command line describes. On a mistake, print one line and exit."""
        words = [*(sys.argv[1:] if argv is None else argv)]
        if {"-h", "--help", "--help-all"} & {*words}:
            print(help_text(self.command, self.usage, self.positional, everything="--help-all" in words))
            raise SystemExit(0)
        try:
            command = self.command(**self.parse(words))
        except ValueError as problem:
            reject_command_line(problem, self.names)
        if repeated := [*self._describe_repeated(words)]:
            from ddpm.processes import warn  # imported only now, because it takes long

            warn(*repeated)
        return command

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values that a command line gives, as arguments of the dataclass.

        Raises:
            ValueError: for an unknown option, a wrong value, or a missing option or value.
        """
        given, words = self._separate(argv)
        values = self._own_configuration(given)
        for name, text, append in given:
            values |= self._read(name, text, append, values)
        if self.positional:
            values[self.positional] = words if accepts_list(self.kinds[self.positional]) else "".join(words)
        for name in self.required:
            if not values.get(name):
                raise ValueError(f"{name}: is missing; type {self.usage}")
        options = {key: values.pop(key) for key in [*values] if key in OPTIONS}
        config = Config().with_options(options)     # checks the values
        if "config" in self.kinds:
            values["config"] = config
        if self.has_overrides:
            values["overrides"] = Overrides(options)
        return values

    def _separate(self, argv: Sequence[str]) -> tuple[list[Given], list[str]]:
        """Return the options, and the words that belong to no option."""
        given: list[Given] = []
        words: list[str] = []
        rest = [*argv]
        while rest:
            word = rest.pop(0)
            if not word.startswith("--"):
                self._check_word(word, words, given[-1][0] if given else None, rest)
                words.append(word)
                continue
            option, equals, text = word.partition("=")
            name, append = self._name(option)
            if self._is_switch(name):
                if equals:
                    raise ValueError(f"{name}: takes no value; give {self.options[name]} alone, or leave it out")
                given.append((name, True, False))
                continue
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise ValueError(f"{name}: the value is missing; give it as {self.options[name]} VALUE")
                text = rest.pop(0)
            given.append((name, text, append))
        return given, words

    def _describe_repeated(self, argv: Sequence[str]) -> Iterator[str]:
        """Yield a line for each option that has two values; files and appended entries of a list add up."""
        texts: dict[str, str | bool] = {}
        for name, text, append in self._separate(argv)[0]:
            if append or name in OPTIONS_THAT_TAKE_FILES:
                continue
            if texts.setdefault(name, text) != text:
                yield f"{self.options[name]}: is given twice, as {texts[name]} and {text}; the last one counts"
            texts[name] = text

    def _own_configuration(self, given: Sequence[Given]) -> dict[str, Any]:
        """Return the values of the configuration of the run in --run-dir; none if --config replaces it.

        Raises:
            ValueError: if the file is damaged.
        """
        texts = {name: text for name, text, _ in given}
        if "config" not in self.kinds or "config" in texts or "run_dir" not in texts:
            return {}
        run = convert_value(texts["run_dir"], Path, "run_dir")
        if not is_run(run):
            return {}
        try:
            return self._read_file("run_dir", run / "config.yaml")
        except ValueError as problem:
            kept = " FILE"
            with suppress(ValueError, OSError):         # runs of older versions do not keep them
                if "config" in read_json(run / "run.json"):
                    kept = f" {shlex.quote(str(run / 'run.json'))} as the first option, which has those of the run"
            raise ValueError(f"{problem}; correct it, or replace its options with --config{kept}") from None

    def _name(self, option: str) -> tuple[str, bool]:
        """Return the name of an option, and whether it appends to a list; underscores may be dashes and vice versa."""
        plain = option.removesuffix("+").replace("_", "-")
        name = self.spellings.get(plain)
        if name is None or (option.endswith("+") and not accepts_list(self.kinds[name])):
            if "study" in self.options and plain.lstrip("-").replace("-", "_") in STUDY_KEYS:
                raise ValueError(f"{option}: is set only in the study file")
            check_known(option, [option for name, option in self.options.items() if name not in SECTIONS])
        assert name is not None
        return name, option.endswith("+")

    def _check_word(self, word: str, before: list[str], option: str | None, rest: list[str]) -> None:
        """Check that a word that belongs to no option may stand in the command line.

        Raises:
            ValueError: if it may not; says what is probably meant.
        """
        known = [option for name, option in self.options.items() if name not in SECTIONS]
        if word[:1] in ("\u2013", "\u2014", "\u2212"):
            raise ValueError(f"{word!r} begins with a long dash; type --{word.lstrip('-' + word[0])}")
        if word.startswith("-"):
            check_known(word.partition("=")[0], known)
        if self.positional and (not before or accepts_list(self.kinds[self.positional])):
            return
        remedy = "options start with --, and --help-all lists them"
        name, equals, text = word.partition("=")
        file_option = next((name for name in ("config", "study") if name in self.options), None)
        if f"--{name}" in known and (equals or rest):
            remedy = f"type --{name} {text if equals else rest[0]}"
        elif file_option and Path(word).suffix in (".yaml", ".yml", ".json"):
            remedy = f"give the file as --{file_option} {word}"
        elif option is not None and self._is_switch(option):
            remedy = f"{self.options[option]} takes no value"
        elif option is not None and accepts_list(self.kinds[option]):
            remedy = f"separate the entries of {self.options[option]} by commas, as in 1,2,4"
        elif option is not None:
            remedy = f"{self.options[option]} takes one value; put a value with spaces in quotes"
        elif "config" in self.options and is_run(Path(word)):
            remedy = f"continue a run with --run-dir {word}"
        elif "data.source" in self.options and Path(word).is_dir():
            remedy = f"give images as --data.source {word}"
        raise ValueError(f"{word!r} is unexpected; {remedy}")

    def _is_switch(self, name: str) -> bool:
        """Return whether an option takes no value: it is a bool field of the command, not of the configuration."""
        return self.kinds[name] is bool and name not in OPTIONS

    def _read(self, name: str, text: str | bool, append: bool, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of one option, given the values of the options before it."""
        if name in OPTIONS_THAT_TAKE_FILES:
            return self._read_file(name, convert_value(text, Path, name))
        self.names[name] = self.options[name]
        if append:
            return {name: [*self._entries(name, values), *split_list(str(text))]}
        return {name: text}

    def _entries(self, name: str, values: dict[str, Any]) -> list[Any]:
        """Return the entries of a list so far; a word that stands for no list counts as none."""
        given = values.get(name, self.defaults[name])
        if given is None and ("config" not in self.kinds or derived_from(self.kinds[name])):
            raise ValueError(f"{name}: there is no list yet to append to; give all entries with {self.options[name]}")
        before = convert_value(given, self.kinds[name], name)
        return before if isinstance(before, list) else []

    def _read_file(self, name: str, file: Path) -> dict[str, Any]:
        """Return the values of a file; ranges are checked after later options have overridden them."""
        with prefixed_errors(name):
            given = read_options(file, name if name in SECTIONS else None)
            if name == "config":
                given = with_places_of_run(given, file)
            with prefixed_errors(file):
                known = {key: kind for key, kind in self.kinds.items() if key not in OPTIONS_THAT_TAKE_FILES}
                found = convert_mapping(given, known)
        self.names |= {key: f"{self.options[name]}: {file}: {key}" for key in found}
        return found


def spell(name: str) -> str:
    """Return an option as it is typed on the command line."""
    return f"--{name}" if name in OPTIONS else f"--{name.replace('_', '-')}"
