"""Looking up images by the names that a table has for them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ddpm.data.folders.scan import is_image
from ddpm.data.labels.table_files import Find
from ddpm.names import to_nfc


@dataclass(frozen=True)
class ImageIndex:
    """Images by their paths and names, for all tables beside them.

    Attributes:
        images: paths of the images.
    """

    images: Sequence[Path]

    @cached_property
    def paths(self) -> dict[str, list[Path]]:
        """The images by their absolute paths, as in `index_images`."""
        return index_images((os.path.abspath(image), image) for image in self.images)

    @cached_property
    def names(self) -> dict[str, list[Path]]:
        """The images by the names of their files."""
        return index_images((image.name, image) for image in self.images)

    def finders(self, bases: Iterable[Path]) -> list[Find]:
        """Return two ways to find the images with a name.

        The first takes a path, absolute or relative to one of the folders `bases`. The second looks at the last part of
        the name only, as for absolute paths of another machine, unless the path is that of another file, such as an
        image of another split. Both also take a name without suffix. Only one of the images with a name can be meant by
        it.
        """
        roots = list(dict.fromkeys(os.path.abspath(base) for base in bases))

        def find_path(text: str) -> list[Path]:
            tries = (look_up(self.paths, os.path.normpath(os.path.join(root, text))) for root in roots)
            return next((found for found in tries if found), [])

        def find_name(text: str) -> list[Path]:
            found = look_up(self.names, text.replace("\\", "/").rpartition("/")[2])
            is_other = found and any(os.path.exists(os.path.join(root, text)) for root in roots)
            return [] if is_other else found

        return [find_path, find_name]


def listed_finders(folder: Path) -> list[Find]:
    """Return two ways to find the image files that a table in `folder` lists as a source.

    The first takes a path, absolute or relative to `folder`, and the second one that is relative to a folder in it.
    Both also take a path without suffix.
    """

    @cache
    def images_in(parent: Path) -> dict[str, list[Path]]:
        names = (name for name in _list(parent) if is_image(Path(name)) and os.path.isfile(parent / name))
        return index_images((name, parent / name) for name in names)

    @cache
    def folders() -> list[Path]:
        return [folder / name for name in _list(folder) if os.path.isdir(folder / name) and not name.startswith(".")]

    def find_in(parent: Path, text: str) -> list[Path]:
        path = parent / os.path.expanduser(text)
        if os.path.isfile(path):
            return [path]
        for form in (text.replace("\\", "/"), normalize_path(text)):
            path = parent / os.path.expanduser(form)
            found = look_up(images_in(path.parent), path.name)
            if found:
                return found
        return []

    def find_beside(text: str) -> list[Path]:
        return [path for inner in folders() for path in find_in(inner, text)]

    return [lambda text: find_in(folder, text), find_beside]


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):       # no folder, or no name of one
        return []


def index_images(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Map names, with and without suffix, to the images that have them.

    A whole name comes before one without suffix, and either in the Unicode form that it has before that in NFC.
    """
    stems, own_stems, wholes, own_wholes = (defaultdict[str, list[Path]](list) for _ in range(4))
    for name, image in named:
        whole = normalize_path(name)
        stem = os.path.splitext(whole)[0]
        stems[stem].append(image)
        own_stems[stem if name == whole else os.path.splitext(name)[0]].append(image)
        wholes[whole].append(image)
        own_wholes[name].append(image)
    return {**stems, **own_stems, **wholes, **own_wholes}


def look_up(index: dict[str, list[Path]], name: str) -> list[Path]:
    """Return the images with a name in the Unicode form of the name, or else in any."""
    return index.get(name) or index.get(normalize_path(name), [])


def normalize_path(text: str) -> str:
    """Return a path as it is compared: with slashes, and in the same Unicode form on all systems."""
    return to_nfc(text.replace("\\", "/"))
