"""Errors that end a command, printed as one line."""

import os
import sys
from pathlib import Path


def print_error(text: str) -> None:
    """Print an error to standard error as one line, with the name of the script and of the process.

    Args:
        text: begins with the name of what is wrong, such as an option or a file, and a colon.
    """
    rank = os.environ.get("RANK", "0")
    origin = "" if rank == "0" else f" in process {rank}"
    print(f"{Path(sys.argv[0]).name}: error{origin}: {' '.join(text.split())}", file=sys.stderr, flush=True)
