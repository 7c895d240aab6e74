"""Atomic writing of files and directories, and checksums that show whether a directory is intact."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

MANIFEST = "MANIFEST.json"
CHECKPOINT_NAME = re.compile(r"step_([0-9]+)")
TRAINING_TENSORS = "training/*.safetensors"     # files of a checkpoint that only a run that continues reads


def write_directory_atomically(directory: Path, fill: Callable[[Path], Mapping[str, str] | None]) -> None:
    """Create `directory` with the files that `fill` writes, or leave everything as it was.

    `fill` gets an empty temporary directory next to the target. Its files are flushed to disk and listed with their
    SHA-256 in a manifest, which is written last; only then is the temporary directory renamed. An existing directory
    of the same name is replaced.

    Args:
        directory: the directory.
        fill: writes the files. It may return the SHA-256 of files, by their paths in the directory, that it computed
            from what it wrote; the others are read again to hash them.

    Raises:
        OSError: if the disk is full or not writable.
    """
    working, replaced = _temporary_names(directory)
    recover(directory)
    try:
        working.mkdir(parents=True)
        known = fill(working) or {}
        files = sorted(p for p in working.rglob("*") if p.is_file())
        names = [str(p.relative_to(working)) for p in files]
        manifest = {name: known.get(name) or sha256(working / name) for name in names}
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
        if isinstance(problem, SafetensorError) and "os error" in str(problem):     # safetensors wraps the OSError
            reason = str(problem).removeprefix("Error while serializing: ")
            raise OSError(errno.EIO, reason, str(directory)) from problem
        raise


def recover(directory: Path) -> None:
    """Clean up after a process that was killed in `write_directory_atomically`.

    A previous version that had been set aside gets its name back, and temporary directories are removed.

    Raises:
        OSError: if the previous version cannot be renamed.
    """
    working, replaced = _temporary_names(directory)
    shutil.rmtree(working, ignore_errors=True)
    if replaced.exists() and not directory.exists():
        replaced.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _temporary_names(directory: Path) -> tuple[Path, Path]:
    """Return the paths of the directory being written and of the previous version that it replaces."""
    return directory.with_name(f".{directory.name}.tmp"), directory.with_name(f".{directory.name}.old")


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file from the manifest of a directory; empty if it has no manifest."""
    file = directory / MANIFEST
    return json.loads(file.read_text()) if file.is_file() else {}


def find_damage(directory: Path, ignored: str = "") -> str | None:
    """Return what is wrong with a directory that has a manifest, in a few words; None if it is intact.

    Args:
        directory: the directory.
        ignored: pattern of the files, by their paths in the directory, that are not examined.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        for name, digest in manifest.items():
            if not fnmatch(name, ignored) and sha256(directory / name) != digest:
                return f"{name} has changed"
    except FileNotFoundError as problem:
        return f"{Path(problem.filename).name} is missing"
    except OSError as problem:
        return f"{Path(problem.filename or directory).name} cannot be read: {problem.strerror}"
    except (ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, which are named after their step as step_00001000 is, the newest last.

    A copy with another name, such as step_00001000-copy, is somebody's own and is left alone.
    """
    found = [path for path in folder.glob("step_*") if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path | None) -> int:
    """Return the training step of a checkpoint, 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step_"))


def _find_other_step(checkpoint: Path) -> str | None:
    """Return that a checkpoint is one of another step, in a few words; None if it is not."""
    state = checkpoint / "training" / "state.json"
    step = json.loads(state.read_text()).get("step") if state.is_file() else None
    return None if step in (None, step_of(checkpoint)) else f"it is a copy of step {step}"


def newest_intact(folder: Path, ignored: str = "") -> tuple[Path | None, dict[Path, str]]:
    """Return the newest intact checkpoint in a folder, and the problem of each damaged one after it.

    Args:
        folder: the folder.
        ignored: as in `find_damage`.
    """
    damaged: dict[Path, str] = {}
    for directory in reversed(list_checkpoints(folder)):
        problem = find_damage(directory, ignored) or _find_other_step(directory)
        if problem is None:
            return directory, damaged
        damaged[directory] = problem
    return None, damaged


@contextmanager
def with_path_in_error(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that is raised while this file is written."""
    try:
        yield
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror or str(problem), str(path)) from problem


@contextmanager
def atomic_write(path: Path, flushed: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to `path` once it is complete; after an error nothing is left.

    Args:
        path: final name; an existing file is replaced.
        flushed: whether to flush the file to disk before it is renamed.

    Raises:
        OSError: if the disk is full or not writable; the message names `path`.
    """
    # The random name lets several processes write the same file; the last one to finish replaces equal content.
    working = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with with_path_in_error(path):
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


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        OSError: as in `atomic_write`.
    """
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as an indented JSON file, atomically.

    Raises:
        OSError: as in `atomic_write`.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Args:
        path: the file.
        keys: keys that the object must have.

    Raises:
        ValueError: if the file was changed so that it is no such object; the message names it.
        OSError: if it cannot be read.
    """
    remedy = "restore the file, or choose another directory"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path}: is damaged, it is not JSON; {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is damaged, it is not a JSON object; {remedy}")
    for key in keys:
        if key not in content:
            raise ValueError(f"{path}: is damaged, {key} is missing; {remedy}")
    return content


def json_digest(value: Any, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a value in JSON form.

    The order of keys does not matter. Values that JSON does not have, such as paths, count as their string.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:length]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
