"""The U-Net against diffusers' UNet2DModel with equal weights: outputs and gradients."""

import math
import re

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

RES_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2.proj": "time_emb_proj",
    "norm2.norm": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
OUTSIDE = {
    "time_embed.linear1": "time_embedding.linear_1",
    "time_embed.linear2": "time_embedding.linear_2",
    "class_embed": "class_embedding",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
PLACE = re.compile(r"(down|mid|up)\.(?:(\d)\.)?(blocks|attentions|resample)\.(\d)\.(.+)")


def their_names(ours: str) -> list[str]:
    """Names in UNet2DModel of what our layer `ours` holds; three for the rows of q, k and v."""
    if ours in OUTSIDE:
        return [OUTSIDE[ours]]
    side, level, role, index, layer = PLACE.fullmatch(ours).groups()
    parent = "mid_block" if side == "mid" else f"{side}_blocks.{level}"
    if role == "attentions":
        inner = {"norm": ["group_norm"], "qkv": ["to_q", "to_k", "to_v"], "proj": ["to_out.0"]}[layer]
        return [f"{parent}.attentions.{index}.{name}" for name in inner]
    if role == "blocks":
        return [f"{parent}.resnets.{index}.{RES_BLOCK[layer]}"]
    return [f"{parent}.{side}samplers.{index}.{RES_BLOCK.get(layer, layer)}"]       # a res-block or one convolution


def as_theirs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        theirs = their_names(layer)
        renamed.update({f"{other}.{kind}": part for other, part in zip(theirs, tensor.chunk(len(theirs)), strict=True)})
    return renamed


def pair(conditioning: str, resample: str) -> tuple[UNet, UNet2DModel]:
    """The same function twice, with equal random weights."""
    ours = UNet(
        resolution=16,
        in_channels=3,
        out_channels=6,
        num_classes=5,
        channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(8,),
        head_channels=16,
        norm={"scale_shift": "adagn", "default": "groupnorm"}[conditioning],
        norm_groups=8,
        resample=resample,
    )
    plain, kind = ("Resnet{}sampleBlock2D", "resnet") if resample == "resblock" else ("{}Block2D", "conv")
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=(plain.format("Down"), "AttnDownBlock2D", plain.format("Down")),
        up_block_types=(plain.format("Up"), "AttnUpBlock2D", plain.format("Up")),
        downsample_type=kind,
        upsample_type=kind,
        resnet_time_scale_shift=conditioning,
        attention_head_dim=16,
        norm_num_groups=8,
        attn_norm_num_groups=8,     # without it, the middle attention has no norm where scale_shift is set
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
        num_class_embeds=6,         # five and the null class
    )
    randomize(ours, seed=0)
    theirs.load_state_dict(as_theirs(ours.state_dict()), strict=True)
    return ours, theirs


PAIRS = [(c, r) for c in ("scale_shift", "default") for r in ("resblock", "conv")]


# Relative to the largest number of a tensor: float32 and float64 sums in another order; gradients are sums over batch
# and pixels that cancel in part, which takes another digit.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("conditioning", "resample"), PAIRS)
def test_equals_diffusers_with_equal_weights(
    conditioning: str, resample: str, dtype: torch.dtype, tolerance: float
) -> None:
    ours, theirs = (model.type(dtype) for model in pair(conditioning, resample))
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) == ours.num_parameters()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(100))
    t, y = torch.tensor([0, 999, 10, 421]), torch.arange(4)
    given, other = (x.type(dtype).requires_grad_() for _ in range(2))
    a, b = ours(given, t, y).sample, theirs(other, t, y).sample
    assert relative(a, b) < tolerance
    direction = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    (a * direction).mean().backward()
    (b * direction).mean().backward()
    assert relative(given.grad, other.grad) < tolerance
    found = as_theirs({name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, gradient in expected.items():
        # A softmax does not feel the bias of its keys: that gradient is 0, and the queries' says what is small.
        scale = expected[name.replace("to_k.bias", "to_q.bias")].abs().max()
        assert float((found[name] - gradient).abs().max() / scale) < 10 * tolerance, name


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


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
