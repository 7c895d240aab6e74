"""Reading all pictures of a source: what they are like, and their pixels, in one pass of decoding if possible."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.data.images import MappedPixels
from ddpm.data.pixels.decisions import (
    MAX_DEFAULT_RESOLUTION,
    FormatOptions,
    check_channels,
    check_intensity,
    choose_format,
)
from ddpm.data.pixels.decode import PixelFormat, UnreadableImage, UnsuitableFormat, to_pixels
from ddpm.data.pixels.pixel_cache import PixelCache, StorageLimits, choose_storage, may_be_cached, warn_uncached
from ddpm.data.pixels.pixel_files import Draft, NotCached
from ddpm.data.pixels.stamps import usable_cores
from ddpm.data.pixels.survey import (
    MAX_SURVEYED,
    TRANSPARENCY,
    PictureFacts,
    PixelFacts,
    Survey,
    examine,
    examine_pixels,
)
from ddpm.data.records import Pictures, located

CHUNK = 256             # pictures per task of the thread pool at most, enough to hide its overhead
TASKS_PER_CORE = 4      # at least, so that all cores end at about the same time
FIRST_LOOK = 64         # pictures that a format is guessed from
MOST_CHANNELS = 4       # of image files

FactCounts = Counter[PictureFacts]
UnreadableOnes = dict[int, UnreadableImage]     # index of a picture -> reason


class Reading(NamedTuple):
    """All pictures of a source.

    Attributes:
        survey: what they are like.
        format: what they are converted to.
        pixels: uint8 (M, C, H, W), those of readable ones; None if they are not decoded.
        bad: the sorted indices of unreadable ones.
        facts: what the pixels are like; None without pixels.
        cache: that the pixels are in; None if they are not in a cache.
    """

    survey: Survey
    format: PixelFormat
    pixels: Tensor | MappedPixels | None
    bad: list[int]
    facts: PixelFacts | None
    cache: PixelCache | None = None


def evenly_spaced(count: int, maximum: int) -> list[int]:
    """Return at most `maximum` of the indices 0..count-1, evenly spaced and sorted."""
    return np.linspace(0, count - 1, min(count, maximum)).astype(np.int64).tolist()


def read_pictures(
    source: str, pictures: Pictures, rows: Tensor, options: FormatOptions, skip: bool, limits: StorageLimits
) -> Reading:
    """Decide how pictures become pixels; decode them if there is a place for these, or find them in the cache.

    Args:
        source: its name, for error messages.
        pictures: of the source.
        rows: int64 (N,), the rows that are used.
        options: the options.
        skip: whether to omit unreadable pictures.
        limits: maximum sizes of the pixels.

    Raises:
        ValueError: for an unreadable picture, unless `skip`; if all are unreadable; or if the pictures do not have the
            channels that are asked for.
    """
    scan = _Scan(source, pictures, rows, options, skip)
    side, channels = options.resolution or MAX_DEFAULT_RESOLUTION, options.channels or MOST_CHANNELS
    if may_be_cached(len(rows) * channels * side**2, limits):
        cache = PixelCache(pictures, rows, {"skip": skip, "with values": scan.with_values})
        if cache.key is not None:
            try:
                return _read_cached(scan, cache, limits)
            except NotCached as problem:
                warn_uncached(problem)
    return scan.read(limits._replace(cache=0), None)


def _read_cached(scan: "_Scan", cache: PixelCache, limits: StorageLimits) -> Reading:
    """Read pictures from the cache; if they are not there, decode them, and add them if they are not small.

    Raises:
        NotCached: if they cannot be added.
        ValueError: as in `read_pictures`.
    """
    found = _find_in_cache(scan, cache)
    if found is None:
        with cache.locked():
            found = _find_in_cache(scan, cache)     # another process may have added them in the meantime
            if found is None:
                try:
                    return scan.read(limits, cache)
                finally:
                    cache.discard()
    return found


def _find_in_cache(scan: "_Scan", cache: PixelCache) -> Reading | None:
    survey = cache.find_survey()
    if survey is None:
        return None
    target = scan.choose_format(survey)
    entry = cache.find(target)
    return None if entry is None else Reading(survey, target, entry.pixels, entry.bad, entry.facts, cache)


def examine_decoded(pixels: Tensor, survey: Survey, target: PixelFormat) -> PixelFacts:
    """Return what pixels, uint8 (N, C, H, W), are like that were decoded in a format."""
    has_transparency = len(survey.where(lambda facts: facts.extra == TRANSPARENCY)) > 0
    return examine_pixels(pixels, target.channels in (2, 4) and has_transparency)


def check_lasting(bad: UnreadableOnes) -> None:
    """Raise `NotCached` if a picture is unreadable for another reason than its content, as next time it may not be."""
    for problem in bad.values():
        cause: BaseException | None = problem
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno is not None:
                raise NotCached(str(problem).partition(";")[0])
            cause = cause.__cause__


class _Scan(NamedTuple):
    """Passes over pictures on several threads, whose number does not affect the result.

    Attributes:
        source: its name, for error messages.
        pictures: of the source.
        rows: int64 (N,), the rows that are used.
        options: the options.
        skip: whether to omit unreadable pictures.
    """

    source: str
    pictures: Pictures
    rows: Tensor
    options: FormatOptions
    skip: bool

    @property
    def with_values(self) -> bool:
        """Whether to look at the values of pictures of uint8."""
        return self.options.intensity is not None

    def choose_format(self, survey: Survey) -> PixelFormat:
        """Return the format of all pictures; raise ValueError if the options do not suit them."""
        check_channels(survey, self.options.channels)
        check_intensity(survey, self.options.intensity)
        return choose_format(survey, self.options)

    def read(self, limits: StorageLimits, cache: PixelCache | None) -> Reading:
        """Decode all pictures if there is a place for their pixels.

        The decisions need all pictures. To decode these only once, the format is guessed from a few of them; if it
        turns out to be another, they are decoded again. The result does not depend on the guess. Pictures whose pixels
        have no place are decoded only if unreadable ones are to be omitted. The fingerprint reads the files once more.

        Args:
            limits: maximum sizes of the pixels.
            cache: where to add them; None for nowhere.

        Raises:
            NotCached: if they cannot be added to the cache.
            ValueError: as in `read_pictures`.
        """
        count, skip = len(self.rows), self.skip
        surveyed = evenly_spaced(count, MAX_SURVEYED)
        guess, out, bad = None, None, UnreadableOnes()
        first, _ = self.look(evenly_spaced(count, FIRST_LOOK), skip=True)
        if first:
            guess = choose_format(Survey(first, count), self.options)
            out = self.allocate(guess, limits, cache)
        decoded = guess if out is not None or skip else None
        if decoded is None:
            found, bad = self.look(surveyed, skip)
        else:
            found, bad = self.decode(decoded, out, set(surveyed))
        if not found:
            raise ValueError(f"data.source: {self.source!r} has no readable image; all {count:,} were skipped")
        survey = Survey(found, count)
        target = self.choose_format(survey)
        if target != decoded:
            out = self.allocate(target, limits, cache)
            if out is not None or skip:
                _, bad = self.decode(target, out)
        if bad and not skip:
            raise bad[min(bad)]
        if isinstance(out, Draft):
            assert cache is not None
            check_lasting(bad)
            examine_all = partial(examine_decoded, survey=survey, target=target)
            entry = cache.publish(survey, target, sorted(bad), examine_all)
            return Reading(survey, target, entry.pixels, entry.bad, entry.facts, cache)
        if out is None:
            return Reading(survey, target, None, sorted(bad), None)
        if bad:
            good = torch.ones(count, dtype=torch.bool)
            good[list(bad)] = False
            out = out[good]
        return Reading(survey, target, out, sorted(bad), examine_decoded(out, survey, target))

    def allocate(self, target: PixelFormat, limits: StorageLimits, cache: PixelCache | None) -> Tensor | Draft | None:
        """Return a place for all pixels, (N, C, H, W), in memory or in a file of the cache; None if there is none."""
        if cache is None:
            storage = choose_storage(len(self.rows) * prod(target.shape), limits)
        else:
            cache.discard()
            storage = choose_storage(len(self.rows) * prod(target.shape), limits, cache.free)
        if storage == "cache":
            assert cache is not None
            return cache.allocate(target, len(self.rows))
        return torch.empty(len(self.rows), *target.shape, dtype=torch.uint8) if storage == "memory" else None

    def look(self, indices: Sequence[int], skip: bool) -> tuple[FactCounts, UnreadableOnes]:
        """Return what pictures are like, and the unreadable ones; reads no more than headers if possible."""

        def visit(index: int, row: int, counts: FactCounts) -> None:
            with self.pictures.open_header(row) as picture:
                counts[examine(picture, self.with_values)] += 1

        return self._each(indices, visit, skip)

    def decode(
        self, target: PixelFormat, out: Tensor | Draft | None, surveyed: Collection[int] = ()
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

        return self._each(range(len(self.rows)), visit, self.skip)

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
            for index in indices[start : start + chunk]:
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
        chunk = min(CHUNK, -(-len(indices) // (TASKS_PER_CORE * usable_cores())))
        chunks = range(0, len(indices), chunk)
        progress = tqdm(total=len(indices), desc="reading images", unit="image", leave=False, delay=5, disable=None)
        with progress, ThreadPoolExecutor(usable_cores() + 4) as pool:
            for start, (counts, bad) in zip(chunks, pool.map(visit_chunk, chunks), strict=True):
                total.update(counts)
                all_bad.update(bad)
                progress.update(min(chunk, len(indices) - start))
        return total, all_bad
