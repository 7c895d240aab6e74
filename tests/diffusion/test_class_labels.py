"""Labels: names, ids, blends, and one for each depth."""

import pytest
import torch

from ddpm.diffusion.class_labels import label_ids, label_tensor

NAMES = ["cat", "dog", "Horse", "7"]


def test_labels_by_name_and_id() -> None:
    assert label_ids(["dog", 0, "2", "cat", "cat"], NAMES) == [1, 0, 2, 0, 0]
    assert label_ids(["7"], NAMES) == [3]       # a name takes precedence over an id


def test_wrong_labels(refused) -> None:
    known = ", ".join(NAMES)
    with refused("classes", known):
        label_ids([], NAMES)
    with refused("classes", "'horze'", "mean Horse", known):
        label_ids(["horze"], NAMES)
    for name in ("zebrafish", "", "--1", "²"):
        with refused("classes", repr(name), known):
            label_ids([name], NAMES)
    for number in (4, -1, "9", "-1"):
        with refused("classes", f"id {number}", "0 to 3"):
            label_ids([number], NAMES)


def test_many_classes_are_not_all_listed(refused) -> None:
    with refused("classes: 'zzz'", "c19", "980 more"):
        label_ids(["zzz"], [f"c{i}" for i in range(1000)])


@pytest.mark.parametrize("none", [None, "none"])
def test_the_null_class(none: str | None, refused) -> None:
    assert label_ids(["cat", none], NAMES, 4) == [0, 4]
    with refused("classes", "null class"):
        label_ids([none], NAMES)
    assert label_ids(["none"], ["some", "none"], 2) == [1]      # a class of that name takes precedence


def test_labels_of_another_type(refused) -> None:
    for label in (1.5, True, object()):
        with refused("classes", str(label)):
            label_ids([label], NAMES)


def test_plain_labels_are_ids() -> None:
    assert torch.equal(label_tensor(["dog", 3, None], NAMES, 4, 2), torch.tensor([1, 3, 4]))


def test_blends_are_weights() -> None:
    found = label_tensor([{"cat": 0.25, 1: 0.75}, "Horse", {None: 2, "cat": 1, 0: 1}], NAMES, 4, 2)
    assert torch.equal(found, torch.tensor([[0.25, 0.75, 0, 0, 0], [0, 0, 1, 0, 0], [2.0, 0, 0, 0, 2]]))
    assert label_tensor([{"cat": 1}], NAMES, None, 2).shape == (1, 4)


def test_one_for_each_depth() -> None:
    found = label_tensor([["dog", {"cat": 0.5, "dog": 0.5}], "Horse"], NAMES, 4, 2)
    assert found.shape == (2, 2, 5)
    assert torch.equal(found[0], torch.tensor([[0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]]))
    assert torch.equal(found[1], torch.tensor([[0, 0, 1.0, 0, 0]] * 2))


def test_blends_that_cannot_be(refused) -> None:
    known = ", ".join(NAMES)
    for labels, expected in (
        ([["dog", "cat", "dog"]], ("3", "2")),
        ([{"cat": float("nan")}], ("nan",)),
        ([{"kat": 1}], ("'kat'", "mean cat")),
        ([{}], (known,)),
        ([], (known,)),
    ):
        with refused("classes", *expected):
            label_tensor(labels, NAMES, 4, 2)
