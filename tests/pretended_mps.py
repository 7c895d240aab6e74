"""A pretended Apple GPU: tensors that compute on the CPU, but name the device `mps` and refuse float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

MPS = torch.device("meta")         # its type has the guards of a device, which mps lacks in a build for CPUs


class PretendedTensor(Tensor):
    """A tensor whose values are those of a tensor on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "PretendedTensor":
        if values.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, values.shape, **layout, dtype=values.dtype, device=MPS)
        made.values = values
        return made

    def tolist(self) -> Any:
        """Return the values as numbers, which torch refuses for subclasses of Tensor."""
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: tuple = (), options: Any = None) -> Any:
        return run_pretended(function, arguments, options or {})


def run_pretended(function: Any, arguments: tuple, options: dict[str, Any]) -> Any:
    """Run an operation on the CPU; its results are on the pretended device if it says so, or if an argument is.

    Raises:
        RuntimeError: if some arguments are on the CPU, and the operation is none that allows it.
    """
    on_device = False
    tensors = [x for x in tree_leaves((arguments, options)) if isinstance(x, Tensor) and x.ndim > 0]
    elsewhere = {isinstance(x, PretendedTensor) for x in tensors} == {False, True}
    if elsewhere and function.overloadpacket.__name__ not in ("copy_", "index", "index_put_"):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, and found cpu and {MPS}")

    def unwrap(tensor: PretendedTensor) -> Tensor:
        nonlocal on_device
        on_device = True
        return tensor.values

    arguments, options = tree_map_only(PretendedTensor, unwrap, (arguments, options))
    if options.get("device") is not None:
        on_device = torch.device(options["device"]) == MPS
        options = {**options, "device": torch.device("cpu")}
        if on_device and options.get("dtype") == torch.float64:
            raise TypeError("the pretended device has no float64")
    found = function(*arguments, **options)
    return tree_map_only(Tensor, PretendedTensor, found) if on_device else found


class PretendedDevice(TorchDispatchMode):
    """Operations that make tensors on the device, which have no argument that is there."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: Any = None) -> Any:
        return run_pretended(function, arguments, options or {})


@contextmanager
def pretended_mps() -> Iterator[torch.device]:
    """Pretend that there is an Apple GPU; yield its device."""
    with PretendedDevice():
        yield MPS
