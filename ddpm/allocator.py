"""What the C library does with memory that was freed."""

import ctypes
import os
import platform

# Of malloc.h in glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the process keep memory that was freed and use it again; return whether it does so from now on.

    By default, glibc returns large blocks to the system when they are freed. A training step frees and takes hundreds
    of them, and each time the system clears new pages. Other C libraries, and a process whose environment variables
    already control this (see mallopt(3)), are left as they are.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] != "glibc" or chosen:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks of a GB or more are still returned at once, and what exceeds 2 GB at the end of the heap.
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
