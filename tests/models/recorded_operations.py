"""A recording of the operators that are applied to tensors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm.lab.benchmark.launches import WITHOUT_KERNEL


class Facts(NamedTuple):
    """What is known about a tensor without values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str

    @property
    def is_image(self) -> bool:
        """Whether it is (B, C, H, W) inside the network: square, with more channels than a picture or heads."""
        return len(self.shape) == 4 and self.shape[2] == self.shape[3] and self.shape[1] >= 64 and self.shape[2] > 3


class Operation(NamedTuple):
    """One call of an operator; the launches are the kernels that it starts at least."""

    name: str
    inputs: list[Facts]
    outputs: list[Facts]
    launches: int


def describe(tensor: Tensor) -> Facts:
    layout = "other"        # such as some channels of an image
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        layout = "channels_last"
    elif tensor.is_contiguous():
        layout = "contiguous"
    return Facts(tuple(tensor.shape), tensor.dtype, layout)


class Recording(TorchDispatchMode):
    """A context that notes every operator. It keeps no tensor: autograd would copy gradients that others hold."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given = [describe(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [describe(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        kernel = func.namespace != "prim" and not func.is_view      # `prim` are questions of torch's C++ code
        name = func.name().partition("::")[2].partition(".")[0]
        self.operations.append(Operation(name, given, made, int(kernel and name not in WITHOUT_KERNEL)))
        return result

    def named(self, name: str) -> list[Operation]:
        return [operation for operation in self.operations if operation.name == name]
