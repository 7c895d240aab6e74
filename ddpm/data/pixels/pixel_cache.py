"""Decoded pixels in files that all processes of a machine map, so that pictures are decoded once.

Files are in the folder `images` of the cache. Their names begin with KEY, a digest of

- the path and the stamp (`ddpm.data.pixels.stamps`) of every image file, all of which are checked each time,
- the rows that are used, and the options that change how they are decoded,
- the code of `ddpm.data`, and the versions of the libraries that decode.

A file that is written twice within a tick of the clock may keep its stamp. Files that have just been written are
therefore given SETTLED_SECONDS to change again before they are decoded.

    KEY.json            what the pictures are like
    KEY-FORMAT.pixels   their pixels in a format
    KEY-CONTENT.json    the digests of their content, with their labels

Whatever is incomplete or damaged is made again. Nothing is removed but the unfinished files of killed processes.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import PIL
from PIL import features
from torch import Tensor

from ddpm.atomic import json_digest
from ddpm.cache import cache_directory
from ddpm.data.images import MappedPixels
from ddpm.data.pixels.decode import PixelFormat
from ddpm.data.pixels.pixel_files import (
    DIGEST_BYTES,
    Draft,
    NotCached,
    checksum,
    not_cached_if_it_fails,
    read_facts,
    read_sealed,
    write_sealed,
)
from ddpm.data.pixels.stamps import stamp_files
from ddpm.data.pixels.survey import PictureFacts, PixelFacts, Survey
from ddpm.data.records import Pictures
from ddpm.processes import warn

SMALL_BYTES = 4e6           # of pixels that are decoded each time, in seconds
SETTLED_SECONDS = 2.0       # the coarsest clock of a usual file system
MALFORMED = (ValueError, KeyError, TypeError)       # raised for JSON that is not what was written

Storage = Literal["memory", "cache", "demand"]


class StorageLimits(NamedTuple):
    """Maximum sizes of decoded pixels in bytes.

    Attributes:
        memory: of those in the memory of each process.
        cache: of those in a file of the cache.
    """

    memory: float
    cache: float = 0


class Entry(NamedTuple):
    """Decoded pictures in the cache.

    Attributes:
        pixels: of the readable ones.
        bad: the sorted indices of unreadable ones.
        facts: what the pixels are like.
    """

    pixels: MappedPixels
    bad: list[int]
    facts: PixelFacts


def may_be_cached(size: int, limits: StorageLimits) -> bool:
    """Return whether the cache may have pixels of at most a size, in bytes."""
    return min(size, limits.cache) > SMALL_BYTES


def choose_storage(size: int, limits: StorageLimits, free: Callable[[], int] = lambda: 0) -> Storage:
    """Return where pixels are kept: in a mapped file, in the memory of each process, or nowhere.

    Small ones are not worth a file. A file takes at most half of the free space.

    Args:
        size: of the pixels in bytes.
        limits: what is allowed.
        free: returns the free space of the disk in bytes.

    Raises:
        NotCached: if there is not enough free space.
    """
    if SMALL_BYTES < size <= limits.cache:
        if 2 * size > (space := free()):
            raise NotCached(f"it has {_format_bytes(space)} free, and twice their {_format_bytes(size)} are needed")
        return "cache"
    return "memory" if size <= limits.memory else "demand"


class PixelCache:
    """The entries of the cache for some pictures.

    Args:
        pictures: of a source.
        rows: int64 (N,), the rows that are used.
        recipe: what else determines the pixels, besides their format, as JSON.
    """

    def __init__(self, pictures: Pictures, rows: Tensor, recipe: Any) -> None:
        self._identity = pictures, rows, recipe
        self.folder = cache_directory() / "images"
        self.key, self._newest = self._identify()
        self._draft: Draft | None = None

    def _identify(self) -> tuple[str | None, float]:
        """Return the key, None if the pictures are not those of files; and when a file was last changed."""
        pictures, rows, recipe = self._identity
        origin = pictures.origin(rows.tolist())
        files = [] if origin is None else list(dict.fromkeys(origin.files))
        stamps = stamp_files(files)
        if origin is None or stamps is None:
            return None, 0
        digest = hashlib.blake2b(json.dumps([_versions(), recipe, origin.facts]).encode(), digest_size=DIGEST_BYTES)
        digest.update(rows.numpy().tobytes())
        known = dict(zip(files, stamps, strict=True))
        for file in origin.files:
            digest.update(f"{os.path.abspath(file)}\0{[*known[file]]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest(), max((stamp.changed for stamp in stamps), default=0) / 1e9

    def find_survey(self) -> Survey | None:
        """Return what the pictures are like; None if it is not known."""
        with suppress(*MALFORMED):
            content = read_sealed(self.folder / f"{self.key}.json")
            return None if content is None else _survey_of(content)
        return None

    def find(self, target: PixelFormat) -> Entry | None:
        """Return the pictures in a format; None if they are not in the cache, or damaged there."""
        file, _, rows = self._file(target), *self._identity[:2]
        with suppress(OSError, *MALFORMED):
            content = read_facts(file)
            if content is None or content["shape"] != [len(rows) - len(content["bad"]), *target.shape]:
                return None
            entry = Entry(MappedPixels(file, tuple(content["shape"])), content["bad"], PixelFacts(*content["facts"]))
            if checksum(entry.pixels) != content["checksum"]:
                return None
            size = _format_bytes(prod(entry.pixels.shape))
            _announce(f"reading {len(entry.pixels.tensor):,} decoded images from {file} ({size})")
            return entry
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time decode the pictures; where files cannot be locked, all of them may."""
        file = self.folder / f"{self.key}.lock"
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = _acquire(file)
        except OSError:     # no locks, or not writable, of which `allocate` tells
            yield
            return
        with lock:
            for left in self.folder.glob(f".{self.key}-*.tmp"):       # by a process that was killed
                with suppress(OSError):
                    left.unlink()
            try:
                yield
            finally:
                file.unlink(missing_ok=True)

    def allocate(self, target: PixelFormat, count: int) -> "Draft":
        """Return a file for the pixels of all pictures, in place of an earlier one.

        Raises:
            NotCached: if it cannot be written.
        """
        self.discard()
        self._settle()
        size = count * prod(target.shape)
        _announce(f"decoding {count:,} images, once, into {self._file(target)} ({_format_bytes(size)})")
        self._draft = Draft(self._file(target), (count, *target.shape))
        return self._draft

    def free(self) -> int:
        """Return the free space for the cache, in bytes; raise `NotCached` if it is not writable."""
        with not_cached_if_it_fails():
            self.folder.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.folder).free

    def publish(
        self, survey: Survey, target: PixelFormat, bad: list[int], examine: Callable[[Tensor], PixelFacts]
    ) -> Entry:
        """Add the pictures that have been decoded into the file from `allocate`.

        Args:
            survey: what they are like.
            target: their format.
            bad: the sorted indices of unreadable ones, whose pixels are left out.
            examine: returns what the pixels are like.

        Raises:
            NotCached: if they cannot be written.
        """
        assert self._draft is not None
        with not_cached_if_it_fails():
            draft = self._draft.without(bad)
            pixels = MappedPixels(draft.working, draft.shape)
            facts = examine(pixels.tensor)
            content = {"shape": draft.shape, "bad": bad, "facts": facts, "checksum": checksum(pixels)}
            draft.finish(json.dumps(content).encode())
            write_sealed(self.folder / f"{self.key}.json", _survey_json(survey))
        self._draft = None
        return Entry(MappedPixels(self._file(target), draft.shape), bad, facts)

    def discard(self) -> None:
        """Remove the file from `allocate`, if it was not published."""
        if self._draft is not None:
            self._draft.remove()
        self._draft = None

    def recall(self, inputs: Any, compute: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return what `compute` returned for the same pictures and inputs before, or now."""
        file = self.folder / f"{self.key}-{json_digest(inputs, 2 * DIGEST_BYTES)}.json"
        content = read_sealed(file)
        if content is None:
            content = compute()
            with suppress(OSError):     # next time, then
                write_sealed(file, content)
        return content

    def _file(self, target: PixelFormat) -> Path:
        return self.folder / f"{self.key}-{json_digest(dataclasses.asdict(target), 2 * DIGEST_BYTES)}.pixels"

    def _settle(self) -> None:
        """Wait until a later change of any file gives it another stamp; raise `NotCached` if one changed meanwhile."""
        wait = self._newest + SETTLED_SECONDS - time.time()
        if wait > 2 * SETTLED_SECONDS:
            raise NotCached("a file of the data was changed in the future, so the clock is wrong")
        if wait > 0:
            time.sleep(wait)
            if self._identify()[0] != self.key:
                raise NotCached("files of the data are changing")


@cache
def _versions() -> list[str | None]:
    """Return a digest of the code that makes pixels, and the versions of the libraries that it calls."""
    code = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(file.read_bytes())
    decoders = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff")
    return [code.hexdigest(), np.__version__, PIL.__version__, *map(features.version, decoders)]


def _acquire(file: Path) -> IO[str]:
    """Return the locked file, after other processes have released it; raise OSError if files cannot be locked.

    Unlike `acquire_lock`, it must not pretend a lock, because its owner removes unfinished files of others.
    """
    told = False
    while True:
        lock = file.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if told else fcntl.LOCK_NB))
        except BlockingIOError:
            lock.close()
            _announce(f"waiting for another process that decodes the images into {file.parent}")
            told = True
            continue
        except OSError:
            lock.close()
            raise
        # Its last owner may have removed it since it was opened.
        if file.exists() and os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            return lock
        lock.close()


def _announce(line: str) -> None:
    """Print a line; only the first process does."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def warn_uncached(problem: NotCached) -> None:
    """Print a warning that the cache cannot be used."""
    warn(
        f"data.cache_gb: decoded images are not kept in {cache_directory() / 'images'}: {problem}; set the environment "
        "variable DDPM_CACHE to another folder, or use data.cache_gb 0"
    )


def _format_bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _survey_json(survey: Survey) -> dict[str, Any]:
    return {"total": survey.total, "counts": [[*facts, number] for facts, number in survey.counts.items()]}


def _survey_of(content: dict[str, Any]) -> Survey:
    counts = Counter[PictureFacts]()
    for *values, number in content["counts"]:
        counts[PictureFacts._make(tuple(value) if isinstance(value, list) else value for value in values)] = number
    return Survey(counts, content["total"])
