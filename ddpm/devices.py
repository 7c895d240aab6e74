"""Properties of the devices that networks run on, and copies to them."""

import resource
import sys

import torch
from torch import Tensor

# Peak rates of matrix products in TFLOP/s, without sparsity, by part of the device's name: in 16 bits with sums in
# float32, and in TF32 (NVIDIA's data sheets of H200, H100, A100, L40S, L4, A10, RTX 4090 and B200). An H100 PCIe and an
# H100 NVL are slower than the SXM version, so their names come first.
PEAK_TFLOPS = {
    "B200": (2250, 1125),
    "H200": (989.4, 494.7),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417.5),
    "H100": (989.4, 494.7),
    "GH200": (989.4, 494.7),
    "A100": (312, 156),
    "L40S": (362, 183),
    "L4": (121, 60),
    "A10": (125, 62.5),
    "RTX 4090": (165.2, 82.6),
}


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the CPU to a device, without waiting for what a GPU is computing."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()        # a copy from other memory may wait
    return tensor.to(device, non_blocking=True)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak rate of a GPU in floating-point operations per second; None where it is unknown.

    Args:
        device: the device.
        precision: `fp32`, `bf16` or `fp16`; convolutions in `fp32` use TF32, as is torch's default.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    rates = next((rates for part, rates in PEAK_TFLOPS.items() if part in name.replace("-", " ")), None)
    return None if rates is None else rates[precision == "fp32"] * 1e12


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in bytes: of tensors on a GPU since the start, or of this process for other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
