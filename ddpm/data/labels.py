"""Encoding of raw labels as class ids and class names."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch


def check_distinct(names: Sequence[str], option: str, remedy: str = "give every class a different name") -> None:
    """Check that no two classes have the same name; an error names the option and the remedy."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{option}: {count} classes are called {name!r}; {remedy}")


def encode_labels(
    values: Sequence[int | str | bool | None], names: Sequence[str] | None, where: Callable[[int], str]
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Encode labels as class ids.

    Args:
        values: N raw labels: ids, or names.
        names: class names of the ids in `values`; None if the source declares none. Then the classes are the sorted
            distinct names (or booleans), or ids that must be 0..K-1, each occurring.
        where: describes the location of a row, for error messages.

    Returns:
        int64 (N,) in 0..K-1, and K names.

    Raises:
        ValueError: if there are no labels, one is missing or out of range, or there are fewer than two classes.
    """
    if not values:
        raise ValueError("data.source: contains no images; allowed is one or more")
    if None in values:
        raise ValueError(f"data.label_column: {where(values.index(None))} has no label (None); label it or remove it")
    if names is None and all(isinstance(value, (str, bool)) for value in values):
        names = sorted({str(value) for value in values})
        ids = {name: index for index, name in enumerate(names)}
        values = [ids[str(value)] for value in values]
    odd = next((value for value in values if not isinstance(value, int)), None)
    if odd is not None:
        raise ValueError(
            f"data.label_column: a label is {odd!r} ({type(odd).__name__}); allowed are class names or integers"
        )
    labels = torch.tensor(values, dtype=torch.int64)
    if names is None:
        present = labels[labels >= 0].unique().tolist()
        missing = next((i for i, label in enumerate(present) if i != label), None)
        if missing is not None:             # it would be a class without images
            raise ValueError(
                f"data.label_column: integer labels must be 0..K-1, each occurring, but {missing} is missing"
                f" ({len(present)} labels up to {present[-1]}); renumber them, or use names"
            )
        names = [str(label) for label in present]
    outside = (labels < 0) | (labels >= len(names))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"data.label_column: {where(row)} has label {int(labels[row])}; allowed are 0 to {len(names) - 1}"
        )
    if len(labels.unique()) < 2:
        raise ValueError(
            f"data.source: all images have class {names[int(labels[0])]!r}; a class-conditional model needs two classes"
        )
    return labels, tuple(names)
