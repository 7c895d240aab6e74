"""The texts of --help and --help-all, made from the docstrings, types and defaults of the options."""

import dataclasses
import re
import shutil
import textwrap
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import docstring_parser

from ddpm.cli.help_pages import HELP_PAGES
from ddpm.config.commands import Overrides
from ddpm.config.sections import SECTIONS, Config
from ddpm.config.values import accepts_list, choices, derived_from, field_types, members, ranges

COLUMN = 28                 # where the texts begin
LONGEST_CHOICES = 24        # longer lists of choices are in the text
_WORDS = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", Path: "PATH"}


class Option(NamedTuple):
    """An option, or a positional argument, for the help.

    Attributes:
        spelling: as it is typed, such as `--train.steps`.
        kind: type of the value; None if there is no value.
        default: default value; None and MISSING are not shown for options of a command.
        text: help text.
    """

    spelling: str
    kind: Any
    default: Any
    text: str


def help_text(command: type, usage: str, positional: str | None, everything: bool) -> str:
    """Return the help of a command.

    Args:
        command: the dataclass of its options.
        usage: the shortest command line.
        positional: the field that is given without an option, if any.
        everything: whether to list all options in their groups, or those that are usual for the command.
    """
    page = HELP_PAGES[command]
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 110)
    groups = _groups(command, positional)
    usual = {f"--{name}" for name in page.usual}
    hidden = 0
    if usual and not everything:
        first, *others = groups.items()
        of_usual = [option for _, options in others for option in options if option.spelling in usual]
        hidden = sum(len(options) for _, options in others) - len(of_usual)
        groups = dict([first]) | {"usual options": sorted(of_usual, key=lambda o: page.usual.index(o.spelling[2:]))}
    summary, _ = help_texts(command)
    blocks = [f"usage: {usage}", textwrap.fill(summary, width)]
    for title, options in groups.items():
        blocks.append("\n".join([f"{title}:", *(_render(option, width, brief=not everything) for option in options)]))
    blocks.append("\n".join(["examples:", *(_render_example(example, width) for example in page.examples)]))
    more = f"--help-all lists {hidden} more options. " if hidden else ""
    if any(option.kind is not None and accepts_list(option.kind) for options in groups.values() for option in options):
        more += "A list is typed as 1,2,4, and --OPTION+ VALUE appends to it. "
    blocks.append(textwrap.fill(f"{more}Documents: {', '.join(page.documents)}", width))
    return "\n\n".join(blocks)


def help_texts(command: type) -> tuple[str, dict[str, str]]:
    """Return a dataclass's summary and the help text of each of its options, including inherited ones."""
    documents = [docstring_parser.parse(kind.__doc__ or "") for kind in reversed(command.__mro__[:-1])]
    texts = {p.arg_name: " ".join((p.description or "").split()) for document in documents for p in document.params}
    return " ".join(filter(None, (documents[-1].short_description, documents[-1].long_description))), texts


def _groups(command: type, positional: str | None) -> dict[str, list[Option]]:
    """Return the options of a command in groups: its own first, then inherited ones and those of the sections."""
    _, texts = help_texts(command)
    own: list[Option] = []
    groups: dict[str, list[Option]] = {"options": own}
    for field in dataclasses.fields(command):
        if field.type is Overrides:
            continue
        spelling = field.name.upper() if field.name == positional else f"--{field.name.replace('_', '-')}"
        kind = Path if field.type is Config else None if field.type is bool else field.type
        option = Option(spelling, kind, None if field.type is Config else field.default, texts[field.name])
        bases = [base for base in command.__mro__ if dataclasses.is_dataclass(base) and field.name in field_types(base)]
        inherited = bases[-1] is not command and field.name != positional
        (groups.setdefault(_title(bases[-1]), []) if inherited else own).append(option)
    own.sort(key=lambda option: option.spelling.startswith("--"))
    own.append(Option("--help, --help-all", None, None, "print the usual options, or all options, and exit."))
    kinds = {*field_types(command).values()}
    if {Config, Overrides} & kinds:
        for section, kind in SECTIONS.items():
            defaults = vars(kind()) if Config in kinds else dict.fromkeys(field_types(kind), "that of the base")
            groups[f"{section}: {_title(kind)}"] = [
                Option(f"--{section}.{field.name}", field.type, defaults[field.name], text)
                for field, text in ((f, help_texts(kind)[1][f.name]) for f in dataclasses.fields(kind))
            ]
            if Config in kinds:
                file = Option(f"--{section}", Path, None, "YAML file of the options above, without the section's name.")
                groups[f"{section}: {_title(kind)}"].append(file)
    return groups


def _title(kind: type) -> str:
    title = (docstring_parser.parse(kind.__doc__ or "").short_description or "").removesuffix(".")
    return title[:1].lower() + title[1:] if not title[:2].isupper() and title[1:2] != "-" else title


def _render(option: Option, width: int, brief: bool) -> str:
    """Return the lines of an option; a brief text is the first sentence, shortened, and the default."""
    placeholder = _placeholder(option.kind)
    head = f"  {option.spelling}" + (f" {placeholder}" if placeholder and option.spelling.startswith("--") else "")
    remarks = [f"one of {', '.join(choices(option.kind))}"] if placeholder.startswith("NAME") else []
    remarks += [] if brief else [limit.allowed for limit in ranges(option.kind)]
    remarks += _default_remark(option)
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    text = option.text
    if brief:
        first, *others = re.split(r"(?<=\.)\s+(?=[A-Z`])", text)
        text = " ".join([first, *(sentence for sentence in others if sentence.startswith("Default"))])
        # Two lines for all, or one for the text if the remark is long.
        space = max(width - COLUMN, 2 * (width - COLUMN) - len(remark) - 4)
        text = textwrap.shorten(text, space, placeholder=" ...", break_on_hyphens=False)
    lines = textwrap.wrap(text + remark, width - COLUMN, break_on_hyphens=False)
    if len(head) > COLUMN - 2:
        return "\n".join([head, *(" " * COLUMN + line for line in lines)])
    return "\n".join([head.ljust(COLUMN) + lines[0], *(" " * COLUMN + line for line in lines[1:])])


def _placeholder(kind: Any) -> str:
    """Return the values of an option for the help, such as `INT` or `ddpm|diffusers`; empty without a value."""
    found: list[str] = []
    for member in members(kind) if kind is not None else []:
        if get_origin(member) is list:
            found.append("{0},{0},...".format(_WORDS.get(get_args(member)[0], "NAME")))
        elif get_origin(member) is Literal:
            names = "|".join(get_args(member))
            found.append(names if len(names) <= LONGEST_CHOICES else "NAME")
        elif member is not NoneType:
            found.append(_WORDS[member])
    return "|".join(found)


def _default_remark(option: Option) -> list[str]:
    """Return the default as it is typed. Options of a command that default to nothing say so in their texts."""
    if option.default is dataclasses.MISSING or option.kind is None:
        return []
    if option.default is None:
        if "." not in option.spelling:
            return []
        source = derived_from(option.kind)
        return [f"default: {'null' if source is None else f'derived from {source}'}"]
    return [f"default: {_typed(option.default)}"]


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_typed, value)) or "[]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _render_example(example: tuple[str, str], width: int) -> str:
    """Return a comment and a command, which continues in further lines where it is long."""
    comment, command = example
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if len(lines[-1]) + len(part) > width - 5 and lines != [""]:
            lines.append(f"    {part}")
        else:
            lines[-1] = f"{lines[-1]} {part}".strip() if lines == [""] else f"{lines[-1]} {part}"
    return f"  # {comment}\n  " + " \\\n  ".join(lines)
