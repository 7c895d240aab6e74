"""The table of the data, and the facts in run.json."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import ImageData, load_data
from ddpm.data.notes import describe_balance
from ddpm.data.overview import data_facts, describe_data
from ddpm.data.records import ArrayPictures, Records


def folder(root: Path, **counts: int) -> str:
    draws = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / name / f"{index}.png")
    return str(root)


def rows(data: ImageData) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in describe_data(data).splitlines():
        found.setdefault(line[:13].strip(), []).append(line[13:])
    return found


def test_digits() -> None:
    table = rows(load_data())
    assert table.keys() == {"data", "classes", "sizes", "channels", "values"}
    assert table["data"] == [load_data().summary()] and table["sizes"] == ["8x8"] and table["values"] == ["uint8"]


def test_class_counts(tmp_path: Path) -> None:
    few = rows(load_data(folder(tmp_path / "few", ant=3, bee=2)))
    assert "ant 3" in few["classes"][0] and "bee 2" in few["classes"][0]
    many = rows(load_data(folder(tmp_path / "many", **{f"class{i:02d}": 1 + (i == 5) for i in range(20)})))
    assert "class05" in many["classes"][0] and "20" in many["classes"][0] and len(many["classes"][0]) < 80


@pytest.mark.parametrize(("counts", "few", "uneven"), [
    ({"ant": 10, "bee": 10}, False, False),
    ({"ant": 9, "bee": 30}, True, False),
    ({"ant": 10, "bee": 100}, False, True),
    ({"ant": 1, "bee": 60}, True, True),
])
def test_small_and_uneven_classes_are_told(counts: dict[str, int], few: bool, uneven: bool, tmp_path: Path) -> None:
    notes = " ".join(load_data(folder(tmp_path, **counts)).notes)
    assert ("ant" in notes) == few and (f"{min(counts.values())} to {max(counts.values())}" in notes) == uneven


@pytest.mark.parametrize(("counts", "row", "uneven"), [
    ([10, 10, 0], "a 10, b 10, c 0", None),
    ([12] * 7, "7 with 12 images each", None),
    ([12] * 7 + [0] * 2, "7 with 12 images each, and 2 without images", None),
    ([12] * 6 + [200, 0], "7 with 12 (a) to 200 (g) images, and 1 without images", "12 to 200"),
])
def test_classes_without_images_are_told_apart(counts: list[int], row: str, uneven: str | None) -> None:
    labels, names = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), "abcdefghi"[: len(counts)]
    data = ImageData(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels, tuple(names))
    notes = " ".join(describe_balance(counts, names))
    assert rows(data)["classes"] == [row]
    assert ("without images" in notes) == (0 in counts) and ("classes have" in notes) == (uneven is not None)
    assert uneven is None or uneven in notes


def test_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path, ant=12, bee=12)
    (tmp_path / "ant/5.png").write_bytes(b"nothing")
    ignored, note = {"hidden files": 3, "texts": 1}, "the folder has one split"
    from ddpm.data import loading

    records = loading.load_records

    def with_more(*arguments: object) -> Records:
        found = records(*arguments)
        return Records(found.pictures, found.labels, found.class_names, ignored, (note,))

    monkeypatch.setattr(loading, "load_records", with_more)
    data = load_data(source, on_bad_image="skip")
    table, facts = rows(data), data_facts(data)
    assert "1 unreadable skipped" in table["data"][0] and table["ignored"] == ["hidden files (3), texts (1)"]
    assert table["note"] == [note]
    assert (facts["skipped"], facts["ignored"], facts["notes"]) == (1, ignored, [note])


def test_facts_are_json_and_hold_the_decisions(tmp_path: Path) -> None:
    for index in range(20):
        path = tmp_path / "ab"[index % 2] / f"{index}.tif"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 10 + index), index, np.float32)).save(path)
    data = load_data(str(tmp_path), fit="pad")
    facts = json.loads(json.dumps(data_facts(data)))
    expected = {
        "summary": data.summary(), "fingerprint": data.fingerprint, "contents": data.contents_digest, "images": 20,
        "class_counts": [10, 10], "shape": [1, 8, 8], "fit": "pad", "intensity": [0, 19], "values": [0, 19],
        "skipped": 0, "ignored": {}, "frames": "first", "files_with_unused_frames": 0, "notes": list(data.notes),
        "sizes": {"smallest": [10, 8], "largest": [29, 8], "different": 20, "surveyed": 20},
    }
    assert facts == expected


def test_lines_are_short(tmp_path: Path) -> None:
    for index in range(24):
        path = tmp_path / ("a" * 20 if index else "b" * 20) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        mode = ("L", "RGB", "RGBA", "I;16")[index % 4]
        Image.new(mode, (100 + 37 * index, 900 - index)).save(path)
    assert max(map(len, describe_data(load_data(str(tmp_path))).splitlines())) <= 120


def test_data_that_was_not_loaded_has_a_table_too() -> None:
    arrays = ArrayPictures(np.zeros((2, 8, 8), np.uint8))
    assert len(arrays) == 2
    loaded = load_data()
    bare = ImageData(loaded.pixels, loaded.labels, loaded.class_names)
    assert rows(bare).keys() == {"data", "classes"} and data_facts(bare)["shape"] == [1, 8, 8]
