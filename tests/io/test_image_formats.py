"""Formats of generated images: every requested image once, as it was generated, under a valid name."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import (
    BATCH,
    CHANNELS,
    CLASSES,
    COUNT,
    FOLDERS,
    RECORD,
    Toy,
    asked,
    choices,
    pixels,
    same,
    write,
)

from ddpm.data import load_data
from ddpm.evaluation.image_sets import read_images
from ddpm.io import image_formats as kinds
from ddpm.io import image_writer as files
from ddpm.io.image_formats import FORMATS, FileLayout, NpzFile, PngFolders, Request, check_formats, folder_names
from ddpm.io.pictures import labeled_grid

pytestmark = pytest.mark.usefixtures("small_shards")


# ------------------------------------------------------------------------------------------------------ what is written


@choices
def test_layout(formats: tuple[str, ...], whole: dict) -> None:
    expected = {"samples.json", "grid.png"}
    if "png" in formats:
        expected |= {f"{FOLDERS[r.label]}/{r.file}.png" for r in asked()}
    if "parquet" in formats:
        expected |= {f"samples-0000{i}-of-00002.parquet" for i in range(2)}
    if "npz" in formats:
        expected |= {"samples.npz"}
    assert whole[formats].keys() == expected
    assert json.loads(whole[formats]["samples.json"]).items() >= {
        **RECORD, "count": COUNT, "batch_size": BATCH, "formats": [name for name in FORMATS if name in formats]
    }.items()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
def test_png(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path, ("png",), Toy(shape))
    data = load_data(str(tmp_path), 8)
    assert data.class_names == tuple(sorted(FOLDERS)) and len(data) == COUNT
    for index, request in enumerate(asked()):
        found = np.asarray(Image.open(tmp_path / FOLDERS[request.label] / f"{request.file}.png"))
        assert np.array_equal(found.reshape(*shape[1:], -1), pixels(index, shape).transpose(1, 2, 0))


@pytest.mark.parametrize("formats", [("parquet",), tuple(FORMATS)], ids="+".join)
def test_parquet(formats: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "train" / "test-images"        # which `datasets` must not take for names of splits
    write(out, formats, Toy())
    if formats == ("parquet",):
        data = load_data(str(out))
        assert data.class_names == CLASSES and data.labels.tolist() == [request.label for request in asked()]
        assert np.array_equal(data.__getitems__(range(COUNT))[0], np.stack([pixels(index) for index in range(COUNT)]))
    shards = str(out / "samples-*.parquet")
    table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert table.features["label"].names == list(CLASSES) and isinstance(table.features["image"], datasets.Image)
    assert table["seed"][:] == list(range(COUNT)) and table["label"][:] == [request.label for request in asked()]
    assert all(np.array_equal(row["image"], pixels(i).transpose(1, 2, 0)) for i, row in enumerate(table))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
def test_npz(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path, ("npz",), Toy(shape))
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays.files == ["images", "labels", "seeds", "class_names"]
        expected = np.stack([pixels(index, shape).transpose(1, 2, 0) for index in range(COUNT)])
        assert np.array_equal(arrays["images"], expected) and arrays["images"].dtype == np.uint8
        assert arrays["labels"].tolist() == [request.label for request in asked()]
        assert arrays["seeds"].tolist() == list(range(COUNT)) and tuple(arrays["class_names"]) == CLASSES


@choices
def test_each_image_is_drawn_once_and_batches_are_whole(formats: tuple[str, ...], tmp_path: Path) -> None:
    toy = Toy()
    write(tmp_path, formats, toy)
    assert toy.calls == [list(range(COUNT))[i : i + BATCH] for i in range(0, COUNT, BATCH)]


def test_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SHARD_IMAGES", 5_000)
    monkeypatch.setattr(kinds, "SHARD_BYTES", 9 * 192)      # nine images of 3x8x8: two batches of four
    write(tmp_path, ("parquet",), Toy())
    assert len([*tmp_path.glob("samples-*-of-00003.parquet")]) == 3


@choices
def test_the_grid(formats: tuple[str, ...], tmp_path: Path, whole: dict) -> None:
    toy = Toy()
    grid = write(tmp_path, formats, toy)
    rows = [[torch.from_numpy(pixels(i)) for i, r in enumerate(asked()) if r.row == name] for name in CLASSES]
    assert np.array_equal(np.asarray(Image.open(grid)), np.asarray(labeled_grid(rows, CLASSES)))
    grid.unlink()
    drawn = len(toy.calls)
    assert write(tmp_path, formats, toy) == grid
    same(tmp_path, whole[formats])
    assert len(toy.calls) == drawn


def test_rows_whose_names_cannot_be_drawn_have_the_id_of_their_class_or_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(files, "labeled_grid", lambda rows, names: given.extend(names) or Image.new("L", (1, 1)))
    names = ["猫", "кошка", "cat", "犬"]
    requests = [Request(names[c], f"{c}", c, c) for c in (3, 2, 1)]
    requests += [Request(f"{name} to cat", "0", -1, 0) for name in names[:2]]
    write(tmp_path, ("png",), Toy(), requests=requests, class_names=names)
    assert given == ["class 3", "cat", "кошка", "row 4", "кошка to cat"]


def test_a_large_grid_is_cut(tmp_path: Path) -> None:
    requests = [Request(f"row {i % 40}\n", f"{i:04d}", -1, i) for i in range(40 * 60)]
    with Image.open(write(tmp_path, ("png",), Toy((1, 8, 8)), requests=requests, batch_size=500)) as grid:
        assert grid.height == files.GRID_ROWS * 50 + 2
        assert files.GRID_COLUMNS * 50 < grid.width < (files.GRID_COLUMNS + 3) * 50


def test_an_unfinished_shard_costs_no_images_of_others(tmp_path: Path, whole: dict) -> None:
    write(tmp_path, ("parquet",), Toy())
    (tmp_path / "samples-00001-of-00002.parquet").unlink()
    toy = Toy()
    write(tmp_path, ("parquet",), toy)
    assert toy.calls == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21]]
    same(tmp_path, whole["parquet",])


def test_what_one_format_has_is_not_drawn_for_another(tmp_path: Path, whole: dict) -> None:
    write(tmp_path, tuple(FORMATS), Toy())
    toy = Toy()
    for lost in ("cat", "samples.npz", "samples-00000-of-00002.parquet"):
        path = tmp_path / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        write(tmp_path, tuple(FORMATS), toy)
        same(tmp_path, whole[tuple(FORMATS)])
    assert toy.calls == []


@pytest.mark.parametrize("size", [0, 5, 60])
def test_a_png_that_is_cut_off_is_drawn_again(size: int, tmp_path: Path, whole: dict) -> None:
    write(tmp_path, ("png",), Toy())
    path = tmp_path / "cat" / "seed000002.png"
    path.write_bytes(path.read_bytes()[:size])
    toy = Toy()
    write(tmp_path, ("png",), toy)
    assert toy.calls == [[0, 1, 2, 3]]
    same(tmp_path, whole["png",])


# ------------------------------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", FORMATS)
def test_images_of_any_channels_are_read_as_they_were_drawn(
    name: str, channels: int, tmp_path: Path, refused: Callable[..., AbstractContextManager[None]]
) -> None:
    most = FORMATS[name].max_channels
    if most is not None and channels > most:
        with refused("format", name, f"{channels}", "--format npz"):
            check_formats(["npz", name], channels)
        return
    check_formats([name], channels)
    write(tmp_path, (name,), Toy((channels, 8, 8)))
    found = read_images(tmp_path, 8, channels, CLASSES)
    drawn = {pixels(index, (channels, 8, 8)).tobytes(): request.label for index, request in enumerate(asked())}
    for image, label in zip(found.read(range(COUNT)), found.labels, strict=True):
        assert drawn.pop(image.numpy().tobytes()) == label
    assert not drawn


@pytest.mark.parametrize("kind", [PngFolders, NpzFile])
def test_single_images_are_read_again(kind: type[PngFolders] | type[NpzFile], tmp_path: Path) -> None:
    write(tmp_path, ("png", "npz"), Toy())
    stored = kind(FileLayout(tmp_path, asked(), BATCH, CLASSES))
    assert np.array_equal(stored.read_images([7, 0, 21]), np.stack([pixels(i) for i in (7, 0, 21)]))


# ---------------------------------------------------------------------------------------------------------------- names


def test_folder_names() -> None:
    rows = ["cat", "golden retriever", "Vögel", "猫", "a/b", "a_b", "a\\b", "A_B", "..", ".", "", " ", ".hidden"]
    rows += ["x" * 300, "x" * 301, "grid.png", "samples.json", "x.parquet", "metadata.csv", "../../etc", "new\nline"]
    rows += ["\ud800", "a_b_2"]
    names = folder_names([*rows, *rows])
    assert list(names) == rows
    assert len({name.casefold() for name in names.values()}) == len(rows)
    for row in ("cat", "golden retriever", "Vögel", "猫", "a_b", "a_b_2"):
        assert names[row] == row
    for name in names.values():
        assert Path(name).name == name and not name.startswith(".") and len(name.encode()) < 200 and name.isprintable()
        assert Path(name).suffix not in {".png", ".json", ".parquet", ".csv"}


def test_rows_with_any_name_stay_inside(tmp_path: Path) -> None:
    rows = ["..", "../x", "/abs", "", "a/b", "a_b", "grid.png", "x.parquet", "state.json", "train"]
    requests = [Request(row, f"{i:06d}", i % len(rows), i) for i in range(3) for row in rows]
    write(tmp_path / "deep" / "out", ("png",), Toy(), requests=requests, class_names=rows)
    assert len([*tmp_path.rglob("00*.png")]) == 30 and [p.name for p in tmp_path.iterdir()] == ["deep"]
    data = load_data(str(tmp_path / "deep" / "out"))
    assert len(data.class_names) == len(rows) and data.labels.bincount().tolist() == [3] * len(rows)


def test_the_grid_shows_any_name() -> None:
    images = [[torch.zeros(3, 8, 8, dtype=torch.uint8)]] * 4
    assert labeled_grid(images, ["", "two\nlines", "猫", "x" * 1000]).width < 2000


def test_places_are_split_without_gaps() -> None:
    for count, size in ((1, 1), (7, 3), (9, 3), (2, 5)):
        plan = kinds.FileLayout(Path(), asked(count), size, CLASSES)
        indices = [plan.indices(batch) for batch in range(plan.batches)]
        assert indices[0].start == 0 and indices[-1].stop == count
        assert all(a.stop == b.start and len(a) == size for a, b in pairwise(indices))
