"""Properties of the devices that networks run on, and copies to them."""

import platform
import re
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

# Dense operations per second of tensor cores, in units of 10^12, in 16 bits and in TF32: the first pattern in the name
# of a GPU decides. From NVIDIA's data sheets; where they state the speed with sparsity, half of it. fp32 networks
# use TF32 in convolutions, which are most of the work, so their peak is that of TF32.
PEAKS = {
    r"H100 PCIe": (756.0, 378.0),
    r"H100 NVL": (835.5, 417.5),
    r"H100|H200": (989.5, 494.5),
    r"\bA100": (312.0, 156.0),
    r"\bB200": (2250.0, 1100.0),
    r"\bL40S": (362.0, 183.0),
    r"\bL4\b": (121.0, 60.0),
    r"RTX 4090\b": (165.2, 82.6),
}


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the CPU to a device, without waiting for what a CUDA GPU is computing."""
    # CUDA reads a small tensor before the call returns. Other devices may read it after it was freed.
    return tensor.to(device, non_blocking=device.type == "cuda")


def find_peak(gpu: str | None, precision: str) -> float | None:
    """Return the operations per second of a GPU's tensor cores in a precision; None if they are not known.

    Args:
        gpu: name of the GPU, as torch gives it; None without one.
        precision: fp32, bf16 or fp16.
    """
    peaks = next((peaks for pattern, peaks in PEAKS.items() if re.search(pattern, gpu or "")), None)
    return None if peaks is None else peaks[precision == "fp32"] * 1e12


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in bytes: of tensors on a GPU since the start, or of this process for other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor_name() -> str:
    """Return the name of the processor; on systems other than Linux, what Python knows of it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
