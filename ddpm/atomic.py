"""Directories that appear whole or not at all, and that know whether they are still what was written."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

MANIFEST = "MANIFEST.json"


def publish(directory: Path, fill: Callable[[Path], None]) -> None:
    """Makes `directory` with the files that `fill` writes into an empty folder.

    The files are written beside it, flushed to the disk, listed with their SHA-256 in a manifest that is written last,
    and only then given their name; whatever had that name before is replaced. If anything fails, nothing is left.

    Raises:
        OSError: if the disk is full or may not be written to.
    """
    working, replaced = _beside(directory)
    recover(directory)
    try:
        working.mkdir(parents=True)
        fill(working)
        files = sorted(p for p in working.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(working)): sha256(p) for p in files}
        (working / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in [*files, working / MANIFEST, *(p for p in working.rglob("*") if p.is_dir()), working]:
            _flush(path)
        if directory.exists():
            directory.rename(replaced)
        working.rename(directory)
        _flush(directory.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as problem:
        recover(directory)
        if isinstance(problem, SafetensorError) and "os error" in str(problem):     # it wraps the system's own error
            reason = str(problem).removeprefix("Error while serializing: ")
            raise OSError(errno.EIO, reason, str(directory)) from problem
        raise


def recover(directory: Path) -> None:
    """Puts right what a process left that was killed in `publish`: what it had set aside has its name again.

    Nothing whole is lost, and nothing else is left beside the directory.

    Raises:
        OSError: if it may not be renamed.
    """
    working, replaced = _beside(directory)
    shutil.rmtree(working, ignore_errors=True)
    if replaced.exists() and not directory.exists():
        replaced.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _beside(directory: Path) -> tuple[Path, Path]:
    """Where `publish` works, and where it sets aside what is to be replaced."""
    return directory.with_name(f".{directory.name}.tmp"), directory.with_name(f".{directory.name}.old")


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of each file as it was published; empty where nothing was."""
    file = directory / MANIFEST
    return json.loads(file.read_text()) if file.is_file() else {}


def damage(directory: Path) -> str | None:
    """What is wrong with a published directory, in a few words; None if it is as it was written."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        for name, digest in manifest.items():
            if sha256(directory / name) != digest:
                return f"{name} has changed"
    except FileNotFoundError as problem:
        return f"{Path(problem.filename).name} is missing"
    except OSError as problem:
        return f"{Path(problem.filename or directory).name} cannot be read: {problem.strerror}"
    except (ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def newest_intact(folder: Path, pattern: str = "step_*") -> tuple[Path | None, dict[Path, str]]:
    """The last directory by name that is as it was published, and what is wrong with each one after it."""
    damaged = {}
    for directory in sorted((path for path in folder.glob(pattern) if path.is_dir()), reverse=True):
        problem = damage(directory)
        if problem is None:
            return directory, damaged
        damaged[directory] = problem
    return None, damaged


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an error of the operating system the name of the file that is being written."""
    try:
        yield
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror or str(problem), str(path)) from problem


@contextmanager
def appearing(path: Path, flushed: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to, which gets the name `path` when it is whole; if anything fails, nothing is left.

    Args:
        path: its name; what is there is replaced.
        flushed: whether it is on the disk before it gets its name.

    Raises:
        OSError: if the disk is full or may not be written to; names `path`.
    """
    # A name of its own: several processes may make the same file, and the last to finish replaces it by its equal.
    working = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with naming(path):
        try:
            with working.open("wb") as file:
                yield file
                file.flush()
                if flushed:
                    os.fsync(file.fileno())
            working.replace(path)
        except BaseException:
            working.unlink(missing_ok=True)
            raise


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
