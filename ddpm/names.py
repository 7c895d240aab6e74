"""Look-up by name. An error lists the known names and suggests the nearest one."""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

Variant = TypeVar("Variant")

NO_CLASS = "none"       # the null class as text, and the row and folder of images without a class

# Common names of things that have another name here; for hints only.
_SYNONYMS = {
    "fid": "frechet_distance",
    "kid": "kernel_distance",
    "mmd": "kernel_distance",
    "is": "inception_score",
    "nll": "bits_per_dim",
    "bpd": "bits_per_dim",
    **dict.fromkeys(("no", "false", "disabled"), "off"),
    **dict.fromkeys(("yes", "true", "on", "enabled"), "online"),
}


def to_nfc(text: str) -> str:
    """Return a text in Unicode's form NFC; some file systems change the form of names, such as HFS+ to NFD."""
    return unicodedata.normalize("NFC", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of `known`, other than `name`; an empty string if none is close."""
    near = nearest_name(name, (each for each in known if each != name))
    return "" if near is None else f"; did you mean {near}?"


def did_you_mean_path(path: Path) -> str:
    """Return `; did you mean PATH?` for the nearest name in the folder of a missing file, or an empty string."""
    near = nearest_name(path.name, os.listdir(path.parent)) if os.path.isdir(path.parent) else None
    return "" if near is None else f"; did you mean {path.parent / near}?"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the nearest of `known`; None if none is close."""
    by_folded = {str(k).lower(): str(k) for k in known}
    folded = str(name).lower()
    synonym = _SYNONYMS.get(folded)
    close = [synonym] if synonym in by_folded else get_close_matches(folded, by_folded, n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None


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
