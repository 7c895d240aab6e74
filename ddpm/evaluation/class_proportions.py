"""Which classes to draw, so that samples are composed like the real images."""

import torch
from torch import Tensor


def proportional_labels(labels: Tensor, num_classes: int, count: int) -> Tensor:
    """As many of each class as its share of the real images says, by largest remainder.

    A class with a share below one image in `count` may get none. Of equal remainders the lower id goes first.

    Args:
        labels: int64 (N,), of the real images, in 0..K-1; N at least 1.
        num_classes: K.
        count: number of labels wanted.

    Returns:
        int64 (count,), rising.
    """
    assert len(labels) > 0 and num_classes > 0
    shares = labels.cpu().bincount(minlength=num_classes) * count           # in 1 / N of an image, so exact
    wanted = shares // len(labels)                                          # (K,)
    order = (shares % len(labels)).argsort(descending=True, stable=True)
    wanted[order[: count - int(wanted.sum())]] += 1
    return torch.arange(num_classes).repeat_interleave(wanted)              # (count,)
