"""Slices of a split in the syntax of `datasets`: train[:1500], train[-500:], test[10%:20%]."""

import re
from dataclasses import dataclass
from typing import NamedTuple

_SLICE = re.compile(r"([^\[]+)\[(-?\d+%?)?:(-?\d+%?)?\]")


class Part(NamedTuple):
    """A range of rows of a split.

    Attributes:
        split: its name.
        start: the first row.
        stop: the row after the last.
        total: number of rows of the split.
    """

    split: str
    start: int
    stop: int
    total: int

    def __str__(self) -> str:
        """Return the split's name alone if all rows are used, so that equal rows have equal names."""
        return self.split if (self.start, self.stop) == (0, self.total) else f"{self.split}[{self.start}:{self.stop}]"

    def shared(self, other: "Part") -> int:
        """Return how many rows two ranges of one source have in common."""
        between = min(self.stop, other.stop) - max(self.start, other.start)
        return max(0, between) if self.split == other.split else 0


@dataclass(frozen=True)
class Slice:
    """A parsed option data.split.

    Attributes:
        text: the option's value.
        split: name of the split.
        start: bound in the option's notation, such as "10%"; empty for the beginning.
        stop: bound; empty for the end.
    """

    text: str
    split: str
    start: str = ""
    stop: str = ""

    def part(self, count: int) -> Part:
        """Return the range of rows in a split of `count` rows.

        Raises:
            ValueError: if it is empty, or a bound is beyond the split.
        """
        start, stop = self._row(self.start, count, 0), self._row(self.stop, count, count)
        if start >= stop:
            shares = all(bound in ("", bound.rstrip("%") + "%") for bound in (self.start, self.stop))
            few = "; add images" if shares and self._row(self.start, 100, 0) < self._row(self.stop, 100, 100) else ""
            raise ValueError(
                f"data.split: {self.text!r} selects no rows ({start} to {stop} of {count:,}); allowed is a start "
                f"before the stop{few}"
            )
        return Part(self.split, start, stop, count)

    def _row(self, bound: str, count: int, default: int) -> int:
        if not bound:
            return default
        number, percent = int(bound.rstrip("%")), bound.endswith("%")
        # rounded as in `datasets`
        row, maximum = (round(number * count / 100), 100) if percent else (number, count)
        if abs(number) > maximum:
            raise ValueError(
                f"data.split: {self.text!r} is out of range, as {self.split!r} has {count:,} rows; allowed are bounds "
                f"up to {maximum}{'%' * percent}"
            )
        return count + row if number < 0 else row


def parse_split(split: str) -> Slice:
    """Parse the option data.split.

    Sums of splits (train+test) are passed to `datasets`, for sources that it reads.

    Raises:
        ValueError: if it is not NAME or NAME[START:STOP].
    """
    if "[" not in split or "+" in split or split.endswith(")"):
        return Slice(split, split)
    match = _SLICE.fullmatch(split)
    if match is None:
        examples = "train[:1500], train[1500:], train[-500:] or train[10%:20%]"
        raise ValueError(f"data.split: {split!r} is not a valid slice; use {examples}")
    return Slice(split, match[1], match[2] or "", match[3] or "")
