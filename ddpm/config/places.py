"""Where the files and folders of images are that a run names by relative paths.

A configuration keeps paths as they were typed, so that a run can be moved together with its images and is saved without
the names of folders of one machine. run.json records what they meant where the run was started.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ddpm.config.sections import DataConfig

OPTIONS_WITH_PATHS = ("source", "labels")                   # of the section `data`
RESERVED = ("digits", "auto", "folders", "filename", "none")           # values of these options that are no paths


def find_places(data: DataConfig) -> dict[str, str]:
    """Return the absolute path of each relative one that leads somewhere from the working directory."""
    typed = {getattr(data, name) for name in OPTIONS_WITH_PATHS}
    return {path: os.path.abspath(path) for path in sorted(typed) if is_relative(path) and _leads_to_no_run(path)}


def is_relative(path: str) -> bool:
    """Return whether the value of an option may be a path, and depends on the working directory if it is."""
    return path not in RESERVED and not os.path.isabs(os.path.expanduser(path))


def with_places(data: DataConfig, places: Mapping[str, str], prefer_typed: bool = False) -> DataConfig:
    """Return options in which paths lead to what they meant where a run was started.

    Args:
        data: the options as they were typed.
        places: from `find_places`, there and then.
        prefer_typed: use a path as it was typed if there is something at it here, as for a command that may have named
            it; otherwise only if there is nothing any more at its place.
    """
    typed = {name: getattr(data, name) for name in OPTIONS_WITH_PATHS}
    found: dict[str, Any] = {name: resolve_path(path, places, prefer_typed) for name, path in typed.items()}
    return dataclasses.replace(data, **found)


def resolve_path(path: str, places: Mapping[str, str], prefer_typed: bool = False) -> str:
    """Return the path to use for a path as it was typed; the other arguments are those of `with_places`."""
    place = places.get(path, path)
    paths = (path, place) if prefer_typed else (place, path)
    return next(filter(_leads_to_no_run, paths), place)


def _leads_to_no_run(path: str) -> bool:
    """Return whether a path leads to something other than a run, which is named as its images are by default."""
    path = os.path.expanduser(path)
    return os.path.exists(path) and not os.path.exists(os.path.join(path, "run.json"))


def is_gone(data: DataConfig, option: str) -> bool:
    """Return whether an option, such as `data.source`, is a path to nothing. (It may still be a name on the Hub.)"""
    name = option.removeprefix("data.")
    path = getattr(data, name) if name in OPTIONS_WITH_PATHS else "none"
    return path not in RESERVED and not os.path.exists(os.path.expanduser(path))


def is_same_path(a: str, b: str) -> bool:
    """Return whether two values of an option with paths name the same thing."""
    return a == b or os.path.realpath(os.path.expanduser(a)) == os.path.realpath(os.path.expanduser(b))
