"""How many operations of a training step run on a GPU, and how often the program waits for them.

Without a GPU, a step is made with tensors that only pretend to be on one (torch's FakeTensorMode): they have shapes,
types and devices, but no values. On a GPU, the profiler counts kernels.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.lab.benchmark.pretended_gpu import PRETENDED, pretend_gpu
from ddpm.lab.benchmark.sides import TRAINING, Training
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.launch import start_accelerator

# Operations on tensors of a GPU that start nothing there: they make tensors without values, or describe them.
WITHOUT_KERNEL = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
    "_reshape_alias", "_unsafe_view", "is_pinned", "set_", "resize_", "_local_scalar_dense", "record_stream",
}
# Operations whose result has a shape that depends on values, so that the program must wait for them.
_VALUE_DEPENDENT = {"nonzero", "masked_select", "unique_dim", "_unique2", "equal", "_local_scalar_dense"}
_COPIES = {"_to_copy", "copy_"}


# Calls of the CUDA library that start work on the GPU.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


class Counts(NamedTuple):
    """What a step does on a GPU.

    Attributes:
        launches: calls that start kernels, copies or a CUDA graph, which is one. Of a pretended GPU, the operations
            that start at least one.
        waits: how often the program waits for the GPU: values that it reads, and copies that block.
        by_name: how often each operation or kernel ran.
        milliseconds: of each kernel on a real GPU.
    """

    launches: int
    waits: int
    by_name: Mapping[str, int]
    milliseconds: Mapping[str, float] = {}


class OperationCounter(TorchDispatchMode):
    """A context that counts the operations on tensors of a GPU, real or pretended.

    Attributes:
        by_name: the launches of each operation.
        waits: the operations for which the program waits, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._node: Any = None

    @property
    def counts(self) -> Counts:
        """What has been counted so far."""
        return Counts(self.by_name.total(), self.waits.total(), dict(self.by_name.most_common()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Count one operation and execute it."""
        kwargs = kwargs or {}
        if func.namespace == "prim":        # questions of torch's C++ code about a tensor
            return func(*args, **kwargs)
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        devices = given + [leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if "cuda" not in devices:
            return result
        name = func.name().removeprefix("aten::").partition(".")[0]
        node = torch._C._current_autograd_node()
        # Without a kernel for pretended tensors, torch composes the gradient of SiLU of several operations.
        composed, self._node = node is not None and node.name() == "SiluBackward0" and node == self._node, node
        if name not in WITHOUT_KERNEL and not func.is_view and not composed:
            self.by_name[name] += 1
        blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if name in _VALUE_DEPENDENT or (name in _COPIES and "cpu" in devices and blocking) or _selects(name, args):
            self.waits[name] += 1
        return result


def _selects(name: str, args: Sequence[Any]) -> bool:
    """Return whether an operation indexes with a mask, whose true values must be counted first."""
    indices = args[1] if name in ("index", "index_put_") else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def count_pretended_step(side: str, config: Config, data: ImageData) -> Counts:
    """Count the operations of one training step on a pretended GPU; the step before it is not counted.

    Args:
        side: a key of TRAINING.
        config: the run's configuration, in fp32 or bf16.
        data: images, of which only resolution, channels, classes and number matter.
    """
    accelerator = start_accelerator(config)
    schedule = build_schedule(config)
    with torch.device("meta"):
        unet = build_unet(config, data)
    states = (patch.dict(state._shared_state, device=PRETENDED) for state in (PartialState, AcceleratorState))
    with ExitStack() as stack:
        for context in (*states, pretend_gpu()):
            stack.enter_context(context)
        shape = (config.train.batch_size, data.channels, data.resolution, data.resolution)
        images, labels = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.int64)
        batches = repeat((torch.arange(shape[0]), images, labels))
        step = TRAINING[side](Training(config, data, schedule, unet.to_empty(device=PRETENDED), accelerator, batches))
        step()              # makes the state of the optimizer
        with OperationCounter() as counter:
            step()
    return counter.counts


def count_kernels(step: Callable[[], object]) -> Counts:
    """Count the launches of one step on the GPU with the profiler, and then, in another step, the waits.

    Args:
        step: a training step that has been warmed up.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = profiler.events()
    launches = sum(event.name.startswith(_LAUNCHES) for event in events)
    by_name, milliseconds = Counter[str](), Counter[str]()
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
            by_name[event.name] += 1
            milliseconds[event.name] += event.device_time / 1e3
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
    return Counts(launches, waits, dict(by_name.most_common()), dict(milliseconds.most_common()))
