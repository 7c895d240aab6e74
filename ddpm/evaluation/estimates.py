"""What evaluation speaks of: described images, and figures with their uncertainty."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Table(Protocol):
    """Vectors of N images: a tensor (N, D), or rows on disk that are read a part at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __getitem__(self, part: slice) -> Tensor:
        """The rows of a part."""


class Described(NamedTuple):
    """What an extractor says of N images.

    Attributes:
        features: (N, D).
        pixels: (N, P), the images themselves, made small.
        logits: (N, K'), of the extractor's own classes; None where it has none.
        read: (N, K), log-odds that the judge gives to the data's classes; None without a judge.
        labels: int64 (N,), the class that each should show; None where that is not known.
    """

    features: Table
    pixels: Table
    logits: Table | None = None
    read: Table | None = None
    labels: Tensor | None = None


class Figure(NamedTuple):
    """A number and how sure it is.

    Attributes:
        value: the number.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        count: number of images that it was made from; None for all.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
