"""How pictures become pixels: resolution, channels and scale, decided from the survey and from what is asked for."""

from dataclasses import dataclass
from typing import Any

from ddpm.data.pixels.decode import IntensityRange, PixelFormat
from ddpm.data.pixels.survey import MAX_SURVEYED, TRANSPARENCY, Survey
from ddpm.data.pixels.tiffs import FOURTH, LOST, SECOND

STEP = 4                    # default resolutions are multiples of it, so that the U-Net can halve them twice
MAX_DEFAULT_RESOLUTION = 64  # pixels; larger images are expensive
LARGE_RESOLUTION = 128      # suggested for larger images
TOO_SMALL = 10              # one of so many images may be smaller than the default resolution
DEPTHS = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))      # highest values of cameras and scanners
UNSCALED = (0.0, 255.0)     # the range of uint8, which changes nothing
# extra -> numbers of channels that keep it
CHANNELS_WITH_EXTRA = {None: (), TRANSPARENCY: (2, 4), SECOND: (2,), FOURTH: (4,), LOST: ()}


@dataclass(frozen=True)
class FormatOptions:
    """The options that decide how pictures become pixels; None where the survey decides.

    Attributes:
        resolution: height and width in pixels.
        channels: number of channels.
        intensity: the values that become 0 and 255.
        default_intensity: the same for values that are not uint8, where `intensity` is None.
        fit: entry of `ddpm.data.pixels.fits.FITS`.
    """

    resolution: int | None = None
    channels: int | None = None
    intensity: IntensityRange | None = None
    default_intensity: IntensityRange | None = None
    fit: str = "crop"


def choose_format(survey: Survey, options: FormatOptions) -> PixelFormat:
    """Return what the surveyed pictures, one or more, are converted to."""
    scaled = survey.scaled
    return PixelFormat(
        options.resolution or default_resolution(survey),
        options.channels or max(facts.channels for facts in survey.counts),
        options.fit,
        options.intensity or options.default_intensity or (derive_intensity(scaled) if scaled.counts else None),
        None if scaled.counts else options.intensity,
    )


def common_square(survey: Survey) -> int:
    """Return the side of the largest square that fits in nine of ten pictures."""
    sides = survey.shorter_sides()
    return int(sides[len(sides) // TOO_SMALL])


def default_resolution(survey: Survey) -> int:
    """Return the side of the common square as a multiple of 4 from 4 to 64."""
    return min(max(common_square(survey) // STEP * STEP, STEP), MAX_DEFAULT_RESOLUTION)


def derive_intensity(survey: Survey) -> IntensityRange:
    """Return the range that pictures whose values are not uint8 are scaled by: the bit depth in use, or all values."""
    assert survey.values is not None
    low, high = survey.values
    kinds = {facts.kind for facts in survey.counts}
    if kinds == {"bool"}:
        return 0.0, 1.0
    if "float" not in kinds and low >= 0 and high <= DEPTHS[-1]:
        return 0.0, next(depth for depth in DEPTHS if high <= depth)
    return low, high if high > low else low + max(1.0, abs(low))


def is_own_range(survey: Survey, intensity: IntensityRange | None) -> bool:
    """Return whether every picture that is scaled would have the same range if it were the only one.

    Then the range is no decision that depends on the other pictures, and identifies nothing.
    """
    return all(facts.own_range == intensity for facts in survey.scaled.counts)


def pixel_facts(survey: Survey, target: PixelFormat) -> dict[str, Any]:
    """Return the facts that determine pixels.

    Left out is what changes nothing on these pictures, so that equal pixels have equal facts, however they were asked
    for: a fit of squares, a range that each picture has of its own, or that keeps uint8.
    """
    facts: dict[str, Any] = {"size": [target.channels, target.resolution]}
    if target.fit != "crop" and not are_squares(survey):
        facts["fit"] = target.fit
    if target.intensity_uint8 not in (None, UNSCALED) or not is_own_range(survey, target.intensity):
        facts["intensity"] = target.intensity_uint8 or target.intensity
    return facts


def are_squares(survey: Survey) -> bool:
    """Return whether all pictures, each of which was looked at, are squares."""
    return survey.total <= MAX_SURVEYED and all(width == height for width, height in survey.sizes)


def check_channels(survey: Survey, channels: int | None) -> None:
    """Check that the pictures have, or can be converted to, the channels that are asked for.

    Raises:
        ValueError: if they do not; names what is allowed.
    """
    found = {facts.channels for facts in survey.counts}
    convertible = found <= {1, 3}
    allowed = {1, 3}.union(*(CHANNELS_WITH_EXTRA[facts.extra] for facts in survey.counts)) if convertible else found
    if channels is None or channels in allowed:
        return
    have = " or ".join(map(str, sorted(found)))
    more = "; other numbers need arrays with as many channels in an .npz or .npy" if convertible else ""
    raise ValueError(
        f"data.channels: {channels}, but the images have {have}; allowed: {', '.join(map(str, sorted(allowed)))}{more}"
    )


def check_intensity(survey: Survey, intensity: IntensityRange | None) -> None:
    """Check that a range of values is not meant for values that have been reduced to 8 bits.

    Raises:
        ValueError: if it is.
    """
    reduced = len(survey.where(lambda facts: facts.reduced))
    if reduced and not survey.scaled.counts and intensity is not None and intensity[1] > UNSCALED[1]:
        raise ValueError(
            f"data.intensity: {list(intensity)} is beyond 0 to 255, and {reduced:,} images with color or transparency "
            "have 16 bits, of which only the upper 8 are read; save the images as an array in an .npz or .npy, or "
            "leave data.intensity out"
        )
