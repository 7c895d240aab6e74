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

COARSEST = 8                # pixels; a larger stage is halved if it can be, and so is a first stage of this size
MAX_ATTENTION = 16          # pixels; attention at larger resolutions is expensive
MAX_MIDDLE = 64             # pixels; the middle of the network always has attention
MIN_IMAGES = 38_400         # that a run sees: those of the first command, 600 steps of 64
STEPS_FOR_FEW_IMAGES = (600, 4_800)     # in which it sees so many; with batches below 8 the run would be too long
MAX_STEPS = 200_000
MIN_LEARNING_RATE = 1e-4    # that of ADM
# Resolutions up to which a batch is taken. In short runs on few images, the same number of images in smaller batches
# gives a lower loss (docs/measurements.md).
BATCHES = ((16, 64), (32, 32), (64, 16), (math.inf, 8))


class DataSize(NamedTuple):
    """What follows from the number of images.

    Attributes:
        max_images: the number of images up to which it holds.
        channels: base width of the network.
        batch_factor: factor of the batch.
    """

    max_images: float
    channels: int
    batch_factor: int


DATA_SIZES = (DataSize(10_000, 32, 1), DataSize(200_000, 64, 4), DataSize(math.inf, 128, 8))


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
    """Return the resolutions of the stages: halved as long as they are even and above 8 pixels; 8 pixels become 8, 4.

    So no stage but the first has less than 4 pixels.
    """
    sizes = [resolution]
    while sizes[-1] % 2 == 0 and (sizes[-1] > COARSEST or sizes == [COARSEST]):
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
    model, wanted = config.model, max(_find_size(data).channels, data.channels)
    attended = {len(model.channel_mult) - 1}        # the middle, which has the width of the last stage
    attended |= {i for i in range(len(model.channel_mult)) if data.resolution // 2**i in model.attention_resolutions}

    def heads_fit(channels: int) -> bool:
        return all(int(channels * model.channel_mult[i]) % model.head_channels == 0 for i in attended)

    candidates = range(wanted, wanted + 100 * model.head_channels)
    return next((channels for channels in candidates if heads_fit(channels)), wanted)      # building names the problem


def derive_batch_size(config: Config, data: ImageData) -> int:
    """Return the batch: 64 up to 16 pixels, 32 up to 32, 16 up to 64, 8 above; more for many images.

    It is a power of two, at most the number of images. It does not depend on how it is divided among processes and
    accumulation steps, because these do not affect the trained model; `check_batch` checks whether it can be.
    """
    batch = next(batch for pixels, batch in BATCHES if data.resolution <= pixels)
    return min(batch * _find_size(data).batch_factor, 2 ** int(math.log2(len(data))))


def derive_steps(config: Config, data: ImageData) -> int:
    """Return a third of the number of images, rounded to two digits, between a minimum and 200,000.

    In the minimum the network sees as many images as in the first command, but it has 600 to 4,800 steps.
    """
    fewest, most = STEPS_FOR_FEW_IMAGES
    least = min(max(fewest, MIN_IMAGES / config.train.batch_size), most)
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
    "model.channel_mult": Rule(derive_channel_mult, f"one per halving, to {COARSEST} pixels if that is possible"),
    "model.attention_resolutions": Rule(derive_attention, f"up to {MAX_ATTENTION} pixels"),
    "model.channels": Rule(
        derive_channels,
        f"{', '.join(str(size.channels) for size in DATA_SIZES[:-1])} or {DATA_SIZES[-1].channels} by the number of "
        "images, or more for the attention heads",
    ),
    "train.batch_size": Rule(
        derive_batch_size, f"{BATCHES[0][1]} at most for few images, fewer above {BATCHES[0][0]} pixels"
    ),
    "train.steps": Rule(
        derive_steps,
        f"a third of the number of images, or the {STEPS_FOR_FEW_IMAGES[0]:,} to {STEPS_FOR_FEW_IMAGES[1]:,} steps "
        f"that see {MIN_IMAGES:,} images",
    ),
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


def _find_size(data: ImageData) -> DataSize:
    """Return what follows from the number of images."""
    return next(size for size in DATA_SIZES if len(data) <= size.max_images)


def _nearest_divisible(resolution: int) -> str:
    """Return the next resolutions below and above that can be halved down to 16 pixels or less."""
    divisor = 2 ** math.ceil(math.log2(resolution / MAX_ATTENTION))
    below = resolution // divisor * divisor
    return f"{below} or {below + divisor}"


def _round(value: float, digits: int) -> float:
    """Return the value rounded to significant digits."""
    return float(f"{value:.{digits}g}")
