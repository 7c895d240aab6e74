"""The U-Net by its properties, for every norm and many shapes."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


SMALL = {
    "resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "num_classes": 4,
    "channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 8,
}

# -------------------------------------------------------------------------------------------- for every norm, shape

SHAPES = {
    "color, two stages": {},
    "odd: 28 with three stages": {"resolution": 28, "channel_mult": (1, 1, 2), "attention_resolutions": (7,)},
    "gray": {"in_channels": 1, "out_channels": 1},
    "learned variance": {"out_channels": 6},
    "convolutions": {"resample": "conv"},
    "no attention but the middle": {"attention_resolutions": ()},
    "attention everywhere": {"attention_resolutions": (8, 4)},
    "one stage": {"channel_mult": (2,), "attention_resolutions": ()},
    "three blocks": {"num_res_blocks": 3},
    "fractional widths": {"channel_mult": (0.5, 1.5)},
    "odd width": {"channels": 15, "channel_mult": (1, 2), "head_channels": 5},
    "two heads": {"num_heads": 2},
    "one pixel": {"resolution": 1, "channel_mult": (1,), "attention_resolutions": ()},
    "no null class": {"null_class": False},
}


# What the shape of a network meets in a norm is its number of groups: all of its own, one, or as many as channels.
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_zero_output_at_the_start(shape: str) -> None:
    for norm in ("adagn", "groupnorm", "adain", "adaln"):
        unet = UNet(**{**SMALL, "norm": norm, **SHAPES[shape]})
        x, t, y = inputs(2, unet.config.in_channels, unet.config.resolution, 4)
        expected = (2, unet.config.out_channels, unet.config.resolution, unet.config.resolution)
        assert torch.equal(unet(x, t, y).sample, torch.zeros(expected)), norm
        randomize(unet, seed=1)
        output = unet(x, t, y)
        assert output.sample.shape == expected and output.sample.isfinite().all(), norm
        assert output.sample.std() > 1e-3, norm
        assert torch.equal(unet(x, t, y, return_dict=False)[0], output.sample), norm


@pytest.mark.parametrize("norm", NORMS)
def test_everything_learns(norm: str) -> None:
    unet = UNet(**SMALL, norm=norm)
    randomize(unet, seed=2)
    x, t, y = inputs(4, 3, 8, 4)
    unet(x, t, y).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unet.parameters())


@pytest.mark.parametrize("norm", NORMS)
def test_timestep_and_class_reach_the_output(norm: str) -> None:
    unet = UNet(**SMALL, norm=norm)
    randomize(unet, seed=3)
    x, _, _ = inputs(2, 3, 8, 4)
    x = x[:1].expand(2, -1, -1, -1)
    with torch.no_grad():
        by_t = unet(x, torch.tensor([10, 700]), torch.tensor([1, 1])).sample
        by_class = unet(x, torch.tensor([10, 10]), torch.tensor([1, 4])).sample      # 4 is the null class
    assert (by_t[0] - by_t[1]).abs().max() > 1e-3 and (by_class[0] - by_class[1]).abs().max() > 1e-3


def test_norms_start_from_equal_shared_tensors() -> None:
    states = {norm: UNet(**SMALL, norm=norm, seed=5).state_dict() for norm in NORMS}
    first = next(iter(states.values()))
    for norm, state in states.items():
        shared = [name for name, t in state.items() if name in first and first[name].shape == t.shape]
        assert {"conv_in.weight", "mid.blocks.0.conv1.weight", "mid.attentions.0.qkv.weight"} <= {*shared}, norm
        if NORMS[norm].match_parameters_of is None:
            assert {"time_embed.linear1.weight", "class_embed.weight"} <= {*shared}, norm
        assert all(torch.equal(state[name], first[name]) for name in shared), norm


@pytest.mark.parametrize("norm", NORMS)
def test_weights_are_a_function_of_the_seed(norm: str) -> None:
    a = UNet(**SMALL, norm=norm, seed=0).state_dict()
    torch.randn(3)      # nor does the global generator matter
    b, c = (UNet(**SMALL, norm=norm, seed=seed).state_dict() for seed in (0, 1))
    own = r"\.norm2\.(?!(norm|proj)\.(weight|bias)$)"      # parameters that only one norm has are constants
    drawn = [name for name, t in a.items() if t.numel() > 1 and t.std() > 0 and not re.search(own, name)]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert drawn and all(not torch.equal(a[name], c[name]) for name in drawn)


def test_initial_values_have_the_documented_spread() -> None:
    unet = UNet(**{**SMALL, "channels": 64, "head_channels": 32, "num_classes": 99})
    weight = unet.mid.blocks[0].conv1.weight
    bound = 1 / math.sqrt(weight[0].numel())
    assert weight.abs().max() <= bound
    # 147 456 draws: the standard error of a uniform's standard deviation is 0.12 %; allow five of them.
    assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=6e-3)
    # 25 600 draws: more than six standard errors.
    assert float(unet.class_embed.weight.detach().std()) == pytest.approx(1, rel=0.03)
    zero = [name for name, p in unet.named_parameters() if not p.any() and not name.endswith("norm.bias")]
    assert all(re.search(r"conv2|proj|conv_out|norm", name) for name in zero)


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_checkpointing_gives_equal_gradients(norm: str) -> None:
    unet = UNet(**SMALL, norm=norm).double()
    randomize(unet, seed=4)
    x, t, y = inputs(3, 3, 8, 4)
    gradients = []
    for enable in (False, True):
        if enable:
            unet.enable_gradient_checkpointing()
        unet.zero_grad()
        output = unet(x.double(), t, y).sample
        output.square().mean().backward()
        gradients.append([output.detach(), *(p.grad.clone() for p in unet.parameters())])
    assert unet.gradient_checkpointing
    for plain, recomputed in zip(*gradients, strict=True):
        # float64; contributions to the embedding may be added in another order.
        torch.testing.assert_close(plain, recomputed, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_mix(norm: str) -> None:
    unet = UNet(**SMALL, norm=norm).double()
    randomize(unet, seed=6)
    x, t, y = inputs(4, 3, 8, 4)
    x = x.double()
    with torch.no_grad():
        whole = unet(x, t, y).sample
        for i in range(4):
            # float64: only the rounding of other kernels for another batch size remains, on outputs of order 1.
            torch.testing.assert_close(unet(x[i : i + 1], t[i : i + 1], y[i : i + 1]).sample[0], whole[i], atol=1e-12,
                                       rtol=0)
        changed = x.clone()
        changed[1] = 100.0
        torch.testing.assert_close(unet(changed, t, y).sample[[0, 2, 3]], whole[[0, 2, 3]], atol=1e-12, rtol=0)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(unet(x[order], t[order], y[order]).sample, whole[order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_saved_and_loaded_bit_for_bit(norm: str, tmp_path: Path) -> None:
    unet = UNet(**SMALL, norm=norm, seed=7)
    randomize(unet, seed=7)
    unet.save_pretrained(tmp_path)
    again = UNet.from_pretrained(tmp_path)
    state = unet.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[name]) for name, t in again.state_dict().items())
    for key, value in {**SMALL, "norm": norm, "seed": 7}.items():
        assert again.config[key] == (list(value) if isinstance(value, tuple) else value)     # JSON has no tuples
    x, t, y = inputs(2, 3, 8, 4)
    with torch.no_grad():
        assert torch.equal(unet.eval()(x, t, y).sample, again.eval()(x, t, y).sample)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in tmp_path.iterdir())


def test_one_timestep_for_all() -> None:
    unet = UNet(**SMALL)
    randomize(unet, seed=8)
    x, _, y = inputs(3, 3, 8, 4)
    with torch.no_grad():
        expected = unet(x, torch.tensor([250, 250, 250]), y).sample
        assert all(torch.equal(unet(x, t, y).sample, expected) for t in (250, torch.tensor(250), 250.0))


def test_without_labels(refused) -> None:
    x, t, _ = inputs(2, 3, 8, 4)
    with refused("class_labels", "0..3"):
        UNet(**SMALL)(x, t)
    unconditional = UNet(**{**SMALL, "num_classes": 0})
    randomize(unconditional, seed=9)
    assert unconditional.null_label == 0
    with torch.no_grad():
        assert torch.equal(
            unconditional(x, t).sample, unconditional(x, t, torch.zeros(2, dtype=torch.int64)).sample
        )


def test_null_label() -> None:
    assert UNet(**SMALL).null_label == 4 and UNet(**SMALL, null_class=False).null_label is None


def test_labels_as_weights_and_for_each_resolution() -> None:
    unet = UNet(**SMALL)
    randomize(unet, seed=10)
    x, t, y = inputs(3, 3, 8, 4)
    one_hot = F.one_hot(y, 5).float()
    with torch.no_grad():
        expected = unet(x, t, y).sample
        # The sum of a row of zeros and one entry is that entry: equal up to the layout of the product.
        for same in (one_hot, one_hot[:, None].repeat(1, 2, 1), y[:, None].repeat(1, 2)):
            torch.testing.assert_close(unet(x, t, same).sample, expected, rtol=0, atol=1e-5)
        half = 0.5 * one_hot + 0.5 * one_hot.roll(1, 0)
        table = unet.class_embed.weight
        blended = UNet(**SMALL)
        blended.load_state_dict(unet.state_dict())
        blended.class_embed.weight[:3] = half @ table
        torch.testing.assert_close(
            unet(x, t, half).sample, blended(x, t, torch.arange(3)).sample, rtol=0, atol=1e-5
        )


def test_each_resolution_has_its_own_label() -> None:
    """The label of a resolution reaches its norms in encoder and decoder; the middle has that of the coarsest."""
    unet = UNet(**SMALL)
    randomize(unet, seed=11)
    x, t, _ = inputs(1, 3, 8, 4)
    seen: dict[str, Tensor] = {}
    for name, module in unet.named_modules():
        if name.endswith("norm2"):
            module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: args[1]}))
    with torch.no_grad():
        unet(x, t, torch.tensor([[1, 2]]))
        time = unet.time_embed(t)
        of = {size: F.silu(time + unet.class_embed.weight[label]) for size, label in ((0, 1), (1, 2))}
    assert seen
    for name, emb in seen.items():
        finest = name.startswith(("down.0", "up.1"))
        assert torch.equal(emb, of[0 if finest else 1]), name


def test_labels_of_wrong_shapes(refused) -> None:
    unet = UNet(**SMALL)
    x, t, _ = inputs(3, 3, 8, 4)
    ids = [torch.zeros(shape, dtype=torch.int64) for shape in ((3, 3), (), (3, 2, 2))]
    weights = [torch.zeros(shape) for shape in ((3, 4), (3, 3, 5), (), (3, 2, 4), (5,))]
    for labels in (*ids, *weights):
        with refused("class_labels", str(tuple(labels.shape)), "(B,)", "(B, 2)"):
            unet(x, t, labels)


# --------------------------------------------------------------------------------------------------- one-line errors


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"resolution": 28, "channel_mult": (1, 1, 1, 1)}, ("data.resolution: 28", "24 or 32", "3 stages")),
        ({"resolution": 4, "channel_mult": (1, 1, 1, 1)}, ("data.resolution: 4", "8", "3 stages")),
        ({"resolution": 9}, ("data.resolution: 9", "8 or 10", "1 stage")),
        ({"attention_resolutions": (5,)}, ("model.attention_resolutions: 5", "8, 4")),
        ({"attention_resolutions": (4, 16)}, ("model.attention_resolutions: 16", "8, 4")),
        ({"head_channels": 24}, ("model.head_channels: 24", "1, 2, 4, 8, 16, 32")),
        ({"head_channels": 64}, ("model.head_channels: 64", "1, 2, 4, 8, 16, 32")),
        ({"num_heads": 3}, ("model.num_heads: 3",)),
        ({"channel_mult": ()}, ("model.channel_mult",)),
        ({"norm": "adagm"}, ("model.norm: 'adagm'", "adagn")),
        ({"resample": "resblok"}, ("model.resample: 'resblok'", "resblock")),
        ({"channels": 1, "channel_mult": (1,), "attention_resolutions": (), "head_channels": 1}, ("model.channels",)),
        ({"channels": 2, "channel_mult": (1, 0.25)}, ("model.channel_mult",)),
        ({"num_classes": 0, "null_class": False}, ("num_classes",)),
    ],
)
def test_numbers_that_do_not_fit(wrong: dict, expected: tuple[str, ...], refused) -> None:
    with refused(*expected):
        UNet(**{**SMALL, **wrong})


def test_what_the_error_recommends_works() -> None:
    for resolution, stages in ((24, 4), (32, 4), (28, 3), (9, 1)):
        unet = UNet(**{**SMALL, "attention_resolutions": (), "resolution": resolution, "channel_mult": (1,) * stages})
        x, t, y = inputs(1, 3, resolution, 4)
        assert unet(x, t, y).sample.shape == x.shape


# ------------------------------------------------------------------------------------------------------------- tools


def inputs(batch: int, channels: int, resolution: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100)
    x = torch.randn(batch, channels, resolution, resolution, generator=draws)
    t = torch.tensor([0, 999, 10, 421])[:batch]
    return x, t, torch.arange(batch) % classes


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
