"""A recording of the operators that are applied to tensors, and convolutions as on a GPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm.lab.benchmark.launches import pretend_gpu

# Operators that start nothing on a GPU.
WITHOUT_KERNEL = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh", "device",
    "_unsafe_view",
}


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
        name = func.name().partition("::")[2].partition(".")[0]
        self.operations.append(Operation(name, given, made, int(not func.is_view and name not in WITHOUT_KERNEL)))
        return result

    def named(self, name: str) -> list[Operation]:
        return [operation for operation in self.operations if operation.name == name]


def cudnn_layout(images: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """Return the layout of a convolution by cuDNN: channels-last if one of its inputs is."""
    last = torch.channels_last in (suggest_memory_format(images), suggest_memory_format(weight))
    return torch.channels_last if last else torch.contiguous_format


@contextmanager
def pretended_cudnn() -> Iterator[None]:
    """Let tensors pretend to be on a GPU with cuDNN, which a build of torch for CPUs does not choose."""
    with pretend_gpu(), patch.object(torch._C, "_conv_determine_backend_memory_format", cudnn_layout):
        yield
