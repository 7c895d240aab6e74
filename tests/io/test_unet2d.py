"""Conversion to diffusers' UNet2DModel and back, against that class itself."""

import math
import re

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ddpm.io.unet2d import from_unet2d, to_unet2d, unet_options
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


SMALL = {
    "resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "num_classes": 4,
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 32,
    "norm_groups": 8,
}
HELD = {
    "digits with 8 groups": {"in_channels": 1, "out_channels": 1},
    "gray and alpha": {"in_channels": 2, "out_channels": 2},
    "eight channels and their variance": {"in_channels": 8, "out_channels": 16},
    "convolutions": {"resample": "conv"},
    "additive": {"norm": "groupnorm"},
    "additive, convolutions": {"norm": "groupnorm", "resample": "conv"},
    "no attention but the middle": {"attention_resolutions": ()},
    "attention everywhere": {"attention_resolutions": (8, 4), "resample": "conv"},
    "attention at the finest only": {"attention_resolutions": (8,)},
    "learned variance": {"out_channels": 6},
    "no null class": {"null_class": False},
    "unconditional": {"num_classes": 0},
    "one level": {"channel_mult": (1,), "attention_resolutions": (), "num_res_blocks": 2},
    "three levels, fractional": {
        "resolution": 12, "channel_mult": (1, 1.5, 1.25), "attention_resolutions": (6,), "head_channels": 8,
        "num_res_blocks": 2,
    },
    "one head": {"num_heads": 1, "attention_resolutions": (8, 4)},
    "two heads at one width": {"num_heads": 2},
    "one channel per group": {"norm_groups": 32, "min_group_channels": 1},
    "dropout": {"dropout": 0.3},
    "embeddings of another width": {"emb_channels": 50},
    "conditioned at all resolutions by name": {"condition_at": (8, 4)},
}


# Relative to the largest output: sums of another order in float32, and in float64.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", HELD)
def test_out_and_back_with_equal_outputs(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    unet = drawn(UNet(**{**SMALL, **HELD[kind]}).type(dtype), seed=1)
    theirs = to_unet2d(unet)
    back = from_unet2d(theirs, null_class=unet.config.num_classes > 0 and unet.config.null_class)
    assert theirs.dtype == back.dtype == dtype and not theirs.training and not back.training
    x, t, y = inputs(unet)
    labels = {"class_labels": y} if unet.config.num_classes else {}
    with torch.no_grad():
        expected = unet(x, t, y).sample
        assert expected.std() > 1e-2
        assert relative(theirs(x, t, **labels).sample, expected) < tolerance
        assert relative(back(x, t, y).sample, expected) < tolerance
    for key in ("resolution", "num_classes", "null_class", "dropout", "norm", "in_channels", "out_channels"):
        assert back.config[key] == unet.config[key], key
    assert [p.shape for p in back.parameters()] == [p.shape for p in unet.parameters()]


def test_the_copy_is_a_copy() -> None:
    unet = drawn(UNet(**SMALL), seed=2)
    theirs = to_unet2d(unet)
    back = from_unet2d(theirs, null_class=True)
    before = [p.clone() for p in unet.parameters()]
    with torch.no_grad():
        for p in [*theirs.parameters(), *back.parameters()]:
            p.add_(1)
    assert all(torch.equal(p, q) for p, q in zip(unet.parameters(), before, strict=True))
    assert all(p.requires_grad for p in [*theirs.parameters(), *back.parameters()])


def test_class_embeddings_keep_their_order() -> None:
    unet = drawn(UNet(**SMALL), seed=3)
    theirs = to_unet2d(unet)
    assert theirs.config.num_class_embeds == 5 and unet.null_label == 4
    assert torch.equal(theirs.class_embedding.weight, unet.class_embed.weight)
    assert from_unet2d(theirs, null_class=True).null_label == 4
    without = from_unet2d(theirs)
    assert without.null_label is None and without.config.num_classes == 5


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"norm_groups": 32}, r"^model\.norm_groups: .*8, 16, 24, 32 groups.*model\.norm_groups 8 "),
        (
            {"channels": 24, "head_channels": 12, "channel_mult": (1, 1.5), "norm_groups": 32},
            r"model\.norm_groups: .* model\.norm_groups 6 ",
        ),
        (
            {"channel_mult": (0.5, 1, 2), "norm_groups": 4, "head_channels": 16},
            r"^model\.channel_mult: .*0\.5.*first factor of 1",
        ),
        (
            {"num_heads": 4, "attention_resolutions": (8, 4)},
            r"^model\.num_heads: .*8, 16 channels.*model\.head_channels, or with one head",
        ),
    ],
)
def test_what_cannot_be_held_is_refused(model: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        to_unet2d(UNet(**{**SMALL, **model}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "channel_mult", "least"), [(32, (1, 2), 4), (24, (1, 1.5), 4), (40, (1, 3), 2), (15, (1, 2), 4)]
)
def test_the_recommended_number_of_groups_is_the_largest_that_works(
    channels: int, channel_mult: tuple[float, ...], least: int
) -> None:
    shape = {"channels": channels, "channel_mult": channel_mult, "min_group_channels": least, "head_channels": 1}
    possible, advised = [], set()
    for norm_groups in range(1, 33):
        with torch.device("meta"):
            unet = UNet(**{**SMALL, **shape, "norm_groups": norm_groups})
        try:
            possible.append(to_unet2d(unet).config.norm_num_groups)
        except ValueError as problem:
            advised.add(int(re.search(r"model\.norm_groups (\d+) ", str(problem))[1]))
    assert advised == {max(possible)}


def test_every_norm_is_held_or_refused_by_name() -> None:
    for norm in NORMS:
        unet = UNet(**SMALL, norm=norm)
        if norm in ("adagn", "groupnorm", "groupnorm_matched"):
            assert to_unet2d(unet).num_parameters() == unet.num_parameters()
        else:
            with pytest.raises(ValueError, match=rf"^model\.norm: .*{norm}; allowed: .*adagn"):
                to_unet2d(unet)


def test_a_widened_embedding_comes_back_as_it_is() -> None:
    unet = drawn(UNet(**SMALL, norm="groupnorm_matched").double(), seed=9)
    back = from_unet2d(to_unet2d(unet), null_class=True)
    assert back.config.norm == "groupnorm" and back.config.emb_channels == unet.class_embed.embedding_dim > 128
    x, t, y = inputs(unet)
    with torch.no_grad():
        assert torch.equal(back(x, t, y).sample, unet(x, t, y).sample)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        *(({"conditioning": c}, rf"^model\.conditioning: .*{c}; allowed: both$") for c in CONDITIONINGS if c != "both"),
        ({"condition_at": "decoder"}, r"^model\.condition_at: .*decoder; allowed: all$"),
        ({"condition_at": (4,)}, r"^model\.condition_at: .*\(4,\); allowed: all$"),
    ],
)
def test_other_conditionings_are_refused_by_name(options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        to_unet2d(UNet(**SMALL, **options))


# --------------------------------------------------------------------------------------- models that diffusers made

THEIRS = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "num_class_embeds": 5,
}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),      # the last changes nothing
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UNetResUpBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_class_embeds": None},
        {"attention_head_dim": None},
        {"act_fn": "swish", "sample_size": [16, 16], "attn_norm_num_groups": 8, "time_embedding_dim": 64},
        {**RESNET, "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D")},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8, "out_channels": 6, "in_channels": 3},
        {"downsample_type": None, "upsample_type": None, "time_embedding_dim": 50},
        {
            "downsample_type": "resnet", "upsample_type": "resnet", "downsample_padding": 0,
            "down_block_types": ("AttnDownBlock2D",) * 3, "up_block_types": ("AttnUpBlock2D",) * 3,
        },
    ],
)
def test_comes_in_with_equal_outputs(options: dict) -> None:
    theirs = drawn(UNet2DModel(**{**THEIRS, **options}), seed=4).double().eval()
    unet = from_unet2d(theirs)
    x, t, y = inputs(unet)
    labels = {} if theirs.config.num_class_embeds is None else {"class_labels": y}
    with torch.no_grad():
        expected = theirs(x, t, **labels).sample
        assert relative(unet(x, t, y).sample, expected) < 1e-12      # float64, sums in another order
        assert relative(to_unet2d(unet)(x, t, **labels).sample, expected) < 1e-12


def test_an_old_configuration_has_the_defaults() -> None:
    config = {key: value for key, value in THEIRS.items() if key != "num_class_embeds"}
    assert unet_options(config) == unet_options(UNet2DModel(**config).config)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"time_embedding_type": "fourier"}, r"time_embedding_type: 'fourier' .*allowed: 'positional'"),
        ({"freq_shift": 1}, r"freq_shift: 1 .*allowed: 0"),
        ({"flip_sin_to_cos": False}, r"flip_sin_to_cos: False .*allowed: True"),
        ({"norm_eps": 1e-6}, r"norm_eps: 1e-06 .*allowed: 1e-05"),
        ({"center_input_sample": True}, r"center_input_sample: True"),
        ({"act_fn": "gelu"}, r"act_fn: 'gelu' .*allowed: 'silu' or 'swish'"),
        ({"mid_block_type": None}, r"mid_block_type: None"),
        ({"mid_block_scale_factor": math.sqrt(2)}, r"mid_block_scale_factor: 1\.41"),
        ({"add_attention": False}, r"add_attention: False"),
        ({"class_embed_type": "timestep"}, r"class_embed_type: 'timestep' .*allowed: None"),
        ({"resnet_time_scale_shift": "ada_group"}, r"resnet_time_scale_shift: 'ada_group'"),
        ({"resnet_time_scale_shift": "scale_shift"}, r"attn_norm_num_groups: None .*allowed: 8"),
        ({"attn_norm_num_groups": 4}, r"attn_norm_num_groups: 4 .*allowed: 8"),
        ({"downsample_padding": 0}, r"downsample_padding: 0 .*allowed: 1"),
        ({"downsample_type": "resnet"}, r"down_block_types: .*up_block_types"),
        ({"downsample_type": "fir"}, r"downsample_type: 'fir' .*allowed: 'resnet' or 'conv'"),
        ({"attention_head_dim": 12}, r"attention_head_dim: 12 .*a divisor of the 32 channels"),
        ({"sample_size": None}, r"sample_size: None"),
        ({"sample_size": (16, 32)}, r"sample_size: \(16, 32\)"),
        ({"sample_size": 18}, r"sample_size: 18 .*3 levels.* multiple of 4"),
        (
            {"down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D")},
            r"down_block_types: 'SkipDownBlock2D' .*allowed: ResnetDownsampleBlock2D, DownBlock2D, AttnDownBlock2D",
        ),
        ({"up_block_types": ("UpBlock2D", "SkipUpBlock2D", "UpBlock2D")}, r"up_block_types: 'SkipUpBlock2D'"),
        ({"up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")}, r"up_block_types: .*encoder and the decoder"),
        ({"up_block_types": ("UpBlock2D",)}, r"up_block_types: .*as many as levels, 3"),
    ],
)
def test_configurations_that_are_refused(options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        unet_options({**THEIRS, **options})
    assert "\n" not in str(error.value)


def test_a_published_configuration_of_another_kind_is_refused() -> None:
    # What google/ddpm-cifar10-32 was saved with.
    config = {
        "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "in_channels": 3,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3,
        "sample_size": 32, "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }
    with pytest.raises(ValueError, match=r"freq_shift: 1 .*allowed: 0$"):
        unet_options(config)


def test_every_width_has_its_factor() -> None:
    for channels in range(1, 60):
        for width in range(1, 400):
            config = {**THEIRS, "block_out_channels": (channels, channels, width), "attention_head_dim": None}
            factor = unet_options(config)["channel_mult"][2]
            assert int(channels * factor) == width


def test_no_null_class_without_classes() -> None:
    with pytest.raises(ValueError, match=r"num_class_embeds: None .*omit --null-class$"):
        unet_options({**THEIRS, "num_class_embeds": None}, null_class=True)


# ------------------------------------------------------------------------------------------------------------- tools


def inputs(unet: UNet) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100)
    size = unet.config.resolution
    x = torch.randn(3, unet.config.in_channels, size, size, generator=draws, dtype=torch.float64).to(unet.dtype)
    rows = len(unet.class_embed.weight)
    return x, torch.tensor([0, 421, 999]), torch.tensor([0, rows - 1, rows // 2])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def drawn(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights that leave nothing at zero and keep activations of order 1; in evaluation mode."""
    draws = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=draws, dtype=torch.float64).to(p.dtype)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval()
