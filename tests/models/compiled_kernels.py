"""Started by test_norm_kernels.py, in a process without the interpreter: compiles the kernels for an H100."""

from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ddpm.models import fused

WHOLE = ["forward_whole", "backward_whole"]
PARTS = ["forward_sums", "forward_apply", "backward_sums", "backward_apply"]
# Side, channels and groups of images that a program handles whole, and of others.
SHAPES = [(32, 128, 32, WHOLE), (1, 12, 12, WHOLE), (5, 96, 1, WHOLE), (8, 192, 32, WHOLE), (64, 192, 32, PARTS)]
FORMS: dict[str, dict[str, Any]] = {
    "adagn": {"parts": ("scale", "shift")},
    "shift_before": {"parts": ("shift",), "before": True},
    "adarms": {"parts": ("scale",), "center": False},
    "attention": {"silu": False},
}


class H100:
    """A driver that knows what to compile for, and has no GPU."""

    def get_current_target(self) -> GPUTarget:
        """Return compute capability 9.0, and 32 threads per warp."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """Return the first device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Compile kernels for an H100 instead of running them, and return name -> what each call compiled."""
    driver.set_active(H100())
    kernels: dict[str, list[Any]] = {}
    run = JITFunction.run

    def compile_only(function: JITFunction, *args: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(function, *args, warmup=True, **options)
        kernels.setdefault(function.__name__, []).append(kernel)
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    return kernels


def normalize(
    size: int, channels: int, groups: int, dtype: torch.dtype, parts: tuple[str, ...] = (), **form: Any
) -> None:
    """Call the operator and its gradient, whose results are without values."""
    h = torch.zeros(2, channels, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(2, channels).requires_grad_().unbind()
    modulation = torch.zeros(2, len(parts) * channels) if parts else None
    y = fused.modulated_norm(h.requires_grad_(), weight, bias, modulation, groups, 1e-5, dtype, parts=parts, **form)
    y.backward(torch.ones_like(y))


@pytest.mark.parametrize(
    ("form", "dtype"), [(form, torch.bfloat16) for form in FORMS] + [("adagn", torch.float32)], ids=str
)
@pytest.mark.parametrize(("size", "channels", "groups", "names"), SHAPES)
def test_kernels_compile(
    compiled: dict[str, list[Any]],
    size: int,
    channels: int,
    groups: int,
    names: list[str],
    form: str,
    dtype: torch.dtype,
) -> None:
    normalize(size, channels, groups, dtype, **FORMS[form])
    assert [*compiled] == names
    for name, kernels in compiled.items():
        registers = fused.FORWARD_REGISTERS if name.startswith("forward") else fused.BACKWARD_REGISTERS
        assert [kernel.metadata.maxnreg for kernel in kernels] == [registers] and kernels[0].asm["cubin"]


def test_norms_share_kernels(compiled: dict[str, list[Any]]) -> None:
    """A kernel takes a second to compile, and a network has many norms."""
    for form in ("adagn", "adarms"):
        normalize(8, 64, 16, torch.float32, **FORMS[form])
    normalize(8, 128, 32, torch.float32)
    normalize(8, 192, 48, torch.float32)
    assert all(len(kernels) == 4 and len({kernel.hash for kernel in kernels}) == 1 for kernels in compiled.values())
