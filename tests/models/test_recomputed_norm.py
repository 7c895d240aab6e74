"""The norms that CPUs compute in training against the plain form, and what they store for the backward pass."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models import norm as norm_module
from ddpm.models.norm import NORMS, AdaGN, GroupNorm, RMSNorm, normalize
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {                  # sizes of images, channels, groups
    "odd": (2, 12, 3, 5, 3),
    "one_pixel": (2, 6, 1, 1, 3),
    "one_image": (1, 12, 4, 4, 3),
    "one_group": (3, 3, 2, 3, 1),
    "single_channels": (2, 5, 3, 3, 5),
    "group_of_20": (2, 40, 3, 3, 2),
}


@pytest.fixture(autouse=True)
def every_image_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_module, "LARGE", 0)


def randomize(layer: nn.Module) -> None:
    draws = torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5, 0.5, generator=draws)


def draw_images(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    h = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 3
    return h.to(dtype).contiguous(memory_format=torch.channels_last)


def gradients(
    function: Callable[[Tensor, Tensor], Tensor], layer: nn.Module, h: Tensor, emb: Tensor
) -> dict[str, Tensor]:
    """Return the output and the gradients of all inputs and parameters."""
    h, emb = h.detach().requires_grad_(), emb.detach().requires_grad_()
    layer.zero_grad()
    output = function(h, emb)
    output.backward(torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(h.dtype))
    of_parameters = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": output.detach(), "h": h.grad, "emb": emb.grad, **of_parameters}


def compare(layer: nn.Module, h: Tensor, takes_emb: bool, tolerance: float, silu: bool = True) -> None:
    """Compare with float64 autograd of the plain form; tolerances are relative to the largest value."""
    emb = torch.randn(len(h), 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def plain(h: Tensor, emb: Tensor) -> Tensor:
        y = layer(h, emb) if takes_emb else layer(h)
        return (F.silu(y) if silu else y) + 0 * emb.sum()

    def recomputed(h: Tensor, emb: Tensor) -> Tensor:
        return normalize(layer, h, emb if takes_emb else None, silu=silu) + 0 * emb.sum()

    found = gradients(recomputed, layer.to(h.dtype), h, emb.to(h.dtype))
    expected = gradients(plain, layer.double(), h.double(), emb)
    for name, value in found.items():
        target = expected[name]
        atol = tolerance * float(target.abs().max().clamp(min=1))
        torch.testing.assert_close(value.double(), target, rtol=0, atol=atol, msg=f"{name} differs")
    assert found["output"].is_contiguous(memory_format=torch.channels_last)


# Sums over a group or an image. Where a group has few values, 1 / std can be a hundred times as large as they are.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape: str, dtype: torch.dtype, tolerance: float) -> None:
    batch, channels, height, width, groups = SHAPES[shape]
    layer = AdaGN(channels, 4, groups)
    randomize(layer)
    compare(layer, draw_images((batch, channels, height, width), dtype), True, tolerance)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("member", NORMS)
def test_every_norm(member: str, silu: bool) -> None:
    layer = NORMS[member](12, 4, 3)
    randomize(layer)
    compare(layer, draw_images((2, 12, 3, 7), torch.float64), True, 1e-11, silu)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("layer", [GroupNorm(3, 12), RMSNorm(12)], ids=["group", "rms"])
def test_norms_without_an_embedding(layer: nn.Module, silu: bool) -> None:
    randomize(layer)
    compare(layer, draw_images((2, 12, 3, 7), torch.float64), False, 1e-11, silu)


@pytest.mark.parametrize("member", ["adagn", "adarms", "groupnorm"])
def test_a_value_that_is_not_a_number_spoils_its_group_alone(member: str) -> None:
    """As in the plain form, so that a check of the loss sees it."""
    layer, emb, h = NORMS[member](12, 4, 3), torch.ones(2, 4), draw_images((2, 12, 3, 7), torch.float32)
    h[1, 5, 1, 2] = torch.nan
    found = normalize(layer, h, emb)
    assert torch.equal(found.isnan(), F.silu(layer(h, emb)).isnan()) and found.isnan().any()


def count_stored_images(layer: nn.Module, h: Tensor, emb: Tensor | None) -> int:
    """Return how many tensors of the size of h the backward pass of a norm and SiLU keeps, h itself included."""
    stored: dict[int, Tensor] = {}

    def store(tensor: Tensor) -> Tensor:
        if tensor.numel() == h.numel():
            stored[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        y = normalize(layer, h.requires_grad_(), emb)
    return len(stored) if y.requires_grad else 0


@pytest.mark.parametrize("member", NORMS)
def test_one_image_is_stored(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, h, emb = NORMS[member](12, 4, 3), draw_images((2, 12, 3, 7), torch.float32), torch.ones(2, 4)
    assert count_stored_images(layer, h, emb) == 1
    monkeypatch.setattr(norm_module, "LARGE", h.numel() + 1)
    assert count_stored_images(layer, h, emb) > 1           # the plain form, for comparison


@pytest.mark.parametrize("member", NORMS)
def test_the_output_is_that_of_the_plain_form_to_the_last_bit(member: str) -> None:
    """So that training, and drawing without gradients, compute the same."""
    layer, h, emb = NORMS[member](12, 4, 3), draw_images((2, 12, 3, 7), torch.float32), torch.ones(2, 4)
    randomize(layer)
    with torch.no_grad():
        expected = normalize(layer, h, emb)
    assert torch.equal(normalize(layer, h, emb), expected) and torch.equal(F.silu(layer(h, emb)), expected)


def test_images_are_not_overwritten_without_gradients() -> None:
    """SiLU works in place there, but not on what a norm of the user returns."""
    h = draw_images((2, 12, 3, 7), torch.float32)
    before = h.clone()
    with torch.no_grad():
        for norm in (GroupNorm(3, 12), nn.Identity()):
            normalize(norm, h)
    assert torch.equal(h, before)


def test_networks_of_large_images_equal_those_of_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = UNet(resolution=8, channels=16, channel_mult=(1, 2), attention_resolutions=(4,), head_channels=16).double()
    randomize(unet)
    h, labels = draw_images((2, 3, 8, 8), torch.float64), torch.tensor([1, 10])
    results = []
    for large in (0, torch.inf):
        monkeypatch.setattr(norm_module, "LARGE", large)
        results.append(gradients(lambda h, emb: unet(h, 400, labels).sample + 0 * emb.sum(), unet, h, torch.ones(1)))
    for name, value in results[0].items():
        scale = float(results[1][name].abs().max())
        torch.testing.assert_close(value, results[1][name], rtol=0, atol=1e-10 * scale, msg=f"{name} differs")


@pytest.mark.parametrize("member", NORMS)
def test_a_gradient_that_would_need_a_gradient_is_refused(member: str) -> None:
    """Without this error, a gradient penalty would have no effect."""
    layer, h = NORMS[member](12, 4, 3), draw_images((2, 12, 3, 7), torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="LARGE"):
        torch.autograd.grad(normalize(layer, h, torch.ones(2, 4)).sum(), h, create_graph=True)


def is_recomputed(layer: nn.Module, h: Tensor) -> bool:
    """Return whether the operator computes a norm."""
    with patch.object(norm_module, "recomputed_norm", wraps=norm_module.recomputed_norm) as operator:
        normalize(layer, h)
    return operator.called


def test_what_the_operator_does_not_serve_is_computed_by_the_plain_form() -> None:
    h = draw_images((2, 12, 3, 7), torch.float32)
    assert is_recomputed(GroupNorm(3, 12), h)
    assert not is_recomputed(GroupNorm(3, 12), h.contiguous())
    assert not is_recomputed(GroupNorm(3, 12), h.flatten(2))
    assert not is_recomputed(GroupNorm(3, 12, affine=False), h)
    assert not is_recomputed(nn.GroupNorm(3, 12), h)
    with torch.no_grad():
        assert not is_recomputed(GroupNorm(3, 12), h)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_recomputed(GroupNorm(3, 12), h)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_tracing_sees_the_plain_form(tmp_path: Path) -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = GroupNorm(3, 12)

        def forward(self, h: Tensor) -> Tensor:
            return normalize(self.norm, h)

    h = draw_images((2, 12, 3, 7), torch.float32)
    traced = torch.jit.trace(Normalized(), h)
    torch.jit.save(traced, tmp_path / "traced.pt")          # impossible for operators that are written in Python
    torch.testing.assert_close(torch.jit.load(tmp_path / "traced.pt")(h), F.silu(F.group_norm(h, 3)))


@pytest.mark.parametrize(
    "listen", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_hooks_are_called(listen: str) -> None:
    layer, h, calls = GroupNorm(3, 12), draw_images((2, 12, 3, 7), torch.float32).requires_grad_(), []
    getattr(layer, f"register_{listen}")(lambda *values: calls.append(listen))
    normalize(layer, h).sum().backward()
    assert calls == [listen]


def test_what_a_hook_of_all_modules_has_seen_is_not_overwritten() -> None:
    seen: list[Tensor] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(output))
    layer, h = GroupNorm(3, 12), draw_images((2, 12, 3, 7), torch.float32)
    with torch.no_grad():
        normalize(layer, h)
    handle.remove()
    torch.testing.assert_close(seen[0], F.group_norm(h, 3))
