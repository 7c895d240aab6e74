"""Rows of a split, as `datasets` writes them: train[:1500], train[-500:], test[10%:20%]."""

import re
from dataclasses import dataclass
from typing import NamedTuple

BOUND = re.compile(r"(-?\d+)(%?)")


class Part(NamedTuple):
    """Rows of a split that are used.

    Attributes:
        split: its name.
        start: the first row.
        stop: the row after the last.
        of: number of rows of the split.
    """

    split: str
    start: int
    stop: int
    of: int

    def __str__(self) -> str:
        """The split alone where all of it is used, so that the same rows have one name."""
        return self.split if (self.start, self.stop) == (0, self.of) else f"{self.split}[{self.start}:{self.stop}]"

    def shared(self, other: "Part") -> int:
        """How many rows two parts of one source have in common."""
        between = min(self.stop, other.stop) - max(self.start, other.start)
        return max(0, between) if self.split == other.split else 0


@dataclass(frozen=True)
class Slice:
    """What the option data.split asks for.

    Attributes:
        text: as it was given.
        split: name of the split.
        start: bound as it was given, such as "10%"; empty for the beginning.
        stop: bound; empty for the end.
    """

    text: str
    split: str
    start: str = ""
    stop: str = ""

    def part(self, count: int) -> Part:
        """The rows, of a split of `count`.

        Raises:
            ValueError: if there are none, or a bound lies beyond the split.
        """
        start, stop = self._row(self.start, count, 0), self._row(self.stop, count, count)
        if start >= stop:
            raise ValueError(
                f"data.split: {self.text!r} takes rows {start} to {stop} of {count:,}, which is none; give a start "
                "before the stop"
            )
        return Part(self.split, start, stop, count)

    def _row(self, bound: str, count: int, default: int) -> int:
        if not bound:
            return default
        number, percent = BOUND.fullmatch(bound).groups()
        # Rounded as `datasets` does it.
        row, most = (round(int(number) * count / 100), 100) if percent else (int(number), count)
        if abs(int(number)) > most:
            raise ValueError(
                f"data.split: {self.text!r} goes beyond {self.split!r}, which has {count:,} rows; allowed are bounds "
                f"up to {most}{percent}"
            )
        return count + row if int(number) < 0 else row


def parse_split(split: str) -> Slice:
    """Reads the option data.split.

    Sums of splits (train+test) are left to `datasets`, for sources that it reads.

    Raises:
        ValueError: if it is not NAME or NAME[START:STOP]; one line.
    """
    name, bracket, rows = split.partition("[")
    if not bracket or "+" in split or split.endswith(")"):
        return Slice(split, split)
    bounds = rows.removesuffix("]").split(":")
    fits = rows.endswith("]") and len(bounds) == 2 and all(not b or BOUND.fullmatch(b) for b in bounds)
    if not (fits and name):
        raise ValueError(
            f"data.split: {split!r} is no part of a split; write it as train[:1500], train[1500:], train[-500:] or "
            "train[10%:20%]"
        )
    return Slice(split, name, *bounds)
