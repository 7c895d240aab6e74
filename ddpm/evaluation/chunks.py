"""Tables, read a block at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm.evaluation.estimates import Table
from ddpm.evaluation.feature_cache import some_places

BLOCK = 2048        # rows; of two tables, a block of each and their distances take 32 MiB


def blocks(table: Table, name: str = "features") -> Iterator[tuple[int, Tensor]]:
    """The rows of a table in float64.

    Args:
        table: (N, D).
        name: what its values are, for the message.

    Yields:
        The place of the block's first row, and the block: float64 (BLOCK or fewer, D), where the table is. It may be
        part of the table itself, so it is not to be written to.

    Raises:
        ValueError: if values are not finite; names the first such image.
    """
    for first in range(0, table.shape[0], BLOCK):
        block = table[first : first + BLOCK].double()
        finite = block.isfinite().all(1)
        if not finite.all():
            place = first + int(finite.int().argmin())
            raise ValueError(
                f"{name}: image {place} (counted from 0) has values that are not finite; "
                f"look at the image, and take it out, or use another extractor"
            )
        yield first, block


def some_rows(table: Table, most: int) -> tuple[Tensor, Tensor]:
    """`most` rows of a table at random, the same whenever asked, or all where there are no more.

    Returns:
        (min(N, most), D), as they are stored; and int64 (min(N, most),), their places.
    """
    total = table.shape[0]
    places = some_places(total, min(total, most))
    rows = []
    for first in range(0, total, BLOCK):
        block = table[first : first + BLOCK]
        wanted = places[(places >= first) & (places < first + BLOCK)] - first
        rows.append(block[wanted.to(block.device)])
    return torch.cat(rows), places
