"""The kernels of ddpm/models/norm_kernels.py against the plain form, in Triton's interpreter on the CPU.

`test_norm_kernels.py` runs this file in a process of its own: the interpreter is chosen when Triton is imported.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.models import fused, norm
from ddpm.models.norm import NORMS, GroupNorm, normalize

# The largest relative error of a rounding. The interpreter cuts bits off for bfloat16; GPUs round to the nearest.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11}

# Sizes of images, channels, groups and the limit of a program. Small limits make images large: two kernels, with one
# chunk, and with several chunks.
WHOLE, TILES, CHUNKS = fused.WHOLE, 64, 1024
SHAPES = {
    "odd": (2, 12, 3, 5, 3, WHOLE),
    "one_pixel": (2, 6, 1, 1, 3, WHOLE),
    "one_group": (1, 3, 2, 3, 1, WHOLE),
    "single_channels": (2, 5, 3, 3, 5, WHOLE),
    "blocks_of_groups": (1, 144, 2, 2, 12, WHOLE),
    "group_of_20": (1, 40, 3, 3, 2, WHOLE),
    "group_of_96": (1, 192, 2, 2, 2, WHOLE),
    "tiles": (1, 12, 7, 3, 3, TILES),
    "tiles_of_one_group": (1, 20, 3, 5, 1, TILES),
    "chunks": (1, 6, 16, 17, 2, CHUNKS),
}


@pytest.fixture(autouse=True)
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors of the CPU use the kernels, and small images need two passes where a test says so."""
    monkeypatch.setattr(Tensor, "is_cuda", True)
    torch.set_num_threads(1)


def randomize(layer: nn.Module, draws: torch.Generator) -> None:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5, 0.5, generator=draws)


def gradients(
    function: Callable[[Tensor, Tensor], Tensor], layer: nn.Module, h: Tensor, emb: Tensor, direction: Tensor
) -> dict[str, Tensor]:
    """Return output and gradients of all inputs and parameters."""
    h, emb = h.detach().requires_grad_(), emb.detach().requires_grad_()
    layer.zero_grad()
    output = function(h, emb)
    output.backward(direction.to(output.dtype))
    found = {"output": output.detach(), "h": h.grad, "emb": emb.grad}
    return found | {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


def compare(layer: nn.Module, h: Tensor, groups: int, takes_emb: bool, silu: bool = True) -> None:
    """Compare the kernels with float64 autograd of torch's operators, for the same rounded inputs."""
    draws = torch.Generator().manual_seed(3)
    emb = torch.randn(len(h), 4, generator=draws)
    # A gradient of 16 bits arrives rounded at both.
    direction = torch.randn(h.shape, generator=draws).to(h.dtype).double()

    def plain(h: Tensor, emb: Tensor) -> Tensor:
        y = layer(h, emb) if takes_emb else layer(h)
        return F.silu(y) if silu else y

    with patch.object(fused, "modulated_norm", wraps=fused.modulated_norm) as kernel:
        found = gradients(
            lambda h, emb: normalize(layer, h, emb if takes_emb else None, silu=silu) + 0 * emb.sum().to(h.dtype),
            layer, h, emb, direction,
        )
    assert kernel.call_count == 1
    expected = gradients(
        lambda h, emb: plain(h, emb) + 0 * emb.sum(), layer.double(), h.double(), emb.double(), direction
    )
    count = h.shape[2:].numel() * h.shape[1] // groups
    for name, value in found.items():
        target = expected[name]
        assert value.dtype == (h.dtype if name in ("output", "h") else torch.float32), name
        # One rounding to the type of the result, and float32 sums over a group, an image or a batch, whose terms are
        # up to 1/sqrt(eps) times larger than the sum where a group has few values.
        rounding = ROUNDING[h.dtype] if name in ("output", "h") else 0
        sums = 60 * ROUNDING[torch.float32] * (300 if count < 4 else 1)
        atol = sums * float(target.abs().max().clamp(min=1))
        torch.testing.assert_close(value.double(), target, rtol=rounding, atol=atol, msg=f"{name} differs")


def images(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Draw images about a mean of 3, for which sums of squares would lose digits."""
    draws = torch.Generator().manual_seed(1)
    h = torch.randn(shape, generator=draws) * 2 + 3
    return h.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, torch.float32) for shape in SHAPES]
    + [(shape, dtype) for shape in ("odd", "tiles") for dtype in (torch.bfloat16, torch.float16)],
    ids=str,
)
def test_adagn_in_every_shape(shape: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, channels, height, width, groups, tile = SHAPES[shape]
    monkeypatch.setattr(fused, "WHOLE", tile)
    assert fused.divide(height * width, channels, groups).whole == (tile == WHOLE)
    layer = NORMS["adagn"](channels, 4, groups)
    randomize(layer, torch.Generator().manual_seed(2))
    compare(layer, images((batch, channels, height, width), dtype), groups, takes_emb=True)


@pytest.mark.parametrize(
    ("member", "tile"),
    # In two passes, the members differ in their statistics and in a shift before the norm.
    [(member, WHOLE) for member in NORMS] + [("groupnorm", TILES), ("adarms", TILES)],
)
def test_every_norm(member: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WHOLE", tile)
    layer = NORMS[member](12, 4, 3)
    randomize(layer, torch.Generator().manual_seed(2))
    compare(layer, images((2, 12, 3, 7), torch.float32), layer.norm.num_groups, takes_emb=True)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("tile", [WHOLE, TILES], ids=["whole", "tiles"])
def test_plain_group_norm(tile: int, silu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WHOLE", tile)
    layer = GroupNorm(3, 12)
    randomize(layer, torch.Generator().manual_seed(2))
    compare(layer, images((1, 12, 3, 7), torch.bfloat16), 3, takes_emb=False, silu=silu)


@pytest.mark.parametrize("tile", [WHOLE, TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize("member", ["adagn", "adarms"])
def test_a_value_that_is_not_a_number_spoils_its_group_alone(
    member: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the plain form, so that a check of the loss sees it."""
    monkeypatch.setattr(fused, "WHOLE", tile)
    layer, emb = NORMS[member](12, 4, 3), torch.ones(2, 4)
    h = images((2, 12, 3, 7), torch.float32)
    h[1, 5, 1, 2] = torch.nan
    found = normalize(layer, h, emb)
    assert torch.equal(found.isnan(), layer(h, emb).isnan()) and found.isnan().any()


@pytest.mark.parametrize("values", ["constant", "first_pixel_far_away", "mean_far_from_0"])
def test_images_whose_variance_is_small_next_to_their_values(values: str) -> None:
    """The pivot of the sums is the first pixel."""
    h = images((2, 12, 5, 7), torch.float32)
    if values == "constant":
        h = torch.full_like(h, 3.3)
    elif values == "first_pixel_far_away":
        h[:, :, 0, 0] += 100
    else:
        h += 1000
    layer = GroupNorm(3, 12)
    found, expected = normalize(layer, h, silu=False), layer.double()(h.double())
    # Float32 sums of distances from the first pixel or from 0: the variance is known to eps (distance / std)^2, and
    # the mean to eps |mean| / std.
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("strides", ["contiguous", "transposed", "every_second"])
def test_other_layouts_are_copied(strides: str) -> None:
    h = images((2, 12, 4, 6), torch.float32).contiguous()
    h = {"contiguous": h, "transposed": h.transpose(2, 3), "every_second": h[:, :, :, ::2]}[strides]
    layer = NORMS["adagn"](12, 4, 3)
    randomize(layer, torch.Generator().manual_seed(2))
    compare(layer, h, 3, takes_emb=True)
    assert normalize(layer, h, torch.ones(2, 4)).is_contiguous(memory_format=torch.channels_last)


def test_the_same_call_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WHOLE", CHUNKS)
    layer = NORMS["groupnorm"](6, 4, 2)
    h = images((1, 6, 16, 17), torch.float32)
    norm = partial(normalize, layer)
    one, other = (gradients(norm, layer, h, torch.ones(1, 4), torch.ones_like(h)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_compiled_checkpointed_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile traces through without a break, and a forward pass in backward gives the same gradients."""
    monkeypatch.undo()              # the compiler looks at attributes of the class Tensor
    layer, h, emb = NORMS["adagn"](4, 4, 1), images((1, 4, 2, 2), torch.float32), torch.ones(1, 4)
    randomize(layer, torch.Generator().manual_seed(2))

    def apply(h: Tensor, emb: Tensor) -> Tensor:
        weights = layer.norm.weight, layer.norm.bias, layer.proj(emb)
        return fused.modulated_norm(h, *weights, 1, 1e-5, h.dtype, parts=layer.modulation)

    expected = gradients(apply, layer, h, emb, torch.ones_like(h))
    compiled = torch.compile(apply, backend="aot_eager", fullgraph=True)
    for function in (compiled, lambda *inputs: checkpoint(apply, *inputs, use_reentrant=False)):
        found = gradients(function, layer, h, emb, torch.ones_like(h))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(apply(h, emb), expected["output"])


def test_autocast_gives_its_type_and_projects_in_float32() -> None:
    layer, h, emb = NORMS["adagn"](4, 4, 1), images((1, 4, 2, 2), torch.bfloat16), torch.ones(1, 4)
    randomize(layer, torch.Generator().manual_seed(2))
    expected = normalize(layer, h, emb)
    with torch.autocast("cpu", torch.bfloat16):
        found = normalize(layer, h, emb)
        assert normalize(layer, h.float(), emb).dtype == torch.bfloat16
        assert normalize(layer, h, emb, dtype=torch.float32).dtype == torch.float32
        assert layer.proj(emb).dtype == torch.float32
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


class ShiftFirst(norm.AdaGN):
    """A norm of a user, who knows nothing about kernels."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.proj(emb)[:, :, None, None].chunk(2, dim=1)
        return (self.norm(h) + shift) * (1 + scale)


@pytest.mark.parametrize("kind", ["own_forward", "hook"])
def test_norms_of_users_run_as_they_are_written(kind: str) -> None:
    layer = ShiftFirst(4, 4, 1) if kind == "own_forward" else NORMS["adagn"](4, 4, 1)
    randomize(layer, torch.Generator().manual_seed(2))
    seen = []
    if kind == "hook":
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    h, emb = images((1, 4, 2, 2), torch.float32), torch.ones(1, 4)
    with patch.object(fused, "modulated_norm") as kernel:
        found = normalize(layer, h, emb)
    assert not kernel.called and len(seen) == (kind == "hook")
    assert torch.equal(found, F.silu(layer(h, emb)))


def test_gradients_of_gradients_are_refused() -> None:
    layer = NORMS["adagn"](4, 4, 1)
    h = images((1, 4, 2, 2), torch.float32).requires_grad_()
    (grad,) = torch.autograd.grad(normalize(layer, h, torch.ones(1, 4)).square().sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


# --------------------------------------------------------------------------------------------------- bytes per element


class Traffic:
    """The bytes that kernels load and store, from the interpreter's accesses.

    A program counts each address once in its loads and once in its stores: what it loads again comes from the cache,
    because `fused.WHOLE` limits how much that is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.interpreter import InterpreterBuilder

        self.bytes, self.program, self.known = 0, None, set()
        for name in ("create_masked_load", "create_masked_store"):
            monkeypatch.setattr(InterpreterBuilder, name, self.counting(name, getattr(InterpreterBuilder, name)))

    def counting(self, name: str, access: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(builder: Any, pointers: Any, *args: Any) -> Any:
            mask = next(arg for arg in args if getattr(arg, "data", np.zeros(0)).dtype == bool)
            addresses = np.unique(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)])
            if builder.grid_idx != self.program:        # one after the other
                self.program, self.known = builder.grid_idx, set()
            new = {(name, address) for address in addresses.tolist()} - self.known
            self.known |= new
            self.bytes += len(new) * (pointers.get_element_ty().primitive_bitwidth // 8)
            return access(builder, pointers, *args)

        return wrapped


@pytest.mark.parametrize(("tile", "forward", "backward"), [(WHOLE, 4, 6), (2048, 6, 10)], ids=["whole", "tiles"])
@pytest.mark.parametrize("member", ["adagn", "groupnorm"])
def test_bytes_per_element_in_16_bits(
    member: str, tile: int, forward: int, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h is read and y written once, in backward h and the gradient are read and a gradient written once.

    Images that do not fit are read once more for the sums.
    """
    monkeypatch.setattr(fused, "WHOLE", tile)
    layer = NORMS[member](16, 4, 2)
    h = images((2, 16, 32, 32), torch.bfloat16).requires_grad_()        # at least two programs
    assert fused.divide(32 * 32, 16, 2).whole == (tile == WHOLE)
    traffic = Traffic(monkeypatch)
    y = normalize(layer, h, torch.ones(2, 4))
    in_forward, traffic.bytes = traffic.bytes / h.numel(), 0
    y.backward(torch.ones_like(y))
    in_backward = traffic.bytes / h.numel()
    # Statistics, coefficients and the sums of chunks are below 1 % of images this large in one pass, and below 4 % in
    # two, where every program reads the sums of all chunks.
    slack = 1.01 if tile == WHOLE else 1.04
    assert forward <= in_forward <= slack * forward
    assert backward <= in_backward <= slack * backward
