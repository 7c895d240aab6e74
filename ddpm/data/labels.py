"""Encoding of raw labels as class ids and class names."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ddpm.data.records import Pictures, Records
from ddpm.data.request import DataRequest
from ddpm.names import NO_CLASS

# -1 is the label of images in splits of the Hub's datasets whose labels are not published
UNLABELED = (None, -1)
ONE_CLASS_EACH = "a class-conditional model needs one class per image, as text or an integer"
WITHOUT_CLASSES = "or train without classes with data.labels none"


def check_distinct(names: Sequence[str], option: str, remedy: str = "give every class a different name") -> None:
    """Check that no two classes have the same name; an error names the option and the remedy."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{option}: {count} classes are called {name!r}; {remedy}")


def label_records(
    request: DataRequest,
    pictures: Pictures,
    values: Sequence[Any] | None,
    names: Sequence[str] | None = None,
    *,
    remedy: str,
    option: str = "data.label_column",
    split: str = "train",
    ignored: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Records:
    """Return pictures with their labels as records, without classes if there are no labels or all are equal.

    Args:
        request: what was asked for; with the labels `none`, labels are not looked at.
        pictures: N pictures.
        values: N raw labels; None without labels.
        names: the names of the ids in `values`; None if the source declares none.
        remedy: how this kind of source gets labels, for the note that it has none.
        option: the option that says where labels are, for error messages.
        split: name of the split in the source.
        ignored: see `Records`.
        notes: see `Records`.

    Raises:
        ValueError: as in `encode_labels`, or if there are no pictures.
    """
    if not len(pictures):
        raise ValueError("data.source: contains no images; allowed is one or more")
    labels = torch.zeros(len(pictures), dtype=torch.int64)
    class_names: tuple[str, ...] = ()
    if request.labels == "none":
        notes += ("images are trained without classes, as data.labels none says",)
    elif values is None or all(value in UNLABELED for value in values):
        notes += (f"the images have no labels and are trained without classes; {remedy}",)
    else:
        labels, class_names = encode_labels(values, names, pictures.where, option)
        if len(labels.unique()) < 2:
            only = class_names[int(labels[0])]
            notes += (f"all images have class {only!r} and are trained without classes; {remedy}",)
            labels, class_names = torch.zeros_like(labels), ()
    return Records(pictures, labels, class_names, ignored or {}, (*notes, *_similar(class_names)), split)


def encode_labels(
    values: Sequence[Any],
    names: Sequence[str] | None,
    where: Callable[[int], str],
    option: str = "data.label_column",
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Encode labels as class ids.

    Args:
        values: N raw labels, 1 or more: ids, or names.
        names: class names of the ids in `values`; None if the source declares none. Then the classes are the sorted
            distinct names (or booleans), or ids that must be 0..K-1, each occurring.
        where: describes the location of a row, for error messages.
        option: the option that says where labels are, for error messages.

    Returns:
        int64 (N,) in 0..K-1, and K names.

    Raises:
        ValueError: if a label is missing, out of range or no single class, or a class name is unusable.
    """
    several = next((row for row, value in enumerate(values) if isinstance(value, (list, tuple, dict))), None)
    if several is not None:
        raise ValueError(
            f"{option}: {where(several)} has a list of labels, {values[several]!r} (multi-label); {ONE_CLASS_EACH}: "
            f"keep one, or join them into one name, {WITHOUT_CLASSES}"
        )
    missing = next((row for row, value in enumerate(values) if value is None or value != value), None)  # or NaN
    if missing is not None:
        raise ValueError(
            f"{option}: {where(missing)} has no label ({values[missing]}); label it or remove it, {WITHOUT_CLASSES}"
        )
    if names is None and all(isinstance(value, (str, bool)) for value in values):
        names = sorted({str(value) for value in values})
        ids = {name: index for index, name in enumerate(names)}
        values = [ids[str(value)] for value in values]
    odd = next((row for row, value in enumerate(values) if not isinstance(value, int)), None)
    if odd is not None:
        raise ValueError(
            f"{option}: {where(odd)} has label {values[odd]!r} ({type(values[odd]).__name__}); allowed are class names "
            f"or integers, but not both: convert the labels, {WITHOUT_CLASSES}"
        )
    labels = torch.tensor(values, dtype=torch.int64)
    if names is not None:
        check_distinct(names, "data.source")
    else:
        present = labels[labels >= 0].unique().tolist()
        gap = next((i for i, label in enumerate(present) if i != label), None)
        if gap is not None:             # it would be a class without images
            row = int((labels == present[gap]).nonzero()[0])
            raise ValueError(
                f"{option}: integer labels must be 0..K-1, each occurring, but {gap} is missing ({len(present)} labels "
                f"up to {present[-1]}; {where(row)} has {present[gap]}); renumber them, or use names, {WITHOUT_CLASSES}"
            )
        names = [str(label) for label in present]
    outside = (labels < 0) | (labels >= len(names))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"{option}: {where(row)} has label {int(labels[row])}; allowed are 0 to {len(names) - 1}; correct it, "
            f"{WITHOUT_CLASSES}"
        )
    for label, name in enumerate(names):
        problem = _problem(name)
        if problem is not None:
            rows = (labels == label).nonzero()
            place = f" ({where(int(rows[0]))!a})" if len(rows) else ""
            raise ValueError(
                f"data.source: class {name!r}{place} {problem}; rename its folder, or its entry in the table"
            )
    return labels, tuple(names)


def _problem(name: str) -> str | None:
    """Return why a class cannot have this name; None if it can."""
    if not name.strip():
        return "has an empty name"
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:       # how Python represents bytes of a file name that are not UTF-8
        return "has a name that is not valid UTF-8"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "has control characters, such as line breaks, in its name"
    if name == NO_CLASS:
        return "has the name of the null class, which stands for images without a class"
    return None


def _similar(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a note if two class names look alike."""
    seen: dict[str, str] = {}
    for name in class_names:
        other = seen.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other is not name:
            difference = "differ only in letter case, spaces or Unicode normalization"
            return (f"classes {other!a} and {name!a} {difference}, and are two classes; rename one to join them",)
    return ()
