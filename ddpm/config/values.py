"""Conversion of plain values, from a file, a command line or Python code, to the types of dataclass fields."""

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ddpm.names import did_you_mean

_TRUTH_VALUES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def convert_value(value: Any, kind: Any, key: str) -> Any:
    """Return `value` as the type `kind`.

    Numbers and truth values may be given as text. An integer is accepted where a float is expected, but not the
    reverse.

    Args:
        value: a plain value, as `yaml.safe_load` returns it.
        kind: int, float, bool, str, Path, None, a Literal of strings, a list of these, or a union of these.
        key: the option that holds the value, such as `model.norm`; used in the message only.

    Raises:
        ValueError: if `value` cannot be converted; one line that names the option and the allowed values.
    """
    members = _members(kind)
    for member in members:
        try:
            return _convert_to(value, member)
        except (TypeError, ValueError):
            continue
    hint = did_you_mean(value, choices(kind)) if isinstance(value, str) else ""
    if isinstance(value, bool) and (str in members or choices(kind)):
        hint = '; put a word that YAML reads as a truth value in quotes, such as "off"'
    raise ValueError(f"{key}: {value!r} is not {expected(kind)}{hint}")


def convert_fields(instance: Any, section: str = "") -> None:
    """Convert the fields of a frozen dataclass instance in place; for its `__post_init__`.

    Args:
        instance: the dataclass instance.
        section: prefix of the option names in messages, such as `model`; none by default.

    Raises:
        ValueError: as `convert_value`.
    """
    for field in dataclasses.fields(instance):
        key = f"{section}.{field.name}" if section else field.name
        object.__setattr__(instance, field.name, convert_value(getattr(instance, field.name), field.type, key))


def convert_mapping(values: Mapping[str, Any], kinds: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return `values` converted to the types that `kinds` gives for their names.

    Raises:
        ValueError: for a name that is not in `kinds`, or as `convert_value`.
    """
    prefix = f"{section}." if section else ""
    for name in values:
        check_known(f"{prefix}{name}", [f"{prefix}{known}" for known in kinds])
    return {name: convert_value(value, kinds[name], f"{prefix}{name}") for name, value in values.items()}


def check_known(key: str, known: Iterable[str]) -> None:
    """Check that an option exists.

    Raises:
        ValueError: if it does not; names the nearest option.
    """
    known = list(known)
    if key not in known:
        raise ValueError(f"{key} is not an option{did_you_mean(key, known)}")


def check_range(fits: bool, key: str, value: Any, allowed: str) -> None:
    """Raise ValueError with the option, its value and the allowed range unless `fits`."""
    if not fits:
        raise ValueError(f"{key}: {value!r} is out of range; allowed: {allowed}")


def field_types(kind: type, *excluded: str) -> dict[str, Any]:
    """Return the fields of a dataclass and their types, without the excluded ones."""
    return {field.name: field.type for field in dataclasses.fields(kind) if field.name not in excluded}


def accepts_none(kind: Any) -> bool:
    """Return whether None is a value of the type."""
    return type(None) in _members(kind)


def accepts_list(kind: Any) -> bool:
    """Return whether a list is a value of the type."""
    return any(get_origin(member) is list for member in _members(kind))


def choices(kind: Any) -> list[str]:
    """Return the strings of the Literal types in a type."""
    return [choice for member in _members(kind) if get_origin(member) is Literal for choice in get_args(member)]


def expected(kind: Any) -> str:
    """Return what values a type accepts, as it follows "is not" in a message."""
    members = _members(kind)
    named = [_NAMES[member] for member in members if member in _NAMES]
    if choices(kind):
        named.insert(0, f"one of {', '.join(choices(kind))}")
    for member in members:
        if get_origin(member) is list:
            (item,) = get_args(member)
            named.append(f"a list of {_PLURALS[item]}, such as {_EXAMPLES[item]}")
    return " or ".join(named)


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}
_EXAMPLES = {int: "[8, 16]", float: "[1, 2.5]", str: "[a, b]", Path: "[a, b]"}


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    if kind is None:
        return (type(None),)
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _convert_to(value: Any, kind: Any) -> Any:
    """Return the value as a type that is not a union.

    Raises:
        TypeError, ValueError: if that is not possible.
    """
    text = isinstance(value, str)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        (item,) = get_args(kind)
        return [_convert_to(entry, item) for entry in value]
    if get_origin(kind) is Literal:
        if not text or value not in get_args(kind):
            raise ValueError
        return value
    if kind is bool:
        if text:
            value = _TRUTH_VALUES.get(value.lower())
        fits = isinstance(value, bool)
    elif kind is int:
        value = int(value) if text else value
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif kind is float:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        # As text only finite numbers: "nan" and "inf" are more likely mistakes, and 1e400 is infinite.
        fits = not math.isnan(number) and (math.isfinite(number) or not text)
        value = number
    elif kind is Path:
        value = Path(value)
        fits = True
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise ValueError
    return value
