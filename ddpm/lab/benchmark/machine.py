"""The machine that measures."""

from typing import Any

import torch

from ddpm.devices import processor_name
from ddpm.io.provenance import git_commit, versions


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Return what durations depend on: processor, GPU, threads and versions of software."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": processor_name(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": git_commit(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32},
    }
