"""Compilation of networks by torch.compile."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.utils._triton import has_triton


def check_compiler(device: torch.device, option: str) -> None:
    """Check that torch.compile finds what it needs to generate code for a device.

    It looks for these only when a network is first called, and then ends with a long traceback.

    Args:
        device: of the network.
        option: that asks for compilation, such as `train.compile`, for the message.

    Raises:
        ValueError: names what is missing.
    """
    missing = find_missing_tool(device)
    if missing is not None:
        raise ValueError(f"{option}: {missing}, or leave {option} out")


def find_missing_tool(device: torch.device) -> str | None:
    """Return what torch.compile lacks on a device and what to do about it; None if nothing."""
    if device.type not in ("cpu", "cuda"):
        return f"is possible on CPUs and CUDA GPUs, and the device is {device.type}; use one of these"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "needs the header files of Python, which are missing; install them (the package python3-dev on Debian)"
    if device.type == "cuda":
        if not has_triton():
            return "needs Triton and a GPU of compute capability 7.0 or more; install Triton with pip install triton"
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):      # as Triton looks for it
            return "needs a C compiler, and there is none; install gcc"
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler  # only now, because importing the compiler takes seconds
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        named = os.environ.get("CXX")
        which = "there is none" if named is None else f"{named!r}, which the environment variable CXX names, is none"
        return f"needs a C++ compiler, and {which}; install g++, or name another compiler in CXX"
    return None


def compile_network(network: nn.Module, *, cuda_graphs: bool = False, backend: str = "inductor") -> None:
    """Compile the calls of a network, in place: it remains the same module, and its parameters keep their names.

    Each combination of shapes is compiled when it first occurs, as one graph. Call `check_compiler` before.

    Args:
        network: the network.
        cuda_graphs: on a CUDA GPU, replay the kernels of a call as one unit. The next call then overwrites the output.
        backend: of torch.compile.
    """
    network.compile(fullgraph=True, dynamic=False, backend=backend, mode="reduce-overhead" if cuda_graphs else None)


def compilation_seconds() -> float:
    """Return how long this process has compiled so far, in seconds."""
    from torch._dynamo.utils import calculate_time_spent  # only now, because importing the compiler takes seconds

    return calculate_time_spent()["total_wall_time"]
