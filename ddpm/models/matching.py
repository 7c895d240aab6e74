"""The width at which a network has as many parameters as another."""

import math
from bisect import bisect_left
from collections.abc import Callable

MATCHED_WITHIN = 0.01       # a share; only in tiny networks is one unit of width more than a tenth of it


def matched_width(parameters: Callable[[int], int], target: int, step: int = 1) -> int:
    """The multiple of `step` for which a number of parameters is nearest to `target`.

    Args:
        parameters: their number as a function of the width; rises, and is more than the width's square.
        target: the number to come near to.
        step: of which the width is a multiple.

    Raises:
        ValueError: if the nearest differs by more than MATCHED_WITHIN.
    """
    widths = range(step, math.isqrt(target) + 2 * step, step)
    above = bisect_left(widths, target, key=parameters)
    off = {width: abs(parameters(width) - target) / target for width in widths[max(0, above - 1) : above + 1]}
    nearest = min(off, key=off.__getitem__)
    if off[nearest] > MATCHED_WITHIN:
        raise ValueError(
            f"model.norm: parameters can be matched no nearer than {off[nearest]:.2%} to {target:,}, and "
            f"{MATCHED_WITHIN:.0%} is allowed; raise model.channels"
        )
    return nearest
