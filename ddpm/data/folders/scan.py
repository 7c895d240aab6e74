"""A folder with everything below it, sorted into images, tables, and what is ignored and why."""

import errno
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ddpm.names import to_nfc

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tga", ".tif", ".tiff", ".webp",
))
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"))
ARRAY_SUFFIXES = frozenset((".npz", ".npy"))


class OtherKind(NamedTuple):
    """Files that are not read, but from which images can be made.

    Attributes:
        suffixes: of their names, in lower case.
        remedy: what to do to train on them.
    """

    suffixes: tuple[str, ...]
    remedy: str


# Reasons for which files and folders are ignored; a count may follow, as in "hidden files (3)". A name has the first
# kind with one of its endings, so that .nii.gz is no archive.
TABLES, OTHERS = "tables", "other files"
OTHER_KINDS = {
    "videos": OtherKind(
        (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
         ".webm", ".wmv"),
        "extract frames, for example with ffmpeg -i clip.mp4 -vf fps=5 clip_%05d.png",
    ),
    "photos in HEIC or a raw format": OtherKind(
        (".heic", ".heif", ".hif", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
        "convert them to JPEG or PNG",
    ),
    "medical images": OtherKind(
        (".dcm", ".dicom", ".ima", ".mha", ".mhd", ".nii", ".nii.gz", ".nrrd"),
        "save their values as an array (N, H, W) in an .npz or .npy file, and set data.intensity to the range to show",
    ),
    "drawings and documents": OtherKind((".ai", ".eps", ".pdf", ".psd", ".svg", ".xcf"), "export them as PNG"),
    "archives": OtherKind(
        (".7z", ".bz2", ".gz", ".rar", ".tar", ".tbz2", ".tgz", ".txz", ".xz", ".zip", ".zst"), "unpack them"
    ),
}
# fmt: on
CYCLES = "links to a folder that contains them"
BESIDE_CLASSES = "images beside the class folders"
BESIDE_PARQUET = "image files beside parquet files"
BESIDE_SPLITS = "images beside the folders of the splits"
OTHER_SPLITS = "images of other splits"
NOT_DOWNLOADED = "images that iCloud has not downloaded"
NO_FILES = "pipes, sockets and devices"     # reading one may never end

# What operating systems, network drives and tools leave behind and do not hide: macOS, Windows, Synology, QNAP,
# NetApp, Linux, Python, Jupyter, Picasa. In lower case.
_SYSTEM = re.compile(
    r"__macosx|network trash folder|temporary items|thevolumesettingsfolder|icon\r|desktop d[bf]"
    r"|thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin|found\.\d{3}"
    r"|system volume information|config\.msi|~\$.*|@eadir|#recycle|#snapshot|@tmp|@sharebin|@syno.*"
    r"|.*@syno(eastream|resource)|@recycle|@recently-snapshot|@__thumb|~snapshot|lost\+found|__pycache__"
    r"|.*\.ipynb_checkpoints|picasa\.ini"
)


@dataclass(frozen=True)
class Folder:
    """The content of a folder.

    Attributes:
        path: of the folder; if it is put together of others, of the one that contains them.
        name: of the folder; if it is one of a split, of the class whose images it has.
        folders: the folders in it, sorted by name; all names are sorted in the same Unicode form on all systems.
        images: the image files directly in it, sorted.
        others: reason -> the files or folders directly in it that are not read as images for this reason, sorted.
    """

    path: Path
    name: str
    folders: tuple["Folder", ...]
    images: tuple[Path, ...]
    others: Mapping[str, Sequence[Path]]

    @cached_property
    def images_below(self) -> tuple[Path, ...]:
        """The image files at any depth, sorted."""
        return tuple(sorted((path for folder in self.walk() for path in folder.images), key=_in_order))

    @property
    def tables(self) -> Sequence[Path]:
        """The files directly in it that could contain labels, sorted."""
        return self.others.get(TABLES, ())

    @property
    def ignored_below(self) -> Counter[str]:
        """Reason -> number of files or folders at any depth that are not read for this reason."""
        return sum((folder.ignored for folder in self.walk()), Counter())

    @property
    def ignored(self) -> Counter[str]:
        """Reason -> number of files or folders directly in it that are not read for this reason."""
        return Counter({reason: len(paths) for reason, paths in self.others.items()})

    def others_below(self, reason: str) -> list[Path]:
        """Return the files or folders at any depth that are not read for a reason."""
        return [path for folder in self.walk() for path in folder.others.get(reason, ())]

    def walk(self) -> Iterator["Folder"]:
        """Yield the folder and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


def scan_folder(path: Path) -> Folder:
    """Return the content of a folder. Linked files and folders are part of it; hidden ones are ignored.

    Raises:
        OSError: if a folder cannot be read, or the target of a link does not exist. A broken link with the name of an
            image counts as an image, which is unreadable.
    """
    return _scan(path, ())


def _scan(path: Path, above: tuple[tuple[int, int], ...]) -> Folder:
    status = path.stat()
    above += ((status.st_dev, status.st_ino),)
    folders, images, others = [], [], defaultdict[str, list[Path]](list)
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=lambda entry: (to_nfc(entry.name), entry.name))
    for entry in ordered:
        inner, is_folder = path / entry.name, entry.is_dir()
        reason = _why_ignored(entry.name, is_folder)
        if reason is not None:
            others[reason].append(inner)
        elif is_folder:
            status = entry.stat()       # of the target of a link
            if (status.st_dev, status.st_ino) in above:
                others[CYCLES].append(inner)
            else:
                folders.append(_scan(inner, above))
        elif is_image(inner) and (entry.is_file() or not inner.exists()):
            images.append(inner)
        elif entry.is_file():
            is_table = inner.suffix.lower() in TABLE_SUFFIXES
            others[TABLES if is_table else other_kind(entry.name) or OTHERS].append(inner)
        elif inner.exists():
            others[NO_FILES].append(inner)
        else:
            remedy = f"is a broken link to {os.readlink(inner)!r}; restore its target, or remove the link"
            raise FileNotFoundError(errno.ENOENT, remedy, str(inner))
    return Folder(path, path.name, tuple(folders), tuple(images), others)


def _in_order(path: Path) -> tuple[Path, Path]:
    return Path(to_nfc(str(path))), path


def _why_ignored(name: str, is_folder: bool) -> str | None:
    """Return why a file or folder is not data by its name; None if it may be."""
    kind = "folders" if is_folder else "files"
    if name.startswith("."):            # also the companions that macOS writes (`._cat.jpg`)
        return NOT_DOWNLOADED if name.endswith(".icloud") else f"hidden {kind}"
    return f"system {kind}" if _SYSTEM.fullmatch(name.lower()) else None


def other_kind(name: str) -> str | None:
    """Return the entry of OTHER_KINDS that a file name belongs to."""
    return next((kind for kind, other in OTHER_KINDS.items() if name.lower().endswith(other.suffixes)), None)


def is_image(path: Path) -> bool:
    """Return whether a file name is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES
