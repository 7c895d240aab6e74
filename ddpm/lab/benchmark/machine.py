"""The machine that measures, and the largest number of operations per second that its GPU is said to make."""

import platform
import re
from pathlib import Path
from typing import Any

import torch

from ddpm.io.provenance import git_commit, versions

# Dense operations per second of tensor cores, in units of 10^12: the first pattern that the name of a GPU has decides.
# NVIDIA's data sheets of H100 (SXM, PCIe and NVL), H200 and A100; where they state the speed with sparsity, half of it.
# fp32 networks use TF32 in convolutions, which are most of the work, so their peak is that of TF32.
PEAKS = {
    r"H100 PCIe": {"bf16": 756.0, "fp16": 756.0, "fp32": 378.0},
    r"H100 NVL": {"bf16": 835.5, "fp16": 835.5, "fp32": 417.5},
    r"H100|H200": {"bf16": 989.5, "fp16": 989.5, "fp32": 494.5},
    r"A100": {"bf16": 312.0, "fp16": 312.0, "fp32": 156.0},
}


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Return what durations depend on: processor, GPU, threads and versions of software."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": git_commit(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32},
    }


def find_peak(gpu: str | None, precision: str) -> float | None:
    """Return the operations per second of a GPU's tensor cores in a precision; None if they are not known.

    Args:
        gpu: name of the GPU, as torch gives it; None without one.
        precision: fp32, bf16 or fp16.
    """
    peaks = next((peaks for pattern, peaks in PEAKS.items() if re.search(pattern, gpu or "")), None)
    return None if peaks is None else peaks[precision] * 1e12


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
