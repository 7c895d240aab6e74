"""The orders in which a run visits the images, as functions from a position in the run to an image."""

from typing import Protocol

import torch
from torch import Tensor

from ddpm.randomness import Purpose, permutations

# Drawing several small permutations at once takes as long as drawing one, so about this many numbers are drawn
# together.
DRAWN_TOGETHER = 256


class Order(Protocol):
    """The image at each position of a run."""

    def index(self, position: int) -> int:
        """Return the index of the image at a position, 0 or more."""
        ...


class EpochOrder:
    """Endless epochs over n images, each epoch in a random order of its own.

    Args:
        n: number of images.
        seed: seed of the orders.
        purpose: what is ordered.
        stream: orders of the same purpose with different streams are independent; below 2^31.
    """

    def __init__(self, n: int, seed: int, purpose: Purpose = Purpose.ORDER, stream: int = 0) -> None:
        self._n, self._seed, self._purpose, self._stream = n, seed, purpose, stream
        self._epochs = range(0)         # of which the orders are known
        self._orders = torch.empty(0, n)

    def index(self, position: int) -> int:
        """Return the index of the image at a position."""
        epoch, offset = divmod(position, self._n)
        if epoch not in self._epochs:
            several = max(1, DRAWN_TOGETHER // self._n)
            start = epoch // several * several
            self._epochs = range(start, start + several)
            indices = torch.arange(start, start + several) + (self._stream << 32)
            self._orders = permutations(self._seed, indices, self._n, self._purpose)            # (epochs, n)
        return int(self._orders[epoch - self._epochs.start, offset])


class BalancedOrder:
    """An order in which every class occurs equally often, however many images it has.

    With K classes that have images, each block of K positions has one image of each of them, in a random order. The
    images of one class follow each other in epochs: each is visited once before any of them is visited again.

    Args:
        labels: class of each image, int64 (N,).
        seed: seed of the orders.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        classes, counts = labels.unique(return_counts=True)                     # in the order of the ids
        self._images = labels.argsort(stable=True).split(counts.tolist())       # of each class
        self._rounds = EpochOrder(len(classes), seed, Purpose.CLASS_ORDER)
        self._within = [
            EpochOrder(count, seed, Purpose.ORDER_IN_CLASS, label)
            for label, count in zip(classes.tolist(), counts.tolist(), strict=True)
        ]

    def index(self, position: int) -> int:
        """Return the index of the image at a position."""
        which = self._rounds.index(position)
        return int(self._images[which][self._within[which].index(position // len(self._within))])
