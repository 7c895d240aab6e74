"""The machine that measures."""

import platform
import re
from pathlib import Path
from typing import Any

import torch

from ddpm.io.provenance import git_commit, versions


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


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
