"""Sources, and what an ImageData promises."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ddpm.config.places import RESERVED
from ddpm.data import DATASETS, ImageData, load_data
from ddpm.data.folders.labelings import LABELINGS

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [0, 0, 1, 1, 2, 2]
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, damage: int | None = None) -> Path:
    for index, (array, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        path = root / NAMES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array)[: None if index != damage else 60])
    return root


def table(damage: int | None = None) -> datasets.Dataset:
    images = [{"bytes": png(array), "path": None} for array in PIXELS]
    if damage is not None:
        images[damage]["bytes"] = b"nothing that Pillow knows"
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict({"picture": images, "kind": LABELS}, features=features)


def write_file(folder: Path, damage: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table(damage).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def write_parquet(folder: Path, damage: int | None = None) -> Path:
    return write_file(folder, damage).parent


def write_saved(folder: Path, damage: int | None = None) -> Path:
    table(damage).save_to_disk(folder)
    return folder


def write_splits(folder: Path, damage: int | None = None) -> Path:
    datasets.DatasetDict(train=table(damage)).save_to_disk(folder)
    return folder


def write_metadata(folder: Path, damage: int | None = None) -> Path:
    folder.mkdir()
    lines = ["file_name,label"]
    for index, (array, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (folder / f"{index}.png").write_bytes(png(array) if index != damage else b"nothing")
        lines.append(f"{index}.png,{NAMES[label]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


WRITERS = [write_folder, write_file, write_parquet, write_saved, write_splits, write_metadata]


def everything(data: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
    return data.__getitems__(range(len(data)))


def test_digits_are_those_of_scikit_learn() -> None:
    data = load_data()
    images, labels = everything(data)
    digits = load_digits()
    np.testing.assert_array_equal(images[:, 0].numpy(), np.floor(digits.images * 255 / 16 + 0.5))
    np.testing.assert_array_equal(labels.numpy(), digits.target)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert data.class_names == tuple("0123456789") and data.num_classes == 10
    assert data.summary() == "1,797 images, 8x8, 1 channel, 10 classes, in memory (0.1 MB)"


def test_the_names_that_stand_for_no_path_are_reserved() -> None:
    assert {*RESERVED} == {*LABELINGS, "digits"} and "digits" in DATASETS


def test_digits_need_no_datasets_library_and_hash_alike_in_another_process() -> None:
    code = "import sys; sys.modules['datasets'] = None; from ddpm.data import load_data; print(load_data().fingerprint)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == load_data().fingerprint


@pytest.mark.parametrize("write", WRITERS)
def test_every_source_gives_the_same_data(write, tmp_path: Path) -> None:
    data = load_data(str(write(tmp_path / "data")))
    images, labels = everything(data)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert labels.tolist() == LABELS and data.class_names == tuple(NAMES)
    assert (data.resolution, data.channels, data.skipped, data.in_memory) == (8, 3, 0, True)
    assert data.fingerprint == load_data(str(write_folder(tmp_path / "again"))).fingerprint


# Slices of folders of images, which take the same part of each class, are tested in test_slices.py.
@pytest.mark.parametrize("write", [write for write in WRITERS if write not in (write_folder, write_metadata)])
def test_rows_of_a_split_are_cut_in_every_source(write, tmp_path: Path) -> None:
    source = str(write(tmp_path / "data", damage=5))        # an image that is cut away is never looked at
    whole = load_data(source, on_bad_image="skip")
    for memory_gb in (4, 1e-9):
        first, rest = (load_data(source, split=s, memory_gb=memory_gb) for s in ("train[:3]", "train[1:-1]"))
        np.testing.assert_array_equal(everything(first)[0].permute(0, 2, 3, 1).numpy(), PIXELS[:3])
        np.testing.assert_array_equal(everything(rest)[0].permute(0, 2, 3, 1).numpy(), PIXELS[1:5])
        assert first.labels.tolist() == LABELS[:3] and rest.labels.tolist() == LABELS[1:5]
        # The third class has no image in the first part, and keeps its id.
        assert first.class_names == rest.class_names == tuple(NAMES)
        assert len({data.fingerprint for data in (whole, first, rest)}) == 3
    with pytest.raises(ValueError, match=r"unreadable image") as refused:
        load_data(source, split="train[2:]")
    skipped = load_data(source, split="train[2:]", on_bad_image="skip")
    assert len(skipped) == 3 and skipped.skipped == 1
    assert everything(skipped)[1].tolist() == LABELS[2:5] and "\n" not in str(refused.value)


def test_the_same_rows_are_the_same_data_however_they_are_written() -> None:
    for split in ("train[:]", "train[0:1797]", "train[:100%]"):
        assert load_data(split=split).fingerprint == load_data().fingerprint
    half = load_data(split="train[:898]")
    assert load_data(split="train[0%:-899]").fingerprint == half.fingerprint
    assert load_data(split="train[1:899]").fingerprint != half.fingerprint
    np.testing.assert_array_equal(everything(half)[0][:, 0].numpy(), everything(load_data())[0][:898, 0].numpy())


@pytest.mark.parametrize("write", WRITERS)
def test_on_demand_equals_in_memory_and_can_be_pickled(write, tmp_path: Path) -> None:
    source = str(write(tmp_path / "data", damage=2))
    in_memory = load_data(source, 4, on_bad_image="skip")
    on_demand = load_data(source, 4, on_bad_image="skip", memory_gb=1e-9)
    assert in_memory.in_memory and not on_demand.in_memory
    assert "in memory" in in_memory.summary() and "on demand" in on_demand.summary()
    assert in_memory.fingerprint == on_demand.fingerprint
    for data in (in_memory, on_demand, pickle.loads(pickle.dumps(on_demand))):
        assert len(data) == 5 and data.skipped == 1 and "1 unreadable skipped" in data.summary()
        assert data.labels.tolist() == [0, 0, 1, 2, 2]
        for indices in ([4, 0, 2], torch.tensor([4, 0, 2]), []):
            images, labels = data.__getitems__(indices)
            assert images.shape == (len(indices), 3, 4, 4)
            torch.testing.assert_close(images, in_memory.__getitems__(indices)[0], rtol=0, atol=0)
            assert labels.tolist() == [2, 0, 1][: len(indices)]
        with pytest.raises(IndexError):
            data.__getitems__([5])


def test_workers_of_a_data_loader(tmp_path: Path) -> None:
    data = load_data(str(write_parquet(tmp_path)), memory_gb=1e-9)
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, collate_fn=lambda batch: batch)
    images, labels = map(torch.cat, zip(*loader, strict=True))
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert labels.tolist() == LABELS


def test_fingerprint_tells_data_apart(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "a"))
    other = write_folder(tmp_path / "b")
    (other / "bee/2.png").write_bytes(png(PIXELS[0]))
    renamed = write_folder(tmp_path / "c")
    (renamed / "cat").rename(renamed / "cow")
    moved = write_folder(tmp_path / "d")
    (moved / "bee/2.png").rename(moved / "ant/2.png")
    split = write_folder(tmp_path / "e/test").parent
    variants = [
        load_data(source),
        load_data(source, 4),
        load_data(source, channels=1),
        load_data(str(split), split="test"),
        *(load_data(str(root)) for root in (other, renamed, moved)),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)
    assert load_data(source).fingerprint == variants[0].fingerprint


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for write in WRITERS:
        source = write(tmp_path / write.__name__).relative_to(tmp_path)
        assert len(load_data(f"~/{source}")) == 6


def test_splits_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "holdout")
    (tmp_path / "holdout/ant/0.png").unlink()
    assert len(load_data(str(tmp_path))) == 6
    assert len(load_data(str(tmp_path), split="holdout")) == 5


def test_a_class_may_be_called_train_and_lie_deep(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat").rename(tmp_path / "train")
    (tmp_path / "bee/wild").mkdir()
    (tmp_path / "bee/2.png").rename(tmp_path / "bee/wild/2.PNG")
    (tmp_path / "bee/._2.png").write_bytes(b"left by a file manager")
    (tmp_path / ".thumbnails").mkdir()
    data = load_data(str(tmp_path))
    assert data.class_names == ("ant", "bee", "train") and len(data) == 6


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([2, 0, 1], ("0", "1", "2"), [2, 0, 1]),
    ],
)
def test_undeclared_labels_and_plain_binary_columns(labels: list, names: tuple, ids: list, tmp_path: Path) -> None:
    rows = {"id": [7, 8, 9], "Class": labels, "data": [png(array) for array in PIXELS[:3]]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    data = load_data(str(tmp_path / "rows.parquet"))
    assert data.class_names == names and data.labels.tolist() == ids
    np.testing.assert_array_equal(everything(data)[0].permute(0, 2, 3, 1).numpy(), PIXELS[:3])


def test_columns_can_be_named_and_the_usual_name_wins(tmp_path: Path) -> None:
    two = table().rename_columns({"picture": "image", "kind": "fine_label"})
    two = two.add_column("mask", [{"bytes": png(255 - array), "path": None} for array in PIXELS])
    two = two.add_column("coarse", [0, 1, 0, 1, 0, 1]).cast_column("mask", datasets.Image())
    two = two.cast_column("coarse", datasets.ClassLabel(names=["even", "odd"]))
    two.save_to_disk(tmp_path)
    assert load_data(str(tmp_path)).class_names == tuple(NAMES)
    data = load_data(str(tmp_path), image_column="mask", label_column="coarse")
    assert data.class_names == ("even", "odd")
    np.testing.assert_array_equal(everything(data)[0].permute(0, 2, 3, 1).numpy(), 255 - PIXELS)


def test_equal_files_in_different_classes_are_told(tmp_path: Path) -> None:
    source = write_folder(tmp_path)
    assert not [note for note in load_data(str(source)).notes if "same image" in note]
    (source / "ant/0.png").write_bytes((source / "ant/1.png").read_bytes())         # of one class
    assert not [note for note in load_data(str(source)).notes if "same image" in note]
    (source / "cat/5.png").write_bytes((source / "ant/1.png").read_bytes())
    for memory_gb in (4, 1e-9):
        (note,) = (note for note in load_data(str(source), memory_gb=memory_gb).notes if "same image" in note)
        assert "3 files" in note and str(source / "ant/0.png") in note and str(source / "cat/5.png") in note
    assert not [note for note in load_data(str(source), labels="none").notes if "same image" in note]


def test_copies_in_other_rows_and_sources_are_counted(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "one")
    other = write_folder(tmp_path / "other")
    for file in ("ant/0.png", "bee/2.png"):
        (other / file).write_bytes(png(255 - PIXELS[0]))
    one, another = load_data(str(source)), load_data(str(other), resolution=4, channels=1)
    assert (one.copies_of(one), one.copies_of(another), another.copies_of(one)) == (6, 4, 4)
    assert ImageData(one.pixels, one.labels, one.class_names).copies_of(one) == 0


def test_more_images_than_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm.data.loading.MAX_SURVEYED", 2)
    source = str(write_folder(tmp_path))
    first = load_data(source).fingerprint
    (tmp_path / "cat/5.png").write_bytes(png(PIXELS[0]))
    assert load_data(source).fingerprint != first


def test_a_hub_name_goes_to_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("ddpm.data.sources.hub_datasets._is_on_hub", lambda name: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table())
    assert len(load_data("owner/name", split="test")) == 6
    assert asked == [("owner/name", "test")]


def test_progress_bars_are_as_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_file(tmp_path)
    capfd.readouterr()
    load_data(str(path))
    assert capfd.readouterr().err == "" and datasets.is_progress_bar_enabled()


def test_one_entry_per_source() -> None:
    assert list(DATASETS) == ["digits", "folder", "list", "npz", "npy", "parquet", "saved", "hub"]


def test_the_layout_of_the_hubs_parquet_files(tmp_path: Path) -> None:
    """One parquet file per split, images as {bytes, path}, and the class names in the schema's metadata."""
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    images = [{"bytes": png(array), "path": f"{i}.png"} for i, array in enumerate(PIXELS)]
    for split, order in (("train", range(6)), ("test", range(5, -1, -1))):
        columns = {"img": [images[i] for i in order], "label": [LABELS[i] for i in order]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{split}.parquet")
    for memory_gb in (1, 1e-9):
        data = load_data(str(tmp_path), split="test", memory_gb=memory_gb)
        images_read, labels = data.__getitems__(range(6))
        np.testing.assert_array_equal(images_read.permute(0, 2, 3, 1).numpy(), PIXELS[::-1])
        assert labels.tolist() == LABELS[::-1] and data.class_names == tuple(NAMES)
