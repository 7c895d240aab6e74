"""Look-up by name, with an error that names what is allowed and what was probably meant."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Entry = TypeVar("Entry")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean X?` for the nearest of `known`, or an empty string if none is near."""
    by_folded = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(name).lower(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean {by_folded[close[0]]}?" if close else ""


def lookup(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    """Returns `table[name]`.

    Args:
        table: the dict of variants, such as `NORMS`.
        name: the entry asked for.
        key: the option that carries the name, such as `model.norm`; used in the message only.

    Raises:
        ValueError: if there is no such entry; lists the known ones and the nearest.
    """
    if name not in table:
        raise ValueError(f"{key}: {name!r} is not one of {', '.join(table)}{did_you_mean(name, table)}")
    return table[name]
