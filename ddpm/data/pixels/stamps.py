"""What tells that a file has changed, without reading it.

A file that is written gets a new time of its last change of status, which no program can set. File systems without this
time (FAT, exFAT, some network shares) are trusted to change the size or the time of the last change of content.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

CHECKED_TOGETHER = 1024     # files per task of the thread pool


class Stamp(NamedTuple):
    """What is known of a file; times are in nanoseconds since 1970.

    Attributes:
        size: in bytes.
        inode: number of the file in its file system.
        modified: when its content was last changed; programs can set it.
        changed: when its status was last changed, which writing to it does, too.
    """

    size: int
    inode: int
    modified: int
    changed: int


def stamp_files(files: Sequence[str]) -> list[Stamp] | None:
    """Return the stamps of files; None if one of them cannot be found."""
    with ThreadPoolExecutor(usable_cores() + 4) as pool:
        parts = pool.map(
            lambda start: [_stamp(file) for file in files[start : start + CHECKED_TOGETHER]],
            range(0, len(files), CHECKED_TOGETHER),
        )
        try:
            return [stamp for part in parts for stamp in part]
        except OSError:
            return None


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)        # macOS does not have it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _stamp(file: str) -> Stamp:
    found = os.stat(file)
    return Stamp(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
