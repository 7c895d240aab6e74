"""Command lines: options that are fields of a dataclass, or of the sections of a configuration.

argparse separates the options and prints the help. The dataclasses convert and check the values, so that a value on the
command line, in a file and in Python code has the same rules and messages.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import docstring_parser

from ddpm.cli.errors import one_line_errors, reject_command_line
from ddpm.config.sections import OPTIONS, SECTIONS, Config, flatten
from ddpm.config.values import accepts_list, check_known, convert_mapping, field_types, members, ranges
from ddpm.config.yaml_files import prefixed_errors, read_yaml, value_from_text

Command = TypeVar("Command")
POSITIONAL = ("model", "runs")
OPTIONS_THAT_TAKE_FILES = ("config", *SECTIONS)


def from_command_line(command: type[Command]) -> Callable[[Callable[[Command], None]], Callable[..., None]]:
    """Decorate a function of a parsed command so that it takes the words of a command line; None means sys.argv."""

    def decorate(run: Callable[[Command], None]) -> Callable[..., None]:
        def main(argv: Sequence[str] | None = None) -> None:
            with one_line_errors(field_types(command)):
                run(parse_command(command, f"{command.__name__.removesuffix('Command').lower()}.py", argv))

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
    try:
        return command(**CommandLine(command, prog).parse(sys.argv[1:] if argv is None else argv))
    except ValueError as problem:
        reject_command_line(problem, field_types(command))


class CommandLine:
    """The options and positional arguments of a command.

    Args:
        command: the dataclass.
        prog: name of the script.
    """

    def __init__(self, command: type, prog: str) -> None:
        self.kinds = field_types(command)           # name of a value -> type
        self.defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(command)}
        self.spellings: dict[str, str] = {}         # option, spelled with dashes only -> option
        self.positional = next((name for name in POSITIONAL if name in self.kinds), None)
        summary, texts = help_texts(command)
        self.parser = argparse.ArgumentParser(prog, None, summary, allow_abbrev=False, exit_on_error=False)
        for name, kind in field_types(command).items():
            if kind is Config:
                self._add_sections(texts[name])
            elif name == self.positional:
                self.parser.add_argument(name, nargs="*" if accepts_list(kind) else "?", help=texts[name])
            else:
                self._add(self.parser, name, texts[name])
        self.required = [name for name, default in self.defaults.items() if default is dataclasses.MISSING]
        needed = [name if name == self.positional else f"{_option(name)} {name.upper()}" for name in self.required]
        self.parser.usage = " ".join([prog, *needed, "[options]"])

    def _add_sections(self, text: str) -> None:
        """Add the options of a configuration, and --config for a file of them."""
        self.kinds |= OPTIONS | dict.fromkeys(OPTIONS_THAT_TAKE_FILES, Path)
        self.defaults |= flatten(Config().to_dict()) | dict.fromkeys(OPTIONS_THAT_TAKE_FILES)
        self._add(self.parser, "config", text)
        for section, kind in SECTIONS.items():
            title, texts = help_texts(kind)
            group = self.parser.add_argument_group(title.removesuffix("."))
            self._add(group, section, "YAML file of the options of this section, without the name of the section.")
            for name in field_types(kind):
                self._add(group, f"{section}.{name}", texts[name])

    def _add(self, group: Any, name: str, text: str) -> None:
        """Add an option. With a + after its name, it appends to a list."""
        kind, default = self.kinds[name], self.defaults[name]
        remarks = [limit.allowed for limit in ranges(kind)]
        if default not in (None, dataclasses.MISSING) and not self._is_switch(name):
            remarks.append(f"default: {str(default).lower() if kind is bool else default}")
        help_ = (f"{text} ({'; '.join(remarks)})" if remarks else text).replace("%", "%%")
        options = [_option(name), f"{_option(name)}+"] if accepts_list(kind) else [_option(name)]
        self.spellings |= {option.replace("_", "-"): option for option in options}
        nargs = 0 if self._is_switch(name) else None
        group.add_argument(*options, action=_Record, dest=name, nargs=nargs, metavar=_metavar(kind), help=help_)

    def _is_switch(self, name: str) -> bool:
        """Return whether an option takes no value: it is a bool field of the command, not of the configuration."""
        return self.kinds[name] is bool and name not in OPTIONS

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values that a command line gives, as arguments of the dataclass.

        Raises:
            ValueError: for an unknown option, a wrong value, or a missing option or value.
        """
        tokens = [self._normalize_spelling(token) for token in argv]
        try:
            found, extra = self.parser.parse_known_intermixed_args(tokens, argparse.Namespace(given=[]))
        except argparse.ArgumentError as problem:
            option = str(problem.argument_name).partition("/")[0]
            if self._is_switch(option[2:].replace("-", "_")):
                raise ValueError(f"{option[2:]}: does not take a value; give {option} alone") from None
            raise ValueError(f"{option[2:]}: the value is missing; give it as {option} VALUE") from None
        for word in extra:
            if word.startswith("--"):
                check_known(word[2:].partition("=")[0], [option[2:] for option in self.spellings.values()])
        if extra:
            raise ValueError(f"{extra[0]!r} is unexpected; options start with --, and --help lists them")
        values = {self.positional: getattr(found, self.positional)} if self.positional else {}
        for name, option, text in [*self._own_configuration(found.given), *found.given]:
            values |= self._read(name, option, text, values)
        for name in self.required:
            if not values.get(name):
                raise ValueError(f"{name}: is missing; type {self.parser.usage}")
        if "config" in self.kinds:
            values["config"] = Config().with_options({key: values.pop(key) for key in [*values] if key in OPTIONS})
        return values

    def _own_configuration(self, given: Sequence[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
        """Return the option --config with the configuration of the run in --run-dir, unless a file is given."""
        texts = {name: text for name, _, text in given}
        if "config" not in self.kinds or "config" in texts or "run_dir" not in texts:
            return []
        file = Path(texts["run_dir"]) / "config.yaml"
        return [("config", "--config", file)] if file.is_file() and file.with_name("run.json").is_file() else []

    def _normalize_spelling(self, token: str) -> str:
        """Return an option in its registered spelling; dashes and underscores are interchangeable."""
        name, equals, value = token.partition("=")
        return self.spellings.get(name.replace("_", "-"), name) + equals + value

    def _read(self, name: str, option: str, text: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of one option, given the values of the options before it."""
        if name in OPTIONS_THAT_TAKE_FILES:
            return self._read_file(name, Path(text))
        if self._is_switch(name):
            return {name: True}
        value = value_from_text(text, self.kinds[name])
        if option.endswith("+"):
            before = values.get(name, self.defaults[name])
            value = [*(before if isinstance(before, list) else []), *(value if isinstance(value, list) else [value])]
        return {name: value}

    def _read_file(self, name: str, file: Path) -> dict[str, Any]:
        """Return the values of a file; ranges are checked after later options have overridden them."""
        with prefixed_errors(name):
            if not file.is_file():
                raise ValueError(f"{file} is not a file; give a YAML file of options")
            with prefixed_errors(file):
                content = read_yaml(file)
                return convert_mapping(flatten(content if name == "config" else {name: content}), self.kinds)


class _Record(argparse.Action):
    """Record the options and their texts in the order in which they are given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, text: Any, option: str | None = None) -> None:
        namespace.given.append((self.dest, option, text))


def _option(name: str) -> str:
    return f"--{name}" if name in OPTIONS else f"--{name.replace('_', '-')}"


def _metavar(kind: Any) -> str:
    """Return the values of an option for the help, such as `INT` or `{ddpm,diffusers}`."""
    names = {int: "INT", float: "FLOAT", bool: "{true,false}", str: "TEXT", Path: "PATH"}
    names |= {list[int]: "[INT,...]", list[float]: "[FLOAT,...]"}
    # All other types are Literals, and lists of one.
    return "|".join(
        names.get(m) or (f"[{_metavar(*get_args(m))},...]" if get_origin(m) is list else f"{{{','.join(get_args(m))}}}")
        for m in members(kind)
        if m is not NoneType
    )


def help_texts(command: type) -> tuple[str, dict[str, str]]:
    """Return a dataclass's summary and the help text of each of its options, including inherited ones."""
    documents = [docstring_parser.parse(kind.__doc__ or "") for kind in reversed(command.__mro__[:-1])]
    texts = {p.arg_name: " ".join((p.description or "").split()) for document in documents for p in document.params}
    return " ".join(filter(None, (documents[-1].short_description, documents[-1].long_description))), texts
