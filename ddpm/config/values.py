"""Conversion of plain values, from a file, a command line or Python code, to the types and ranges of options."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from ddpm.config.foreign_names import suggest_option
from ddpm.names import did_you_mean

_NULLS = ("null", "none", "~")
_TRUTH_VALUES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    list[int]: "a list of whole numbers, such as [8, 16] or 8,16",
    list[float]: "a list of numbers, such as [1, 2.5] or 1,2.5",
    list[str]: "a list of words, separated by commas",
    list[Path]: "a list of paths",
}


class Range(NamedTuple):
    """The range of an option, which follows its type: `Annotated[int, Range(...)]`. None is always in range.

    Attributes:
        allowed: the range in words, for help and errors.
        contains: returns whether a value is in the range.
    """

    allowed: str
    contains: Callable[[Any], bool]


class Derived(NamedTuple):
    """Marks an option that may be null, in which case `ddpm.training.derived_options` derives it from the data.

    It is declared as `Annotated[int, Derived("the resolution")]`. The type is that after the derivation.
    """

    source: str


def at_least(minimum: int) -> Range:
    """Return the range of finite numbers that are not below `minimum`."""
    return Range(f"{minimum} or more", lambda value: minimum <= value < math.inf)


def between(minimum: int, maximum: int) -> Range:
    """Return the range of numbers from `minimum` to `maximum`, both included."""
    return Range(f"{minimum} to {maximum}", lambda value: minimum <= value <= maximum)


PositiveFloat = Annotated[float, Range("above 0", lambda value: 0 < value < math.inf)]
NonNegativeOrInf = Annotated[float, Range("0 or more; .inf for no limit", lambda value: value >= 0)]
PositiveOrInf = Annotated[float, Range("above 0; .inf for no limit", lambda value: value > 0)]
Probability = Annotated[float, Range("0 to less than 1", lambda value: 0 <= value < 1)]
UnitFloat = Annotated[float, Range("0 to 1", lambda value: 0 <= value <= 1)]
PositiveInt = Annotated[int, at_least(1)]
NonNegativeInt = Annotated[int, at_least(0)]
SeedInt = Annotated[int, Range("0 to 2^62 - 1", lambda value: 0 <= value < 2**62)]


class CheckedOptions:
    """Base of the dataclasses of options. It converts and checks their values.

    A subclass may name the section that its options belong to: `class ModelConfig(CheckedOptions, section="model")`.
    """

    section = ""

    def __init_subclass__(cls, section: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.section = section

    def __post_init__(self) -> None:
        prefix = f"{self.section}." if self.section else ""
        for name, kind in field_types(type(self)).items():
            given = getattr(self, name)
            if is_blank(given) and (accepts_list(kind) or {str, Path} & {*members(kind)}):
                allowed = [limit.allowed for limit in ranges(kind)] or [describe_kind(kind, bool(self.section))]
                raise ValueError(f"{prefix}{name}: {given!r} is empty; give {allowed[0]}")
            # None leaves an option of a command unset, which omitting the option does as well.
            value = convert_value(given, kind, prefix + name, offer_null=bool(self.section))
            object.__setattr__(self, name, value)
            for limit in ranges(kind):
                if value is not None and not limit.contains(value):
                    raise ValueError(f"{prefix}{name}: {show(value)} is out of range; allowed: {limit.allowed}")


def convert_value(value: Any, kind: Any, key: str, offer_null: bool = True) -> Any:
    """Return `value` as the type `kind`; ranges are not checked.

    Numbers and truth values may be given as text, and a list as text too: `[1, 2]`, `1,2`, or a single entry. `null`,
    `none` and `~` stand for None where it is allowed, unless the word is a choice of its own. An integer is accepted
    where a float is expected, but not the reverse.

    Args:
        value: a plain value, as `parse_yaml` or a command line gives it.
        kind: int, float, bool, str, Path, None, a Literal of strings, a list of these, or a union of these.
        key: the option that holds the value, such as `model.norm`; used in the message only.
        offer_null: whether the message lists null if it is allowed, and whether null is a word for None even where any
            text is a value.

    Raises:
        ValueError: if `value` cannot be converted; one line that names the option and the allowed values.
    """
    kinds, words = members(kind), choices(kind)
    text = isinstance(value, str)
    nullable = NoneType in kinds and (offer_null or not {str, Path} & {*kinds})
    if text and nullable and value.lower() in _NULLS and value.lower() not in words:
        return None
    for member in kinds:
        try:
            return _convert_to(value, member)
        except (TypeError, ValueError):
            continue
    if int in kinds and _is_large(value):
        raise ValueError(f"{key}: {show(value)} is too large; allowed: whole numbers up to 2^63 - 1")
    wrong = next((entry for entry in value if entry not in words), None) if isinstance(value, list) else value
    hint = did_you_mean(wrong, words) if isinstance(wrong, str) else ""
    if text and accepts_list(kind):
        hint = _explain_list(value, kinds) or hint
    raise ValueError(f"{key}: {show(value)} is not {describe_kind(kind, offer_null)}{hint}")


def describe_kind(kind: Any, offer_null: bool = True) -> str:
    """Return the values that a type has, in words."""
    names = []
    for member in members(kind):
        if get_origin(member) is Literal:
            names.append(f"one of {', '.join(get_args(member))}")
        elif get_origin(member) is list and (words := choices(member)):
            names.append(f"a list of {', '.join(words)}, such as [{words[0]}]")
        elif member in _NAMES and (offer_null or member is not NoneType):
            names.append(_NAMES[member])
    return " or ".join(names)


def show(value: Any) -> str:
    """Return a value for a message; a long or nested one is shortened."""
    shortened = Repr()
    shortened.maxlevel, shortened.maxlist, shortened.maxtuple = 2, 8, 8
    shortened.maxstring = shortened.maxother = 80
    return shortened.repr(value)


def spell_value(value: Any) -> str:
    """Return the value of an option as it is typed."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spell_value, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return ".inf" if value == math.inf else str(value)


def is_blank(value: Any) -> bool:
    """Return whether a value is empty text, or only spaces, or a list that holds such a text."""
    return any(isinstance(text, str) and not text.strip() for text in (value if isinstance(value, list) else [value]))


def split_list(text: str) -> list[str]:
    """Return the entries of a list that is written as `[1, 2]`, `1,2`, or a single entry.

    Raises:
        ValueError: if a bracket is not closed, or an entry is empty.
    """
    inner = text.strip()
    if inner.startswith("["):
        if not inner.endswith("]"):
            raise ValueError("a bracket is not closed")
        inner = inner[1:-1].strip()
        if not inner:
            return []
    entries = [entry.strip() for entry in inner.split(",")]
    entries = [entry[1:-1] if len(entry) > 1 and entry[0] == entry[-1] in "'\"" else entry for entry in entries]
    if not all(entries):
        raise ValueError("an entry is empty")
    return entries


def convert_mapping(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` converted to the types that `kinds` gives for their names.

    Raises:
        ValueError: for a name that is not in `kinds`, or as `convert_value`.
    """
    for name in values:
        check_known(name, kinds)
    return {name: convert_value(value, kinds[name], name) for name, value in values.items()}


def check_known(name: str, known: Collection[str]) -> None:
    """Check that an option exists.

    Raises:
        ValueError: if it does not; says what to type instead.
    """
    if name not in known:
        allowed = f"allowed: {', '.join(known)}" if len(known) < 10 else "--help-all lists the options"
        raise ValueError(f"{name} is not an option{suggest_option(name, known) or f'; {allowed}'}")


def field_types(kind: type, *excluded: str) -> dict[str, Any]:
    """Return the fields of a dataclass and their types, without the excluded ones."""
    return {field.name: field.type for field in dataclasses.fields(kind) if field.name not in excluded}


def members(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself, without annotations. An option with `Derived` may be None."""
    if get_origin(kind) is Annotated:
        annotated, *marks = get_args(kind)
        return members(annotated) + [NoneType] * any(isinstance(mark, Derived) for mark in marks)
    if get_origin(kind) in (Union, UnionType):
        return [member for arg in get_args(kind) for member in members(arg)]
    return [kind]


def ranges(kind: Any) -> list[Range]:
    """Return the ranges that a type declares."""
    if isinstance(kind, Range):
        return [kind]
    return [limit for arg in get_args(kind) for limit in ranges(arg)]


def derived_from(kind: Any) -> str | None:
    """Return what an option is derived from if it is null; None if the option is not derived."""
    marks = get_args(kind) if get_origin(kind) is Annotated else ()
    return next((mark.source for mark in marks if isinstance(mark, Derived)), None)


def choices(kind: Any) -> list[str]:
    """Return the strings of the Literal types in a type, and in the lists in it."""
    found: list[str] = []
    for member in members(kind):
        found += get_args(member) if get_origin(member) is Literal else []
        found += choices(*get_args(member)) if get_origin(member) is list else []
    return found


def accepts_list(kind: Any) -> bool:
    """Return whether a list is a value of the type."""
    return any(get_origin(member) is list for member in members(kind))


def _convert_to(value: Any, kind: Any) -> Any:
    """Return the value as a type that is not a union; raises TypeError or ValueError if that is not possible."""
    text = isinstance(value, str)
    if get_origin(kind) is list:
        entries = split_list(value) if text else [*value] if isinstance(value, list | tuple) else [value]
        return [_convert_to(entry, *get_args(kind)) for entry in entries]
    if get_origin(kind) is Literal and text and value in get_args(kind):
        return value
    if get_origin(kind) is not None or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    if text and "\0" in value:
        raise ValueError
    if kind is float:
        number = math.inf if value == ".inf" else float(value)
        # Other text must stand for a finite number: "nan" and "inf" are more likely mistakes, and 1e400 is infinite.
        if math.isnan(number) or (text and math.isinf(number) and value != ".inf"):
            raise ValueError
        return number
    if kind is int and text and (power := re.fullmatch(r"([0-9]+)[eE]\+?([0-9]{1,2})", value)):
        value = int(power[1]) * 10 ** int(power[2])
    elif kind is Path and text:
        value = Path(os.path.expanduser(value))     # a shell leaves the ~ in --run-dir=~/run
    elif kind is Path or (kind is int and text):
        value = kind(value)
    if kind is bool and text:
        value = _TRUTH_VALUES.get(value.lower())
    if not isinstance(value, kind) or _is_large(value):
        raise TypeError
    return value


def _is_large(value: Any) -> bool:
    """Return whether a value is an integer, or the text of one, that 64 bits do not hold."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9_]{1,4000}", value):
        value = int(value.replace("_", "") or "0")
    return isinstance(value, int) and abs(value) >= 2**63


def _explain_list(text: str, kinds: Collection[Any]) -> str:
    """Return what is wrong with a list that is written as text."""
    words = text.strip("[] ").split()
    if len(words) > 1 and "," not in text:
        return f"; separate the entries by commas: {','.join(words)}"
    try:
        entries = split_list(text)
    except ValueError as problem:
        return f"; {problem}"
    for kind in (get_args(kind)[0] for kind in kinds if get_origin(kind) is list):
        for entry in entries:
            try:
                _convert_to(entry, kind)
            except (TypeError, ValueError):
                near = did_you_mean(entry, choices(kind))
                return f"; {entry!r} is not {_NAMES.get(kind, 'one of them')}{near}" if len(entries) > 1 else ""
    return ""
