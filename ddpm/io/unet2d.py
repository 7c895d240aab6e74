"""Conversion between UNet and diffusers' UNet2DModel, with equal outputs, for all architectures that both support.

UNet2DModel has one number of groups in all its norms, one width of attention heads, as many sinusoids as channels in
its first level, and attention in all blocks of a level on both sides. Its options beyond ADM's architecture are
rejected by the key in its configuration.
"""

import inspect
import itertools
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
    "downsample_type": ("resnet", "conv", None),
    "upsample_type": ("resnet", "conv", None),
}


# ---------------------------------------------------------------------------------------------------- to UNet2DModel


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
    widths = [int(config.channels * factor) for factor in config.channel_mult]
    for option, fits, allowed in (
        ("norm", config.norm in _CONDITIONING, ", ".join(_CONDITIONING)),
        ("conditioning", config.conditioning == "both", "both"),
        ("condition_at", all(stage.conditioned for stage in unet.stages.values()), "all"),
        ("channel_mult", widths[0] == config.channels, "a first factor of 1"),
    ):
        if not fits:
            raise ValueError(f"model.{option}: UNet2DModel does not support {config[option]}; allowed: {allowed}")
    groups, resample = _groups(unet), "resnet" if config.resample == "resblock" else "conv"
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
            downsample_type=resample,
            upsample_type=resample,
            dropout=config.dropout,
            attention_head_dim=_head_channels(unet),
            norm_num_groups=groups,
            attn_norm_num_groups=groups,        # otherwise the middle attention has no norm with scale_shift
            norm_eps=EPS,
            resnet_time_scale_shift=_CONDITIONING[config.norm],
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


def _groups(unet: UNet) -> int:
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    found = {norm.num_groups for norm in norms}
    if len(found) == 1:
        return found.pop()
    min_channels = unet.config.min_group_channels
    common = math.gcd(*(norm.num_channels for norm in norms))
    max_groups = min(norm.num_channels for norm in norms) // min_channels
    fitting = max((g for g in range(1, common + 1) if common % g == 0 and g <= max_groups), default=1)
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


def _block_types(unet: UNet, side: str) -> tuple[str, ...]:
    plain = _BLOCKS[side][unet.config.resample]
    stages = [stage for name, stage in unet.stages.items() if name.startswith(side)]
    return tuple(_ATTENTION[side] if isinstance(stage.attentions[0], SelfAttention) else plain for stage in stages)


# -------------------------------------------------------------------------------------------------- from UNet2DModel


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
        _check(config, key, config[key] in allowed, f"allowed: {' or '.join(map(repr, allowed))}")
    widths, size = config["block_out_channels"], config["sample_size"]
    attention, resample = _stages(config)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    square = isinstance(height, int) and height == width
    _check(config, "sample_size", square, "allowed: the size of a square image in pixels")
    factor = 2 ** (len(widths) - 1)
    _check(config, "sample_size", height % factor == 0, f"allowed with {len(widths)} levels: a multiple of {factor}")
    groups, middle = config["norm_num_groups"], config["attn_norm_num_groups"]
    # With scale_shift, None means that the middle attention has no norm.
    equal = middle == groups or (middle is None and config["resnet_time_scale_shift"] == "default")
    _check(config, "attn_norm_num_groups", equal, f"allowed: {groups}, as norm_num_groups")
    head_channels, classes = config["attention_head_dim"], config["num_class_embeds"]
    for width in sorted({widths[-1], *itertools.compress(widths, attention)}):
        fits = head_channels is None or width % head_channels == 0
        _check(config, "attention_head_dim", fits, f"allowed: a divisor of the {width} channels of a layer")
    named = classes is not None or not null_class
    _check(config, "num_class_embeds", named, "a null class requires classes; omit --null-class")
    return {
        "resolution": height,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "num_classes": 0 if classes is None else classes - null_class,
        "null_class": null_class or classes is None,
        "channels": widths[0],
        "channel_mult": tuple(_factor(width, widths[0]) for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "attention_resolutions": tuple(height // 2**i for i, attends in enumerate(attention) if attends),
        "head_channels": head_channels or widths[0],
        "num_heads": 1 if head_channels is None else None,
        "norm": _NORMS[config["resnet_time_scale_shift"]],
        "norm_groups": groups,
        "min_group_channels": 1,
        "emb_channels": config["time_embedding_dim"],
        "dropout": config["dropout"],
        "resample": resample,
    }


def _check(config: Mapping[str, Any], key: str, fits: bool, allowed: str) -> None:
    if not fits:
        raise ValueError(f"{key}: {config[key]!r} of the UNet2DModel is not supported; {allowed}")


def _stages(config: Mapping[str, Any]) -> tuple[list[bool], str]:
    """Return whether each stage has attention, from the finest to the coarsest, and how they change the resolution."""
    attention, found = {}, []
    for side in ("down", "up"):
        key, sampler = f"{side}_block_types", f"{side}sample_type"
        known = {theirs: ours for ours, theirs in _BLOCKS[side].items()}
        known[_ATTENTION[side]] = "resblock" if config[sampler] == "resnet" else "conv"
        names = [str(name).removeprefix("UNetRes") for name in config[key]]
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise ValueError(f"{key}: {unknown!r} of the UNet2DModel is not supported; allowed: {', '.join(known)}")
        levels = len(config["block_out_channels"])
        _check(config, key, len(names) == levels, f"allowed: as many as levels, {levels}")
        attention[side] = [name == _ATTENTION[side] for name in names]
        found += [known[name] for name in names[:-1]]       # the last block keeps its resolution
    both = "each resolution must have attention in both the encoder and the decoder, or in neither"
    _check(config, "up_block_types", attention["down"] == attention["up"][::-1], both)
    same = "all blocks of down_block_types and up_block_types must change the resolution in the same way"
    _check(config, "down_block_types", len({*found}) <= 1, same)
    _check(config, "downsample_padding", "conv" not in found or config["downsample_padding"] == 1, "allowed: 1")
    return attention["down"], found[0] if found else "resblock"


def _factor(width: int, channels: int) -> float:
    """Return the factor f for which int(channels * f) is the width."""
    factor = width // channels if width % channels == 0 else width / channels
    return factor if int(channels * factor) == width else math.nextafter(factor, math.inf)


# ------------------------------------------------------------------------------------------------------------- names

_SIDES = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
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
    """Return the UNet2DModel's names of one of our tensors: three for qkv, which it stores as q, k and v."""
    path, _, kind = ours.rpartition(".")
    if path in _OUTSIDE:
        return [f"{_OUTSIDE[path]}.{kind}"]
    side, *parts = path.split(".")
    level = [] if side == "mid" else [parts.pop(0)]
    role, index, *layer = parts
    parent = ".".join([_SIDES[side], *level, _ROLES[role].format(side), index])
    return [f"{parent}.{name}.{kind}" for name in _LAYERS.get(".".join(layer), [".".join(layer)])]
