"""Memory that was freed, in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import torch
from ddpm.allocator import keep_freed_memory

assert keep_freed_memory() == (sys.argv[1] == "keep")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    images = [torch.zeros(1_000_000) for _ in range(20)]
    del images
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(expected: str, **environment: str) -> int:
    """Return how many pages of 4 KB the system hands out when 80 MB are taken, after they were freed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNT_FAULTS, expected]
    run = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_used_again() -> None:
    assert count_faults("keep") < 1000


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_settings_of_the_user_are_kept(environment: dict[str, str]) -> None:
    """80 MB are 19,531 pages."""
    assert count_faults("leave", **environment) > 15_000
