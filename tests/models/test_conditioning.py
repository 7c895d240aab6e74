"""What timestep and class reach: by which way, at which depths, and with how many parameters."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from norm_formulas import formula
from torch import Tensor, nn

from ddpm.models.blocks import CrossAttention
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import EPS, NORMS, AdaGN, AdaptiveNorm, GroupNorm
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "resolution": 8,
    "in_channels": 1,
    "out_channels": 1,
    "num_classes": 3,
    "channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 8,
}
# What reaches the norms: whether the timestep does, and whether the class does.
REACHES = {
    "both": (True, True),
    "timestep": (True, False),
    "class": (False, True),
    "none": (False, False),
    "cross_attention": (True, False),
}
# Depths -> the stages that they name, of a U-Net of two.
SIDES = {
    "all": {"down.0", "down.1", "mid", "up.0", "up.1"},
    "encoder": {"down.0", "down.1"},
    "middle": {"mid"},
    "decoder": {"up.0", "up.1"},
    "8": {"down.0", "up.1"},
    "4": {"down.1", "mid", "up.0"},
    "8, 4": {"down.0", "down.1", "mid", "up.0", "up.1"},
}


def depths_of(text: str) -> str | list[int]:
    return text if text.isalpha() else [int(size) for size in text.split(", ")]


def test_every_conditioning_is_tested() -> None:
    assert REACHES.keys() == CONDITIONINGS.keys()


# --------------------------------------------------------------------------------------------- flow of information


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_cut_has_no_influence_and_what_is_not_has(norm: str) -> None:
    for conditioning, (timestep, norms_get_class) in REACHES.items():
        unet = randomized(UNet(**SMALL, norm=norm, conditioning=conditioning), seed=1)
        by_timestep, by_class = influences(unet)
        assert (by_timestep > 1e-3) if timestep else (by_timestep == 0), conditioning
        fed = norms_get_class or CONDITIONINGS[conditioning].cross_attention
        assert (by_class > 1e-3) if fed else (by_class == 0), conditioning


@pytest.mark.parametrize("depths", SIDES)
def test_only_the_named_depths_are_reached(depths: str) -> None:
    """Every layer's answer to two timesteps and classes, at equal inputs, shows whether anything reaches it."""
    for conditioning in ("both", "timestep", "class", "cross_attention"):
        unet = randomized(UNet(**SMALL, conditioning=conditioning, condition_at=depths_of(depths)), seed=2)
        reached: dict[str, set[str]] = {"norms": set(), "cross_attention": set()}
        with torch.no_grad():
            one = unet.embeddings(torch.tensor([10]), torch.tensor([0]))
            other = unet.embeddings(torch.tensor([700]), torch.tensor([2]))
            for name, module in unet.named_modules():
                stage = next((stage for stage in unet.stages if name.startswith(f"{stage}.")), None)
                if isinstance(module, NORMS["adagn"]):
                    h = torch.randn(1, module.norm.num_channels, 4, 4, generator=torch.Generator().manual_seed(1))
                    if not torch.equal(module(h, one[stage].for_norms), module(h, other[stage].for_norms)):
                        reached["norms"].add(stage)
                    elif stage not in SIDES[depths]:
                        assert not one[stage].for_norms.any() and not other[stage].for_norms.any()
                elif isinstance(module, CrossAttention):
                    h = torch.randn(1, module.q.in_features, 4, 4, generator=torch.Generator().manual_seed(1))
                    first, second = one[stage].for_cross_attention, other[stage].for_cross_attention
                    assert not torch.equal(module(h, first), module(h, second))
                    reached["cross_attention"].add(stage)
        assert reached["norms"] == SIDES[depths]
        assert reached["cross_attention"] == (SIDES[depths] if conditioning == "cross_attention" else set())
        assert all(influence > 1e-3 or conditioning in ("timestep", "class") for influence in influences(unet))


def test_stages_know_where_they_are() -> None:
    stages = UNet(**SMALL).stages
    found = {name: (stage.side, stage.size) for name, stage in stages.items()}
    assert found == {
        "down.0": ("encoder", 8), "down.1": ("encoder", 4), "mid": ("middle", 4), "up.0": ("decoder", 4),
        "up.1": ("decoder", 8),
    }
    assert all(dict(UNet(**SMALL).named_modules())[name] is not None for name in stages)


def test_depths_change_no_parameter() -> None:
    states = {depths: UNet(**SMALL, condition_at=depths_of(depths)).state_dict() for depths in SIDES}
    for state in states.values():
        assert state.keys() == states["all"].keys()
        assert all(torch.equal(tensor, states["all"][name]) for name, tensor in state.items())


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_each_resolution_has_its_own_label_and_blends(conditioning: str) -> None:
    """Ids, weights of one class, and either of them for each stage are the same; a stage's label stays at its size."""
    unet = randomized(UNet(**SMALL, conditioning=conditioning), seed=3)
    x, t, y = inputs()
    weights = F.one_hot(y, 4).float()
    with torch.no_grad():
        expected = unet(x, t, y).sample
        for same in (weights, y[:, None].repeat(1, 2), weights[:, None].repeat(1, 2, 1)):
            # The sum of a row of zeros and one entry is that entry: equal up to the layout of the products.
            torch.testing.assert_close(unet(x, t, same).sample, expected, rtol=0, atol=1e-5)
        mixed = unet.embeddings(t, torch.stack([y, (y + 1) % 3], dim=1))
        by_size = {8: unet.embeddings(t, y), 4: unet.embeddings(t, (y + 1) % 3)}
        for name, stage in unet.stages.items():
            assert torch.equal(mixed[name].for_norms, by_size[stage.size][name].for_norms)
            assert torch.equal(mixed[name].for_cross_attention, by_size[stage.size][name].for_cross_attention)
        half = unet.embeddings(t, 0.5 * weights + 0.5 * weights.roll(1, 0))["mid"].for_cross_attention
        torch.testing.assert_close(half, (unet.class_embed(y) + unet.class_embed(y.roll(1))) / 2)


# ------------------------------------------------------------------------------------------------- at the beginning


def plain_norm(norm: str, layer: AdaptiveNorm, h: Tensor, emb: Tensor) -> Tensor:
    """Return what the formula of a norm gives without any embedding."""
    return formula(norm, layer, h, torch.zeros_like(emb), layer.norm.num_groups)


@pytest.mark.parametrize("norm", NORMS)
def test_conditioning_starts_without_effect(norm: str) -> None:
    """All arms start as the same function, that of the plain norm; they differ only in the statistics of the norm."""
    bare = UNet(**SMALL, norm=norm).double()
    for module in bare.modules():
        if isinstance(module, AdaptiveNorm):
            module.forward = partial(plain_norm, norm, module)
    zero_at_the_start = r"(norm2|cross_attentions\.\d)\.proj"
    randomized(bare, seed=4, keep=zero_at_the_start)
    x, t, y = inputs()
    with torch.no_grad():
        expected = bare(x.double(), t, y).sample
        assert expected.std() > 1e-2
        for conditioning in CONDITIONINGS:
            unet = UNet(**SMALL, norm=norm, conditioning=conditioning).double()
            randomized(unet, seed=4, keep=zero_at_the_start)
            # float64: sums in another order.
            torch.testing.assert_close(unet(x.double(), t, y).sample, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", NORMS)
def test_shared_tensors_start_equal(norm: str) -> None:
    first = UNet(**SMALL, seed=5).state_dict()
    for conditioning in CONDITIONINGS:
        state = UNet(**SMALL, norm=norm, conditioning=conditioning, seed=5).state_dict()
        assert first.keys() <= state.keys()
        assert all(re.search(r"cross_attentions\.|norm2\.", name) for name in state if name not in first), conditioning
        other = {name for name, tensor in first.items() if tensor.shape != state[name].shape}
        widened = r"time_embed\.|class_embed\." if NORMS[norm].match_parameters_of else "nothing"
        assert all(re.search(rf"norm2\.proj\.|{widened}", name) for name in other), conditioning
        assert all(torch.equal(state[name], tensor) for name, tensor in first.items() if name not in other)


class ScaledGroupNorm(GroupNorm):
    """GroupNorm with one more parameter."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=EPS)
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.gain * super().forward(h)


class GatedAdaGN(AdaGN):
    """AdaGN with a learned gate: parameters of its own, directly, in a submodule and in its GroupNorm."""

    def __init__(self, channels: int, emb_channels: int, groups: int) -> None:
        super().__init__(channels, emb_channels, groups)
        self.gate = nn.Parameter(torch.ones(channels))
        self.activation = nn.PReLU(channels)
        self.norm = ScaledGroupNorm(channels, groups)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, D) -> (B, C, H, W)."""
        return self.activation(self.gate[:, None, None] * super().forward(h, emb))


def test_a_norm_may_have_parameters_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They start as their constructor sets them, all other tensors as with another norm, and they are saved."""
    monkeypatch.setitem(NORMS, "adagn_gated", GatedAdaGN)
    unet, plain = UNet(**SMALL, norm="adagn_gated", seed=5), UNet(**SMALL, seed=5)
    values = {"gate": 1.0, "activation.weight": 0.25, "norm.gain": 0.7}
    own = unet.state_dict().keys() - plain.state_dict().keys()
    assert {name.partition(".norm2.")[2] for name in own} == values.keys()
    for name in own:
        tensor = unet.state_dict()[name]
        assert torch.equal(tensor, torch.full_like(tensor, values[name.partition(".norm2.")[2]]))
    assert plain.state_dict().keys() <= unet.state_dict().keys()
    assert all(torch.equal(unet.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    with torch.no_grad():
        for name in own:
            unet.get_parameter(name).fill_(0.5)
    unet.save_pretrained(tmp_path)
    loaded = UNet.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(("norm", "depths"), [*((norm, "all") for norm in NORMS), ("adagn", "middle"), ("adagn", "8")])
def test_every_parameter_has_a_gradient(norm: str, depths: str) -> None:
    """Also where it is cut: training on several processes waits for each. Where it is not cut, it is not zero."""
    for conditioning, (timestep, norms_get_class) in REACHES.items():
        options = {"norm": norm, "conditioning": conditioning, "condition_at": depths_of(depths)}
        unet = randomized(UNet(**SMALL, **options), seed=6)
        x, t, y = inputs()
        unet(x, t, y).sample.square().mean().backward()
        for name, parameter in unet.named_parameters():
            assert parameter.grad is not None, (conditioning, name)
            if name.startswith("time_embed"):
                fed = timestep
            elif name.startswith("class_embed"):
                fed = norms_get_class or CONDITIONINGS[conditioning].cross_attention
            elif name.endswith("norm2.proj.weight"):
                fed = (timestep or norms_get_class) and name.startswith(tuple(f"{stage}." for stage in SIDES[depths]))
            else:
                fed = True
            assert parameter.grad.any() == fed, (conditioning, name)


@pytest.mark.parametrize("conditioning", ["timestep", "class", "none", "cross_attention"])
def test_gradient_checkpointing_gives_equal_gradients(conditioning: str) -> None:
    gradients = []
    for enable in (False, True):
        unet = randomized(UNet(**SMALL, conditioning=conditioning, condition_at="decoder").double(), seed=7)
        if enable:
            unet.enable_gradient_checkpointing()
        x, t, y = inputs()
        unet(x.double(), t, y).sample.square().mean().backward()
        gradients.append([p.grad for p in unet.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        # float64; contributions to the embedding may be added in another order.
        torch.testing.assert_close(plain, recomputed, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("conditioning", "depths"), [("cross_attention", "middle"), ("class", "4"), ("none", "8, 4")])
def test_saved_and_loaded_bit_for_bit(conditioning: str, depths: str, tmp_path: Path) -> None:
    options = {"norm": "groupnorm_matched", "conditioning": conditioning, "condition_at": depths_of(depths)}
    unet = randomized(UNet(**SMALL, **options), seed=8).eval()
    unet.save_pretrained(tmp_path)
    again = UNet.from_pretrained(tmp_path).eval()
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.equal(unet(x, t, y).sample, again(x, t, y).sample)
    assert {key: again.config[key] for key in options} == options


def test_cross_attention_stands_after_every_residual_block_but_those_that_resample() -> None:
    unet = UNet(**{**SMALL, "num_res_blocks": 2}, conditioning="cross_attention", condition_at="decoder")
    found = [name for name, module in unet.named_modules() if isinstance(module, CrossAttention)]
    assert found == [f"up.{stage}.cross_attentions.{block}" for stage in (0, 1) for block in (0, 1, 2)]


# -------------------------------------------------------------------------------------------------- one-line errors


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"conditioning": "time"}, ("model.conditioning: 'time'", "mean timestep")),
        ({"condition_at": "decodr"}, ("model.condition_at: 'decodr'", "mean decoder", "[8]")),
        ({"condition_at": "8"}, ("model.condition_at: '8'", "[8]")),
        ({"condition_at": [16]}, ("model.condition_at: 16", "8, 4")),
        ({"condition_at": []}, ("model.condition_at: []",)),
        ({"conditioning": "cross_attention", "head_channels": 32, "attention_resolutions": ()},
         ("model.head_channels: 32", "1, 2, 4, 8, 16")),
        ({"conditioning": "cross_attention", "emb_channels": 30}, ("emb_channels: 30", "multiples of 4")),
        ({"emb_channels": 0}, ("emb_channels: 0",)),
        ({"norm": "groupnorm_matched", "channels": 2, "channel_mult": (1,), "attention_resolutions": (),
          "head_channels": 2, "conditioning": "cross_attention"},
         ("model.norm", "1%", "model.channels")),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict, expected: tuple[str, ...], refused) -> None:
    with refused(*expected):
        UNet(**{**SMALL, **wrong})


def test_cross_attention_where_there_is_none_needs_no_heads() -> None:
    options = {"conditioning": "cross_attention", "head_channels": 32, "attention_resolutions": ()}
    UNet(**{**SMALL, **options}, condition_at="middle")      # 32 channels there


# ------------------------------------------------------------------------------------------------------------- tools


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(100))
    return x, torch.tensor([0, 999, 421]), torch.tensor([0, 1, 2])


@torch.no_grad()
def influences(unet: UNet) -> tuple[float, float]:
    """Largest change of the output with the timestep, and with the class."""
    x = inputs()[0][:1]
    # One by one: rows of a batch may be rounded differently. 3 is the null class.
    output, *others = (unet(x, t, torch.tensor([label])).sample for t, label in ((10, 0), (700, 0), (10, 1), (10, 3)))
    by_timestep, *by_class = (float((output - other).abs().max()) for other in others)
    return by_timestep, max(by_class)


@torch.no_grad()
def randomized(module: nn.Module, seed: int, keep: str | None = None) -> nn.Module:
    """Weights of order 1 / sqrt(fan_in) by the names of the tensors; those whose name holds `keep` stay."""
    for name, p in module.named_parameters():
        if keep is not None and re.search(keep, name):
            continue
        draws = torch.Generator().manual_seed(hash_of(f"{seed} {name}"))
        noise = torch.randn(p.shape, generator=draws, dtype=torch.float64).to(p.dtype)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module


def hash_of(text: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31
