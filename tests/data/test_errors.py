"""What a user can get wrong: one line that names the option, what is allowed, and the nearest name."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm.data import load_data
from ddpm.training.run_directory import check_run_directory

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.parent / f"{tmp_path.name}_cache")
    monkeypatch.chdir(tmp_path)


def picture(mode: str = "RGB", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(file, form)
    return file.getvalue()


def folder(**classes: list[bytes]) -> None:
    for name, images in classes.items():
        Path("data", name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            Path("data", name, f"{index}.png").write_bytes(image)


def rows(**columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def save(labels: list, kind: object = None, **more: list) -> None:
    table = rows(image=[picture()] * len(labels), label=labels, **more)
    if kind is not None:
        table = table.cast_column("label", kind)
    table.to_parquet("data.parquet")


def refuses(*fragments: str, source: str = "data", **options: object) -> None:
    with pytest.raises(ValueError) as caught:
        load_data(source, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("data.")
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"resolution": 0}, ["data.resolution: 0", "1 or more"]),
        ({"resolution": -3}, ["data.resolution: -3"]),
        ({"channels": 4}, ["data.channels: 4", "allowed: 1, 3"]),
        ({"channels": 5}, ["data.channels: 5", "allowed: 1, 3", ".npz or .npy"]),
        ({"channels": 0}, ["data.channels: 0"]),
        ({"intensity": [1, 1]}, ["data.intensity: [1, 1]", "low < high"]),
        ({"intensity": [5]}, ["data.intensity: [5]", "low < high"]),
        ({"intensity": [0, float("inf")]}, ["data.intensity: ", "low < high"]),
        ({"fit": "cropp"}, ["data.fit: 'cropp'", "did you mean crop?"]),
        ({"frames": "each"}, ["data.frames: 'each'", "first, all"]),
        ({"on_bad_image": "skp"}, ["data.on_bad_image: 'skp'", "error, skip", "did you mean skip?"]),
        ({"memory_gb": 0}, ["data.memory_gb: 0", "above 0"]),
        ({"cache_gb": -1}, ["data.cache_gb: -1", "0 or more"]),
        ({"cache_gb": float("nan")}, ["data.cache_gb: nan"]),
        ({"memory_gb": float("nan")}, ["data.memory_gb: nan"]),
        ({"split": "test"}, ["data.split: 'test'", "it has: train"]),
        ({"image_column": "image"}, ["data.image_column", "no columns"]),
        ({"label_column": "label"}, ["data.label_column", "no columns"]),
    ],
)
def test_options(options: dict, fragments: list[str]) -> None:
    refuses(*fragments, source="digits", **options)


@pytest.mark.parametrize(
    "source",
    ["data/bird", "./bords", "~/no/such/place", "/no/such/place", "a/b/c", "birds.parquet", "bird.png", "no/such.tiff"],
)
def test_what_looks_like_a_path_is_not_asked_of_the_hub(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    Path("data/birds").mkdir(parents=True)
    refuses(f"data.source: file or folder {os.path.expanduser(source)!r}", source=source)


def test_a_tilde_without_a_known_user_is_a_part_of_a_name(tmp_path: Path) -> None:
    """As a shell and `os.path.expanduser` leave it."""
    folder(cat=[picture()], dog=[picture()])
    Path("data").rename("~no_user")
    assert len(load_data("~no_user")) == 2
    check_run_directory(tmp_path / "run", "~no_user")
    refuses("data.labels: '~nobody2/labels.csv'", source="~no_user", labels="~nobody2/labels.csv")
    np.save("images.npy", np.zeros((2, 8, 8), np.uint8))
    refuses("data.labels: ~nobody2/a.npy", "No such file", source="images.npy", labels="~nobody2/a.npy")


def test_nearest_path() -> None:
    Path("data/birds").mkdir(parents=True)
    refuses("'data/bird'", "did you mean data/birds?", source="data/bird")


@pytest.mark.parametrize("source", ["", " ", "\n"])
def test_no_source(source: str) -> None:
    refuses(f"data.source: {source!r} is empty", "folder", "digits", source=source)


@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
@pytest.mark.parametrize("source", ["digit", "owner/digits"])
def test_unreachable_hub(source: str, variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    refuses(f"data.source: {source!r}", "the Hub", f"unset {variable or 'HF_HUB_OFFLINE'}", "local path", source=source)
    with pytest.raises(ValueError, match=r"^(?!.*OfflineMode)"):
        load_data(source)
    if source == "digit":
        refuses("did you mean digits?", source=source)


def test_a_hub_name_that_is_none() -> None:
    refuses("data.source: 'no dataset!'", source="no dataset!")


def test_single_files() -> None:
    Path("cat.png").write_bytes(picture())
    refuses("data.source: 'cat.png'", "'.'", "a folder of images", ".parquet", source="cat.png")
    remedies = {"a.mp4": "ffmpeg", "a.tar.gz": "unpack", "a.ZIP": "unpack", "a.txt": "a folder of images"}
    for name, remedy in remedies.items():
        Path(name).write_bytes(b"something")
        refuses(f"data.source: {name!r}", remedy, source=name)
    Path("bad.parquet").write_bytes(b"not parquet")
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger("datasets").addHandler(handler)
    refuses("data.source: 'bad.parquet'", source="bad.parquet")
    logging.getLogger("datasets").removeHandler(handler)
    assert logged.getvalue() == ""


def test_broken_saved_dataset() -> None:
    folder(a=[])
    Path("data/state.json").write_text("{}")
    refuses("data.source: 'data'")


def test_folders() -> None:
    Path("data").mkdir()
    refuses("data.source: 'data'", "one folder of images per class")
    Path("data/0.png").write_bytes(picture())
    folder(cat=[picture()], dog=[])
    refuses("'data/dog'", ".png")
    folder(dog=[picture()])
    refuses("data.split: 'tran'", "train; did you mean train?", split="tran")
    assert len(load_data("data")) == 2


@pytest.mark.parametrize(
    ("labels", "kind", "fragments"),
    [
        ([0, None, 1], datasets.ClassLabel(names=["a", "b"]), ["row 1", "None"]),
        ([0, 1, -1], datasets.ClassLabel(names=["a", "b"]), ["row 2", "-1; allowed are 0 to 1"]),
        ([0, 1, -1], None, ["row 2", "label -1; allowed are 0 to 1"]),
        (["a", None], None, ["row 1", "None"]),
        ([1, 2, 3], None, ["0..K-1", "0 is missing", "data.labels none"]),
        ([0, 1, 3], None, ["0..K-1", "2 is missing"]),
        ([0.0, 1.0], None, ["row 0", "0.0 (float)", "class names or integers", "data.labels none"]),
        ([[0, 1], [1], [0]], None, ["data.label_column: 'label'", "one class per image", "data.labels none"]),
        (["", "a"], None, ["class ''", "row 0", "rename"]),
        (["a", "none"], None, ["class 'none'", "row 1", "rename"]),
        (["a", "b\nc"], None, ["class 'b\\nc'", "row 1", "rename"]),
    ],
)
def test_labels(labels: list, kind: object, fragments: list[str]) -> None:
    save(labels, kind)
    refuses(*fragments, source="data.parquet")


def test_a_label_beyond_the_declared_names() -> None:
    """Written by hand, since `datasets` refuses to build it."""
    save([0, 1, 1], datasets.ClassLabel(names=["a", "b"]))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table("data.parquet")
    changed = table.set_column(1, table.schema.field(1), pa.array([0, 1, 2]))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), "data.parquet")
    refuses("row 2", "label 2; allowed are 0 to 1", source="data.parquet")


def test_empty_table() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    empty = datasets.Dataset.from_dict({"image": [], "label": []}, features=features)
    empty.save_to_disk("data")
    refuses("data.source: 'data'", "no images")
    empty.to_parquet("data.parquet")
    refuses("data.source: 'data.parquet'", source="data.parquet")


def test_columns() -> None:
    pair = [picture()] * 2
    rows(photo=pair, other=pair, kind=["a", "b"], size=[1, 2]).to_parquet("data.parquet")
    every = "the columns are: photo, other, kind, size"
    refuses("data.image_column: ", every, source="data.parquet")
    refuses(
        "data.image_column: 'phot'", every, "mean photo?", source="data.parquet", image_column="phot"
    )
    refuses("data.image_column: 'kind'", every, source="data.parquet", image_column="kind")
    refuses("data.label_column: ", every, source="data.parquet", image_column="photo")
    known = {"source": "data.parquet", "image_column": "photo"}
    refuses("data.label_column: 'knd'", "did you mean kind?", label_column="knd", **known)
    refuses("data.label_column: 'other'", label_column="other", **known)
    rows(kind=["a", "b"], label=[0, 1]).to_parquet("data.parquet")
    refuses("data.image_column: ", "kind, label", source="data.parquet")


@pytest.mark.parametrize("saved", [True, False])
def test_splits_are_listed(saved: bool) -> None:
    pair = rows(image=[picture()] * 2, label=[0, 1])
    if saved:
        datasets.DatasetDict(train=pair, test=pair).save_to_disk("data")
    else:
        Path("data").mkdir()
        pair.to_parquet("data/train.parquet")
        pair.to_parquet("data/test.parquet")
    refuses("data.split: 'tets'", "train, test; did you mean test?", split="tets")
    assert len(load_data("data", split="Testing")) == 2


@pytest.mark.parametrize("memory_gb", [4, 1e-9])
@pytest.mark.parametrize(
    ("bad", "has_header"),
    [
        (picture()[:100], True),
        (picture()[:60] + b"\0" * 100, True),
        (picture(form="JPEG")[:500], False),
        (b"", False),
        (b"no image", False),
    ],
)
def test_unreadable_files(bad: bytes, has_header: bool, memory_gb: float) -> None:
    """Images that are decoded on access are opened at the beginning, too."""
    folder(cat=[picture(), bad], dog=[picture(), picture()])
    if memory_gb == 4 or not has_header:
        refuses("data/cat/1.png", "data.on_bad_image skip", memory_gb=memory_gb)
    else:
        data = load_data("data", memory_gb=memory_gb)
        data.__getitems__([0, 2, 3])
        with pytest.raises(ValueError, match=r"data/cat/1.png.*data.on_bad_image skip"):
            data.__getitems__([0, 1])
    data = load_data("data", memory_gb=memory_gb, on_bad_image="skip")
    assert data.skipped == 1 and data.labels.tolist() == [0, 1, 1]


def test_unreadable_rows() -> None:
    rows(image=[picture(), None, b"x", picture()], label=[0, 1, 0, 1]).to_parquet("data.parquet")
    refuses("split 'train', row 1", "data.on_bad_image skip", source="data.parquet")
    assert load_data("data.parquet", on_bad_image="skip").skipped == 2


def test_a_class_of_which_no_image_is_readable() -> None:
    """In memory or not, with every frame or not; as an empty class folder, it cannot be learned."""
    folder(ant=[b"", b"x"], bee=[picture()], cow=[picture(), b""])
    for options in ({}, {"memory_gb": 1e-9}, {"frames": "all"}, {"split": "train[50%:]"}):
        refuses("data.on_bad_image", "'ant'", "data/ant/", "data.labels none", on_bad_image="skip", **options)
    assert load_data("data", on_bad_image="skip", labels="none").skipped == 3


def test_unreadable_first_and_all() -> None:
    folder(cat=[b"", picture("L")], dog=[picture()])
    refuses("data/cat/0.png", "data.on_bad_image skip")
    data = load_data("data", on_bad_image="skip")
    assert data.skipped == 1 and data.channels == 3
    folder(cat=[b"", b""], dog=[b""])
    refuses("data.source: 'data'", "all 3", on_bad_image="skip")


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    folder(cat=[picture()], dog=[picture()])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refuses("data/cat/0.png", "20 pixels", "data.on_bad_image skip")


@pytest.mark.parametrize("source", [r"C:\data\cats", "C:/data", r"data\cats"])
def test_a_path_of_windows(source: str, refused: Callable[..., AbstractContextManager[None]]) -> None:
    with refused("data.source", "Windows"):
        load_data(source)
    folder(cats=[picture()])
    if not source.startswith("C"):
        with refused("data.source", "did you mean data/cats?"):
            load_data(source)


def test_a_given_column_is_not_suggested_for_itself() -> None:
    save([0, 1])
    with pytest.raises(ValueError, match=r"^data\.label_column: 'image'") as error:
        load_data("data.parquet", label_column="image")
    assert "did you mean image?" not in str(error.value)


def test_pillow_prints_no_warnings() -> None:
    """About large images, transparency in palettes, damaged EXIF data; in a new process, because pytest shows all."""
    Path("images").mkdir()
    Image.new("1", (12_000, 8_000)).save("images/large.png")
    Image.new("P", (8, 8)).save("images/palette.png", transparency=bytes([0, 128, 255]))
    Image.new("L", (8, 8)).save("images/exif.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    code = "from ddpm.data import load_data; load_data('images', resolution=8, channels=3)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
