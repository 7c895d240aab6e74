"""The precisions in which a network can compute."""

import torch

from ddpm.names import lookup

# Name -> dtype of torch.autocast; None computes in the dtype of the weights.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device, option: str) -> None:
    """Check that a device supports a precision.

    Args:
        precision: an entry of PRECISIONS.
        device: of the network.
        option: that names the precision, such as `train.mixed_precision`, for the message.

    Raises:
        ValueError: for another name, or names a precision that fits.
    """
    if lookup(PRECISIONS, precision, option) is torch.float16 and device.type != "cuda":
        raise ValueError(f"{option}: fp16 needs a GPU, and there is none; use fp32 or bf16")
