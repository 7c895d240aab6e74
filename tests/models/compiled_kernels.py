"""Started by test_norm_kernels.py, in a process without the interpreter: compiles the kernels for an H100."""

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ddpm.models import fused, norm_kernels
from ddpm.models.norm_kernels import FORM

H100 = GPUTarget("cuda", 90, 32)
IMAGES = {"h", "y", "grad", "grad_h"}
NUMBERS = {"P": "i32", "C": "i32", "BC": "i32", "ROWS": "i32", "eps": "fp32"} | dict.fromkeys(FORM, "i32")
WHOLE = ["forward_whole", "backward_whole"]
PARTS = ["forward_sums", "forward_apply", "backward_sums", "backward_apply"]
# Pixels, channels and groups whose images are read whole, and in parts.
SHAPES = [(32 * 32, 128, 32, WHOLE), (1, 12, 12, WHOLE), (35, 96, 1, WHOLE), (64 * 64, 192, 32, PARTS)]
KINDS = [("SILU",), ("BEFORE", "SILU"), ()]


@pytest.mark.parametrize("image_type", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", KINDS, ids=["adagn", "groupnorm", "plain"])
@pytest.mark.parametrize(("pixels", "channels", "groups", "names"), SHAPES)
def test_kernels_compile(
    pixels: int, channels: int, groups: int, names: list[str], kind: tuple[str, ...], image_type: str
) -> None:
    tiling = fused.divide(pixels, channels, groups)
    assert tiling.whole == (names is WHOLE)
    sizes = {"WIDTH": tiling.groups * channels // groups, "BLOCK_P": tiling.pixels, "BLOCK_C": tiling.lanes}
    sizes |= {"EVEN": tiling.even, "SHARED": tiling.shared, "CHUNKS": 2 ** (tiling.chunks - 1).bit_length()}
    for name in names:
        kernel = getattr(norm_kernels, name)
        constants = {p.name: sizes.get(p.name, p.name in kind) for p in kernel.params if p.is_constexpr}
        types = {p.name: NUMBERS.get(p.name, f"*{image_type if p.name in IMAGES else 'fp32'}") for p in kernel.params}
        signature = types | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, constants)
        registers = fused.FORWARD_REGISTERS if name.startswith("forward") else fused.BACKWARD_REGISTERS
        options = {"num_warps": tiling.warps, "maxnreg": registers}
        assert triton.compile(source, target=H100, options=options).asm["cubin"]
