"""Checkpoints of OpenAI's guided-diffusion (ADM) and improved-diffusion as a UNet.

Both families name their tensors alike: `input_blocks.i.j`, `middle_block.j`, `output_blocks.i.j`, in the order in which
the network runs. This module walks a UNet in that order beside them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ddpm.models.blocks import Identity, ResBlock, SelfAttention
from ddpm.models.unet import UNet

_RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2.proj": "emb_layers.1",
    "norm2.norm": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}
_RESAMPLE = {"down": {"conv": "op"}, "up": {"conv": "conv"}}
_OUTSIDE = {
    "time_embed.linear1": "time_embed.0",
    "time_embed.linear2": "time_embed.2",
    "class_embed": "label_emb",
    "conv_in": "input_blocks.0.0",
    "norm_out": "out.0",
    "conv_out": "out.2",
}


def from_adm(
    state_dict: dict[str, Tensor],
    *,
    image_size: int,
    in_channels: int,
    model_channels: int,
    out_channels: int,
    num_res_blocks: int,
    attention_resolutions: list[int],
    dropout: float = 0.0,
    channel_mult: list[float] = (1, 2, 4, 8),
    num_classes: int | None = None,
    num_heads: int = 1,
    num_head_channels: int = -1,
    use_scale_shift_norm: bool = False,
    resblock_updown: bool = False,
    use_new_attention_order: bool = False,
) -> UNet:
    """Builds the UNet that computes what the reference's UNetModel does.

    Args:
        state_dict: as the reference saves it.
        image_size: H = W in pixels.
        in_channels, out_channels, num_res_blocks, dropout, channel_mult: as in UNet.
        model_channels: the width.
        attention_resolutions: down-factors, not pixels: 2 means attention at image_size / 2.
        num_classes: None for an unconditional model.
        num_heads: used where num_head_channels is -1.
        num_head_channels: channels per head.
        use_scale_shift_norm: AdaGN, otherwise additive.
        resblock_updown: resolution changes inside residual blocks, otherwise by convolutions.
        use_new_attention_order: rows of qkv are (q k v, head, channel), otherwise (head, q k v, channel).

    Raises:
        ValueError: if tensors are missing, left over, or of another shape.
    """
    per_head = num_head_channels > 0
    unet = UNet(
        resolution=image_size,
        in_channels=in_channels,
        out_channels=out_channels,
        num_classes=num_classes or 0,
        null_class=num_classes is None,
        channels=model_channels,
        channel_mult=tuple(channel_mult),
        num_res_blocks=num_res_blocks,
        attention_resolutions=tuple(image_size // factor for factor in attention_resolutions),
        head_channels=num_head_channels if per_head else model_channels,
        num_heads=None if per_head else num_heads,
        norm="adagn" if use_scale_shift_norm else "groupnorm",
        norm_groups=32,
        min_group_channels=1,
        dropout=dropout,
        resample="resblock" if resblock_updown else "conv",
    )
    source = dict(state_dict)
    if num_classes is None:
        source["label_emb.weight"] = torch.zeros_like(unet.class_embed.weight)
    renamed = {}
    for ours, theirs in _names(unet):
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in source:
                renamed[f"{ours}.{kind}"] = source.pop(f"{theirs}.{kind}")
    for name, module in unet.named_modules():
        if isinstance(module, SelfAttention):
            for kind in ("weight", "bias"):
                rows = renamed[f"{name}.qkv.{kind}"].flatten(1) if kind == "weight" else renamed[f"{name}.qkv.{kind}"]
                if not use_new_attention_order:
                    rows = rows.unflatten(0, (module.num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
                renamed[f"{name}.qkv.{kind}"] = rows
            renamed[f"{name}.proj.weight"] = renamed[f"{name}.proj.weight"].flatten(1)
    expected = {name: tuple(p.shape) for name, p in unet.named_parameters()}
    found = {name: tuple(p.shape) for name, p in renamed.items()}
    odd = sorted(set(expected.items()) ^ set(found.items()))
    if source or odd:
        raise ValueError(
            f"the checkpoint is not of this architecture; first difference: {(sorted(source) + [n for n, _ in odd])[0]}"
        )
    unet.load_state_dict(renamed)
    return unet.eval()


def _names(unet: UNet) -> Iterator[tuple[str, str]]:
    """Pairs of module names, ours and theirs."""
    yield from _OUTSIDE.items()
    paths = {module: name for name, module in unet.named_modules()}

    def pairs(side: str, layers: list[nn.Module], prefix: str) -> Iterator[tuple[str, str]]:
        for j, layer in enumerate(layer for layer in layers if not isinstance(layer, Identity)):
            if isinstance(layer, ResBlock):
                inner = _RES_BLOCK
            elif isinstance(layer, SelfAttention):
                inner = _ATTENTION
            else:
                inner = _RESAMPLE[side]
            yield from ((f"{paths[layer]}.{ours}", f"{prefix}.{j}.{theirs}") for ours, theirs in inner.items())

    i = 1
    for level in unet.down:
        stages = [list(stage) for stage in zip(level.blocks, level.attentions, strict=True)]
        stages += [[resample] for resample in level.resample]
        for stage in stages:
            yield from pairs("down", stage, f"input_blocks.{i}")
            i += 1
    first, second = unet.mid.blocks
    yield from pairs("mid", [first, unet.mid.attentions[0], second], "middle_block")
    i = 0
    for level in unet.up:
        stages = [list(stage) for stage in zip(level.blocks, level.attentions, strict=True)]
        stages[-1] += level.resample
        for stage in stages:
            yield from pairs("up", stage, f"output_blocks.{i}")
            i += 1
