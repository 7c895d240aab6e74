"""Look-up by name. An error lists the known names and suggests the nearest one."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Variant = TypeVar("Variant")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of `known`, or an empty string if none is close."""
    by_folded = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(name).lower(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean {by_folded[close[0]]}?" if close else ""


def lookup(table: Mapping[str, Variant], name: str, key: str) -> Variant:
    """Return `table[name]`.

    Args:
        table: a dict of variants, such as `NORMS`.
        name: the name of the requested variant.
        key: the option that holds the name, such as `model.norm`; used in the message only.

    Raises:
        ValueError: if the table has no such name; lists the known names and suggests the nearest.
    """
    if name not in table:
        raise ValueError(f"{key}: {name!r} is not one of {', '.join(table)}{did_you_mean(name, table)}")
    return table[name]
