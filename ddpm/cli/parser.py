"""jsonargparse, with each error in one line that names the key and the nearest option."""

import dataclasses
import os
import re
import sys
from typing import Any, NoReturn

import jsonargparse

from ddpm.cli.errors import fail
from ddpm.config.sections import SECTIONS, Config
from ddpm.names import did_you_mean


class Parser(jsonargparse.ArgumentParser):
    """A parser of command lines and of what files hold."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(allow_abbrev=False, **kw)

    def parse_args(self, args: list[str] | None = None, *rest: Any, **kw: Any) -> Any:
        # Both spellings of an option's name are understood: --dry-run and --dry_run.
        given = sys.argv[1:] if args is None else args
        known = {option for action in self._actions for option in action.option_strings}
        try:
            return super().parse_args([self._respelled(token, known) for token in given], *rest, **kw)
        except UnicodeDecodeError:
            return self.error("config: the file is not text")

    @staticmethod
    def _respelled(token: str, known: set[str]) -> str:
        name, equals, value = token.partition("=")
        for other in (name, "--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if name.startswith("--") and other in known:
                return other + equals + value
        return token

    def instantiate(self, namespace: Any, **kw: Any) -> Any:
        for name in SECTIONS:
            if not isinstance(namespace[name], jsonargparse.Namespace):
                options = ", ".join(f.name for f in dataclasses.fields(SECTIONS[name]))
                return self.error(f"{name}: {namespace[name]!r} is not a section; its options are {options}")
        try:
            return super().instantiate(namespace, **kw)
        except (ValueError, TypeError) as problem:
            return self.error(str(problem))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = self._one_line(message)
        if not self.exit_on_error:
            raise ValueError(line)
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)         # every process reads the same command line; one message is enough
        fail(line)

    def _one_line(self, message: str) -> str:
        options = [o.lstrip("-") for action in self._actions for o in action.option_strings if not o.endswith("+")]
        unknown = (
            re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'", message)
            or re.search(r"Option '(?P<key>[\w.]+)' is not accepted", message)
            or re.search(r"unrecognized arguments: --(?P<key>[\w.-]+)", message)
        )
        if unknown:
            group = unknown.groupdict().get("group")
            key = f"{group}.{unknown['key']}" if group else unknown["key"]
            return f"{key} is not an option{did_you_mean(key, options)}"
        wrong = re.search(r'Parser key "(?P<key>[\w.]+)":(?P<problem>.*)', message, re.DOTALL)
        if wrong:
            problem = re.sub(r"<class '(\w+)'>", r"\1", wrong["problem"])
            return f"{wrong['key']}: {' '.join(problem.split())}"
        return " ".join(message.split())


def add_sections(parser: jsonargparse.ArgumentParser) -> None:
    """Makes the options of a configuration known."""
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)


def to_config(namespace: Any) -> Config:
    """What was read and instantiated."""
    return Config(**{name: namespace[name] for name in SECTIONS})
