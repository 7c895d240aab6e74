"""Files of decoded pixels, and of what is known of them, that are complete or not used.

A file of pixels begins with them, uint8 (N, C, H, W), so that they can be mapped. Facts follow as JSON, then the length
of these in 8 bytes, their digest in 16, and END.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from torch import Tensor

from ddpm.atomic import json_digest, write_text
from ddpm.data.images import MappedPixels

PIECES, PIECE_BYTES = 256, 2**16     # that are compared with their checksum: all of up to 17 MB, evenly spaced of more
END = b"ddpm pixels 1"
DIGEST_BYTES = 16


class NotCached(Exception):
    """The cache cannot be used; the message is the reason."""


@contextmanager
def not_cached_if_it_fails() -> Iterator[None]:
    """Convert errors of files in the cache to `NotCached`."""
    try:
        yield
    except OSError as problem:
        raise NotCached(problem.strerror or str(problem)) from problem


class Draft:
    """An entry that is being written, by several threads.

    Args:
        file: its final name.
        shape: (N, C, H, W).

    Raises:
        NotCached: in all methods, if the file cannot be written.
    """

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        self.working = file.with_name(f".{file.name}.{token_hex(4)}.tmp")
        with not_cached_if_it_fails():
            self._opened = self.working.open("w+b", buffering=0)
            self._opened.truncate(prod(shape))

    def __setitem__(self, index: int, pixels: Tensor) -> None:
        """Write one picture, uint8 (C, H, W)."""
        self._write(index * prod(self.shape[1:]), pixels.numpy().tobytes())

    def without(self, bad: Sequence[int]) -> "Draft":
        """Leave out some pictures; the others move up."""
        size, left = prod(self.shape[1:]), sorted({*range(self.shape[0])} - {*bad}) if bad else []
        for place, index in enumerate(left):
            if place != index:
                self._write(place * size, os.pread(self._opened.fileno(), size, index * size))
        self.shape = (self.shape[0] - len(bad), *self.shape[1:])
        self._opened.truncate(prod(self.shape))
        return self

    def finish(self, facts: bytes) -> None:
        """Add facts to the pixels, flush all to disk, and give the file its name."""
        digest = hashlib.blake2b(facts, digest_size=DIGEST_BYTES).digest()
        self._write(prod(self.shape), facts + len(facts).to_bytes(8, "little") + digest + END)
        os.fsync(self._opened.fileno())
        self._opened.close()
        self.working.replace(self.file)

    def remove(self) -> None:
        """Remove the file."""
        self._opened.close()
        with suppress(OSError):
            self.working.unlink(missing_ok=True)

    def _write(self, position: int, content: bytes) -> None:
        # Not through a map: a full disk would kill the process there.
        with not_cached_if_it_fails():
            if os.pwrite(self._opened.fileno(), content, position) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_facts(file: Path) -> dict[str, Any] | None:
    """Return the facts of an entry; None if there is no complete one."""
    tail = 8 + DIGEST_BYTES + len(END)
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            opened.seek(max(0, size - tail))
            end = opened.read(tail)
            length = int.from_bytes(end[:8], "little")
            if len(end) < tail or not end.endswith(END) or length > size - tail:
                return None
            opened.seek(size - tail - length)
            facts = opened.read(length)
    except OSError:
        return None
    if hashlib.blake2b(facts, digest_size=DIGEST_BYTES).digest() != end[8 : 8 + DIGEST_BYTES]:
        return None
    content: dict[str, Any] = json.loads(facts)
    return content if prod(content["shape"]) + length + tail == size else None


def checksum(pixels: MappedPixels) -> str:
    """Return a digest of pieces of an entry, which are read in a moment; reading all of a large one would take long."""
    values = pixels.tensor.numpy().reshape(-1)
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    starts = np.linspace(0, max(0, len(values) - PIECE_BYTES), PIECES).astype(np.int64)
    if len(values) <= PIECES * PIECE_BYTES:
        starts = np.arange(0, len(values), PIECE_BYTES)
    for start in starts:
        digest.update(values[start : start + PIECE_BYTES].data)
    return digest.hexdigest()


def write_sealed(file: Path, content: Any) -> None:
    """Write a value as JSON with its digest, atomically; raise OSError as in `write_text`."""
    write_text(file, json.dumps({"content": content, "digest": json_digest(content)}))


def read_sealed(file: Path) -> Any:
    """Return what `write_sealed` wrote; None if there is no such file, or it is damaged."""
    try:
        sealed = json.loads(file.read_bytes())
        return sealed["content"] if sealed["digest"] == json_digest(sealed["content"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
