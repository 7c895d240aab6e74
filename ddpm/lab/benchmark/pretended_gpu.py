"""A pretended GPU: tensors with shapes, types and devices, but without values (torch's FakeTensorMode)."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

PRETENDED, _NOWHERE = torch.device("cuda", 0), torch.device("meta")
_CUDA = 1           # c10::DeviceType::CUDA, which files of tensors contain, and which therefore never changes
_RETURN_0 = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)


class PretendedGpu(FakeTensorMode):
    """A context in which all tensors pretend, so that they may be on a GPU that the machine lacks. Each value is 1.

    Attributes:
        in_backward: whether autograd computes gradients.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.in_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Execute one operation without values."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        # Autograd asks for the device of a gradient, and would look for streams of a GPU, which may not exist.
        if func is torch.ops.prim.device.default and self.in_backward:
            return _NOWHERE
        if kwargs and kwargs.get("device") == _NOWHERE and self.in_backward:        # a tensor like a gradient
            kwargs = {**kwargs, "device": PRETENDED}
        return super().__torch_dispatch__(func, types, args, kwargs)


def why_not_pretend() -> str | None:
    """Return why torch cannot pretend to have a GPU, and what to do about it; None if it can."""
    if torch.backends.cuda.is_built() and not torch.cuda.is_available():
        # Its autograd asks the driver about each device of a tensor.
        return "without a GPU this needs a build of torch for CPUs, and the installed one is for CUDA"
    return None


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Make all tensors pretend, also under autocast. `tolist` is one copy from the device.

    See `why_not_pretend` for where this is possible.
    """
    mode, backward = PretendedGpu(), Tensor.backward

    def nest(shape: Sequence[int]) -> Any:
        return [nest(shape[1:]) for _ in range(shape[0])] if shape else 1

    def compute_gradients(*args: Any, **options: Any) -> None:
        mode.in_backward = True
        try:
            backward(*args, **options)
        finally:
            mode.in_backward = False

    if not torch.backends.cuda.is_built():
        register_guard()
    with (
        mode,
        patch.object(torch._C, "_conv_determine_backend_memory_format", _cudnn_layout),
        patch.object(functional, "scaled_dot_product_attention", _attend_in_one_kernel),
        patch.object(Tensor, "backward", compute_gradients),
        patch.object(FakeTensor, "tolist", lambda tensor: nest(tensor.cpu().shape)),
        # torch would handle pretended parameters one by one.
        patch("torch.optim.optimizer._foreach_supported_types", [Tensor, nn.Parameter, FakeTensor]),
        patch("torch.utils._foreach_utils._foreach_supported_types", [Tensor, nn.Parameter, FakeTensor]),
        # Networks are built on the device; torch would replace their parameters, which it cannot if they pretend.
        patch.object(nn.Module, "to", lambda module, *_, **__: module),
        patch.object(torch.cuda, "is_bf16_supported", lambda *_: True),
        # The name through which torch.autocast asks whether there is a GPU.
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    ):
        yield


def _cudnn_layout(images: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """Return the layout of the result of a convolution by cuDNN: channels-last if one of its inputs is."""
    last = torch.channels_last in (suggest_memory_format(images), suggest_memory_format(weight))
    return torch.channels_last if last else torch.contiguous_format


def _attend_in_one_kernel(q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any) -> Tensor:
    """Compute attention as a GPU does, with one operation; without a GPU, torch composes it of several."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    if q.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


@cache
def register_guard() -> None:
    """Give a build of torch for CPUs the guard of CUDA devices that builds with CUDA use where there is no GPU.

    Autograd asks the guard for the streams of a tensor's device, also if the tensor pretends.
    `_ensureCUDADeviceGuardSet` replaces a guard that counts no devices, so for a moment there is one all of whose
    functions return 0.
    """
    functions = (ctypes.c_void_p * 64)(*[ctypes.cast(_RETURN_0, ctypes.c_void_p).value] * 64)
    guard = ctypes.c_void_p(ctypes.addressof(functions))
    libc10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_CUDA + 1)).in_dll(libc10, "_ZN3c104impl26device_guard_impl_registryE")
    guards[_CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
