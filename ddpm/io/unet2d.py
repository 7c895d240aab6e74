"""Conversion between UNet and diffusers' UNet2DModel, with equal outputs, for all architectures that both support.

UNet2DModel has one number of groups in all its norms, one width of attention heads, as many sinusoids as channels in
its first level, and attention in all blocks of a level on both sides. Its options beyond ADM's architecture are
rejected by the key in its configuration.
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
_BLOCKS = {         # side -> resampling type -> level without attention
    "down": {"resblock": "ResnetDownsampleBlock2D", "conv": "DownBlock2D"},
    "up": {"resblock": "ResnetUpsampleBlock2D", "conv": "UpBlock2D"},
}
_ATTENTION = {"down": "AttnDownBlock2D", "up": "AttnUpBlock2D"}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(UNet2DModel.__init__).parameters.items()
    if name != "self"
}
_ONLY = {           # the values that this U-Net supports
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
    """Build the UNet2DModel that computes the same function as a UNet.

    Its classes are the UNet's, followed by the null class if there is one. For an unconditional model, the single class
    embedding is added to the time embedding.

    Args:
        unet: not changed.

    Returns:
        The model in evaluation mode, in the UNet's dtype.

    Raises:
        ValueError: if UNet2DModel does not support the architecture; names the option and the allowed values.
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
            attn_norm_num_groups=groups,        # otherwise the middle attention has no norm with scale_shift
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
            f"model.channel_mult: starts with {config['channel_mult'][0]}, which UNet2DModel does not support; "
            "allowed is a first factor of 1"
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
        f"model.norm_groups: the norms have {', '.join(map(str, sorted(found)))} groups, and UNet2DModel supports only "
        f"one number for all; a model trained with model.norm_groups {fitting} can be converted"
    )


def _head_channels(unet: UNet) -> int | None:
    layers = [module for module in unet.modules() if isinstance(module, SelfAttention)]
    if all(layer.num_heads == 1 for layer in layers):
        return None             # one head, as wide as its layer
    found = {layer.qkv.in_features // layer.num_heads for layer in layers}
    if len(found) > 1:
        raise ValueError(
            f"model.num_heads: the heads have {', '.join(map(str, sorted(found)))} channels, and UNet2DModel supports "
            "only one number for all; allowed are models with model.head_channels, or with one head"
        )
    return found.pop()


def _conditioning(unet: UNet) -> str:
    config, norm = unet.config, unet.config.norm
    if norm not in _CONDITIONING:
        raise ValueError(f"model.norm: UNet2DModel does not support {norm}; allowed: {', '.join(_CONDITIONING)}")
    if config.conditioning != "both":
        raise ValueError(f"model.conditioning: UNet2DModel does not support {config.conditioning}; allowed: both")
    if not all(level.conditioned for level in unet.stages.values()):
        depths = config.condition_at
        raise ValueError(f"model.condition_at: UNet2DModel does not support {depths}; allowed: all")
    return _CONDITIONING[norm]


def _block_types(unet: UNet, side: str) -> tuple[str, ...]:
    plain = _BLOCKS[side][unet.config.resample]
    levels = unet.down if side == "down" else unet.up
    attends = (isinstance(level.attentions[0], SelfAttention) for level in levels)
    return tuple(_ATTENTION[side] if attention else plain for attention in attends)


# ---------------------------------------------------------------------------------------------------------------- in


def from_unet2d(model: UNet2DModel, null_class: bool = False) -> UNet:
    """Build the UNet that computes the same function as a UNet2DModel.

    Args:
        model: not changed.
        null_class: whether the last of its class embeddings means "no class"; UNet2DModel does not specify that.

    Returns:
        The model in evaluation mode, in the UNet2DModel's dtype.

    Raises:
        ValueError: if this U-Net does not support it; names the key of the configuration and its value.
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
    """Return the arguments of the UNet that corresponds to a configuration of UNet2DModel.

    Args:
        config: of UNet2DModel, as in its `config.json`; missing keys have their default.
        null_class: as in `from_unet2d`.

    Raises:
        ValueError: as in `from_unet2d`.
    """
    config = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for key, allowed in _ONLY.items():
        if config[key] not in allowed:
            raise _refusal(config, key, f"allowed: {' or '.join(map(repr, allowed))}")
    widths = list(config["block_out_channels"])
    channels = widths[0]
    attention, resample = _attention(config), _resample(config)
    resolution = _resolution(config, len(widths))
    head_channels = config["attention_head_dim"]
    attended = {width for width, attends in zip(widths, attention, strict=True) if attends} | {widths[-1]}
    for width in sorted(attended):
        if head_channels is not None and width % head_channels:
            raise _refusal(config, "attention_head_dim", f"allowed: a divisor of the {width} channels of a layer")
    classes = config["num_class_embeds"]
    if classes is None and null_class:
        raise _refusal(config, "num_class_embeds", "a null class requires classes; omit --null-class")
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
    return ValueError(f"{key}: {config[key]!r} of the UNet2DModel is not supported; {reason}")


def _resolution(config: Mapping[str, Any], levels: int) -> int:
    size = config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if not isinstance(height, int) or height != width:
        raise _refusal(config, "sample_size", "allowed: the size of a square image in pixels")
    if height % 2 ** (levels - 1):
        raise _refusal(config, "sample_size", f"allowed with {levels} levels: a multiple of {2 ** (levels - 1)}")
    return height


def _one_number_of_groups(config: Mapping[str, Any]) -> int:
    groups, middle = config["norm_num_groups"], config["attn_norm_num_groups"]
    if middle is None and config["resnet_time_scale_shift"] != "default":
        raise _refusal(config, "attn_norm_num_groups", f"allowed: {groups}, otherwise the middle has no norm")
    if middle not in (None, groups):
        raise _refusal(config, "attn_norm_num_groups", f"allowed: norm_num_groups, {groups}")
    return groups


def _kinds(config: Mapping[str, Any], side: str) -> list[tuple[bool, str]]:
    """Return attention and resampling type of each level, from the finest resolution to the coarsest."""
    key, sampler = f"{side}_block_types", f"{side}sample_type"
    known = {kind: (False, resample) for resample, kind in _BLOCKS[side].items()}
    resamples = {theirs: ours for ours, theirs in _RESAMPLE.items()}
    known[_ATTENTION[side]] = (True, resamples.get(config[sampler] or "conv"))
    kinds = []
    for name in config[key]:
        kind = known.get(str(name).removeprefix("UNetRes"))
        if kind is None:
            raise ValueError(f"{key}: {name!r} of the UNet2DModel is not supported; allowed: {', '.join(known)}")
        if kind[1] is None:
            raise _refusal(config, sampler, f"allowed: {' or '.join(map(repr, resamples))}")
        kinds.append(kind)
    if len(kinds) != len(config["block_out_channels"]):
        raise _refusal(config, key, f"allowed: as many as levels, {len(config['block_out_channels'])}")
    return kinds if side == "down" else kinds[::-1]


def _attention(config: Mapping[str, Any]) -> list[bool]:
    """Return whether each level has attention, from the finest to the coarsest."""
    down, up = ([attends for attends, _ in _kinds(config, side)] for side in ("down", "up"))
    if down != up:
        raise _refusal(config, "up_block_types", "attention must be on both sides of a resolution, or on neither")
    return down


def _resample(config: Mapping[str, Any]) -> str:
    """Return how the resolution changes: after each encoder level but the last, and before each decoder level."""
    found = [resample for _, resample in [*_kinds(config, "down")[:-1], *_kinds(config, "up")[1:]]]
    if len(set(found)) > 1:
        raise _refusal(config, "down_block_types", "all blocks, also up_block_types, must resample in the same way")
    if "conv" in found and config["downsample_padding"] != 1:
        raise _refusal(config, "downsample_padding", "allowed: 1")
    return found[0] if found else "resblock"


def _factor(width: int, channels: int) -> float:
    """Return the factor f for which int(channels * f) is the width."""
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
    """Return the names in UNet2DModel of our tensor; three for the rows of q, k and v."""
    path, _, kind = ours.rpartition(".")
    if path in _OUTSIDE:
        return [f"{_OUTSIDE[path]}.{kind}"]
    side, *parts = path.split(".")
    level = [] if side == "mid" else [parts.pop(0)]
    role, index, *layer = parts
    parent = ".".join([_PLACES[side], *level, _ROLES[role].format(side), index])
    return [f"{parent}.{name}.{kind}" for name in _LAYERS.get(".".join(layer), [".".join(layer)])]
