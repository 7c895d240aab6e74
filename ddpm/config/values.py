"""Conversion of plain values, from a file, a command line or Python code, to the types and ranges of options."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from ddpm.names import did_you_mean

_TRUTH_VALUES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    list[int]: "a list of whole numbers, such as [8, 16]",
    list[float]: "a list of numbers, such as [1, 2.5]",
    list[Path]: "a list of paths",
}


class Range(NamedTuple):
    """The range of an option, declared with its type as `Annotated[type, Range(...)]`. None is always in range."""

    allowed: str
    contains: Callable[[Any], bool]


def at_least(minimum: int) -> Range:
    """Return the range of numbers that are not below `minimum`."""
    return Range(f"{minimum} or more", lambda value: value >= minimum)


PositiveFloat = Annotated[float, Range("above 0", lambda value: value > 0)]
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
            # None leaves an option of a command unset, which omitting the option does as well.
            value = convert_value(getattr(self, name), kind, prefix + name, offer_null=bool(self.section))
            object.__setattr__(self, name, value)
            for limit in ranges(kind):
                if value is not None and not limit.contains(value):
                    raise ValueError(f"{prefix}{name}: {value!r} is out of range; allowed: {limit.allowed}")


def convert_value(value: Any, kind: Any, key: str, offer_null: bool = True) -> Any:
    """Return `value` as the type `kind`; ranges are not checked.

    Numbers and truth values may be given as text. An integer is accepted where a float is expected, but not the
    reverse.

    Args:
        value: a plain value, as `yaml.safe_load` returns it.
        kind: int, float, bool, str, Path, None, a Literal of strings, a list of these, or a union of these.
        key: the option that holds the value, such as `model.norm`; used in the message only.
        offer_null: whether the message lists null if it is allowed.

    Raises:
        ValueError: if `value` cannot be converted; one line that names the option and the allowed values.
    """
    for member in members(kind):
        try:
            return _convert_to(value, member)
        except (TypeError, ValueError):
            continue
    words = choices(kind)
    of_list = any(get_origin(member) is list and choices(member) for member in members(kind))
    names = [f"one of {', '.join(words)}"] if words and not of_list else []
    names += [f"a list of {', '.join(words)}, such as [{words[0]}]"] if of_list else []
    listed = [member for member in members(kind) if offer_null or member is not NoneType]
    names += [_NAMES[member] for member in listed if member in _NAMES]
    wrong = next((entry for entry in value if entry not in words), None) if isinstance(value, list) else value
    hint = did_you_mean(wrong, words) if isinstance(wrong, str) else ""
    if isinstance(value, bool) and (words or "text" in names):
        hint = '; put a word that YAML reads as a truth value in quotes, such as "off"'
    raise ValueError(f"{key}: {value!r} is not {' or '.join(names)}{hint}")


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
        ValueError: if it does not; names the nearest option.
    """
    if name not in known:
        raise ValueError(f"{name} is not an option{did_you_mean(name, known)}")


def field_types(kind: type, *excluded: str) -> dict[str, Any]:
    """Return the fields of a dataclass and their types, without the excluded ones."""
    return {field.name: field.type for field in dataclasses.fields(kind) if field.name not in excluded}


def members(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself, without annotations."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for arg in get_args(kind) for member in members(arg)]
    return [kind]


def ranges(kind: Any) -> list[Range]:
    """Return the ranges that a type declares."""
    if isinstance(kind, Range):
        return [kind]
    return [limit for arg in get_args(kind) for limit in ranges(arg)]


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
    if get_origin(kind) is list and isinstance(value, list | tuple):
        return [_convert_to(entry, *get_args(kind)) for entry in value]
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if get_origin(kind) is not None or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    if kind is float:
        number = float(value)
        # A string must stand for a finite number: "nan" and "inf" are more likely mistakes, and 1e400 is infinite.
        if math.isnan(number) or (text and math.isinf(number)):
            raise ValueError
        return number
    if kind is Path or (kind is int and text):
        return kind(value)
    if kind is bool and text:
        value = _TRUTH_VALUES.get(value.lower())
    if not isinstance(value, kind):
        raise TypeError
    return value
