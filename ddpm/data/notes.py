"""Sentences about a user's data: decisions, with the option that changes each if there is one, and warnings."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ddpm.data.pixels.decisions import (
    CHANNELS_WITH_EXTRA,
    LARGE_RESOLUTION,
    MAX_DEFAULT_RESOLUTION,
    UNSCALED,
    FormatOptions,
    common_square,
    is_own_range,
)
from ddpm.data.pixels.decode import IntensityRange, PixelFormat
from ddpm.data.pixels.survey import MAX_SURVEYED, TRANSPARENCY, PixelFacts, Survey
from ddpm.data.pixels.tiffs import LOST, REMEDY

FEW_IMAGES = 10     # per class
IMBALANCE = 10      # times as many images of one class as of another
DIM = 256 / 8       # gray levels; a source whose brightest value is below uses little of its range


def describe_decisions(survey: Survey, options: FormatOptions, target: PixelFormat) -> Iterator[str]:
    """Yield a sentence for each decision about pixels that is not simply what the images are."""
    if survey.total > MAX_SURVEYED:
        yield f"sizes, channels and values are those of {MAX_SURVEYED:,} of {survey.total:,} images, evenly spaced"
    yield from _resolution(survey, options, target)
    yield from _channels(survey, options, target)
    yield from _frames(survey)
    yield from _intensity(survey, options, target)


def describe_sizes(survey: Survey) -> str:
    """Return the size of all images, or their range: from the smallest to the largest, by area."""
    sizes = sorted(survey.sizes, key=lambda size: (size[0] * size[1], size))
    (low, high), sides = (sizes[0], sizes[-1]), survey.shorter_sides()
    if len(sizes) == 1:
        return _format_size(low)
    return f"{_format_size(low)} to {_format_size(high)} (median side {sides[(len(sides) - 1) // 2]})"


def format_range(intensity_range: IntensityRange) -> str:
    """Return a range of values of images, such as `0 to 4095`."""
    return " to ".join(map(_format_value, intensity_range))


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.4g}"


def count_classes(labels: Tensor, num_classes: int) -> list[int]:
    """Return the number of images of each class; empty without classes."""
    return torch.bincount(labels, minlength=num_classes).tolist() if num_classes else []


def describe_brightness(pixels: PixelFacts, survey: Survey, target: PixelFormat) -> Iterator[str]:
    """Yield a sentence if pixels are all equal, or all below an eighth of the range."""
    darkest, brightest = pixels.darkest, pixels.brightest
    if darkest is None or brightest is None:
        return
    low, high = pixel_range = target.intensity or target.intensity_uint8 or (0.0, 255.0)
    if darkest == brightest:
        same = f"every pixel of every image has the same value, {brightest} of 255"
        found = survey.values
        if found is None or found[0] == found[1] or found == pixel_range:
            yield f"{same}, so there is nothing to learn; check the images"
        else:
            yield f"{same}, but their values are {format_range(found)}; for all of them: {_range_option(found)}"
    elif brightest < DIM:
        top = low + brightest / 255 * (high - low)
        yield f"the images are dark: the brightest value is {brightest} of 255; brighter: {_range_option((low, top))}"


def describe_gray_content(pixels: PixelFacts, options: FormatOptions) -> Iterator[str]:
    """Yield a sentence if pixels have three equal channels that were not asked for."""
    if pixels.gray and options.channels is None:
        yield "the images are stored in color, but all are gray; with less work: --data.channels 1"


def describe_balance(counts: Sequence[int], class_names: Sequence[str]) -> Iterator[str]:
    """Yield sentences about classes with no or few images, and about classes of very different sizes."""
    if not class_names:
        return
    named = list(zip(class_names, counts, strict=True))
    for names, problem in (
        ([name for name, count in named if count == 0], "without images here, so that they are not learned"),
        ([name for name, count in named if 0 < count < FEW_IMAGES], f"with fewer than {FEW_IMAGES} images"),
    ):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            yield f"classes {problem}: {len(names):,} of {len(counts):,} ({shown})"
    if are_imbalanced(counts):
        yield f"classes have {min(filter(None, counts)):,} to {max(counts):,} images"


def describe_copies(hashes: Tensor, labels: Tensor, rows: Tensor, where: Callable[[int], str]) -> Iterator[str]:
    """Yield a sentence if equal files have different labels.

    Args:
        hashes: of the content of files, int64 (M,).
        labels: of the same files, int64 (M,).
        rows: of the same files in their source, int64 (M,).
        where: describes the location of a row.
    """
    _, group = hashes.unique(return_inverse=True)                                                       # (M,)
    lowest, highest = (
        torch.zeros(int(group.max()) + 1, dtype=torch.int64).scatter_reduce(0, group, labels, way, include_self=False)
        for way in ("amin", "amax")
    )
    torn = (lowest != highest)[group]
    if torn.any():
        first = int(torn.nonzero()[0])
        second = int(((group == group[first]) & (labels != labels[first])).nonzero()[0])
        example = " and ".join(where(int(rows[index])) for index in (first, second))
        yield f"the same image is in different classes: {int(torn.sum()):,} files, such as {example}; keep one of each"


def are_imbalanced(counts: Sequence[int]) -> bool:
    """Return whether a class has ten times as many images as another that has any, or more."""
    filled = [count for count in counts if count]
    return bool(filled) and max(filled) >= IMBALANCE * min(filled)


def _resolution(survey: Survey, options: FormatOptions, target: PixelFormat) -> Iterator[str]:
    side, sizes = target.resolution, survey.sizes
    if options.resolution is None:
        yield from _default_resolution(survey, side)
    decisive = max if target.fit == "pad" else min      # of width and height
    smaller = sum(count for size, count in sizes.items() if decisive(size) < side)
    if smaller:
        yield f"images smaller than {side}x{side}, which are enlarged: {smaller:,} of {len(survey):,}"
    if target.fit == "crop" and any(width != height for width, height in sizes):
        yield "images that are not square are cropped to the center; to keep all of them: --data.fit pad"


def _default_resolution(survey: Survey, side: int) -> Iterator[str]:
    sizes = survey.sizes
    if set(sizes) == {(side, side)}:
        return
    one_size = len(sizes) == 1
    found, fitting = describe_sizes(survey), common_square(survey)
    reason = f"{found} becomes {side}x{side}"
    if fitting > MAX_DEFAULT_RESOLUTION:
        yield f"{reason}, the largest default; for more detail: --data.resolution {LARGE_RESOLUTION}"
    elif fitting < side:
        yield f"{reason}, the smallest default; to enlarge them more: --data.resolution {2 * side}"
    else:
        fits = "a multiple of 4" if one_size else "which fits in nine of ten"
        yield f"{reason}, {fits}; to choose: --data.resolution {side}"


def _channels(survey: Survey, options: FormatOptions, target: PixelFormat) -> Iterator[str]:
    gray = len(survey.where(lambda facts: facts.channels == 1))
    color = len(survey.where(lambda facts: facts.channels == 3))
    if gray and color and options.channels is None:
        yield f"{color:,} color and {gray:,} gray images: all become RGB; in gray: --data.channels 1"
    extras = Counter[str | None]()
    for facts, count in survey.counts.items():
        extras[facts.extra] += count
    if transparent := extras.pop(TRANSPARENCY, 0) * (target.channels in (1, 3)):
        yield f"images with transparency are put on white: {transparent:,}; to keep it: {_alpha_option(target)}"
    if lost := extras.pop(LOST, 0):
        yield f"images have {LOST}, which Pillow does not read: {lost:,}; for all of them, {REMEDY}"
    for extra, count in extras.items():
        for channels in CHANNELS_WITH_EXTRA[extra]:
            if channels != target.channels:
                yield f"images have {extra}, which is not used: {count:,}; to keep it: --data.channels {channels}"


def _alpha_option(target: PixelFormat) -> str:
    return f"--data.channels {target.channels + 1}"


def _frames(survey: Survey) -> Iterator[str]:
    several = len(survey.where(lambda facts: facts.frames > 1))
    if several:
        yield f"files with several frames or pages: {several:,}; only the first is used; all: --data.frames all"


def _intensity(survey: Survey, options: FormatOptions, target: PixelFormat) -> Iterator[str]:
    scaled, target_range = survey.scaled, target.intensity
    reduced = len(survey.where(lambda facts: facts.reduced))
    if reduced:
        array = "for all of them, save the images as an array in an .npz or .npy"
        kind = "images with color or transparency and 16 bits"
        yield f"{kind}, of which only the upper 8 are used: {reduced:,}; {array}"
    if options.intensity is not None:
        low, high = options.intensity
        affected = scaled if scaled.counts else survey
        outside = len(affected.where(lambda f: f.values is not None and (f.values[0] < low or f.values[1] > high)))
        if outside:
            yield f"images with values outside data.intensity, which are clipped: {outside:,} of {len(affected):,}"
    elif scaled.values is not None and target_range is not None and _is_worth_telling(scaled, target_range):
        becomes = f"; {format_range(target_range)} becomes 0 to 255"
        if target_range == UNSCALED:
            becomes = ", and are read as uint8, 0 to 255"
        yield f"values are {format_range(scaled.values)}{becomes}; {_other_range(scaled, target_range)}"
    if len(scaled) and len(scaled) < len(survey):
        kept = len(survey) - len(scaled)
        yield f"images with values that are not uint8 are scaled: {len(scaled):,}; those with uint8 are not: {kept:,}"


def _is_worth_telling(survey: Survey, found: IntensityRange) -> bool:
    """Return whether the range of pictures was found from their values and not their type."""
    kinds = {facts.kind for facts in survey.counts}
    if survey.values is not None and survey.values[0] == survey.values[1]:     # `describe_brightness` reports it
        return False
    if "float" in kinds:
        return True
    as_uint8 = found == UNSCALED and all(facts.own_range in (None, found) for facts in survey.counts)
    return not (as_uint8 or is_own_range(survey, found))


def _other_range(survey: Survey, intensity_range: IntensityRange) -> str:
    """Return the option for the smallest usual range that contains the values, or for any other range."""
    assert survey.values is not None
    low, high = survey.values
    is_float = any(facts.kind == "float" for facts in survey.counts)
    usual = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)) if is_float else ((0.0, 65535.0),)
    found = next((each for each in usual if each[0] <= low and high <= each[1]), intensity_range)
    if found == intensity_range:
        return 'to choose another range: --data.intensity "[LOW, HIGH]"'
    return f"otherwise: {_range_option(found)}"


def _range_option(intensity_range: IntensityRange) -> str:
    """Return the option for a range, with as many decimals as its ends need to differ clearly."""
    decimals = max(0, 2 - math.floor(math.log10(intensity_range[1] - intensity_range[0])))
    ends = [round(value, decimals) for value in intensity_range]
    texts = [str(int(end)) if end == int(end) else f"{end:.{decimals}f}" for end in ends]
    return f'--data.intensity "[{", ".join(texts)}]"'


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
