"""Encoding of raw labels as class ids and class names."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from typing import Any

import torch

from ddpm.data.counts import format_count
from ddpm.data.labels.column_names import list_columns
from ddpm.data.records import Pictures, Records
from ddpm.data.request import DataRequest
from ddpm.names import NO_CLASS, to_nfc

# -1 is the label of images in splits of the Hub's datasets whose labels are not published
UNLABELED = (None, -1)
ONE_CLASS_EACH = "a class-conditional model needs one class per image, as text or an integer"


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
        labels, class_names = encode_labels(values, names, pictures.where, option, request.classless_remedy)
        if len(labels.unique()) < 2:
            only = class_names[int(labels[0])]
            notes += (f"all images have class {only!r} and are trained without classes; {remedy}",)
            labels, class_names = torch.zeros_like(labels), ()
    return Records(pictures, labels, class_names, ignored or {}, (*notes, *_similar(class_names)), split)


def encode_labels(
    values: Sequence[Any],
    names: Sequence[str] | None,
    where: Callable[[int], str],
    option: str,
    without: str,
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Encode labels as class ids.

    Args:
        values: N raw labels, 1 or more: ids, or names.
        names: class names, of which `values` are the ids or some; None if the source declares none. Then the classes
            are the sorted distinct names (or booleans), or ids that must be 0..K-1, each occurring.
        where: describes the location of a row, for error messages.
        option: the option that says where labels are, for error messages.
        without: how to train without classes, the last remedy of error messages.

    Returns:
        int64 (N,) in 0..K-1, and K names in Unicode's form NFC.

    Raises:
        ValueError: if a label is missing, out of range or no single class, or a class name is unusable.
    """
    several = next((row for row, value in enumerate(values) if isinstance(value, (list, tuple, dict))), None)
    if several is not None:
        raise ValueError(
            f"{option}: {where(several)} has {_describe_several(values[several])}; {ONE_CLASS_EACH}: keep one, or join "
            f"them into one name, {without}"
        )
    missing = next((row for row, value in enumerate(values) if value is None or value != value), None)  # or NaN
    if missing is not None:
        raise ValueError(
            f"{option}: {where(missing)} has no label ({values[missing]}); label it or remove it, {without}"
        )
    kind = _kind(values[0])
    odd = next((row for row, value in enumerate(values) if kind is None or _kind(value) is not kind), None)
    if odd is not None:
        first = "" if odd == 0 else f", and {where(0)} has {values[0]!r} ({type(values[0]).__name__})"
        raise ValueError(
            f"{option}: {where(odd)} has label {values[odd]!r} ({type(values[odd]).__name__}){first}; allowed are "
            f"class names or integers, but not both: convert the labels, {without}"
        )
    if names is not None:
        check_distinct(names, "data.source")
    if kind is str or (kind is bool and names is None):
        names = sorted(set(map(str, values)), key=lambda name: (to_nfc(name), name)) if names is None else names
        values = _look_up_ids(list(map(str, values)), names, where, option, without)
    elif names is None:
        present = sorted({value for value in values if value >= 0})
        gap = next((i for i, label in enumerate(present) if i != label), None)
        if gap is not None:             # it would be a class without images
            raise ValueError(
                f"{option}: integer labels must be 0..K-1, each occurring, but {gap} is missing "
                f"({format_count(len(present), 'label')} up to {present[-1]}; {where(values.index(present[gap]))} has "
                f"{present[gap]}); renumber them, or use names, {without}"
            )
        names = [str(label) for label in present]
    outside = next((row for row, value in enumerate(values) if not 0 <= value < len(names)), None)
    if outside is not None:
        raise ValueError(
            f"{option}: {where(outside)} has label {values[outside]}; allowed are 0 to {len(names) - 1}; correct it, "
            f"{without}"
        )
    labels = torch.tensor(values, dtype=torch.int64)
    for label, name in enumerate(names):
        problem = _why_unusable(name)
        if problem is not None:
            place = _example(labels, label, where)
            raise ValueError(f"data.source: class {name!r}{place} {problem}; rename the class in the source")
    known: dict[str, int] = {}
    for label, name in enumerate(names):
        twin = known.setdefault(to_nfc(name), label)
        if twin != label:
            both = " and ".join(f"{names[each]!a}{_example(labels, each, where)}" for each in (twin, label))
            raise ValueError(
                f"data.source: classes {both} have the same name in two Unicode forms; join them, or rename one"
            )
    return labels, tuple(known)


def same_classes(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two sequences of labels divide their rows into the same classes, under any names."""
    pairs = set(zip(map(repr, first), map(repr, second), strict=True))
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def could_be_classes(values: Sequence[Any]) -> bool:
    """Return whether values repeat as those of classes do, and those of captions and measurements do not."""
    return not any(isinstance(value, float) for value in values) and 2 * len(set(map(repr, values))) <= len(values)


def compare_columns(chosen: str, columns: Mapping[str, Sequence[Any]], source: str) -> tuple[str, ...]:
    """Return a note if other columns with usual names give the classes other names.

    Args:
        chosen: the column of labels.
        columns: all columns with a usual name of labels -> their values.
        source: the table, for error messages.

    Raises:
        ValueError: if another column has other classes, so that none is known to be meant.
    """
    rivals = {name: values for name, values in columns.items() if name != chosen and could_be_classes(values)}
    for name, values in rivals.items():
        if not same_classes(columns[chosen], values):
            raise ValueError(
                f"data.label_column: columns {chosen!r} and {name!r} of {source!r} could both be the labels, and "
                f"differ; name one as data.label_column ({list_columns(columns)})"
            )
    texts = list(map(str, columns[chosen]))
    renamed = [quote(name) for name, values in rivals.items() if list(map(str, values)) != texts]
    if not renamed:
        return ()
    return (f"classes have the names in column {chosen!r}; for others: --data.label_column {' or '.join(renamed)}",)


def _describe_several(value: Any) -> str:
    kind = "an object in place of a label," if isinstance(value, dict) else "a list of labels (multi-label),"
    return f"{kind} {value!r}"


def _kind(value: Any) -> type | None:
    """Return the type of a label that can be a class; None if it cannot. A bool is no integer here."""
    return next((kind for kind in (str, bool, int) if isinstance(value, kind)), None)


def _look_up_ids(
    values: Sequence[str], names: Sequence[str], where: Callable[[int], str], option: str, without: str
) -> list[int]:
    ids = {name: index for index, name in enumerate(names)}
    unknown = next((row for row, value in enumerate(values) if value not in ids), None)
    if unknown is not None:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"{option}: {where(unknown)} has label {values[unknown]!r}, which is not among the names of the classes, "
            f"{listed}; correct it, {without}"
        )
    return [ids[value] for value in values]


def _example(labels: torch.Tensor, label: int, where: Callable[[int], str]) -> str:
    """Return where an image of a class is, in parentheses; empty for a class without images."""
    rows = (labels == label).nonzero()
    return f" ({where(int(rows[0]))!a})" if len(rows) else ""


def _why_unusable(name: str) -> str | None:
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
