"""Weights of OpenAI's guided-diffusion (ADM) and improved-diffusion as a UNet.

Both families use the same names: `input_blocks.i.j`, `middle_block.j`, `output_blocks.i.j`, in the order of the forward
pass. This module walks through a UNet in the same order.
"""

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.io.adm_flags import PRESETS, Flags
from ddpm.models.blocks import Downsample, NoAttention, ResBlock, SelfAttention, Upsample
from ddpm.models.unet import UNet

_LAYERS: dict[type[nn.Module], dict[str, str]] = {
    ResBlock: {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2.proj": "emb_layers.1",
        "norm2.norm": "out_layers.0",
        "conv2": "out_layers.3",
        "skip": "skip_connection",
    },
    SelfAttention: {"norm": "norm", "qkv": "qkv", "proj": "proj_out"},
    Downsample: {"conv": "op"},
    Upsample: {"conv": "conv"},
}
_SIDES = {"down": "input_blocks", "mid": "middle_block", "up": "output_blocks"}
_OUTSIDE = {
    "time_embed.linear1": "time_embed.0",
    "time_embed.linear2": "time_embed.2",
    "class_embed": "label_emb",
    "conv_in": "input_blocks.0.0",
    "norm_out": "out.0",
    "conv_out": "out.2",
}


def load_adm(path: Path, flags: Flags) -> UNet:
    """Load the weights of a released model, or of one trained with the reference scripts.

    Args:
        path: a `.pt` file of the reference, or the same tensors as `.safetensors`; any float type.
        flags: an entry of PRESETS, or the training flags of the model.

    Returns:
        The model in evaluation mode, in float32; it has no null class.

    Raises:
        ValueError: if the file cannot be read safely, has other content, or the weights do not match the flags; in that
            case the message lists the presets that match.
    """
    state_dict = read_weights(path)
    try:
        return from_adm(
            state_dict,
            use_new_attention_order=flags.use_new_attention_order,
            **flags.architecture(),
            **_infer_arguments(state_dict, flags),
        )
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}; {describe_matching_presets(state_dict)}") from None


def find_matching_presets(state_dict: dict[str, Tensor]) -> list[str]:
    """Return the names of the presets whose tensors have these names and shapes."""

    def fits(flags: Flags) -> bool:
        unet = build_on_meta_device(**flags.architecture(), **_infer_arguments(state_dict, flags))
        return _difference(state_dict, layout(unet, flags.class_cond)) is None

    return [name for name, flags in PRESETS.items() if fits(flags)]


def describe_matching_presets(state_dict: dict[str, Tensor]) -> str:
    """Return the hint of an error message: which presets match the weights."""
    return f"matching presets: {', '.join(find_matching_presets(state_dict)) or 'none'}"


def _infer_arguments(state_dict: dict[str, Tensor], flags: Flags) -> dict[str, Any]:
    """Return the arguments of `from_adm` that `flags.architecture()` does not contain."""
    in_channels = state_dict["input_blocks.0.0.weight"].shape[1]
    classes = len(state_dict["label_emb.weight"]) if "label_emb.weight" in state_dict else 1000
    return {
        "in_channels": in_channels,
        "out_channels": in_channels * (1 + flags.learn_sigma),
        "num_classes": classes if flags.class_cond else None,
    }


# ------------------------------------------------------------------------------------------------------------- files


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of the reference's weights without running code from it.

    Args:
        path: safetensors if it has that suffix, otherwise a file of `torch.save`.

    Raises:
        ValueError: if there is no such file, it is damaged, would run code, or has other content.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except Exception as problem:        # damaged files raise many kinds of errors
        asked = re.search(r"GLOBAL ([\w.]+)", str(problem))
        if isinstance(problem, pickle.UnpicklingError) and asked:
            raise ValueError(
                f"{path}: requires {asked[1]}, which can run arbitrary code, so it is not loaded; save only the "
                "weights, as a dict of tensors"
            ) from None
        writer = "safetensors" if path.suffix == ".safetensors" else "torch.save"
        raise ValueError(f"{path}: damaged, or not a dict of tensors from {writer}; download it again") from problem
    foreign = _describe_foreign_content(content)
    if foreign is not None:
        raise ValueError(f"{path}: contains {foreign}; allowed are the weights of a diffusion model, a dict of tensors")
    return content


def _describe_foreign_content(content: Any) -> str | None:
    """Return what a file contains if it is not a diffusion model of the reference, in a few words; otherwise None."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    if "param_groups" in content:
        return "the state of an optimizer"
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        return f"a dict of {', '.join(map(str, [*content][:5])) or 'nothing'}, not of tensors alone"
    parts = {str(name).split(".")[0] for name in content}
    if "input_blocks" in parts and "output_blocks" not in parts:
        return "a classifier (it has input_blocks but no output_blocks)"
    if "input_blocks.0.0.weight" not in content or content["input_blocks.0.0.weight"].ndim != 4:
        return f"another network (of {', '.join(map(str, [*content][:2]))}, ...)"
    if content["input_blocks.0.0.weight"].shape[1] == 6:
        return "an upsampler (its first layer takes 6 channels: the image and a small one)"
    return None


# ------------------------------------------------------------------------------------------------------ architecture


def from_adm(state_dict: dict[str, Tensor], *, use_new_attention_order: bool = False, **architecture: Any) -> UNet:
    """Build the UNet that computes the same function as the reference's UNetModel.

    Args:
        state_dict: in the reference's names.
        use_new_attention_order: whether rows of qkv are (q k v, head, channel), otherwise (head, q k v, channel).
        architecture: the other arguments of the reference's constructor, as for `build_on_meta_device`.

    Returns:
        The model in evaluation mode, in float32.

    Raises:
        ValueError: if tensors are missing, left over, or have another shape.
    """
    unet = build_on_meta_device(**architecture)
    conditional = architecture.get("num_classes") is not None
    targets = layout(unet, conditional)
    difference = _difference(state_dict, targets)
    if difference is not None:
        raise ValueError(f"the weights do not match this architecture; first difference: {difference}")
    renamed = {ours: state_dict[theirs].reshape(shape) for theirs, (ours, shape) in targets.items()}
    if not conditional:
        renamed["class_embed.weight"] = torch.zeros(unet.class_embed.weight.shape)
    for name, module in unet.named_modules():
        if isinstance(module, SelfAttention) and not use_new_attention_order:
            for tensor in (f"{name}.qkv.weight", f"{name}.qkv.bias"):
                by_head = renamed[tensor].unflatten(0, (module.num_heads, 3, -1))               # (N, 3, C/N, ...)
                renamed[tensor] = by_head.transpose(0, 1).flatten(0, 2)                         # (3C, ...)
    unet.to_empty(device="cpu").load_state_dict(renamed)
    return unet.eval()


def build_on_meta_device(
    *,
    image_size: int,
    in_channels: int,
    model_channels: int,
    out_channels: int,
    num_res_blocks: int,
    attention_resolutions: Sequence[int],
    dropout: float = 0.0,
    channel_mult: Sequence[float] = (1, 2, 4, 8),
    num_classes: int | None = None,
    num_heads: int = 1,
    num_head_channels: int = -1,
    use_scale_shift_norm: bool = False,
    resblock_updown: bool = False,
) -> UNet:
    """Build the UNet of `from_adm` on the meta device, where it has shapes and uses no memory.

    Args:
        image_size: H = W in pixels.
        in_channels, out_channels, num_res_blocks, dropout, channel_mult: as in UNet.
        model_channels: the base width.
        attention_resolutions: downsampling factors, not pixels: 2 means attention at image_size / 2.
        num_classes: None for an unconditional model.
        num_heads: used if num_head_channels is -1.
        num_head_channels: channels per head.
        use_scale_shift_norm: AdaGN, otherwise additive conditioning.
        resblock_updown: whether residual blocks change the resolution, otherwise convolutions.

    Raises:
        ValueError: for inconsistent numbers.
    """
    per_head = num_head_channels > 0
    factors = [2**level for level in range(len(channel_mult))]
    with torch.device("meta"):
        return UNet(
            resolution=image_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_classes=num_classes or 0,
            null_class=num_classes is None,
            channels=model_channels,
            channel_mult=tuple(channel_mult),
            num_res_blocks=num_res_blocks,
            # The reference ignores resolutions that do not occur.
            attention_resolutions=tuple(image_size // f for f in factors if f in attention_resolutions),
            head_channels=num_head_channels if per_head else model_channels,
            num_heads=None if per_head else num_heads,
            norm="adagn" if use_scale_shift_norm else "groupnorm",
            norm_groups=32,
            min_group_channels=1,
            dropout=dropout,
            resample="resblock" if resblock_updown else "conv",
        )


def layout(unet: UNet, conditional: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Map names in the reference's order to names and shapes here.

    Args:
        unet: the architecture.
        conditional: whether the reference's model has class embeddings.
    """
    shapes = {name: tuple(p.shape) for name, p in unet.named_parameters()}
    return {
        f"{theirs}.{kind}": (f"{ours}.{kind}", shapes[f"{ours}.{kind}"])
        for ours, theirs in _modules(unet)
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in shapes and (conditional or ours != "class_embed")
    }


def _difference(state_dict: dict[str, Tensor], targets: dict[str, tuple[str, tuple[int, ...]]]) -> str | None:
    """Return the first tensor that is missing, left over or of another shape, in a few words; None if all match."""
    for name, (_, shape) in targets.items():
        if name not in state_dict:
            return f"{name} is missing"
        found = tuple(state_dict[name].shape)
        # The reference's attention uses 1x1 convolutions, whose shapes end in ones.
        if found[: len(shape)] != shape or any(size != 1 for size in found[len(shape) :]):
            return f"{name} is {' x '.join(map(str, found))}, not {' x '.join(map(str, shape))}"
    return next((f"{name} is left over" for name in state_dict if name not in targets), None)


def _modules(unet: UNet) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and theirs."""
    yield from _OUTSIDE.items()
    paths = {module: name for name, module in unet.named_modules()}
    counts = Counter({"input_blocks": 1})           # input_blocks.0 is conv_in
    for name, stage in unet.stages.items():
        side = name.partition(".")[0]
        block = _SIDES[side]
        groups = [list(pair) for pair in zip(stage.blocks, stage.attentions, strict=True)]
        if side == "mid":
            groups = [[*chain(*groups)]]
        elif side == "down":
            groups += [[layer] for layer in stage.resample]
        else:
            groups[-1] += stage.resample
        for group in groups:
            prefix = block if side == "mid" else f"{block}.{counts[block]}"
            counts[block] += 1
            for j, layer in enumerate(layer for layer in group if not isinstance(layer, NoAttention)):
                for ours, theirs in _LAYERS[type(layer)].items():
                    yield f"{paths[layer]}.{ours}", f"{prefix}.{j}.{theirs}"
