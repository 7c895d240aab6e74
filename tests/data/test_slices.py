"""Rows of a split: as the `datasets` library takes them, and refused where it would be guessing."""

from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from ddpm.data import load_data
from ddpm.data.loading import interleave_classes
from ddpm.data.slices import Part, parse_split

BOUNDS = ["", "0", "1", "7", "40", "-1", "-12", "0%", "1%", "33%", "50%", "67%", "100%", "-10%", "-50%"]


@pytest.mark.parametrize("count", [10, 37, 40, 1797])
def test_rows_are_those_of_the_datasets_library(count: int) -> None:
    compared = 0
    for start in BOUNDS:
        for stop in BOUNDS:
            if ("%" in start) != ("%" in stop) and start and stop:
                continue        # which it reads as two percentages
            text = f"train[{start}:{stop}]"
            if any("%" not in bound and abs(int(bound or 0)) > count for bound in (start, stop)):
                with pytest.raises(ValueError, match=r"bounds up to"):       # where it takes fewer rows in silence
                    parse_split(text).part(count)
                continue
            (absolute,) = datasets.ReadInstruction.from_spec(text).to_absolute({"train": count})
            if absolute.from_ >= absolute.to:
                with pytest.raises(ValueError, match=r"start before the stop"):
                    parse_split(text).part(count)
                continue
            assert parse_split(text).part(count) == Part("train", absolute.from_, absolute.to, count), text
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("percent", range(0, 101, 7))
def test_neighboring_parts_share_nothing_and_leave_nothing_out(percent: int) -> None:
    for count in (3, 10, 999, 1797):
        bound = parse_split(f"train[:{percent}%]")
        rest = parse_split(f"train[{percent}%:]")
        try:
            low, high = bound.part(count), rest.part(count)
        except ValueError:
            continue            # one of them is all of it
        assert low.stop == high.start and low.shared(high) == 0
        assert low.stop - low.start + high.stop - high.start == count


def test_bounds_of_both_kinds_may_stand_together() -> None:
    assert parse_split("train[3:50%]").part(20) == Part("train", 3, 10, 20)


def test_shared_rows() -> None:
    a, b = parse_split("train[:1500]").part(1797), parse_split("train[1400:]").part(1797)
    assert a.shared(b) == b.shared(a) == 100 and a.shared(a) == 1500
    assert a.shared(parse_split("test[:1500]").part(1797)) == 0


def test_sums_are_left_to_the_datasets_library() -> None:
    for text in ("train+test", "train[:10]+test[:5]", "train[:50%](pct1_dropremainder)"):
        assert parse_split(text).split == text


@pytest.mark.parametrize("split", [
    "train[", "train[]", "train[5]", "train[a:b]", "train[1:2:3]", "train[:5", "train[:5]x", "[:5]", "train[1.5:]",
    "train[:12.5%]", "train[: 5]", "train[%:]", "train[--1:]", "train[:5] ",
])
def test_malformed_slices_are_one_line(split: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.split: .*use train\[:15") as refused:
        load_data(split=split)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("split", "expected"), [
    ("train[5:5]", r"5 to 5 of 1,797.*start before the stop"),
    ("train[10:5]", r"10 to 5 of 1,797.*start before the stop"),
    ("train[:0%]", r"start before the stop"),
    ("train[:1798]", r"'train' .*1,797 rows; .*up to 1797"),
    ("train[-1798:]", r"up to 1797"),
    ("train[:101%]", r"up to 100%"),
    ("train[5:6]", r"'train\[5:6\]' .*'5'.* two classes"),
    ("test[:10]", r"'test' .*train"),
])
def test_parts_that_cannot_be_had_are_one_line(split: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^data\.split: .*{expected}") as refused:
        load_data(split=split)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("counts", [(10, 10), (75, 75, 75, 75), (100, 7, 1), (3, 0, 5)])
@pytest.mark.parametrize("percent", [10, 50, 80])
def test_parts_of_rows_that_are_in_the_order_of_classes(counts: tuple[int, ...], percent: int) -> None:
    """Each class is divided as the whole is; by at most one row more or fewer."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = interleave_classes(labels)
    assert order.sort().values.equal(torch.arange(len(labels)))
    first = labels[order[: round(len(labels) * percent / 100)]].bincount(minlength=len(counts))
    assert all(abs(int(n) - count * percent / 100) <= 1 for n, count in zip(first, counts, strict=True))


def test_classes_without_images_in_a_slice_are_told(tmp_path: Path) -> None:
    for name, count in (("ant", 2), ("bee", 30), ("cow", 30)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"{i}.png")
    held_out = load_data(str(tmp_path), split="train[80%:]")
    assert held_out.labels.bincount(minlength=3).tolist() == [0, 6, 6]
    assert any("without images" in note and "(ant)" in note for note in held_out.notes)
    assert not any("classes have" in note for note in held_out.notes)       # those that have any are equally large


def test_a_slice_of_class_folders_has_all_classes(tmp_path: Path) -> None:
    for kind, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (8, 8), 20 * i + kind).save(tmp_path / name / f"{i}.png")
    parts = [load_data(str(tmp_path), split=split) for split in ("train[:80%]", "train[80%:]")]
    assert [part.labels.bincount().tolist() for part in parts] == [[8, 8, 8], [2, 2, 2]]
    values = [set(part.pixels[:, 0, 0, 0].tolist()) for part in parts]
    assert not values[0] & values[1] and len(values[0] | values[1]) == 30
    assert all("each class" in " ".join(part.notes) for part in parts)


def write_sorted_images(folder: Path) -> Path:
    """Write ten images of each of three classes with the class in the name, and a table with a row for each."""
    folder.mkdir()
    lines = ["file_name,label"]
    for kind, name in enumerate(("cat", "dog", "owl")):
        for i in range(10):
            Image.new("L", (8, 8), 20 * i + kind).save(folder / f"{name}_{i}.png")
            lines.append(f"{name}_{i}.png,{name}")
    table = folder.parent / "labels.csv"
    table.write_text("\n".join(lines))
    return table


@pytest.mark.parametrize("labels", ["filename", "table"])
def test_a_slice_of_a_folder_has_all_classes_wherever_its_labels_are(labels: str, tmp_path: Path) -> None:
    table = write_sorted_images(tmp_path / "images")
    labels = str(table) if labels == "table" else labels
    parts = [load_data(str(tmp_path / "images"), split=part, labels=labels) for part in ("train[:80%]", "train[80%:]")]
    assert [part.labels.bincount().tolist() for part in parts] == [[8, 8, 8], [2, 2, 2]]


def test_a_table_as_the_source_is_divided_in_its_order(tmp_path: Path) -> None:
    table = write_sorted_images(tmp_path / "images")
    first = load_data(str(table), split="train[:20]")
    assert first.labels.bincount(minlength=3).tolist() == [10, 10, 0]
    assert any("without images" in note and "(owl)" in note for note in first.notes)
