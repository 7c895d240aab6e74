"""An .npz of images as a source: what is read from it, how little of it, and what is refused."""

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm.data import load_data
from ddpm.data.sources.arrays import StoredPictures, open_npz

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("gray", [False, True])
def test_source(gray: bool, save: Callable, tmp_path: Path) -> None:
    pixels = PIXELS[..., :1] if gray else PIXELS
    save(tmp_path / "a.npz", pixels, LABELS)
    save(tmp_path / "b.npz", labels=LABELS, other=np.zeros(3), images=pixels, class_names=np.array(["x", "y", "z"]))
    if gray:
        save(tmp_path / "c.npz", pixels[..., 0], LABELS)
    for path in tmp_path.glob("*.npz"):
        data = load_data(str(path))
        images, labels = data.__getitems__(range(6))
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels) and labels.tolist() == LABELS.tolist()
        assert data.class_names == (("x", "y", "z") if path.stem == "b" else ("0", "1", "2"))
        on_demand = load_data(str(path), memory_gb=1e-9)
        assert not on_demand.in_memory and on_demand.fingerprint == data.fingerprint
        assert torch.equal(pickle.loads(pickle.dumps(on_demand)).__getitems__([5, 1])[0], images[[5, 1]])


@pytest.mark.parametrize("labels", [None, np.full(6, -1), np.zeros(6, np.int64), np.array(["a"] * 6)])
def test_without_classes(labels: np.ndarray | None, tmp_path: Path) -> None:
    """Without labels, with the -1 of labels that are not published, and with one class."""
    np.savez(tmp_path / "a.npz", images=PIXELS, **({} if labels is None else {"labels": labels}))
    data = load_data(str(tmp_path / "a.npz"))
    assert data.num_classes == 0 and data.labels.tolist() == [0] * 6


def test_labels_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.eye(6))
    assert load_data(str(tmp_path / "a.npz"), labels="none").num_classes == 0


def test_names_as_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS, np.array(["b", "a", "b", "b", "a", "c"]))
    data = load_data(str(tmp_path / "a.npz"))
    assert data.class_names == ("a", "b", "c") and data.labels.tolist() == [1, 0, 1, 1, 0, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [2, 4, 5, 12])
def test_any_number_of_channels(channels: int, save: Callable, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, channels), dtype=np.uint8)
    save(tmp_path / "a.npz", pixels, LABELS)
    for memory_gb in (4, 1e-9):
        data = load_data(str(tmp_path / "a.npz"), memory_gb=memory_gb)
        assert np.array_equal(data.__getitems__(range(6))[0].permute(0, 2, 3, 1).numpy(), pixels)
    same = load_data(str(tmp_path / "a.npz"), channels=channels)
    assert same.channels == channels and same.fingerprint == data.fingerprint
    refuses(tmp_path / "a.npz", f"data.channels: 3, but the images have {channels}", f"allowed: {channels}", channels=3)


TYPES = [
    (bool, 0, 1, (0, 1)),
    (np.uint16, 0, 4095, (0, 4095)),
    (np.uint16, 0, 65535, (0, 65535)),
    (">u2", 0, 65535, (0, 65535)),
    (np.int16, -1024, 3071, (-1024, 3071)),
    (np.int64, 0, 255, (0, 255)),
    (np.float16, 0, 1, (0, 1)),
    (np.float32, -1, 1, (-1, 1)),
    (">f8", -1, 1, (-1, 1)),
]


@pytest.mark.parametrize(("dtype", "low", "high", "window"), TYPES)
@pytest.mark.parametrize("shape", [(6, 16, 16), (6, 16, 16, 3), (6, 16, 16, 5)])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_values_of_any_type(
    dtype: type, low: float, high: float, window: tuple, shape: tuple, suffix: str, tmp_path: Path
) -> None:
    """A ramp from the lowest to the highest value becomes a ramp from 0 to 255."""
    unit = np.linspace(0, 1, prod(shape)).reshape(shape)
    values = (low + (high - low) * unit).round(0 if high > 1 or dtype is bool else 6).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    np.save(path, values) if suffix == "npy" else np.savez(path, values, LABELS)
    data = load_data(str(path), memory_gb=1e-9)
    assert data.intensity == window and data.class_names == (() if suffix == "npy" else ("0", "1", "2"))
    expected = np.interp(values.astype(float), window, (0, 255)).reshape(*shape[:3], -1)
    found = data.__getitems__(range(6))[0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-6)
    assert load_data(str(path)).fingerprint == data.fingerprint


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(order: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asarray(PIXELS, order=order))
    data = load_data(str(tmp_path / "a.npy"))
    assert np.array_equal(data.__getitems__(range(6))[0].permute(0, 2, 3, 1).numpy(), PIXELS)
    assert data.num_classes == 0 and data.labels.tolist() == [0] * 6
    assert len(load_data(str(tmp_path / "a.npy"), split="train[2:]")) == 4


@pytest.mark.parametrize("names", [None, np.array(["c", "a", "b"])])
def test_labels_of_an_npy_are_in_another(names: np.ndarray | None, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    np.save(tmp_path / "y.npy", LABELS if names is None else names[LABELS])
    data = load_data(str(tmp_path / "a.npy"), labels=str(tmp_path / "y.npy"))
    expected = LABELS if names is None else np.array([2, 0, 1])[LABELS]
    assert data.labels.tolist() == expected.tolist() and data.num_classes == 3
    np.save(tmp_path / "few.npy", LABELS[:4])
    refuses(tmp_path / "a.npy", "data.labels: ", "(4,)", "(6,)", labels=str(tmp_path / "few.npy"))
    refuses(tmp_path / "a.npy", "data.labels: ", "No such file", labels=str(tmp_path / "none.npy"))
    refuses(tmp_path / "a.npy", "data.labels: 'filename'", ".npy of labels", labels="filename")


def test_npy_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_bytes(b"no array")
    refuses(tmp_path / "text.npy", "text.npy", "not an .npy")
    np.save(tmp_path / "first.npy", PIXELS.transpose(0, 3, 1, 2))
    refuses(tmp_path / "first.npy", "transpose(0, 2, 3, 1)")
    np.save(tmp_path / "objects.npy", np.array([None, {}]))
    refuses(tmp_path / "objects.npy", "object; allowed are integers")


def test_columns_first_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.asfortranarray(PIXELS), LABELS)
    assert np.array_equal(np.array(open_npz(tmp_path / "a.npz").pictures.open(4)), PIXELS[4])


def test_one_image_is_read_at_a_time(tmp_path: Path) -> None:
    many = np.broadcast_to(PIXELS[0], (100_000, 12, 12, 3))     # 43 MB
    np.savez(tmp_path / "a.npz", many, np.zeros(100_000, np.int64))
    tracemalloc.start()
    try:
        arrays = open_npz(tmp_path / "a.npz")
        assert isinstance(arrays.pictures, StoredPictures) and len(arrays.pictures) == 100_000
        assert np.array_equal(np.array(arrays.pictures.open(99_999)), PIXELS[0])
        assert tracemalloc.get_traced_memory()[1] < 4e6         # of which the labels are 0.8 MB, twice
    finally:
        tracemalloc.stop()


def refuses(path: Path, *fragments: str, **options: object) -> None:
    with pytest.raises(ValueError) as caught:
        load_data(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("data.")
    for fragment in fragments:
        assert fragment in message, message


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ({"arr_0": PIXELS.astype(complex)}, ["a.npz: ", "arr_0", "complex128; allowed are integers, floats"]),
        ({"images": PIXELS.astype(str)}, ["images", "<U3; allowed are integers"]),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2)}, ["shape (6, 3, 12, 12)", "first, transpose(0, 2, 3, 1)"]),
        ({"arr_0": PIXELS[..., :1].transpose(0, 3, 1, 2)}, ["shape (6, 1, 12, 12)", "transpose(0, 2, 3, 1)"]),
        ({"arr_0": np.zeros((6, 5, 32, 48), np.uint8)}, ["shape (6, 5, 32, 48)", "transpose(0, 2, 3, 1)"]),
        ({"arr_0": PIXELS[0]}, ["shape (12, 12, 3)", "single image", "(N, H, W, C)"]),
        ({"arr_0": PIXELS.reshape(6, -1)}, ["shape (6, 432)", "(N, H, W, C)", "(N, H, W) gray"]),
        ({"arr_0": PIXELS[:0]}, ["shape (0, 12, 12, 3)", "no images"]),
        ({"mu": np.zeros(8), "sigma": np.eye(8)}, ["images or arr_0", "mu (8,), sigma (8, 8)"]),
        ({"arr_0": PIXELS, "arr_1": LABELS[:5]}, ["(5,)", "(6,)"]),
        ({"arr_0": PIXELS, "arr_1": np.eye(6)}, ["(6, 6)", "(6,)", "one class", "arr_1.argmax(1)"]),
        ({"images": PIXELS, "labels": LABELS[:, None]}, ["(6, 1)", "(6,)", "labels[:, 0]"]),
        ({"arr_0": PIXELS, "arr_1": LABELS / 2}, ["1.0 (float); allowed are class names or integers"]),
        ({"arr_0": PIXELS, "arr_1": LABELS, "class_names": np.array(["a", "b"])}, ["row 0 has label 2", "0 to 1"]),
        ({"arr_0": np.array([None, {}])}, ["object; allowed are integers"]),
        ({"arr_0": PIXELS, "arr_1": np.array([None] * 6)}, ["a.npz", "arr_1.astype(str)"]),
    ],
)
def test_refused(arrays: dict[str, np.ndarray], fragments: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    refuses(tmp_path / "a.npz", *fragments)


def test_refused_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS, LABELS)
    refuses(tmp_path / "a.npz", "data.split: 'test'", "it has: train", split="test")
    refuses(tmp_path / "a.npz", "data.image_column", image_column="arr_0")
    refuses(tmp_path / "b.npz", f"did you mean {tmp_path / 'a.npz'}?")


def test_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS, LABELS)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:500])
    (tmp_path / "text.npz").write_bytes(b"no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"no array")
    for name in ("cut", "text", "empty", "other"):
        refuses(tmp_path / f"{name}.npz", f"{name}.npz: ")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    refuses(tmp_path / "none.npz", "nothing", "images or arr_0")


def test_a_file_that_is_cut_off_later(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PIXELS, LABELS)
    data = load_data(str(tmp_path / "a.npz"), memory_gb=1e-9)
    with (tmp_path / "a.npz").open("r+b") as file:
        file.truncate(1200)
    with pytest.raises(ValueError, match=r"row 5: .*data\.on_bad_image skip"):
        data.__getitems__([0, 5])


def test_long_headers_and_names(tmp_path: Path) -> None:
    """numpy writes its second header format where the first is too short; zip tools add fields of their own."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, PIXELS, version=(2, 0))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in (("labels", LABELS), ("images", None)):
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.extra = b"\x99\x99\x04\x00abcd"
            with archive.open(entry, "w", force_zip64=True) as member:
                member.write(stream.getvalue()) if array is None else np.lib.format.write_array(member, array)
    arrays = open_npz(tmp_path / "a.npz")
    assert isinstance(arrays.pictures, StoredPictures)
    assert all(np.array_equal(np.array(arrays.pictures.open(i)), PIXELS[i]) for i in range(6))
