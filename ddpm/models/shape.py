"""The numbers that define a U-Net: which of them fit together, and which width matches a number of parameters."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from ddpm.names import lookup

SIDES = ("encoder", "middle", "decoder")
MATCHED_WITHIN = 0.01       # relative; only in tiny networks does one unit of width make a difference near it


def is_conditioned(depths: str | Sequence[int], side: str, size: int) -> bool:
    """Whether timestep and class reach a stage.

    Args:
        depths: `all`, an entry of SIDES, or sizes of stages.
        side: an entry of SIDES, where the stage is.
        size: H = W of the stage in pixels.
    """
    return depths in ("all", side) if isinstance(depths, str) else size in depths


def check_depth_names(depths: str | Sequence[int]) -> None:
    """Refuses depths that no U-Net has.

    Raises:
        ValueError: names the option, what is wrong and what is allowed.
    """
    if isinstance(depths, str):
        try:
            lookup(dict.fromkeys(("all", *SIDES)), depths, "model.condition_at")
        except ValueError as problem:
            raise ValueError(f"{problem}; or a list of resolutions in pixels, as [8]") from None
    elif not depths:
        raise ValueError("model.condition_at: [] names no stage; to condition none, set model.conditioning none")


def check_depths(depths: str | Sequence[int], sizes: Sequence[int]) -> None:
    """Refuses depths that a U-Net with stages of these sizes does not have.

    Raises:
        ValueError: names the option, what is wrong and what would fit.
    """
    check_depth_names(depths)
    for size in () if isinstance(depths, str) else depths:
        if size not in sizes:
            raise ValueError(
                f"model.condition_at: {size} never occurs; the stages are at {', '.join(map(str, sizes))}"
            )


def check_shape(
    resolution: int,
    channels: int,
    channel_mult: Sequence[float],
    attention_resolutions: Sequence[int],
    head_channels: int,
    num_heads: int | None,
    cross_attention_depths: str | Sequence[int] = (),
) -> None:
    """Refuses numbers that make no U-Net.

    Args:
        resolution, channels, channel_mult, attention_resolutions, head_channels, num_heads: as in UNet.
        cross_attention_depths: depths at which there is cross-attention, as in `is_conditioned`.

    Raises:
        ValueError: names the option, what is wrong and what would fit.
    """
    stages = len(channel_mult)
    widths = [int(channels * factor) for factor in channel_mult]
    if channels < 2:
        raise ValueError(f"model.channels: {channels} is out of range; allowed: 2 or more")
    if min(widths, default=0) < 1:
        raise ValueError("model.channel_mult: at least one stage is needed, and a channel in each, as [1, 2, 2, 2]")
    divisor = 2 ** (stages - 1)
    if resolution % divisor or resolution < divisor:
        below, above = resolution // divisor * divisor, (resolution // divisor + 1) * divisor
        fitting = f"{below} or {above}" if below else f"{above}"
        most = max(n for n in range(1, stages) if resolution % 2 ** (n - 1) == 0)
        raise ValueError(
            f"data.resolution: {resolution} is not divisible by {divisor}, as the {stages} stages of "
            f"model.channel_mult need; use {fitting}, or at most {most} stage{'s' * (most > 1)}"
        )
    sizes = [resolution // 2**stage for stage in range(stages)]
    for size in attention_resolutions:
        if size not in sizes:
            raise ValueError(
                f"model.attention_resolutions: {size} never occurs; at data.resolution {resolution} the stages are at "
                f"{', '.join(map(str, sizes))}"
            )
    attended = {widths[-1]}         # the middle
    for width, size in zip(widths, sizes, strict=True):
        crossed = any(is_conditioned(cross_attention_depths, side, size) for side in ("encoder", "decoder"))
        if crossed or size in attention_resolutions:
            attended.add(width)
    for width in sorted(attended):
        if width % (num_heads or head_channels):
            option = "num_heads" if num_heads else "head_channels"
            fitting = [n for n in range(1, width + 1) if all(w % n == 0 for w in attended)]
            raise ValueError(
                f"model.{option}: {num_heads or head_channels} does not divide the {width} channels of an attention "
                f"layer; use one of {', '.join(map(str, fitting))}"
            )


def matched_width(parameters: Callable[[int], int], target: int, step: int = 1) -> int:
    """Return the multiple of `step` whose number of parameters is nearest to `target`.

    Args:
        parameters: number of parameters as a function of the width; increasing, and larger than the width's square.
        target: number of parameters to match.
        step: the width is a multiple of this.

    Raises:
        ValueError: if the nearest differs by more than MATCHED_WITHIN.
    """
    widths = range(step, math.isqrt(target) + 2 * step, step)
    above = bisect_left(widths, target, key=parameters)
    off = {width: abs(parameters(width) - target) / target for width in widths[max(0, above - 1) : above + 1]}
    nearest = min(off, key=off.__getitem__)
    if off[nearest] > MATCHED_WITHIN:
        raise ValueError(
            f"model.norm: the nearest width misses {target:,} parameters by {off[nearest]:.2%}, but at most "
            f"{MATCHED_WITHIN:.0%} is allowed; raise model.channels"
        )
    return nearest
