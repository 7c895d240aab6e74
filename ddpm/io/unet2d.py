"""A UNet as diffusers' UNet2DModel and back, with equal outputs, wherever the other class can hold the architecture.

UNet2DModel has one number of groups in all its norms, one width of attention heads, sinusoids as wide as its first
level, and attention in all blocks of a level on both sides. What it holds beyond ADM's architecture is refused by the
name of its configuration's key.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

from ddpm.models.blocks import SelfAttention
from ddpm.models.norm import EPS
from ddpm.models.unet import UNet

_CONDITIONING = {"groupnorm_matched": "default", "groupnorm": "default", "adagn": "scale_shift"}
_NORMS = {"default": "groupnorm", "scale_shift": "adagn"}
_RESAMPLE = {"resblock": "resnet", "conv": "conv"}
_BLOCKS = {         # side -> resample -> a level without attention
    "down": {"resblock": "ResnetDownsampleBlock2D", "conv": "DownBlock2D"},
    "up": {"resblock": "ResnetUpsampleBlock2D", "conv": "UpBlock2D"},
}
_ATTENTION = {"down": "AttnDownBlock2D", "up": "AttnUpBlock2D"}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(UNet2DModel.__init__).parameters.items()
    if name != "self"
}
_ONLY = {           # values that lead to what this U-Net computes
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0,),
    "flip_sin_to_cos": (True,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (EPS,),
    "resnet_time_scale_shift": tuple(_NORMS),
    "add_attention": (True,),
    "class_embed_type": (None,),
}


# --------------------------------------------------------------------------------------------------------------- out


def to_unet2d(unet: UNet) -> UNet2DModel:
    """The UNet2DModel that computes what the UNet does.

    Its classes are the UNet's, followed by the null class where there is one. An unconditional model takes no classes:
    its one class embedding becomes a part of the time embedding.

    Args:
        unet: stays as it is.

    Returns:
        The model in evaluation mode, in the UNet's dtype.

    Raises:
        ValueError: if UNet2DModel cannot hold the architecture; names the option, and what it could hold.
    """
    config = unet.config
    conditioning, widths, groups = _conditioning(unet), _widths(config), _groups(unet)
    with torch.device("meta"):
        model = UNet2DModel(
            sample_size=config.resolution,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            freq_shift=0,
            flip_sin_to_cos=True,
            time_embedding_dim=unet.class_embed.embedding_dim,
            down_block_types=_block_types(unet, "down"),
            up_block_types=_block_types(unet, "up"),
            block_out_channels=tuple(widths),
            layers_per_block=config.num_res_blocks,
            downsample_type=_RESAMPLE[config.resample],
            upsample_type=_RESAMPLE[config.resample],
            dropout=config.dropout,
            attention_head_dim=_head_channels(unet),
            norm_num_groups=groups,
            attn_norm_num_groups=groups,        # else the attention in the middle would have no norm beside scale_shift
            norm_eps=EPS,
            resnet_time_scale_shift=conditioning,
            num_class_embeds=config.num_classes + config.null_class if config.num_classes else None,
        )
    ours = unet.state_dict()
    if not config.num_classes:
        ours["time_embed.linear2.bias"] = ours["time_embed.linear2.bias"] + ours.pop("class_embed.weight")[0]
    renamed = {}
    for name, tensor in ours.items():
        theirs = _their_names(name)
        renamed.update({other: part.clone() for other, part in zip(theirs, tensor.chunk(len(theirs)), strict=True)})
    model.load_state_dict(renamed, assign=True)
    return model.eval()


def _widths(config: Mapping[str, Any]) -> list[int]:
    widths = [int(config["channels"] * factor) for factor in config["channel_mult"]]
    if widths[0] != config["channels"]:
        raise ValueError(
            f"model.channel_mult: starts with {config['channel_mult'][0]}, and UNet2DModel has as many sinusoids as "
            "its first level has channels; only a model whose first factor is 1 can be held"
        )
    return widths


def _groups(unet: UNet) -> int:
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    found = {norm.num_groups for norm in norms}
    if len(found) == 1:
        return found.pop()
    least = unet.config.min_group_channels
    common = math.gcd(*(norm.num_channels for norm in norms))
    most = min(norm.num_channels for norm in norms) // least
    fitting = max((g for g in range(1, common + 1) if common % g == 0 and g <= most), default=1)
    raise ValueError(
        f"model.norm_groups: the norms have {', '.join(map(str, sorted(found)))} groups, depending on their width, and "
        f"UNet2DModel has one number for all; a model trained with model.norm_groups {fitting} could be held"
    )


def _head_channels(unet: UNet) -> int | None:
    layers = [module for module in unet.modules() if isinstance(module, SelfAttention)]
    if all(layer.num_heads == 1 for layer in layers):
        return None             # one head, as wide as its layer
    found = {layer.qkv.in_features // layer.num_heads for layer in layers}
    if len(found) > 1:
        raise ValueError(
            f"model.num_heads: the heads have {', '.join(map(str, sorted(found)))} channels, depending on the width, "
            "and UNet2DModel has one number for all; only a model with model.head_channels, or one head, can be held"
        )
    return found.pop()


def _conditioning(unet: UNet) -> str:
    config, norm = unet.config, unet.config.norm
    if norm not in _CONDITIONING:
        raise ValueError(f"model.norm: {norm} cannot be held by UNet2DModel; only {', '.join(_CONDITIONING)} can")
    if config.conditioning != "both":
        raise ValueError(f"model.conditioning: {config.conditioning} cannot be held by UNet2DModel; only both can")
    if not all(level.conditioned for level in unet.levels.values()):
        depths = config.conditioned_depths
        raise ValueError(f"model.conditioned_depths: {depths} cannot be held by UNet2DModel; only all can")
    return _CONDITIONING[norm]


def _block_types(unet: UNet, side: str) -> tuple[str, ...]:
    plain = _BLOCKS[side][unet.config.resample]
    levels = unet.down if side == "down" else unet.up
    attends = (isinstance(level.attentions[0], SelfAttention) for level in levels)
    return tuple(_ATTENTION[side] if attention else plain for attention in attends)


# ---------------------------------------------------------------------------------------------------------------- in


def from_unet2d(model: UNet2DModel, null_class: bool = False) -> UNet:
    """The UNet that computes what the UNet2DModel does.

    Args:
        model: stays as it is.
        null_class: whether the last of its class embeddings stands for "no class"; UNet2DModel does not say.

    Returns:
        The model in evaluation mode, in the UNet2DModel's dtype.

    Raises:
        ValueError: if this U-Net cannot compute the same; names the key of the configuration and its value.
    """
    with torch.device("meta"):
        unet = UNet(**unet_options(model.config, null_class))
    theirs = model.state_dict()
    if not unet.config.num_classes and model.class_embedding is None:
        theirs["class_embedding.weight"] = torch.zeros(unet.class_embed.weight.shape, dtype=model.dtype)
    renamed = {name: torch.cat([theirs[other] for other in _their_names(name)]) for name in unet.state_dict()}
    unet.load_state_dict(renamed, assign=True)
    return unet.eval()


def unet_options(config: Mapping[str, Any], null_class: bool = False) -> dict[str, Any]:
    """Arguments of the UNet that computes what a UNet2DModel of this configuration does.

    Args:
        config: of UNet2DModel, as in its `config.json`; what is missing has its default.
        null_class: as in `from_unet2d`.

    Raises:
        ValueError: as in `from_unet2d`.
    """
    config = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for key, allowed in _ONLY.items():
        if config[key] not in allowed:
            raise _refusal(config, key, f"only {' or '.join(map(repr, allowed))} can")
    widths = list(config["block_out_channels"])
    channels = widths[0]
    attention, resample = _attention(config), _resample(config)
    resolution = _resolution(config, len(widths))
    head_channels = config["attention_head_dim"]
    attended = {width for width, attends in zip(widths, attention, strict=True) if attends} | {widths[-1]}
    for width in sorted(attended):
        if head_channels is not None and width % head_channels:
            raise _refusal(config, "attention_head_dim", f"it does not divide the {width} channels of a layer")
    classes = config["num_class_embeds"]
    if classes is None and null_class:
        raise _refusal(config, "num_class_embeds", "without classes there is no null class")
    return {
        "resolution": resolution,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "num_classes": 0 if classes is None else classes - null_class,
        "null_class": null_class or classes is None,
        "channels": channels,
        "channel_mult": tuple(_factor(width, channels) for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "attention_resolutions": tuple(resolution // 2**i for i, attends in enumerate(attention) if attends),
        "head_channels": head_channels or channels,
        "num_heads": 1 if head_channels is None else None,
        "norm": _NORMS[config["resnet_time_scale_shift"]],
        "norm_groups": _one_number_of_groups(config),
        "min_group_channels": 1,
        "emb_channels": config["time_embedding_dim"],
        "dropout": config["dropout"],
        "resample": resample,
    }


def _refusal(config: Mapping[str, Any], key: str, reason: str) -> ValueError:
    return ValueError(f"{key}: {config[key]!r} of the UNet2DModel cannot be held; {reason}")


def _resolution(config: Mapping[str, Any], levels: int) -> int:
    size = config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if not isinstance(height, int) or height != width:
        raise _refusal(config, "sample_size", "the pixels of a square image are needed")
    if height % 2 ** (levels - 1):
        raise _refusal(config, "sample_size", f"{levels} levels need a multiple of {2 ** (levels - 1)}")
    return height


def _one_number_of_groups(config: Mapping[str, Any]) -> int:
    groups, middle = config["norm_num_groups"], config["attn_norm_num_groups"]
    if middle is None and config["resnet_time_scale_shift"] != "default":
        raise _refusal(config, "attn_norm_num_groups", f"without it the middle has no norm; only {groups} can")
    if middle not in (None, groups):
        raise _refusal(config, "attn_norm_num_groups", f"only norm_num_groups, {groups}, can")
    return groups


def _kinds(config: Mapping[str, Any], side: str) -> list[tuple[bool, str]]:
    """Attention and resample of each level, from the finest resolution to the coarsest."""
    key, sampler = f"{side}_block_types", f"{side}sample_type"
    known = {kind: (False, resample) for resample, kind in _BLOCKS[side].items()}
    resamples = {theirs: ours for ours, theirs in _RESAMPLE.items()}
    known[_ATTENTION[side]] = (True, resamples.get(config[sampler] or "conv"))
    kinds = []
    for name in config[key]:
        kind = known.get(str(name).removeprefix("UNetRes"))
        if kind is None:
            raise ValueError(f"{key}: {name!r} of the UNet2DModel cannot be held; only {', '.join(known)} can")
        if kind[1] is None:
            raise _refusal(config, sampler, f"only {' or '.join(map(repr, resamples))} can")
        kinds.append(kind)
    if len(kinds) != len(config["block_out_channels"]):
        raise _refusal(config, key, f"{len(config['block_out_channels'])} levels need as many")
    return kinds if side == "down" else kinds[::-1]


def _attention(config: Mapping[str, Any]) -> list[bool]:
    """Whether each level has it, from the finest to the coarsest."""
    down, up = ([attends for attends, _ in _kinds(config, side)] for side in ("down", "up"))
    if down != up:
        raise _refusal(config, "up_block_types", "attention must be on both sides of a resolution, or on neither")
    return down


def _resample(config: Mapping[str, Any]) -> str:
    """How the resolution changes: after all levels of the encoder but the last, and before that in the decoder."""
    found = [resample for _, resample in [*_kinds(config, "down")[:-1], *_kinds(config, "up")[1:]]]
    if len(set(found)) > 1:
        raise _refusal(config, "down_block_types", "all must change the resolution alike, and up_block_types so too")
    if "conv" in found and config["downsample_padding"] != 1:
        raise _refusal(config, "downsample_padding", "only 1 can")
    return found[0] if found else "resblock"


def _factor(width: int, channels: int) -> float:
    """The factor f for which int(channels * f) is the width."""
    if width % channels == 0:
        return width // channels
    factor = width / channels
    return factor if int(channels * factor) == width else math.nextafter(factor, math.inf)


# ------------------------------------------------------------------------------------------------------------- names

_PLACES = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
_ROLES = {"blocks": "resnets", "attentions": "attentions", "resample": "{}samplers"}
_LAYERS = {
    "norm2.proj": ["time_emb_proj"],
    "norm2.norm": ["norm2"],
    "skip": ["conv_shortcut"],
    "norm": ["group_norm"],
    "qkv": ["to_q", "to_k", "to_v"],
    "proj": ["to_out.0"],
}
_OUTSIDE = {
    "time_embed.linear1": "time_embedding.linear_1",
    "time_embed.linear2": "time_embedding.linear_2",
    "class_embed": "class_embedding",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}


def _their_names(ours: str) -> list[str]:
    """Names in UNet2DModel of what our tensor holds; three for the rows of q, k and v."""
    path, _, kind = ours.rpartition(".")
    if path in _OUTSIDE:
        return [f"{_OUTSIDE[path]}.{kind}"]
    side, *parts = path.split(".")
    level = [] if side == "mid" else [parts.pop(0)]
    role, index, *layer = parts
    parent = ".".join([_PLACES[side], *level, _ROLES[role].format(side), index])
    return [f"{parent}.{name}.{kind}" for name in _LAYERS.get(".".join(layer), [".".join(layer)])]
