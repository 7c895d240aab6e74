"""Checks that the numbers that define a U-Net fit together, and the width that matches a number of parameters."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from ddpm.names import lookup

SIDES = ("encoder", "middle", "decoder")
MATCHED_WITHIN = 0.01       # relative; one step of the width changes less, except in tiny networks


def is_conditioned(condition_at: str | Sequence[int], side: str, size: int) -> bool:
    """Return whether timestep and class reach a stage.

    Args:
        condition_at: `all`, an entry of SIDES, or resolutions of stages in pixels.
        side: the stage's entry of SIDES.
        size: H = W of the stage in pixels.
    """
    return condition_at in ("all", side) if isinstance(condition_at, str) else size in condition_at


def check_condition_at(condition_at: str | Sequence[int], sizes: Sequence[int]) -> None:
    """Check that `condition_at` names stages of a U-Net whose stages have the given sizes in pixels.

    Raises:
        ValueError: names the option, the problem and the allowed values.
    """
    if isinstance(condition_at, str):
        try:
            lookup(dict.fromkeys(("all", *SIDES)), condition_at, "model.condition_at")
        except ValueError as problem:
            raise ValueError(f"{problem}; or give a list of resolutions in pixels, such as [8]") from None
        return
    if not condition_at:
        raise ValueError("model.condition_at: [] names no stage; to disable conditioning, set model.conditioning none")
    for size in condition_at:
        if size not in sizes:
            raise ValueError(f"model.condition_at: {size} is not a stage; use {', '.join(map(str, sizes))}")


def check_shape(
    resolution: int,
    channels: int,
    channel_mult: Sequence[float],
    attention_resolutions: Sequence[int],
    head_channels: int,
    num_heads: int | None,
    cross_attention_at: str | Sequence[int] = (),
) -> None:
    """Check that the numbers that define a U-Net fit together.

    Args:
        resolution, channels, channel_mult, attention_resolutions, head_channels, num_heads: as in UNet.
        cross_attention_at: stages with cross-attention, as `condition_at` in `is_conditioned`.

    Raises:
        ValueError: names the option, the problem and values that fit.
    """
    stages = len(channel_mult)
    widths = [int(channels * factor) for factor in channel_mult]
    if channels < 2:
        raise ValueError(f"model.channels: {channels} is out of range; allowed: 2 or more")
    if min(widths, default=0) < 1:
        raise ValueError("model.channel_mult: allowed: factors that give every stage a channel, such as [1, 2, 2, 2]")
    divisor = 2 ** (stages - 1)
    if resolution % divisor or resolution < divisor:
        below, above = resolution // divisor * divisor, (resolution // divisor + 1) * divisor
        fitting = f"{below} or {above}" if below else f"{above}"
        most = max(n for n in range(1, stages) if resolution % 2 ** (n - 1) == 0)
        raise ValueError(
            f"data.resolution: {resolution} is not divisible by {divisor}, which the {stages} stages of "
            f"model.channel_mult require; use {fitting}, or at most {most} stage{'s' * (most > 1)}"
        )
    sizes = [resolution // 2**stage for stage in range(stages)]
    for size in attention_resolutions:
        if size not in sizes:
            raise ValueError(
                f"model.attention_resolutions: {size} is not a stage; at data.resolution {resolution} use "
                f"{', '.join(map(str, sizes))}"
            )
    attended = {widths[-1]}         # the middle
    for width, size in zip(widths, sizes, strict=True):
        has_cross_attention = any(is_conditioned(cross_attention_at, side, size) for side in ("encoder", "decoder"))
        if has_cross_attention or size in attention_resolutions:
            attended.add(width)
    for width in sorted(attended):
        if width % (num_heads or head_channels):
            option = "num_heads" if num_heads else "head_channels"
            divisors = [n for n in range(1, width + 1) if all(w % n == 0 for w in attended)]
            raise ValueError(
                f"model.{option}: {num_heads or head_channels} does not divide the {width} channels of an attention "
                f"layer; use one of {', '.join(map(str, divisors))}"
            )


def matched_width(parameters: Callable[[int], int], target: int, step: int = 1) -> int:
    """Return the width, a multiple of `step`, at which `parameters` is nearest to `target`.

    Args:
        parameters: width -> number of parameters; increasing, and larger than the square of the width.
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
            f"model.norm: the nearest width differs from {target:,} parameters by {off[nearest]:.2%}; allowed is "
            f"{MATCHED_WITHIN:.0%}, so raise model.channels"
        )
    return nearest
