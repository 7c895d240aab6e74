"""Errors that the user can correct: one line, exit code 2."""

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from ddpm.one_line import print_error

# What torch says if memory does not suffice, on a GPU and on a CPU, and for tensors that no memory could hold.
_OUT_OF_MEMORY = "out of memory|allocate memory|Storage size calculation overflowed"
# What torch says about a kernel that has no deterministic form, or cuBLAS none because of a variable.
_NOT_DETERMINISTIC = r"(\S+) does not have a deterministic implementation|CUBLAS_WORKSPACE_CONFIG"
# What torch.compile says if the compiler of C++ fails, with its first line, or that of C, which Triton needs.
_COMPILER_FAILED = r"CppCompileError: (?s:.*?)Output:\s*(.*)|CalledProcessError: (.*)"


def fail(problem: object, names: Mapping[str, str] | None = None) -> NoReturn:
    """Print one line to standard error and exit with code 2.

    Args:
        problem: its text begins with the name of what is wrong, such as an option or a file, and a colon.
        names: options, and what the message calls them: `--train.steps`, or the file that the value is from. This is
            the one place where the name of an option becomes what a person has typed.
    """
    name, colon, rest = str(problem).partition(":")
    print_error(f"{(names or {}).get(name, name)}{colon}{rest}")
    raise SystemExit(2)


def reject_command_line(problem: Exception, names: Mapping[str, str]) -> NoReturn:
    """Exit with code 2 because of a mistake on the command line, which only the first process prints."""
    if os.environ.get("RANK", "0") != "0":
        raise SystemExit(2)
    fail(problem, names)


@contextmanager
def one_line_errors(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn an error that the user can correct into one line and exit code 2.

    These are `ValueError`s that code of this package raises, files that cannot be read or written, too little memory,
    kernels that train.deterministic excludes, compilers that fail, and other processes that have died. Any other error
    is a bug and keeps its traceback. Ctrl-C exits silently with code 130.

    Args:
        names: as for `fail`.
    """
    try:
        yield
    except ValueError as problem:
        *_, (frame, _) = traceback.walk_tb(problem.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith("ddpm."):
            raise
        fail(problem, names)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:
        if problem.strerror is None:
            raise
        fail(f"{problem.filename or 'input/output'}: {problem.strerror}")
    except (MemoryError, RuntimeError) as problem:
        if found := re.search(_NOT_DETERMINISTIC, str(problem)):
            kernel = found[1] or "cuBLAS with this CUBLAS_WORKSPACE_CONFIG (unset it)"
            fail(f"train.deterministic: {kernel} has no deterministic form; use train.deterministic false", names)
        if found := re.search(_COMPILER_FAILED, str(problem)):
            option = "train.compile" if "train.compile" in (names or {}) else "compile"
            said = found[1] or found[2]
            fail(
                f"{option}: the compiler fails: {said!r}; install g++ and gcc, name others in the environment "
                f"variables CXX and CC, or leave {option} out",
                names,
            )
        if not isinstance(problem, MemoryError) and not re.search(_OUT_OF_MEMORY, str(problem)):
            from ddpm.processes import explain_disconnection  # imported only now, because it takes long

            explain_disconnection(problem)
            raise
        fail(
            "memory: there is too little; use a smaller batch size or model, and for training perhaps more "
            "train.gradient_accumulation_steps, or model.gradient_checkpointing true"
        )
