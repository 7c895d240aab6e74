"""The class-conditional U-Net of ADM (Dhariwal & Nichol 2021), as a diffusers model."""

import math
import zlib
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ddpm.models.blocks import Downsample, Identity, ResBlock, SelfAttention, Upsample, doubled, halved
from ddpm.models.embedding import TimestepEmbedding
from ddpm.models.norm import EPS, NORMS, GroupNorm, num_groups
from ddpm.names import lookup
from ddpm.randomness import Purpose, generator

RESAMPLERS = ("resblock", "conv")


@dataclass
class UNetOutput(BaseOutput):
    """What UNet.forward returns: `sample`, (B, out_channels, H, W)."""

    sample: Tensor


class Level(nn.Module):
    """The layers of one resolution; `resample` holds the one that leads to the next, or none at the last level."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module], resample: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = nn.ModuleList(resample)


class UNet(ModelMixin, ConfigMixin):
    """Predicts noise (or v, or x_0) from a noisy image, its timestep and its class.

    Args:
        resolution: H = W of the images in pixels; divisible by 2 ** (levels - 1).
        in_channels: of the images.
        out_channels: in_channels, or twice that with a learned variance.
        num_classes: K; class ids are 0..K-1.
        null_class: whether id K exists, which stands for "no class". K = 0 with it is an unconditional model.
        channels: width M; levels have channel_mult times as many.
        channel_mult: one factor per level, from the finest resolution to the coarsest.
        num_res_blocks: residual blocks per level in the encoder; the decoder has one more.
        attention_resolutions: pixels at which blocks are followed by self-attention; the middle always has it.
        head_channels: channels per attention head.
        num_heads: heads at every width, instead of head_channels.
        norm: an entry of NORMS.
        norm_groups: at most so many groups in each norm,
        min_group_channels: and at least so many channels in each group.
        dropout: probability in the residual blocks.
        resample: `resblock` (resolution changes inside residual blocks) or `conv` (a convolution of its own).
        seed: of the initial weights.

    Raises:
        ValueError: for numbers that do not fit together; the message names the option and what would fit.
    """

    _supports_gradient_checkpointing = True

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
        norm_groups: int = 32,
        min_group_channels: int = 4,
        dropout: float = 0.0,
        resample: str = "resblock",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_shape(resolution, channels, channel_mult, attention_resolutions, head_channels, num_heads)
        lookup(dict.fromkeys(RESAMPLERS), resample, "model.resample")
        if num_classes + null_class < 1:
            raise ValueError("num_classes: 0 is an unconditional model, which needs null_class")
        self.gradient_checkpointing = False
        emb_channels = 4 * channels
        groups = partial(num_groups, max_groups=norm_groups, min_group_channels=min_group_channels)
        block = partial(
            ResBlock, emb_channels=emb_channels, norm=lookup(NORMS, norm, "model.norm"), groups=groups, dropout=dropout
        )

        def attention(width: int) -> nn.Module:
            return SelfAttention(width, num_heads or width // head_channels, groups)

        def attention_at(size: int, width: int) -> nn.Module:
            return attention(width) if size in attention_resolutions else Identity()

        def down(width: int) -> nn.Module:
            return block(width, width, resample=halved) if resample == "resblock" else Downsample(width)

        def up(width: int) -> nn.Module:
            return block(width, width, resample=doubled) if resample == "resblock" else Upsample(width)

        widths = [int(channels * factor) for factor in channel_mult]
        sizes = [resolution // 2**level for level in range(len(widths))]
        last = len(widths) - 1

        self.time_embed = TimestepEmbedding(channels, emb_channels)
        self.class_embed = nn.Embedding(num_classes + null_class, emb_channels)
        # ADM starts at the width of the first level, whose factor may differ from 1.
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)

        self.down = nn.ModuleList()
        skips = [widths[0]]
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            inputs = [skips[-1]] + [width] * (num_res_blocks - 1)
            self.down.append(
                Level(
                    blocks=[block(c, width) for c in inputs],
                    attentions=[attention_at(size, width) for _ in inputs],
                    resample=[down(width)] if level < last else [],
                )
            )
            skips += [width] * (num_res_blocks + (level < last))

        self.mid = Level([block(widths[-1], widths[-1]) for _ in range(2)], [attention(widths[-1]), Identity()], [])

        self.up = nn.ModuleList()
        above = widths[-1]
        for level, width, size in reversed(list(zip(range(len(widths)), widths, sizes, strict=True))):
            inputs = [above] + [width] * num_res_blocks
            self.up.append(
                Level(
                    blocks=[block(c + skips.pop(), width) for c in inputs],
                    attentions=[attention_at(size, width) for _ in inputs],
                    resample=[up(width)] if level > 0 else [],
                )
            )
            above = width

        self.norm_out = GroupNorm(groups(widths[0]), widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Sets every weight as a function of (seed, its name), so that models which share a tensor start it equal.

        | tensor                                               | initial value                            |
        | ---------------------------------------------------- | ---------------------------------------- |
        | `conv2`, `proj` (attention and norms), `conv_out`     | 0: each block starts as the identity     |
        | other convolutions and linear layers                 | uniform in +-1 / sqrt(fan_in)            |
        | class embedding                                      | standard normal                          |
        | GroupNorm                                            | weight 1, bias 0                         |
        """
        for name, parameter in self.named_parameters():
            if parameter.is_meta:                               # from_pretrained fills the values in
                continue
            path, _, kind = name.rpartition(".")
            module = self.get_submodule(path)
            draws = generator(seed, Purpose.WEIGHTS, zlib.crc32(name.encode()))
            if isinstance(module, nn.GroupNorm):
                parameter.fill_(1.0 if kind == "weight" else 0.0)
            elif isinstance(module, nn.Embedding):
                parameter.normal_(generator=draws)
            elif path.rpartition(".")[2] in ("conv2", "proj", "conv_out"):
                parameter.zero_()
            else:
                bound = 1 / math.sqrt(module.weight[0].numel())
                parameter.uniform_(-bound, bound, generator=draws)

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
    ) -> UNetOutput | tuple[Tensor]:
        """Predicts.

        Args:
            sample: noisy images, (B, in_channels, H, W).
            timestep: in 0..T-1, (B,) or one for all.
            class_labels: ids (B,), or weights of the class embeddings (B, K or K + 1); with one more dimension, (B, L)
                or (B, L, K or K + 1), one for each of the L resolutions from the finest to the coarsest. May be left
                out of an unconditional model only.
            return_dict: whether to return an object with `.sample` or a tuple.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: if labels are missing, or of a shape that is none of these.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embs = self._embeddings(self.time_embed(timestep), self._labels(class_labels, sample))

        # Convolutions run faster on this layout, and every layer keeps it.
        h = self.conv_in(sample).contiguous(memory_format=torch.channels_last)
        skips = [h]
        for level, emb in zip(self.down, embs, strict=True):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = self._run(attention, self._run(block, h, emb), emb)
                skips.append(h)
            for resample in level.resample:
                h = self._run(resample, h, emb)
                skips.append(h)
        for block, attention in zip(self.mid.blocks, self.mid.attentions, strict=True):
            h = self._run(attention, self._run(block, h, embs[-1]), embs[-1])
        for level, emb in zip(self.up, reversed(embs), strict=True):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = torch.cat([h, skips.pop()], dim=1)
                h = self._run(attention, self._run(block, h, emb), emb)
            for resample in level.resample:
                h = self._run(resample, h, emb)

        output = self.conv_out(F.silu(self.norm_out(h)))
        return UNetOutput(sample=output) if return_dict else (output,)

    def _embeddings(self, time: Tensor, labels: Tensor) -> list[Tensor]:
        """What each level is conditioned on, from the finest to the coarsest: L times (B, D)."""
        levels, rows = len(self.down), len(self.class_embed.weight)
        weighted = labels.is_floating_point()
        shape = labels.shape[: labels.ndim - weighted]
        fits = len(shape) == 1 or (len(shape) == 2 and shape[1] == levels)
        if not fits or (weighted and labels.shape[-1] != rows):
            raise ValueError(
                f"class_labels: {'weights' if weighted else 'ids'} of shape {tuple(labels.shape)}; allowed are ids "
                f"(B,) or (B, {levels}), and weights (B, {rows}) or (B, {levels}, {rows})"
            )
        table = self.class_embed.weight
        classes = labels.to(table.dtype) @ table if weighted else self.class_embed(labels)      # (B, D) or (B, L, D)
        if len(shape) == 1:
            return [F.silu(time + classes)] * levels
        return list(F.silu(time[:, None] + classes).unbind(1))

    def _labels(self, class_labels: Tensor | None, sample: Tensor) -> Tensor:
        if class_labels is not None:
            return class_labels
        if self.config.num_classes > 0:
            raise ValueError(f"class_labels: missing; give ids in 0..{self.config.num_classes - 1}, one for each image")
        return torch.zeros(len(sample), dtype=torch.int64, device=sample.device)

    def _run(self, layer: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, h, emb)
        return layer(h, emb)


def check_shape(
    resolution: int,
    channels: int,
    channel_mult: tuple[float, ...],
    attention_resolutions: tuple[int, ...],
    head_channels: int,
    num_heads: int | None,
) -> None:
    """Refuses numbers that make no U-Net.

    Raises:
        ValueError: names the option, what is wrong and what would fit.
    """
    levels = len(channel_mult)
    widths = [int(channels * factor) for factor in channel_mult]
    if channels < 2:
        raise ValueError(f"model.channels: {channels} is out of range; allowed: 2 or more")
    if min(widths, default=0) < 1:
        raise ValueError("model.channel_mult: at least one level is needed, and a channel in each, as [1, 2, 2, 2]")
    divisor = 2 ** (levels - 1)
    if resolution % divisor or resolution < divisor:
        below, above = resolution // divisor * divisor, (resolution // divisor + 1) * divisor
        fitting = f"{below} or {above}" if below else f"{above}"
        most = max(n for n in range(1, levels) if resolution % 2 ** (n - 1) == 0)
        raise ValueError(
            f"data.resolution: {resolution} is not divisible by {divisor}, as the {levels} levels of "
            f"model.channel_mult need; use {fitting}, or at most {most} level{'s' * (most > 1)}"
        )
    sizes = [resolution // 2**level for level in range(levels)]
    for size in attention_resolutions:
        if size not in sizes:
            raise ValueError(
                f"model.attention_resolutions: {size} never occurs; at data.resolution {resolution} the levels are at "
                f"{', '.join(map(str, sizes))}"
            )
    attended = {width for width, size in zip(widths, sizes, strict=True) if size in attention_resolutions}
    attended.add(widths[-1])        # the middle
    for width in sorted(attended):
        if width % (num_heads or head_channels):
            option = "num_heads" if num_heads else "head_channels"
            fitting = [n for n in range(1, width + 1) if all(w % n == 0 for w in attended)]
            raise ValueError(
                f"model.{option}: {num_heads or head_channels} does not divide the {width} channels of an attention "
                f"layer; use one of {', '.join(map(str, fitting))}"
            )
