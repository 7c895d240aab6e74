"""Errors that the user can put right: one line, exit code 2."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


def fail(line: str) -> NoReturn:
    """Prints one line to standard error and exits with code 2."""
    rank = os.environ.get("RANK", "0")
    origin = "" if rank == "0" else f" in process {rank}"
    print(f"{Path(sys.argv[0]).name}: error{origin}: {line}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error that the user can put right into one line and exit code 2.

    Those are `ValueError`s raised by this package's own code, and files that cannot be read or written. Anything else
    is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except ValueError as problem:
        frame = problem.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is None or not frame.tb_frame.f_globals.get("__name__", "").startswith("ddpm."):
            raise
        fail(" ".join(str(problem).split()))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:
        if problem.strerror is None:
            raise
        fail(f"{problem.filename or 'input/output'}: {problem.strerror}")
