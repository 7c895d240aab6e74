"""Labels: names, ids, blends, and one for each depth."""

import pytest
import torch

from ddpm.diffusion.class_labels import label_ids, label_tensor

NAMES = ["cat", "dog", "Horse", "7"]


def test_labels_by_name_and_id() -> None:
    assert label_ids(["dog", 0, "2", "cat", "cat"], NAMES) == [1, 0, 2, 0, 0]
    assert label_ids(["7"], NAMES) == [3]       # a name goes before an id


@pytest.mark.parametrize(("labels", "expected"), [
    ([], r"^classes: none given; known are cat, dog, Horse, 7$"),
    (["horze"], r"^classes: 'horze' is not a class; did you mean Horse\?; known are cat, dog, Horse, 7$"),
    (["zebrafish"], r"^classes: 'zebrafish' is not a class; known are"),
    ([4], r"^classes: id 4 is out of range; allowed are 0 to 3$"),
    ([-1], r"^classes: id -1 is out of range"),
    (["9"], r"^classes: id 9 is out of range"),
    (["-1"], r"^classes: id -1 is out of range"),
    ([""], r"^classes: '' is not a class"),
    (["--1"], r"^classes: '--1' is not a class"),
    (["²"], r"^classes: '²' is not a class"),
])
def test_wrong_labels(labels: list, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        label_ids(labels, NAMES)


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(ValueError, match=r"c0, .*, c19 and 980 more$"):
        label_ids(["zzz"], [f"c{i}" for i in range(1000)])


@pytest.mark.parametrize("none", [None, "none"])
def test_the_null_class(none: str | None) -> None:
    assert label_ids(["cat", none], NAMES, 4) == [0, 4]
    with pytest.raises(ValueError, match=r"^classes: the model has no null class"):
        label_ids([none], NAMES)
    assert label_ids(["none"], ["some", "none"], 2) == [1]      # a class of that name goes before it


@pytest.mark.parametrize("label", [1.5, True, object()])
def test_what_is_no_label(label: object) -> None:
    with pytest.raises(ValueError, match=r"is neither a name nor an id$"):
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


@pytest.mark.parametrize(("labels", "expected"), [
    ([["dog", "cat", "dog"]], r"^classes: 3 labels were given for the 2 resolutions"),
    ([{"cat": float("nan")}], r"^classes: the weights .* are not all finite"),
    ([{"kat": 1}], r"^classes: 'kat' is not a class; did you mean cat\?"),
    ([{}], r"^classes: none given"),
    ([], r"^classes: none given"),
])
def test_blends_that_cannot_be(labels: list, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        label_tensor(labels, NAMES, 4, 2)
