"""Class labels: one class, the null class, or a blend of classes, for a whole image or for each resolution."""

import operator
import re
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from ddpm.names import NO_CLASS, did_you_mean

# A class as its name or id; None is the null class; a mapping from class to weight is a blend.
Label = str | int | None | Mapping[str | int | None, float]
# One label per image, or one per resolution of the U-Net.
Labels = Sequence[Label | list[Label] | tuple[Label, ...]]


def label_ids(
    labels: Sequence[str | int | None], class_names: Sequence[str], null_label: int | None = None
) -> list[int]:
    """Return the class ids of names, ids, or ids as strings; a string that is both a name and an id counts as a name.

    Args:
        labels: the labels; None and the string `none` are the null class.
        class_names: class names in the order of their ids.
        null_label: id of the null class, or None if the model has none.

    Raises:
        ValueError: for an unknown name (suggests the nearest), an id out of range, or an empty sequence.
    """
    if len(labels) == 0:
        raise ValueError(f"classes: the list is empty; the model has {_join(class_names) or 'no classes'}")
    ids = {name: i for i, name in enumerate(class_names)}
    return [_label_id(label, ids, null_label) for label in labels]


def _label_id(label: str | int | None, ids: Mapping[str, int], null_label: int | None) -> int:
    if isinstance(label, str) and label in ids:
        return ids[label]
    if label is None or label == NO_CLASS:
        if null_label is None:
            raise ValueError(
                "classes: the model has no null class; name a class for every image, or train with "
                "diffusion.class_dropout_prob above 0"
            )
        return null_label
    if not ids:
        raise ValueError(f"classes: {label!r} is not a class, because the model has none; leave the classes out")
    if isinstance(label, str) and not re.fullmatch(r"-?[0-9]+", label):
        near = did_you_mean(label, ids)
        raise ValueError(f"classes: {label!r} is not a class{near}; the model has {_join([*ids])}")
    try:
        number = int(label) if isinstance(label, str) else operator.index(label)    # also integers of numpy and torch
    except TypeError:
        number = None
    if number is None or isinstance(label, bool):
        raise ValueError(f"classes: {label!r} is neither a name nor an id")
    if not 0 <= number < len(ids):
        raise ValueError(f"classes: id {number} is out of range; allowed are 0 to {len(ids) - 1}")
    return number


def label_tensor(
    labels: Labels, class_names: Sequence[str], null_label: int | None, resolutions: int
) -> Tensor:
    """Return labels in the form that the U-Net takes.

    Args:
        labels: one label per image; a list gives one label per resolution, from the finest to the coarsest.
        class_names: class names in the order of their ids.
        null_label: id of the null class, or None if the model has none.
        resolutions: L, the number of resolutions of the U-Net.

    Returns:
        Class ids (N,); if any label is a blend, weights of the K' class embeddings (N, K'), where K' counts the null
        class; if any label is a list, weights (N, L, K').

    Raises:
        ValueError: as in `label_ids`, for a wrong number of labels in a list, and for weights that are not finite
            numbers.
    """
    plain = [label for label in labels if not isinstance(label, Mapping | list | tuple)]
    if len(plain) == len(labels):
        return torch.tensor(label_ids(plain, class_names, null_label))
    num_embeddings = len(class_names) + (null_label is not None)

    def weights(label: Label) -> Tensor:
        blend = label if isinstance(label, Mapping) else {label: 1.0}
        values = torch.zeros(num_embeddings)
        for i, weight in zip(label_ids([*blend], class_names, null_label), blend.values(), strict=True):
            if not isinstance(weight, Real):
                raise ValueError(f"classes: {dict(blend)} has a weight that is not a number; allowed: finite numbers")
            values[i] += weight
        if not values.isfinite().all():
            raise ValueError(f"classes: {dict(blend)} has a weight that is not finite; allowed: finite numbers")
        return values

    whole = [label for label in labels if not isinstance(label, list | tuple)]
    if len(whole) == len(labels):
        return torch.stack([weights(label) for label in whole])                                         # (N, K')
    rows = []
    for label in labels:
        row = [*label] if isinstance(label, list | tuple) else [label] * resolutions
        if len(row) != resolutions:
            raise ValueError(
                f"classes: {len(row)} labels were given for the {resolutions} resolutions of the model; "
                "give one for each, from the finest to the coarsest"
            )
        rows.append(torch.stack([weights(one) for one in row]))
    return torch.stack(rows)                                                                            # (N, L, K')


def _join(names: Sequence[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
