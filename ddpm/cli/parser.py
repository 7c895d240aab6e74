"""Command lines: options that are dataclass fields, read by jsonargparse after `ddpm.config` has checked them.

jsonargparse provides --help, --config, --print_config and lists such as [1, 2, 4]. Every value is converted by
`ddpm.config.values` before jsonargparse sees it, so that all messages are this package's own.
"""

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import docstring_parser
import jsonargparse

from ddpm.cli.errors import reject_command_line
from ddpm.config.sections import SECTIONS, Config, convert_sections
from ddpm.config.values import accepts_list, check_known, choices, convert_mapping, convert_value, field_types
from ddpm.config.yaml_files import read_yaml, value_from_text

Command = TypeVar("Command")


class CommandLine:
    """The options and positional arguments of a command.

    Args:
        prog: name of the script, such as `train.py`.
        description: first lines of the help.
        usage: first line of the help; jsonargparse lists all options by default.
        print_config: whether there is an option --print_config.
    """

    def __init__(self, prog: str, description: str, usage: str | None = None, print_config: bool = False) -> None:
        self._parser = jsonargparse.ArgumentParser(
            prog=prog,
            usage=usage,
            description=description,
            exit_on_error=False,
            allow_abbrev=False,
            print_config="--print_config" if print_config else None,
        )
        self._kinds: dict[str, Any] = {}            # name of an option outside a configuration -> type
        self._options: dict[str, Any] = {}          # option -> type; None for an option without a value
        self._readers: dict[str, str] = {}          # option that reads a file -> its section, or "" for all
        self._positional: tuple[str, Any] | None = None
        self._required: list[str] = []
        if print_config:
            self._options["--print_config"] = None

    def add(self, name: str, kind: Any, text: str, default: Any = dataclasses.MISSING) -> None:
        """Add an option; it is required if it has no default, and a switch if it is a bool."""
        option = f"--{name.replace('_', '-')}"
        self._kinds[name] = kind
        self._options[option] = None if kind is bool else kind
        if kind is bool:
            self._parser.add_argument(option, action="store_true", help=text)
        elif default is dataclasses.MISSING:
            self._required.append(option)
            self._parser.add_argument(option, type=kind, required=True, help=text)
        else:
            metavar = f"{{{','.join(choices(kind))}}}" if choices(kind) else None
            self._parser.add_argument(option, type=kind, default=default, metavar=metavar, help=text)

    def add_positional(self, name: str, kind: Any, text: str) -> None:
        """Add the positional argument: one value, or one or more if its type is a list."""
        self._positional = name, kind
        if accepts_list(kind):
            self._parser.add_argument(name, type=Path, nargs="+", metavar=name.removesuffix("s").upper(), help=text)
        else:
            self._parser.add_argument(name, type=kind, help=text)

    def add_config(self, text: str) -> None:
        """Add the options of a run's configuration, and --config for a file of them."""
        self._parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help=text)
        self._readers["--config"] = ""
        for section, kind in SECTIONS.items():
            self._parser.add_class_arguments(kind, section)
            self._readers[f"--{section}"] = section
            self._options |= {f"--{section}.{name}": type_ for name, type_ in field_types(kind).items()}

    def parse(self, argv: Sequence[str] | None) -> jsonargparse.Namespace:
        """Read a command line; None reads that of the program. On a mistake, print one line and exit with code 2."""
        tokens = [self._respelled(token) for token in (sys.argv[1:] if argv is None else argv)]
        try:
            if not {"-h", "--help"} & {*tokens}:
                self._check(tokens)
            return self._parser.parse_args(tokens)
        except (ValueError, jsonargparse.ArgumentError) as problem:
            reject_command_line(problem)

    def _respelled(self, token: str) -> str:
        """Return an option in the spelling that jsonargparse knows: --dry_run as --dry-run, and the reverse."""
        name, equals, value = token.partition("=")
        for other in (name, "--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if name.startswith("--") and other in (self._options | self._readers):
                return other + equals + value
        return token

    def _check(self, tokens: Sequence[str]) -> None:
        """Check the names and values of a command line.

        Raises:
            ValueError: for an unknown option, a value of another type, or a missing option or value.
        """
        given, words = set(), []
        for option, value in self._pairs(tokens):
            if option is None:
                words.append(value)
            else:
                given.add(option)
                self._check_option(option, value)
        for option in self._required:
            if option not in given:
                raise ValueError(f"{option[2:]}: is missing; give it as {option} {option[2:].upper()}")
        name, kind = self._positional or ("", None)
        if name and not words:
            raise ValueError(f"{name}: is missing; give it as the first argument")
        allowed = len(words) if name and accepts_list(kind) else int(bool(name))
        if words[allowed:]:
            raise ValueError(f"{words[allowed]!r} is unexpected; options start with --, and --help lists them")

    def _pairs(self, tokens: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
        """Yield (option, its value or None), and (None, word) for words that are not the value of an option."""
        rest = deque(tokens)
        while rest:
            token = rest.popleft()
            if not token.startswith("--"):
                yield None, token
                continue
            if token == "--":
                yield from ((None, word) for word in rest)
                return
            option, equals, value = token.partition("=")
            if equals or not self._takes_value(option):
                yield option, value if equals else None
            elif rest and not rest[0].startswith("--"):
                yield option, rest.popleft()
            else:
                raise ValueError(f"{option[2:]}: the value is missing; give it as {option} VALUE")

    def _takes_value(self, option: str) -> bool:
        name = option.removesuffix("+")
        return name in self._readers or self._options.get(name) is not None

    def _check_option(self, option: str, text: str | None) -> None:
        if option in self._readers:
            self._check_file(option[2:], self._readers[option], str(text))
            return
        name = option.removesuffix("+")[2:]         # --model.channel_mult+ 4 appends to the list
        check_known(name, [known[2:] for known in (self._options | self._readers)])
        kind = self._options[f"--{name}"]
        if kind is not None:
            value = value_from_text(str(text), kind, name)
            convert_value([value] if option.endswith("+") and not isinstance(value, list) else value, kind, name)
        elif text is not None and option != "--print_config":
            raise ValueError(f"{name}: does not take a value; give {option} alone")

    def _check_file(self, name: str, section: str, text: str) -> None:
        """Check the types of a file's values; their ranges are checked after later options have overridden them."""
        file = Path(text)
        if not file.is_file():
            raise ValueError(f"{name}: {text} is not a file; name a YAML file of options")
        try:
            content = read_yaml(file)
            if section:
                convert_sections({section: content})
            else:
                # Outside the sections are the options that --print_config prints along with them.
                others = {key: content.pop(key) for key in self._kinds if key in content}
                convert_mapping(others, self._kinds)
                convert_sections(content)
        except ValueError as problem:
            raise ValueError(f"{name}: {file}: {problem}") from None


def build_config(args: jsonargparse.Namespace) -> Config:
    """Return the configuration that `add_config` added to a command line.

    Raises:
        ValueError: if a value is out of range, or two options contradict each other.
    """
    given = {section: {name: args[section][name] for name in field_types(kind)} for section, kind in SECTIONS.items()}
    return Config.from_dict(given)


def parse_command(command: type[Command], prog: str, argv: Sequence[str] | None) -> Command:
    """Read a command line into a dataclass whose docstring is the help.

    The fields `model` and `runs` are positional arguments, and all others are options.

    Args:
        command: the dataclass.
        prog: name of the script.
        argv: the command line; None reads that of the program.
    """
    texts = help_texts(command)
    line = CommandLine(prog, help_description(command))
    fields = dataclasses.fields(command)        # type: ignore[arg-type]
    for f in fields:
        if f.name in ("model", "runs"):
            line.add_positional(f.name, f.type, texts[f.name])
        else:
            line.add(f.name, f.type, texts[f.name], f.default)
    args = line.parse(argv)
    try:
        return command(**{f.name: getattr(args, f.name) for f in fields})
    except ValueError as problem:
        reject_command_line(problem)


def help_description(command: type) -> str:
    """Return the text of a dataclass's docstring above its options."""
    document = docstring_parser.parse(command.__doc__ or "")
    return " ".join(filter(None, (document.short_description, document.long_description)))


def help_texts(command: type) -> dict[str, str]:
    """Return the help of each field of a dataclass, from its docstring and those of its base classes."""
    documents = [docstring_parser.parse(kind.__doc__ or "") for kind in reversed(command.__mro__[:-1])]
    return {p.arg_name: " ".join((p.description or "").split()) for document in documents for p in document.params}
