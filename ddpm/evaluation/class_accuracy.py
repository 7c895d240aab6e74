"""What classifiers say of images: the inception score, and whether images show the class that they should."""

from collections.abc import Sequence
from math import exp

import torch
from torch import Tensor

from ddpm.evaluation.chunks import blocks
from ddpm.evaluation.estimates import Figure, Table
from ddpm.evaluation.intervals import share, with_standard_error


def inception_score(logits: Table) -> Figure:
    """exp(mean KL(p(y|x) || p(y))) over all images at once, without splits (Salimans et al. 2016, arXiv 1606.03498).

    The interval is that of the delta method: exp(mean plus and minus 1.96 standard errors), where an image's influence
    on the mean is its own divergence. The score of few images is too low, as p(y) has been fitted to them; that is not
    in the interval.

    Args:
        logits: (N, K), N at least 2.

    Returns:
        1 to K.
    """
    n = logits.shape[0]
    marginal = sum(block.softmax(1).sum(0) for _, block in blocks(logits, "logits")) / n               # (K,)
    divergences = []
    for _, block in blocks(logits, "logits"):
        log_p = block.log_softmax(1)
        p = log_p.exp()
        # xlogy, for a class that no image has to the last digit: 0 log 0 is 0.
        divergences.append((p * log_p - torch.xlogy(p, marginal)).sum(1))
    divergence = torch.cat(divergences)                                                                 # (N,)
    figure = with_standard_error(float(divergence.mean()), float(divergence.std() / n**0.5))
    return Figure(exp(figure.value), exp(figure.low), exp(figure.high))


def confusion(read: Table, labels: Tensor) -> Tensor:
    """How often which class was read.

    Args:
        read: (N, K), log-odds or anything else whose largest is the class.
        labels: int64 (N,), the classes that were asked for.

    Returns:
        int64 (K, K) on the CPU: row is asked, column is read.

    Raises:
        ValueError: for a label that is none of the K.
    """
    classes = read.shape[1]
    labels = labels.cpu()
    assert len(labels) == read.shape[0]
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"accuracy: image {place} (counted from 0) has label {int(labels[place])}; allowed: 0 to {classes - 1}; "
            f"take it out, or choose others with --metrics"
        )
    said = torch.cat([block.argmax(1).cpu() for _, block in blocks(read, "read")])
    return (labels * classes + said).bincount(minlength=classes**2).view(classes, classes)


def accuracy(confused: Tensor) -> Figure:
    """Share of all images that are read as the class that was asked for, with the interval of Wilson.

    Mistakes of the judge count as mistakes of the images; its accuracy on real images says how many these are.

    Args:
        confused: int64 (K, K), of `confusion`.
    """
    return share(int(confused.trace()), int(confused.sum()))


def class_without_images(labels: Tensor, class_names: Sequence[str]) -> str | None:
    """The first class that no image is of; None where each has some.

    Args:
        labels: int64 (N,).
        class_names: K names, in the order of ids.
    """
    counts = labels.bincount(minlength=len(class_names)).tolist()
    return next((name for name, count in zip(class_names, counts, strict=True) if not count), None)


def class_accuracies(confused: Tensor, class_names: Sequence[str]) -> dict[str, Figure]:
    """The accuracy of each class.

    Args:
        confused: int64 (K, K), of `confusion`.
        class_names: K names, in the order of ids.

    Returns:
        Class name -> accuracy among the images that were asked to show it, `count` of them; classes that no image was
        asked to show are left out.
    """
    rows = zip(class_names, confused.diag().tolist(), confused.sum(1).tolist(), strict=True)
    return {name: share(right, asked, asked) for name, right, asked in rows if asked}
