"""Reading all pictures of a source: what they are like, and their pixels, in one pass of decoding if possible."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.data.images import OnDemand
from ddpm.data.pixels.decisions import FormatOptions, check_channels, check_intensity, choose_format
from ddpm.data.pixels.decode import PixelFormat, UnreadableImage, UnsuitableFormat, to_pixels
from ddpm.data.pixels.survey import MAX_SURVEYED, PictureFacts, Survey, examine
from ddpm.data.records import Pictures, located

CHUNK = 256             # pictures per task of the thread pool, enough to hide its overhead
FIRST_LOOK = 64         # pictures that a format is guessed from

FactCounts = Counter[PictureFacts]
UnreadableOnes = dict[int, UnreadableImage]     # index of a picture -> reason


class Reading(NamedTuple):
    """All pictures of a source.

    Attributes:
        survey: what they are like.
        format: what they are converted to.
        pixels: uint8 (N, C, H, W), undefined for unreadable ones; None if they do not fit in memory.
        bad: the sorted indices of unreadable ones.
    """

    survey: Survey
    format: PixelFormat
    pixels: Tensor | None
    bad: list[int]


def evenly_spaced(count: int, maximum: int) -> list[int]:
    """Return at most `maximum` of the indices 0..count-1, evenly spaced and sorted."""
    return np.linspace(0, count - 1, min(count, maximum)).astype(np.int64).tolist()


def read_pictures(
    source: str, pictures: Pictures, rows: Tensor, options: FormatOptions, skip: bool, max_bytes: float
) -> Reading:
    """Decide how pictures become pixels, and decode them if they fit in memory.

    The decisions need all pictures. To decode these only once, the format is guessed from a few of them; if it turns
    out to be another, they are decoded again. The result does not depend on the guess. Pictures that do not fit in
    memory are decoded only if unreadable ones are to be omitted. The fingerprint reads the files once more.

    Args:
        source: its name, for error messages.
        pictures: of the source.
        rows: int64 (N,), the rows that are used.
        options: the options.
        skip: whether to omit unreadable pictures.
        max_bytes: maximum size of the pixels in memory.

    Raises:
        ValueError: for an unreadable picture, unless `skip`; if all are unreadable; or if the pictures do not have the
            channels that are asked for.
    """
    count = len(rows)
    surveyed = evenly_spaced(count, MAX_SURVEYED)
    scan = _Scan(pictures, rows, options.intensity is not None)
    guess, pixels, bad = None, None, UnreadableOnes()
    first, _ = scan.look(evenly_spaced(count, FIRST_LOOK), skip=True)
    if first:
        guess = choose_format(Survey(first, count), options)
        pixels = scan.allocate(guess, max_bytes)
    decoded = guess if pixels is not None or skip else None
    if decoded is None:
        found, bad = scan.look(surveyed, skip)
    else:
        found, bad = scan.decode(decoded, pixels, skip, set(surveyed))
    if not found:
        raise ValueError(f"data.source: {source!r} has no readable image; all {count:,} were skipped")
    survey = Survey(found, count)
    check_channels(survey, options.channels)
    check_intensity(survey, options.intensity)
    target = choose_format(survey, options)
    if target != decoded:
        pixels = scan.allocate(target, max_bytes)
        if pixels is not None or skip:
            _, bad = scan.decode(target, pixels, skip)
    if bad and not skip:
        raise bad[min(bad)]
    return Reading(survey, target, pixels, sorted(bad))


class _Scan(NamedTuple):
    """Passes over pictures on several threads, whose number does not affect the result.

    Attributes:
        pictures: of the source.
        rows: int64 (N,), the rows that are used.
        with_values: whether to look at the values of pictures of uint8.
    """

    pictures: Pictures
    rows: Tensor
    with_values: bool

    def allocate(self, target: PixelFormat, max_bytes: float) -> Tensor | None:
        """Return memory for all pixels, uint8 (N, C, H, W); None if it would be too large."""
        shape = OnDemand(self.pictures, self.rows, target).shape
        return torch.empty(shape, dtype=torch.uint8) if math.prod(shape) <= max_bytes else None

    def look(self, indices: Sequence[int], skip: bool) -> tuple[FactCounts, UnreadableOnes]:
        """Return what pictures are like, and the unreadable ones; reads no more than headers if possible."""

        def visit(index: int, row: int, counts: FactCounts) -> None:
            with self.pictures.open_header(row) as picture:
                counts[examine(picture, self.with_values)] += 1

        return self._each(indices, visit, skip)

    def decode(
        self, target: PixelFormat, out: Tensor | None, skip: bool, surveyed: Collection[int] = ()
    ) -> tuple[FactCounts, UnreadableOnes]:
        """Decode all pictures into `out`, or only to check them.

        Returns:
            What the surveyed pictures are like, and the unreadable ones.
        """

        def visit(index: int, row: int, counts: FactCounts) -> None:
            picture = self.pictures.open(row)
            facts = [examine(picture, self.with_values)] if index in surveyed else []
            try:
                pixels = torch.from_numpy(to_pixels(picture, target))
            except UnsuitableFormat:        # a readable picture, which counts
                counts.update(facts)
                raise
            counts.update(facts)
            if out is not None:
                out[index] = pixels

        return self._each(range(len(self.rows)), visit, skip)

    def _each(
        self, indices: Sequence[int], visit: Callable[[int, int, FactCounts], None], skip: bool
    ) -> tuple[FactCounts, UnreadableOnes]:
        """Call `visit` with each index, its row and counts to add to.

        Raises:
            ValueError: for an unreadable picture, unless `skip`. One that does not suit the format is returned in any
                case, because the survey may find another format.
        """

        def visit_chunk(start: int) -> tuple[FactCounts, UnreadableOnes]:
            counts, bad = FactCounts(), UnreadableOnes()
            for index in indices[start : start + CHUNK]:
                row = int(self.rows[index])
                try:
                    with located(self.pictures, row):
                        visit(index, row, counts)
                except UnreadableImage as error:
                    if not (skip or isinstance(error, UnsuitableFormat)):
                        raise
                    bad[index] = error
            return counts, bad

        total, all_bad = FactCounts(), UnreadableOnes()
        with ThreadPoolExecutor() as pool:
            for counts, bad in pool.map(visit_chunk, range(0, len(indices), CHUNK)):
                total.update(counts)
                all_bad.update(bad)
        return total, all_bad
