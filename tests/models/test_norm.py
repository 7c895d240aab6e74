"""Each member of the family of norms against its formula, and what GroupNorm erases."""

import math

import pytest
import torch
from norm_formulas import formula
from torch import Tensor, nn

from ddpm.models import compilation
from ddpm.models import norm as norm_module
from ddpm.models.norm import NORMS, AdaGN, AdaIN, AdditiveGroupNorm, RMSNorm, num_groups

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_its_formula_with_equal_gradients(norm: str) -> None:
    layer = NORMS[norm](12, 10, 3).double()
    randomize(layer, seed=20)
    results = []
    for function in (layer, lambda h, emb: formula(norm, layer, h, emb, 3)):
        draws = torch.Generator().manual_seed(6)
        h = torch.randn(3, 12, 5, 7, generator=draws, dtype=torch.float64).mul(3).add(2).requires_grad_()
        emb = torch.randn(3, 10, generator=draws, dtype=torch.float64).requires_grad_()
        direction = torch.randn(h.shape, generator=draws, dtype=torch.float64)
        layer.zero_grad()
        output = function(h, emb)
        (output * direction).sum().backward()
        results.append([output.detach(), h.grad, emb.grad, *(p.grad.clone() for p in layer.parameters())])
    for found, expected in zip(*results, strict=True):
        # float64: sums over a few hundred values in another order.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_every_norm_is_its_formula_in_channels_last_layout(norm: str) -> None:
    layer = NORMS[norm](12, 10, 3)
    randomize(layer, seed=21)
    draws = torch.Generator().manual_seed(7)
    h = (3 * torch.randn(3, 12, 6, 6, generator=draws) + 20).contiguous(memory_format=torch.channels_last)
    emb = torch.randn(3, 10, generator=draws)
    found = layer(h, emb)
    expected = formula(norm, layer.double(), h.double(), emb.double(), 3)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)     # float32, about a mean of 20


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_says_what_its_projection_yields(norm: str) -> None:
    layer = NORMS[norm](12, 10, 3)
    assert layer.modulation in (("scale", "shift"), ("scale",), ("shift",))
    assert layer.proj.weight.shape == (len(layer.modulation) * 12, 10)
    assert isinstance(layer.norm, nn.GroupNorm) and layer.norm.weight.shape == layer.norm.bias.shape == (12,)
    assert layer.match_parameters_of is None or layer.match_parameters_of in NORMS
    assert isinstance(layer, AdditiveGroupNorm) == layer.shift_before_norm


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_bears_16_bits(norm: str) -> None:
    """Squares of values in the hundreds overflow float16; bfloat16 has 8 bits, of which sums would lose most."""
    layer = NORMS[norm](12, 10, 3)
    randomize(layer, seed=22)
    draws = torch.Generator().manual_seed(8)
    h = 300 * torch.randn(2, 12, 6, 6, generator=draws) + 100
    emb = torch.randn(2, 10, generator=draws)
    expected = layer(h, emb).detach()
    for dtype, digits in ((torch.float16, 11), (torch.bfloat16, 8)):
        with torch.autocast("cpu", dtype):
            mixed = layer(h.to(dtype), emb)
            assert nn.Conv2d(12, 1, 1)(mixed).dtype == dtype
        # A few roundings of h, of the projection and of the result, of order 10 at most.
        torch.testing.assert_close(mixed.detach().float(), expected, rtol=0, atol=10 * 2 ** (2 - digits))
    whole = layer.bfloat16()(h.bfloat16(), emb.bfloat16())
    assert whole.dtype == torch.bfloat16
    torch.testing.assert_close(whole.detach().float(), expected, rtol=0, atol=10 * 2**-6)


def test_the_gain_of_large_features_keeps_its_digits() -> None:
    """1 / RMS is below 6e-5 here, where float16 has few digits left; the normalized values do not suffer from that."""
    draws = torch.Generator().manual_seed(8)
    h = 60_000 * torch.randn(2, 4, 8, 8, generator=draws).sign()
    norm = RMSNorm(4).half()
    nn.init.constant_(norm.weight, 100.0)
    found = norm(h.half())
    assert found.dtype == torch.float16
    # The root mean square is 60,000; the normalized value and the product are rounded to 11 bits each.
    torch.testing.assert_close(found.float(), 100 * h.sign(), rtol=2**-10, atol=0)


def test_adain_accepts_a_single_pixel() -> None:
    """A group of one value normalizes to 0, so only bias and shift remain."""
    layer = AdaIN(8, 10, 2)
    randomize(layer, seed=31)
    draws = torch.Generator().manual_seed(5)
    h, emb = torch.randn(1, 8, 1, 1, generator=draws), torch.randn(1, 10, generator=draws)
    scale, shift = layer.proj(emb).chunk(2, dim=1)
    # 1 / sqrt(EPS) is 316, which multiplies the rounding of the mean.
    torch.testing.assert_close(layer(h, emb)[:, :, 0, 0], (1 + scale) * layer.norm.bias + shift, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels_per_group", [1, 2, 4, 8])
@pytest.mark.parametrize("norm", [norm for norm, member in NORMS.items() if "shift" in member.modulation])
def test_what_a_norm_erases_of_the_shift(norm: str, channels_per_group: int) -> None:
    """Before the norm, 1 / (channels per group) of the variance of independent shifts; after it, nothing."""
    channels, batch = 32, 2000
    layer = NORMS[norm](channels, channels, channels // channels_per_group).double()
    with torch.no_grad():
        layer.proj.weight.zero_()[-channels:] = torch.eye(channels)         # the embedding is the shift
        layer.proj.bias.zero_()
    # Each channel has mean 0 and variance 1, so that a small shift changes no group's variance.
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).expand(batch, channels, 2, 2)
    shift = torch.randn(batch, channels, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        change = (layer(board, 1e-5 * shift) - layer(board, 0 * shift)) / 1e-5
    remains = float(change.square().mean() / shift.square().mean())
    expected = 1 - 1 / channels_per_group if layer.shift_before_norm else 1
    # 2000 x 32 draws: the standard error of the ratio is below 0.4 %; EPS takes 1e-5 more.
    assert remains == pytest.approx(expected, abs=0.02 if 0 < expected < 1 else 1e-4)


def test_one_channel_per_group_leaves_nothing_of_an_added_embedding() -> None:
    layer = AdditiveGroupNorm(8, 10, 8).double()
    randomize(layer, seed=23)
    draws = torch.Generator().manual_seed(10)
    h = torch.randn(2, 8, 4, 4, generator=draws, dtype=torch.float64)
    one, other = torch.randn(2, 2, 10, generator=draws, dtype=torch.float64)
    torch.testing.assert_close(layer(h, one), layer(h, other), rtol=0, atol=1e-12)      # rounding of the subtraction


# ------------------------------------------------------------------------------------------------------------- AdaGN


def plain_adagn(norm: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    """(1 + scale) * GroupNorm(h) + shift, written out."""
    projected = emb @ norm.proj.weight.T + norm.proj.bias
    scale, shift = projected[:, : h.shape[1], None, None], projected[:, h.shape[1] :, None, None]
    groups = h.reshape(len(h), norm.norm.num_groups, -1)
    centered = groups - groups.mean(dim=2, keepdim=True)
    normalized = (centered / (centered.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(h.shape)
    normalized = normalized * norm.norm.weight[:, None, None] + norm.norm.bias[:, None, None]
    return (1 + scale) * normalized + shift


# Rounding of sums over a group: 24 bits, and 53.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (1, 8, 4, 4), (2, 8, 2, 1)])
def test_adagn_is_its_formula(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    draws = torch.Generator().manual_seed(0)
    norm = AdaGN(shape[1], 10, 4).to(dtype)
    randomize(norm, seed=11)
    results = []
    for function in (norm, lambda h, emb: plain_adagn(norm, h, emb)):
        draws.manual_seed(1)
        h = torch.randn(shape, generator=draws, dtype=dtype).mul(3).add(2).requires_grad_()
        emb = torch.randn(shape[0], 10, generator=draws, dtype=dtype).requires_grad_()
        direction = torch.randn(shape, generator=draws, dtype=dtype)
        norm.zero_grad()
        output = function(h, emb)
        (output * direction).sum().backward()
        results.append([output.detach(), h.grad, emb.grad, *(p.grad.clone() for p in norm.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max().clamp(min=1)))


def test_adagn_takes_images_in_any_memory_format() -> None:
    norm = AdaGN(8, 10, 2)
    randomize(norm, seed=12)
    h, emb = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(2)), torch.ones(2, 10)
    expected = norm(h, emb)
    for other in (h.to(memory_format=torch.channels_last), h.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(norm(other, emb), expected, rtol=0, atol=1e-5)       # rounding of float32 sums


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_takes_and_gives_the_same_shape(norm: str) -> None:
    layer = NORMS[norm](12, 10, 3)
    h, emb = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(3)), torch.ones(2, 10)
    assert layer(h, emb).shape == h.shape


def test_num_groups() -> None:
    for channels in range(1, 300):
        groups = num_groups(channels)
        assert channels % groups == 0 and 1 <= groups <= 32
        assert channels // groups >= 4 or groups == 1
        better = [g for g in range(groups + 1, 33) if channels % g == 0 and channels // g >= 4]
        assert not better, channels
    assert [num_groups(c) for c in (128, 96, 32, 3, 1)] == [32, 24, 8, 1, 1]
    assert num_groups(128, max_groups=8) == 8 and num_groups(32, min_group_channels=1) == 32


# ------------------------------------------------------------------------------------------------------------- tools


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> None:
    """Weights that leave nothing at zero and keep activations of order 1."""
    draws = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=draws, dtype=torch.float64).to(p.dtype)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def test_without_a_compiler_norms_are_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_module, "KERNELS", object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compilation, "find_missing_tool", lambda device: "needs a C compiler")
    norm_module.check_kernels.cache_clear()
    with pytest.warns(UserWarning, match="needs a C compiler"):
        norm_module.check_kernels()
    assert norm_module.KERNELS is None
    norm_module.check_kernels()         # once is enough
    norm_module.check_kernels.cache_clear()
