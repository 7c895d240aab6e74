"""Names of splits, in any letter case and with the usual synonyms."""

import re
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Any

from ddpm.names import did_you_mean

SPLITS = {
    "train": ("train", "training", "trn", "trainset", "trainingset"),
    "trainval": ("trainval",),
    "validation": (
        "validation", "val", "valid", "validate", "valset", "validset", "dev", "devset", "eval", "evaluation",
    ),
    "test": ("test", "tests", "testing", "tst", "testset", "publictest", "privatetest"),
}
# These are splits only next to one of the above.
COMPANIONS = {
    "holdout": ("holdout", "heldout"),
    "unlabeled": ("unlabeled", "unlabelled"),
    "extra": ("extra",),
    "query": ("query", "queries"),
    "gallery": ("gallery",),
    "prediction": ("pred", "predict", "prediction", "predictions"),
}
PAIR = {"query", "gallery"}     # of a retrieval; alone, each is an ordinary word
MOST_OTHERS = 5     # values that are no names of splits, such as `ignored`, in a column of splits
# Words that say nothing about the split, as in `training_set` or `train_images`.
_NOISE = {"set", "split", "data", "dataset", "images", "image", "imgs", "img", "samples", "the", "folder", "new"}
_GROUPS = {word: group for groups in (SPLITS, COMPANIONS) for group, words in groups.items() for word in words}


def split_groups(names: Sequence[str]) -> dict[str, str | None]:
    """Map names to `train`, `validation`, `test` and so on; to None if they do not look like names of splits.

    Letter case, digits, punctuation and words such as `set` do not count (`Training_Set`, `val2017`). Neither do words
    that all names have in common (`birds_train` and `birds_test`).
    """
    words = {name: _words(name) for name in names}
    common = set.intersection(*map(set, words.values())) - set(_GROUPS) if len(words) > 1 else set()
    groups = {name: _GROUPS.get("".join(word for word in words[name] if word not in common)) for name in names}
    if len(names) > 1 and len(PAIR & {*groups.values()}) == 1:
        groups |= {name: None for name, group in groups.items() if group in PAIR}
    return groups


def value_group(value: str) -> str | None:
    """Return the group of a value in a column of splits; None if it is no name of a split."""
    return split_groups([value])[value]


def are_splits(values: Iterable[Any]) -> bool:
    """Return whether values name `train` or `trainval`, a set for validation or test, and few others.

    Without both, words such as `valid`, `test` and `extra` may as well be classes. Empty values do not count.
    """
    groups: dict[str, str | None] = {}
    others = 0
    for value in values:
        if value is None:
            continue
        if isinstance(value, str) and value not in groups:
            groups[value] = value_group(value)
            others += groups[value] is None
        if not isinstance(value, str) or others > MOST_OTHERS:
            return False
    found = set(groups.values()) - {None}
    divided = bool({"validation", "test"} & found) or found >= PAIR
    return bool({"train", "trainval"} & found) and divided and 2 * others <= len(groups)


def divide_name(name: str) -> tuple[str, str] | None:
    """Return the split and the class in a name: `train` and `A` of `trainA`, and `test` and `cat` of `cat_test`.

    None is returned if there is no word for a split, more than one, or nothing else.
    """
    parts = re.split(r"([\W_]+|(?<=[^\W\dA-Z_])(?=[A-Z\d]))", name)      # words, and what is between them
    found = [at for at, part in enumerate(parts) if _GROUPS.get(part.lower()) in SPLITS]
    if len(found) != 1:
        return None
    (at,) = found
    rest = "".join([*parts[:max(0, at - 1)], *parts[max(2, at + 1):]])
    return (_GROUPS[parts[at].lower()], rest) if rest else None


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    return [word for word in words if word not in _NOISE]


def find_split(source: str, asked: str, splits: Iterable[str], remedy: str = "") -> str:
    """Return the split of a source that an option names: exactly, in another letter case, or by a synonym.

    Args:
        source: its name, for error messages.
        asked: the name of a split.
        splits: those of the source.
        remedy: what else to do if there is none, after a semicolon.

    Raises:
        ValueError: if there is none, or several; lists the splits and suggests the nearest.
    """
    splits = list(splits)
    if asked in splits:
        return asked
    group, groups = split_groups([asked])[asked], split_groups(splits)
    folded = [name for name in splits if name.lower() == asked.lower()]
    same = folded or [name for name in splits if group is not None and groups[name] == group]
    if group == "train" and not same:
        same = [name for name in splits if groups[name] == "trainval"]
    if len(same) == 1:
        return same[0]
    if same:
        choices = " or ".join(map(repr, same))
        raise ValueError(f"data.split: {asked!r} may be {choices} of {source!r}; name one of them{remedy}")
    only = f"; for that: --data.split {quote(splits[0])}" if len(splits) == 1 else ""
    listed = f"it has: {', '.join(splits)}{did_you_mean(asked, splits) or only}"
    raise ValueError(f"data.split: {asked!r} is not a split of {source!r}; {listed}{remedy}")
