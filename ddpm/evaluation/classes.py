"""Class metrics: how many images of each class to draw, the inception score, and classification accuracy."""

from collections.abc import Sequence
from math import exp

import torch
from torch import Tensor

from ddpm.evaluation.estimates import Estimate, mean_estimate, wilson_interval
from ddpm.evaluation.feature_tables import Table, iterate_blocks


def proportional_labels(labels: Tensor, num_classes: int, count: int) -> Tensor:
    """Return labels in the class proportions of the real images, rounded by the largest-remainder method.

    A class whose proportion is below 1 / `count` may get no image. Ties go to the lower class id.

    Args:
        labels: int64 (N,), of the real images, in 0..K-1, or all 0 without classes; N at least 1.
        num_classes: K; 0 without classes.
        count: number of labels wanted.

    Returns:
        int64 (count,), sorted.
    """
    assert len(labels) > 0
    num_classes = max(num_classes, 1)
    quotas = labels.cpu().bincount(minlength=num_classes) * count           # in units of 1 / N image, so exact
    wanted = quotas // len(labels)                                          # (K,)
    order = (quotas % len(labels)).argsort(descending=True, stable=True)
    wanted[order[: count - int(wanted.sum())]] += 1
    return torch.arange(num_classes).repeat_interleave(wanted)              # (count,)


def inception_score(logits: Table) -> Estimate:
    """Return exp(mean KL(p(y|x) || p(y))) over all images, without splits (Salimans et al. 2016, arXiv 1606.03498).

    The interval is that of the delta method, exp(mean ± 1.96 standard errors), where an image's influence on the mean
    is its own divergence. With few images the score is biased downwards, because p(y) is estimated from the same
    images; the interval does not cover that.

    Args:
        logits: (N, K), N at least 2.

    Returns:
        The score, between 1 and K.
    """
    n = logits.shape[0]
    marginal = sum(block.softmax(1).sum(0) for _, block in iterate_blocks(logits, "logits")) / n        # (K,)
    divergences = []
    for _, block in iterate_blocks(logits, "logits"):
        log_p = block.log_softmax(1)
        p = log_p.exp()
        # xlogy gives 0 log 0 = 0 for a class whose probability underflows for every image.
        divergences.append((p * log_p - torch.xlogy(p, marginal)).sum(1))
    value, low, high, _ = mean_estimate(torch.cat(divergences))
    assert low is not None and high is not None
    return Estimate(exp(value), exp(low), exp(high))


def confusion_matrix(logits: Table, labels: Tensor) -> Tensor:
    """Count how often each class was predicted for each requested class.

    Args:
        logits: (N, K); the largest entry of a row is the predicted class.
        labels: int64 (N,), the requested classes, in 0..K-1.

    Returns:
        int64 (K, K) on the CPU: requested classes in rows, predicted classes in columns.
    """
    classes, labels = logits.shape[1], labels.cpu()
    assert len(labels) == logits.shape[0] and labels.min() >= 0 and labels.max() < classes
    predicted = torch.cat([block.argmax(1).cpu() for _, block in iterate_blocks(logits, "logits")])
    return (labels * classes + predicted).bincount(minlength=classes**2).view(classes, classes)


def accuracy(matrix: Tensor) -> Estimate:
    """Return the fraction of images that are classified as the requested class, with its Wilson interval.

    Errors of the reference classifier count against the images; its accuracy on real images shows how many there are.

    Args:
        matrix: int64 (K, K), from `confusion_matrix`.
    """
    return wilson_interval(int(matrix.trace()), int(matrix.sum()))


def class_without_images(labels: Tensor, class_names: Sequence[str]) -> str | None:
    """Return the name of the first class without an image, or None.

    Args:
        labels: int64 (N,).
        class_names: K names, in the order of ids.
    """
    counts = labels.bincount(minlength=len(class_names)).tolist()
    return next((name for name, count in zip(class_names, counts, strict=True) if not count), None)


def class_accuracies(matrix: Tensor, class_names: Sequence[str]) -> dict[str, Estimate]:
    """Return the accuracy of each class.

    Args:
        matrix: int64 (K, K), from `confusion_matrix`.
        class_names: K names, in the order of ids.

    Returns:
        Class name -> accuracy over the `count` images that should show it; classes without images are omitted.
    """
    rows = zip(class_names, matrix.diag().tolist(), matrix.sum(1).tolist(), strict=True)
    return {name: wilson_interval(correct, total, total) for name, correct, total in rows if total}
