"""What an image is to show: a class, none, a blend of classes, or one of these at each depth of the network."""

import operator
import re
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from ddpm.names import did_you_mean

# A class as its name or id; None is the null class; a mapping is a blend, from class to weight.
Label = str | int | None | Mapping[str | int | None, float]


def label_ids(
    labels: Sequence[str | int | None], class_names: Sequence[str], null_label: int | None = None
) -> list[int]:
    """Class ids of names, ids, or ids as text; a name goes before an id.

    Args:
        labels: what to find; None, or the text `none`, is the null class.
        class_names: in the order of ids.
        null_label: id of the null class; None where the model has none.

    Raises:
        ValueError: for an unknown name (the nearest is named), an id out of range, or no label at all.
    """
    if len(labels) == 0:
        raise ValueError(f"classes: none given; known are {_listed(class_names)}")
    ids = {name: i for i, name in enumerate(class_names)}
    return [_label_id(label, ids, null_label) for label in labels]


def _label_id(label: str | int | None, ids: Mapping[str, int], null_label: int | None) -> int:
    if isinstance(label, str) and label in ids:
        return ids[label]
    if label is None or label == "none":
        if null_label is None:
            raise ValueError(
                "classes: the model has no null class, so every image needs one of its classes; "
                "train with diffusion.class_dropout_prob above 0 to have one"
            )
        return null_label
    if isinstance(label, str) and not re.fullmatch(r"-?[0-9]+", label):
        near = did_you_mean(label, ids)
        raise ValueError(f"classes: {label!r} is not a class{near}; known are {_listed([*ids])}")
    try:
        number = int(label) if isinstance(label, str) else operator.index(label)    # numpy's and torch's too
    except TypeError:
        number = None
    if number is None or isinstance(label, bool):
        raise ValueError(f"classes: {label!r} is neither a name nor an id")
    if not 0 <= number < len(ids):
        raise ValueError(f"classes: id {number} is out of range; allowed are 0 to {len(ids) - 1}")
    return number


def label_tensor(
    labels: Sequence[Label | Sequence[Label]], class_names: Sequence[str], null_label: int | None, levels: int
) -> Tensor:
    """Labels as the U-Net takes them.

    Args:
        labels: one for each image; a sequence gives one for each level, from the finest resolution to the coarsest.
        class_names: in the order of ids.
        null_label: id of the null class; None where the model has none.
        levels: L, number of resolutions of the U-Net.

    Returns:
        Class ids (N,), or, where any image is of a blend or of several classes, weights of the K or K + 1 class
        embeddings (N, K') or (N, L, K').

    Raises:
        ValueError: as `label_ids`, and for another number of levels or weights that are no numbers.
    """
    if not any(isinstance(label, Mapping | list | tuple) for label in labels):
        return torch.tensor(label_ids(labels, class_names, null_label))
    rows = len(class_names) + (null_label is not None)

    def weights(label: Label) -> Tensor:
        blend = label if isinstance(label, Mapping) else {label: 1.0}
        found = torch.zeros(rows)
        for i, weight in zip(label_ids([*blend], class_names, null_label), blend.values(), strict=True):
            if not isinstance(weight, Real):
                raise ValueError(f"classes: the weights {dict(blend)} are not all numbers")
            found[i] += weight
        if not found.isfinite().all():
            raise ValueError(f"classes: the weights {dict(blend)} are not all finite numbers")
        return found

    if not any(isinstance(label, list | tuple) for label in labels):
        return torch.stack([weights(label) for label in labels])                                        # (N, K')
    stacked = []
    for label in labels:
        per_level = list(label) if isinstance(label, list | tuple) else [label] * levels
        if len(per_level) != levels:
            raise ValueError(
                f"classes: {len(per_level)} labels were given for the {levels} resolutions of the model; "
                "give one for each, from the finest to the coarsest"
            )
        stacked.append(torch.stack([weights(one) for one in per_level]))
    return torch.stack(stacked)                                                                         # (N, L, K')


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
