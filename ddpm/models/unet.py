"""The class-conditional U-Net of ADM (Dhariwal & Nichol 2021), as a diffusers model."""

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ddpm.models.blocks import (
    CrossAttention,
    Downsample,
    NoAttention,
    ResBlock,
    SelfAttention,
    Stage,
    Upsample,
    concatenate_channels,
    downsample,
    to_channels_last,
    upsample,
)
from ddpm.models.embedding import CONDITIONINGS, StageEmbedding, TimestepEmbedding
from ddpm.models.norm import EPS, NORMS, GroupNorm, check_kernels, normalize, num_groups, without_autocast
from ddpm.models.shape import check_condition_at, check_shape, is_conditioned, matched_width
from ddpm.names import lookup
from ddpm.randomness import Purpose, generators

RESAMPLERS = ("resblock", "conv")


@dataclass
class UNetOutput(BaseOutput):
    """The output of UNet.forward: `sample`, (B, out_channels, H, W)."""

    sample: Tensor


class UNet(ModelMixin, ConfigMixin):
    """A U-Net that predicts noise, v or x_0 from a noisy image, its timestep and its class.

    Args:
        resolution: H = W of the images in pixels; divisible by 2 ** (stages - 1).
        in_channels: channels of the images.
        out_channels: in_channels, or twice as many with a learned variance.
        num_classes: K; class ids are 0..K-1.
        null_class: whether id K exists, the null class. With K = 0 the model is unconditional.
        channels: M; a stage has channel_mult * M channels.
        channel_mult: one factor per stage, from the finest resolution to the coarsest.
        num_res_blocks: residual blocks per stage in the encoder; the decoder has one more.
        attention_resolutions: pixels at which blocks are followed by self-attention; the middle always has it.
        head_channels: channels per attention head.
        num_heads: number of heads of every attention layer; overrides head_channels.
        norm: an entry of NORMS.
        conditioning: an entry of CONDITIONINGS; how timestep and class reach the layers.
        condition_at: the stages that they reach: `all`, `encoder`, `middle`, `decoder`, or resolutions of stages in
            pixels. The other stages have the same norms with an embedding of zero, and no cross-attention.
        norm_groups: maximum number of groups of a norm.
        min_group_channels: minimum number of channels per group.
        emb_channels: D, the width of the embeddings; a multiple of 4 with cross-attention. By default 4 * channels, or
            for a norm with `match_parameters_of` the width that gives the model as many parameters as with that norm.
        dropout: probability in the residual blocks.
        resample: `resblock` (residual blocks change the resolution) or `conv` (convolutions do).
        seed: seed of the initial weights.
        augment_channels: channels of the labels of augmentation, for training on augmented images; 0 for no such
            labels. A label enters through a projection without bias, so that zero, the label of an unchanged image,
            adds nothing.

    Raises:
        ValueError: for numbers that do not fit together; names the option and values that fit.
    """

    _supports_gradient_checkpointing = True

    down: Sequence[Stage]
    mid: Stage
    up: Sequence[Stage]

    @register_to_config
    def __init__(
        self,
        resolution: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 10,
        null_class: bool = True,
        channels: int = 128,
        channel_mult: tuple[float, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16, 8),
        head_channels: int = 64,
        num_heads: int | None = None,
        norm: str = "adagn",
        conditioning: str = "both",
        condition_at: str | Sequence[int] = "all",
        norm_groups: int = 32,
        min_group_channels: int = 4,
        emb_channels: int | None = None,
        dropout: float = 0.0,
        resample: str = "resblock",
        seed: int = 0,
        augment_channels: int = 0,
    ) -> None:
        super().__init__()
        has_cross_attention = lookup(CONDITIONINGS, conditioning, "model.conditioning").cross_attention
        cross_attention_at = condition_at if has_cross_attention else ()
        divisor = CrossAttention.TOKENS if has_cross_attention else 1       # of the width of the embeddings
        check_shape(
            resolution, channels, channel_mult, attention_resolutions, head_channels, num_heads, cross_attention_at
        )
        check_condition_at(condition_at, [resolution // 2**stage for stage in range(len(channel_mult))])
        lookup(dict.fromkeys(RESAMPLERS), resample, "model.resample")
        if num_classes + null_class < 1:
            raise ValueError("num_classes: 0 makes the model unconditional, which requires null_class=True")
        if emb_channels is not None and (emb_channels < 1 or emb_channels % divisor):
            raise ValueError(f"emb_channels: {emb_channels} is out of range; allowed: multiples of {divisor} above 0")
        self.gradient_checkpointing = False
        matched_norm = lookup(NORMS, norm, "model.norm").match_parameters_of
        if emb_channels is None:
            emb_channels = 4 * channels
            if matched_norm is not None:
                target = self._parameters_with(matched_norm, emb_channels)
                emb_channels = matched_width(partial(self._parameters_with, norm), target, divisor)
                self.register_to_config(emb_channels=emb_channels)      # loading a saved model does not search again
        self._build(norm, emb_channels)
        if augment_channels > 0:        # not in `_build`, so that parameters are matched without it
            self.augment_embed = nn.Linear(augment_channels, emb_channels, bias=False)
        self.initialize(seed)

    def _parameters_with(self, norm: str, emb_channels: int) -> int:
        """Return the number of parameters with another norm and embedding width.

        This overwrites the layers with meta tensors; call `_build` afterwards.
        """
        with torch.device("meta"):
            self._build(norm, emb_channels)
        return sum(p.numel() for p in self.parameters())

    def _build(self, norm: str, emb_channels: int) -> None:
        """Create all layers.

        Args:
            norm: an entry of NORMS.
            emb_channels: D, the width of the embeddings.
        """
        c = self.config
        groups = partial(num_groups, max_groups=c.norm_groups, min_group_channels=c.min_group_channels)
        block = partial(ResBlock, emb_channels=emb_channels, norm=NORMS[norm], groups=groups, dropout=c.dropout)

        def heads(width: int) -> int:
            return c.num_heads or width // c.head_channels

        def stage(
            side: str, size: int, in_channels: list[int], width: int, attends: list[bool], resample: list[nn.Module]
        ) -> Stage:
            conditioned = is_conditioned(c.condition_at, side, size)
            has_cross_attention = conditioned and CONDITIONINGS[c.conditioning].cross_attention
            return Stage(
                side,
                size,
                conditioned,
                blocks=[block(channels, width) for channels in in_channels],
                attentions=[SelfAttention(width, heads(width), groups) if yes else NoAttention() for yes in attends],
                cross_attentions=[
                    CrossAttention(width, emb_channels, heads(width), groups) if has_cross_attention else NoAttention()
                    for _ in in_channels
                ],
                resample=resample,
            )

        def to_coarser(width: int) -> nn.Module:
            return block(width, width, resample=downsample) if c.resample == "resblock" else Downsample(width)

        def to_finer(width: int) -> nn.Module:
            return block(width, width, resample=upsample) if c.resample == "resblock" else Upsample(width)

        widths = [int(c.channels * factor) for factor in c.channel_mult]
        sizes = [c.resolution // 2**i for i in range(len(widths))]
        last = len(widths) - 1

        self.time_embed = TimestepEmbedding(c.channels, emb_channels)
        self.class_embed = nn.Embedding(c.num_classes + c.null_class, emb_channels)
        # As in ADM, the input has the width of the first stage, whose factor may differ from 1.
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)

        down: list[Stage] = []
        skips = [widths[0]]
        for i, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            in_channels = [skips[-1]] + [width] * (c.num_res_blocks - 1)
            attends = [size in c.attention_resolutions] * len(in_channels)
            down.append(stage("encoder", size, in_channels, width, attends, [to_coarser(width)] if i < last else []))
            skips += [width] * (c.num_res_blocks + (i < last))
        self.down = cast("Sequence[Stage]", nn.ModuleList(down))      # torch types the elements as Module

        self.mid = stage("middle", sizes[-1], [widths[-1]] * 2, widths[-1], [True, False], [])

        up: list[Stage] = []
        previous = widths[-1]
        for i, width, size in reversed(list(zip(range(len(widths)), widths, sizes, strict=True))):
            in_channels = [channels + skips.pop() for channels in [previous] + [width] * c.num_res_blocks]
            attends = [size in c.attention_resolutions] * len(in_channels)
            up.append(stage("decoder", size, in_channels, width, attends, [to_finer(width)] if i > 0 else []))
            previous = width
        self.up = cast("Sequence[Stage]", nn.ModuleList(up))

        self.norm_out = GroupNorm(groups(widths[0]), widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "UNet":
        """Move or convert all tensors, as `to` does; on GPUs, weights of convolutions become channels-last.

        There a convolution whose images and weight have different layouts converts one of them at each call. Files are
        not affected, and on CPUs, where convolutions have layouts of their own, neither is anything else.
        """

        def convert(tensor: Tensor) -> Tensor:
            tensor = fn(tensor)
            last = tensor.is_cuda and tensor.ndim == 4
            return tensor.to(memory_format=torch.channels_last) if last else tensor

        converted = super()._apply(convert, recurse)
        if any(parameter.is_cuda for parameter in self.parameters()):
            check_kernels()
        return converted

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Initialize every weight as a function of (seed, its name): models that share a tensor start out equal.

        | tensor                                               | initial value                            |
        | ---------------------------------------------------- | ---------------------------------------- |
        | `conv2`, `proj` of attentions, `conv_out`             | 0: each residual branch starts at zero   |
        | `proj` of adaptive norms                             | 0: no modulation at the start            |
        | other convolutions and linear layers                 | uniform in +-1 / sqrt(fan_in)            |
        | class embedding                                      | standard normal                          |
        | GroupNorm                                            | weight 1, bias 0                         |
        | other parameters of adaptive norms                   | as their constructor sets them           |

        ADM initializes the projections of its norms like other linear layers. The projection of augmentation labels is
        not zero at the start: with the conditioning `none` it is all that the norms get, and two factors that are both
        zero have no gradient.
        """
        parameters = dict(self.named_parameters())
        # One call for all: one per parameter would take most of the time in which a network is built.
        checksums = torch.tensor([zlib.crc32(name.encode()) for name in parameters], device="cpu")
        draws_of = dict(zip(parameters, generators(seed, Purpose.WEIGHTS, checksums), strict=True))
        for name, parameter in parameters.items():
            if parameter.is_meta:                                           # from_pretrained loads the values later
                continue
            if re.search(r"\.norm2\.(?!(norm|proj)\.(weight|bias)$)", name):      # a parameter that only this norm has
                continue
            path, _, kind = name.rpartition(".")
            module = self.get_submodule(path)
            if isinstance(module, nn.GroupNorm):
                parameter.fill_(1.0 if kind == "weight" else 0.0)
            elif isinstance(module, nn.Embedding):
                parameter.normal_(generator=draws_of[name])
            elif path.rpartition(".")[2] in ("conv2", "proj", "conv_out"):
                parameter.zero_()
            else:
                bound = 1 / math.sqrt(module.weight[0].numel())
                parameter.uniform_(-bound, bound, generator=draws_of[name])

    @property
    def null_label(self) -> int | None:
        """Id of the null class, or None where the model has none."""
        return self.config.num_classes if self.config.null_class else None

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        augment_labels: Tensor | None = None,
    ) -> UNetOutput | tuple[Tensor]:
        """Predict noise, v or x_0, and the variance if it is learned, in C more channels.

        Args:
            sample: noisy images, (B, in_channels, H, W).
            timestep: timesteps in 0..T-1, (B,), or a single one.
            class_labels: ids (B,), or weights of the K' class embeddings (B, K'), where K' counts the null class; or
                one per resolution from the finest to the coarsest, (B, L) or (B, L, K'). Optional for an unconditional
                model.
            return_dict: whether to return an object with `.sample` or a tuple.
            augment_labels: labels of augmentation (B, augment_channels); None for unchanged images.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: if labels are missing or have another shape.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        # As in ADM, 16 bits are only for what is between the embeddings and the output.
        with without_autocast(sample):
            embs = self.embeddings(timestep, class_labels, augment_labels)

        h = to_channels_last(self.conv_in(sample))      # every layer keeps this memory format
        skips = [h]
        for i, stage in enumerate(self.down):
            emb = embs[f"down.{i}"]
            for layers in stage.layers():
                h = self._run_layers(layers, h, emb)
                skips.append(h)
            for resample in stage.resample:
                h = self._run(resample, h, emb.for_norms)
                skips.append(h)

        for layers in self.mid.layers():
            h = self._run_layers(layers, h, embs["mid"])

        for i, stage in enumerate(self.up):
            emb = embs[f"up.{i}"]
            for layers in stage.layers():
                h = self._run_layers(layers, concatenate_channels(h, skips.pop()), emb)
            for resample in stage.resample:
                h = self._run(resample, h, emb.for_norms)

        h = normalize(self.norm_out, h, dtype=self.conv_out.weight.dtype)
        with without_autocast(h):
            output = self.conv_out(h)
        return UNetOutput(sample=output) if return_dict else (output,)

    @property
    def stages(self) -> dict[str, Stage]:
        """All stages by module name, in the order of the forward pass."""
        return {
            **{f"down.{i}": stage for i, stage in enumerate(self.down)},
            "mid": self.mid,
            **{f"up.{i}": stage for i, stage in enumerate(self.up)},
        }

    def embeddings(
        self, timestep: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> dict[str, StageEmbedding]:
        """Return the embeddings that condition each stage, by the names in `stages`.

        Args:
            timestep: (B,).
            class_labels, augment_labels: as in `forward`.

        Raises:
            ValueError: as in `forward`.
        """
        time, classes = self.time_embed(timestep), self._class_embeddings(self._labels(class_labels, timestep))
        if classes.ndim == 3:
            time = time[:, None]                                                                        # (B, 1, D)
        conditioning = CONDITIONINGS[self.config.conditioning]
        emb = conditioning.timestep * time + conditioning.classes * classes                   # (B, D) or (B, L, D)
        if augment_labels is not None:
            augment = self._augment_embeddings(augment_labels)
            emb = emb + (augment if emb.ndim == 2 else augment[:, None])
        emb = F.silu(emb)
        resolution_index = {stage.size: i for i, stage in enumerate(self.down)}

        def at(stage: Stage) -> StageEmbedding:
            i = resolution_index[stage.size]
            for_norms, for_classes = (e if e.ndim == 2 else e[:, i] for e in (emb, classes))            # (B, D) each
            return StageEmbedding(for_norms if stage.conditioned else torch.zeros_like(for_norms), for_classes)

        return {name: at(stage) for name, stage in self.stages.items()}

    def _class_embeddings(self, labels: Tensor) -> Tensor:
        """Return class embeddings (B, D), or (B, L, D) for labels per resolution."""
        resolutions, rows = len(self.down), len(self.class_embed.weight)
        weighted = labels.is_floating_point()
        shape = labels.shape[: labels.ndim - weighted]
        fits = len(shape) == 1 or (len(shape) == 2 and shape[1] == resolutions)
        if not fits or (weighted and labels.shape[-1] != rows):
            raise ValueError(
                f"class_labels: {'weights' if weighted else 'ids'} of shape {tuple(labels.shape)}; allowed are ids "
                f"(B,) or (B, {resolutions}), and weights (B, {rows}) or (B, {resolutions}, {rows})"
            )
        table = self.class_embed.weight
        return labels.to(table.dtype) @ table if weighted else self.class_embed(labels)

    def _augment_embeddings(self, labels: Tensor) -> Tensor:
        """Return embeddings of labels of augmentation: (B, augment_channels) -> (B, D)."""
        channels = self.config.augment_channels
        if channels == 0:
            raise ValueError("augment_labels: the model has no projection for them; build it with augment_channels")
        if labels.ndim != 2 or labels.shape[1] != channels:
            raise ValueError(f"augment_labels: of shape {tuple(labels.shape)}; allowed is (B, {channels})")
        return self.augment_embed(labels.to(self.augment_embed.weight.dtype))

    def without_augmentation(self) -> "UNet":
        """Return the same model without augmentation labels, for images that are not augmented.

        It has the same layers, not copies of them, except the projection of these labels. Its outputs are those that
        this model has for the label zero.
        """
        if self.config.augment_channels == 0:
            return self
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with torch.device("meta"):
            unet = UNet(**{**config, "augment_channels": 0})
        for name, layer in self.named_children():
            if name in unet._modules:
                setattr(unet, name, layer)
        unet.gradient_checkpointing = self.gradient_checkpointing
        return unet.train(self.training)

    def _labels(self, class_labels: Tensor | None, timestep: Tensor) -> Tensor:
        if class_labels is not None:
            return class_labels
        if self.config.num_classes > 0:
            raise ValueError(f"class_labels: missing; give one id in 0..{self.config.num_classes - 1} per image")
        return torch.zeros(len(timestep), dtype=torch.int64, device=timestep.device)

    def _run_layers(self, layers: tuple[nn.Module, nn.Module, nn.Module], h: Tensor, emb: StageEmbedding) -> Tensor:
        block, attention, cross_attention = layers
        h = self._run(block, h, emb.for_norms)
        h = self._run(attention, h, emb.for_norms)
        return self._run(cross_attention, h, emb.for_cross_attention)

    def _run(self, layer: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, h, emb)
        return layer(h, emb)
