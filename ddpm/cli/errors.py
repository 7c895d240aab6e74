"""Errors that the user can correct: one line, exit code 2."""

import os
import re
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from ddpm.one_line import print_error

# What torch says if memory does not suffice, on a GPU and on a CPU, and for tensors that no memory could hold.
_OUT_OF_MEMORY = "out of memory|allocate memory|Storage size calculation overflowed"
# What torch says about a kernel that has no deterministic form, or cuBLAS none because of a variable.
_NOT_DETERMINISTIC = r"(\S+) does not have a deterministic implementation|CUBLAS_WORKSPACE_CONFIG"
# Errors of the C++ compiler that torch.compile calls, with its output, and of the C compiler that Triton calls.
_CXX_FAILED = r"(?s)CppCompileError: .*?Output:\s*(.*)"
_CC_FAILED = r"Command '\['([^']*/)?([^'/]+-)?(cc|gcc|clang)[-.\d]*',.*returned non-zero exit status \d+"


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
    except (MemoryError, RuntimeError, subprocess.CalledProcessError) as problem:
        if found := re.search(_NOT_DETERMINISTIC, str(problem)):
            kernel = found[1] or "cuBLAS with this CUBLAS_WORKSPACE_CONFIG (unset it)"
            fail(f"train.deterministic: {kernel} has no deterministic form; use train.deterministic false", names)
        if found := re.search(_CXX_FAILED, str(problem)):
            option = "train.compile" if "train.compile" in (names or {}) else "compile"
            lines = found[1].splitlines() or [""]
            said = next((line for line in lines if re.search("error|cannot find|No space", line)), lines[0])
            fail(
                f"{option}: the C++ compiler fails: {said!r}; install g++, name another compiler in the environment "
                f"variable CXX, or leave {option} out",
                names,
            )
        if re.search(_CC_FAILED, str(problem)):
            fail(
                "CC: the C compiler fails, with which Triton completes the kernels of norms and of torch.compile; "
                "install gcc, or name another compiler in the environment variable CC"
            )
        if isinstance(problem, subprocess.CalledProcessError):
            raise
        if not isinstance(problem, MemoryError) and not re.search(_OUT_OF_MEMORY, str(problem)):
            from ddpm.processes import explain_disconnection  # imported only now, because it takes long

            explain_disconnection(problem)
            raise
        fail(
            "memory: there is too little; use a smaller batch size or model, and for training perhaps more "
            "train.gradient_accumulation_steps, or model.gradient_checkpointing true"
        )
