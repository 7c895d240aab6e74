"""A training step of the network of configs/cifar10.yaml on a GPU that is only pretended, and what it executes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm.models.unet import UNet


class Operation(NamedTuple):
    """One call of an operator, with the tensors that it reads and those that it makes."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    is_view: bool


class Recording(TorchDispatchMode):
    """A context that keeps every call of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        name = func.name().partition("::")[2].partition(".")[0]
        self.operations.append(Operation(name, inputs, outputs, func.is_view))
        return result


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Let tensors have shapes and types but no values, so that they may be on a GPU that the machine lacks."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch.object(torch.cuda, "is_bf16_supported", lambda *_: True),
        # The name through which torch.autocast asks whether there is a GPU.
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    ):
        yield torch.device("cuda", 0)


def cifar10_unet(**changes: Any) -> UNet:
    """Build the network of configs/cifar10.yaml without values; move it by `to_empty` to the pretended GPU."""
    sizes = {"channels": 128, "channel_mult": (1, 2, 2, 2), "num_res_blocks": 3, "dropout": 0.1, **changes}
    with torch.device("meta"):
        return UNet(**sizes).train()


def train_step(unet: UNet, batch: int = 16, dtype: torch.dtype | None = torch.bfloat16) -> tuple[Recording, Recording]:
    """Record forward and backward of the squared error, under autocast to a type or without."""
    device, shape = unet.device, (batch, 3, unet.config.resolution, unet.config.resolution)
    x_t, noise = torch.empty(shape, device=device), torch.empty(shape, device=device)
    t, labels = torch.zeros(2, batch, dtype=torch.int64, device=device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None), Recording() as forward:
        loss = (unet(x_t, t, labels).sample - noise).square().mean()
    with Recording() as backward:
        loss.backward()
    return forward, backward
