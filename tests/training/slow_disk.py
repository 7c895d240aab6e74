"""Started by test_saving.py: scripts/train.py on a disk that takes a while for each file of tensors.

Usage: slow_disk.py SECONDS [options of scripts/train.py]
"""

import sys
import time
from pathlib import Path

from torch import Tensor

from ddpm.cli.train import main
from ddpm.training import snapshot


def slow_down(seconds: float) -> None:
    """Let the disk take so long for the second half of each file."""
    write = snapshot.write_tensors

    def write_slowly(path: Path, tensors: dict[str, Tensor]) -> str:
        digest = write(path, tensors)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        time.sleep(seconds)
        path.write_bytes(whole)
        return digest

    snapshot.write_tensors = write_slowly


if __name__ == "__main__":
    slow_down(float(sys.argv.pop(1)))
    main()
