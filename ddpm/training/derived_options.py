"""Options that are null in a configuration, derived from the data: a sensible start at any size.

Each rule is a function of the data and of the options before it. The constants are those of networks that were trained:
the digits of this package, CIFAR-10 (Ho et al. 2020, arXiv 2006.11239) and ADM (Dhariwal & Nichol 2021,
arXiv 2105.05233).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ddpm.config.sections import Config
from ddpm.data import ImageData

COARSEST = 8                # pixels; stages are halved down to this, and the first one once more if it is this small
SMALLEST = 4                # pixels; no stage is smaller
MAX_ATTENTION = 16          # pixels; attention at larger resolutions is expensive
MAX_MIDDLE = 64             # pixels; the middle of the network always has attention
MIN_IMAGES = 38_400         # A run sees at least so many images: those of the first command, 600 steps of 64.
MAX_STEPS = 200_000
MIN_LEARNING_RATE = 1e-4    # that of ADM
# Resolutions up to which a batch is taken. In short runs on few images, the same number of images in smaller batches
# gives a lower loss (docs/measurements.md).
BATCHES = ((16, 64), (32, 32), (64, 16), (math.inf, 8))
# Numbers of images up to which a size holds, the base width, and the factor of the batch.
BY_IMAGES = ((10_000, 32, 1), (200_000, 64, 4), (math.inf, 128, 8))


class Rule(NamedTuple):
    """How an option is derived.

    Attributes:
        derive: function of a configuration, in which the options of earlier rules have values, and of the data.
        reason: what the value follows from, for the line at the start of a run.
    """

    derive: Callable[[Config, ImageData], Any]
    reason: str


def derive_config(config: Config, data: ImageData) -> Config:
    """Return the configuration with a value derived from the data in place of each null that stands for one.

    Options with a value are unchanged, so deriving a second time changes nothing.

    Args:
        config: the configuration as given.
        data: the training images.

    Raises:
        ValueError: if the resolution cannot be halved often enough; names resolutions that can.
    """
    for option, rule in RULES.items():
        if _value(config, option) is None:
            section, _, name = option.partition(".")
            values = replace(getattr(config, section), **{name: rule.derive(config, data)})
            config = replace(config, **{section: values})
    return config


def describe_derivation(given: Config, derived: Config) -> str:
    """Return one line on the options that were derived, with their values and reasons; empty if there are none."""
    found = [
        f"{option} {_format(_value(derived, option))} ({rule.reason})"
        for option, rule in RULES.items()
        if _value(given, option) is None
    ]
    return f"derived from the data: {', '.join(found)}" if found else ""


def coarsest_stage_warning(given: Config, data: ImageData) -> list[str]:
    """Return one line if the resolution cannot be halved down to 16 pixels; none otherwise, or for given stages."""
    resolution, sizes = data.resolution, stage_sizes(data.resolution)
    if given.model.channel_mult is not None or sizes[-1] <= MAX_ATTENTION:
        return []
    times = len(sizes) - 1
    return [
        f"data.resolution: {resolution} can be halved {times} time{'s' * (times != 1)}, so the coarsest stage of the "
        f"network has {sizes[-1]}x{sizes[-1]} pixels; {_nearest_divisible(resolution)} is faster and usually better"
    ]


# ------------------------------------------------------------------------------------------------------ one rule each


def stage_sizes(resolution: int) -> list[int]:
    """Return the resolutions of the stages: halved down to 8 pixels or less, at least once, but not below 4."""
    sizes = [resolution]
    while sizes[-1] % 2 == 0 and sizes[-1] >= 2 * SMALLEST and (sizes[-1] > COARSEST or len(sizes) == 1):
        sizes.append(sizes[-1] // 2)
    return sizes


def derive_channel_mult(config: Config, data: ImageData) -> list[float]:
    """Return one multiplier per stage: 2 up to 16 pixels, and 1 above, where width is expensive, and in the first."""
    sizes = stage_sizes(data.resolution)
    if sizes[-1] > MAX_MIDDLE:
        raise ValueError(
            f"data.resolution: {data.resolution} cannot be halved down to {MAX_MIDDLE} pixels, at which the middle of "
            f"the network has attention; use {_nearest_divisible(data.resolution)}"
        )
    return [1, *(2 if size <= MAX_ATTENTION else 1 for size in sizes[1:])]


def derive_attention(config: Config, data: ImageData) -> list[int]:
    """Return the resolutions of all stages up to 16 pixels, except the first."""
    sizes = [data.resolution // 2**stage for stage in range(1, len(config.model.channel_mult))]
    return [size for size in sizes if size <= MAX_ATTENTION]


def derive_channels(config: Config, data: ImageData) -> int:
    """Return the base width: more for more images or channels, and a multiple that suits the attention heads."""
    model, wanted = config.model, max(_size(data)[0], data.channels)
    attended = {len(model.channel_mult) - 1}        # the middle, which has the width of the last stage
    attended |= {i for i in range(len(model.channel_mult)) if data.resolution // 2**i in model.attention_resolutions}

    def heads_fit(channels: int) -> bool:
        return all(int(channels * model.channel_mult[i]) % model.head_channels == 0 for i in attended)

    candidates = range(wanted, wanted + 100 * model.head_channels)
    return next((channels for channels in candidates if heads_fit(channels)), wanted)      # building names the problem


def derive_batch_size(config: Config, data: ImageData) -> int:
    """Return the batch: 64 up to 16 pixels, 32 up to 32, 16 up to 64, 8 above; more for many images.

    It is a power of two, at most the number of images, rounded down to a multiple of the accumulation steps.
    """
    batch = min(_batch_for(data.resolution) * _size(data)[1], 2 ** int(math.log2(len(data))))
    parts = config.train.gradient_accumulation_steps
    return max(parts, batch // parts * parts)


def derive_steps(config: Config, data: ImageData) -> int:
    """Return a third of the number of images, rounded to two digits, between a minimum and 200,000.

    The minimum shows the network as many images as the first command does, in batches for this resolution.
    """
    least = MIN_IMAGES / _batch_for(data.resolution)
    return int(_round(min(MAX_STEPS, max(least, len(data) / 3)), digits=2))


def derive_learning_rate(config: Config, data: ImageData) -> float:
    """Return the learning rate, with one digit: 3e-3 at 8 pixels and 64 channels, and less for more of either or depth.

    It falls with resolution^0.55, with the width of the widest stage, and with the square root of num_res_blocks, from
    3e-3 of digits to the 2e-4 of Ho et al. for CIFAR-10 and the 1e-4 of ADM, which is the least.
    """
    model = config.model
    widest = model.channels * max(model.channel_mult)
    size = (max(8, data.resolution) / 8) ** 0.55 * max(1, widest / 64) * math.sqrt(model.num_res_blocks)
    return max(MIN_LEARNING_RATE, _round(3e-3 / size, digits=1))


# In this order, because a rule may depend on the options before it.
RULES = {
    "model.channel_mult": Rule(derive_channel_mult, "one per halving, to 8 pixels if that is possible"),
    "model.attention_resolutions": Rule(derive_attention, "up to 16 pixels"),
    "model.channels": Rule(derive_channels, "32, 64 or 128 by the number of images, or more for the attention heads"),
    "train.steps": Rule(derive_steps, "a third of the number of images, at least 600 to 4,800"),
    "train.batch_size": Rule(derive_batch_size, "64 at most for few images, fewer above 16 pixels"),
    "train.learning_rate": Rule(derive_learning_rate, "3e-3 for digits, less for larger images and networks"),
}


def _value(config: Config, option: str) -> Any:
    section, _, name = option.partition(".")
    return getattr(getattr(config, section), name)


def _format(value: Any) -> str:
    """Return a value as it is typed on a command line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(data: ImageData) -> tuple[int, int]:
    """Return the base width and the factor of the batch for the number of images."""
    return next((width, factor) for images, width, factor in BY_IMAGES if len(data) <= images)


def _batch_for(resolution: int) -> int:
    """Return the batch for a resolution."""
    return next(batch for pixels, batch in BATCHES if resolution <= pixels)


def _nearest_divisible(resolution: int) -> str:
    """Return the next resolutions below and above that can be halved down to 16 pixels or less."""
    divisor = 2 ** math.ceil(math.log2(resolution / MAX_ATTENTION))
    below = resolution // divisor * divisor
    return f"{below} or {below + divisor}"


def _round(value: float, digits: int) -> float:
    """Return the value rounded to significant digits."""
    return float(f"{value:.{digits}g}")
