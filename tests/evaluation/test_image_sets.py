"""Existing images: read exactly as they were written, and an error if they do not match the reference."""

import io
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.evaluation.image_sets import READERS, ImageSet, read_images
from ddpm.io.image_formats import FORMATS, Request
from ddpm.io.image_writer import write_samples

CLASSES = ("cat", "a dog", "Vögel", "x/../y", "Cat")
COUNT, SIDE = 23, 8


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.parent / f"{tmp_path.name}_cache")


def pixels(channels: int = 3, count: int = COUNT) -> np.ndarray:
    """Return random images, uint8 (count, H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, channels), dtype=np.uint8)


def in_order(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def image_requests(count: int = COUNT) -> list[Request]:
    """Return requests for three of the five classes, interleaved."""
    return [Request(CLASSES[c], f"seed{i:06d}", c, i) for i, c in enumerate((0, 3, 4)[i % 3] for i in range(count))]


def write(out: Path, formats: tuple[str, ...], channels: int = 3, class_names: tuple[str, ...] = CLASSES) -> Tensor:
    """Write images as scripts/sample.py does; return them in the order of their seeds."""
    images = in_order(pixels(channels))
    write_samples(out, image_requests(), lambda indices: images[indices], 4, class_names, {"model": "a"}, formats)
    return images


def look(path: Path, channels: int = 3, class_names: tuple[str, ...] = CLASSES, side: int = SIDE) -> ImageSet:
    return read_images(path, side, channels, class_names)


def refuses(path: Path, *fragments: str, **other: object) -> None:
    with pytest.raises(ValueError) as caught:
        look(path, **other)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)), message
    for fragment in fragments:
        assert fragment in message, message


def pairs(images: Tensor, labels: list[int]) -> set[tuple[bytes, int]]:
    return {(image.numpy().tobytes(), label) for image, label in zip(images, labels, strict=True)}


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path, **options)
    return path


def save_flat(folder: Path, channels: int = 3) -> Path:
    for i, image in enumerate(pixels(channels)):
        save(folder / f"{i:03d}.png", image)
    return folder


# ------------------------------------------------------------------------------------------------------ valid images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("formats", [*((name,) for name in FORMATS), tuple(FORMATS)], ids="+".join)
def test_written_images_are_read_unchanged(formats: tuple[str, ...], channels: int, tmp_path: Path) -> None:
    images = write(tmp_path / "out", formats, channels)
    found = look(tmp_path / "out", channels)
    assert len(found) == COUNT and found.labels.dtype == torch.int64
    read = found.read(range(COUNT))
    assert read.dtype == torch.uint8 and read.shape == images.shape
    labels = [request.label for request in image_requests()]
    assert pairs(read, found.labels.tolist()) == pairs(images, labels)
    if formats[0] != "png":
        assert torch.equal(read, images) and found.labels.tolist() == labels       # they have an order
    assert torch.equal(found.read([20, 3, 3]), read[[20, 3, 3]])
    assert torch.equal(found.read(torch.tensor([7])), read[7:8])
    # Classes go by name: another order of them, and more of them.
    other = ("new", *reversed(CLASSES))
    renamed = look(tmp_path / "out", channels, other)
    assert [other[c] for c in renamed.labels] == [CLASSES[c] for c in found.labels]


def test_a_reader_for_each_format() -> None:
    assert READERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", ["samples.npz", "samples-00000-of-00001.parquet"])
def test_single_files(name: str, tmp_path: Path) -> None:
    images = write(tmp_path / "out", ("parquet", "npz"))
    found = look(tmp_path / "out" / name)
    assert torch.equal(found.read(range(COUNT)), images)
    assert found.labels.tolist() == [r.label for r in image_requests()]


def test_images_drawn_without_a_class(tmp_path: Path) -> None:
    images = in_order(pixels())
    requests = [Request("none", f"seed{i:06d}", -1, i) for i in range(COUNT)]
    write_samples(tmp_path / "out", requests, lambda indices: images[indices], 5, CLASSES, {}, ("png",))
    found = look(tmp_path / "out")
    assert found.labels is None and torch.equal(found.read(range(COUNT)), images)
    assert look(tmp_path / "out", class_names=("none", "b")).labels.tolist() == [0] * COUNT


def test_flat_folder(tmp_path: Path) -> None:
    save_flat(tmp_path / "flat", channels=1)
    (tmp_path / "flat" / "._000.png").write_bytes(b"left by a file manager")
    (tmp_path / "flat" / ".thumbs").mkdir()
    (tmp_path / "flat" / ".thumbs" / "a.png").write_bytes(b"")
    (tmp_path / "flat" / "notes.txt").write_text("notes")
    found = look(tmp_path / "flat", channels=1)
    assert found.labels is None and torch.equal(found.read(range(COUNT)), in_order(pixels(1)))
    assert found.summary() == f"{tmp_path / 'flat'} (image files, no labels)"


def test_class_folders_without_some_classes(tmp_path: Path) -> None:
    for i, image in enumerate(pixels(count=4)):
        save(tmp_path / "own" / ("x_.._y", "cat")[i // 2] / "deeper" / f"{i}.bmp", image)
    (tmp_path / "own" / "a dog").mkdir()
    found = look(tmp_path / "own")
    assert found.labels.tolist() == [0, 0, 3, 3] and found.summary().endswith("(image files, 2 classes)")
    assert torch.equal(found.read(range(4)), in_order(pixels(count=4)[[2, 3, 0, 1]]))


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_npz_files_of_other_programs(save_as: Callable, tmp_path: Path) -> None:
    path, labels = tmp_path / "a.npz", np.arange(COUNT) % 5
    save_as(path, pixels(), labels)
    found = look(path)
    assert torch.equal(found.read([5, 0]), in_order(pixels())[[5, 0]]) and found.labels.tolist() == labels.tolist()
    save_as(path, pixels())
    assert look(path).labels is None
    (tmp_path / "folder").mkdir()
    shutil.copy(path, tmp_path / "folder" / "b.npz")
    assert torch.equal(look(tmp_path / "folder").read(range(COUNT)), in_order(pixels()))


@pytest.mark.parametrize("labels", ["declared", "names", "ids", "none", "absent"])
def test_parquet_files_of_other_programs(labels: str, tmp_path: Path) -> None:
    ids = [i % 3 for i in range(COUNT)]
    columns = {"img": [Image.fromarray(image) for image in pixels()], "size": [8] * COUNT}
    values = {"declared": ids, "names": [CLASSES[i] for i in ids], "ids": ids, "none": [-1] * COUNT}
    if labels in values:
        columns["label"] = values[labels]
    table = datasets.Dataset.from_dict(columns)
    if labels in ("declared", "none"):
        table = table.cast_column("label", datasets.ClassLabel(names=list(reversed(CLASSES))))
    (tmp_path / "shards").mkdir()
    for shard, part in enumerate((range(10), range(10, COUNT))):
        table.select(part).to_parquet(tmp_path / "shards" / f"test-{shard}.parquet")       # no split is looked for
    found = look(tmp_path / "shards")
    assert torch.equal(found.read(range(COUNT)), in_order(pixels()))
    expected = {"declared": [4 - i for i in ids], "names": ids, "ids": ids}
    assert (None if found.labels is None else found.labels.tolist()) == expected.get(labels)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    for i, image in enumerate(pixels(count=4)):
        save(tmp_path / "a" / CLASSES[i % 2] / f"{i}.png", image)
    first = look(tmp_path / "a").digest
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert look(tmp_path / "b").digest == first and len(first) == 64
    (tmp_path / "b" / "cat" / "0.png").rename(tmp_path / "b" / "a dog" / "0.png")
    moved = look(tmp_path / "b").digest
    save(tmp_path / "b" / "a dog" / "0.png", 255 - pixels()[0])
    assert len({first, moved, look(tmp_path / "b").digest}) == 3


def test_memory_does_not_grow(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.broadcast_to(pixels(count=1), (10_000, SIDE, SIDE, 3)))        # 1.9 MB
    tracemalloc.start()
    try:
        found = look(tmp_path / "a.npz")
        assert found.read([9_999]).shape == (1, 3, SIDE, SIDE)
        assert tracemalloc.get_traced_memory()[1] < 1e6         # of which the digests are 0.3 MB
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------------- errors


def deep() -> bytes:
    """Return an RGB PNG with 16 bits per channel, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(6 * SIDE)) for _ in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = Image.fromarray(pixels()[0])
TURNED = Image.Exif()
TURNED[0x0112] = 6
BAD = {
    "small": (stored(RGB.resize((4, 4))), "4x4 pixels", "resize the images to 8x8"),
    "wide": (stored(RGB.resize((9, 8))), "9x8 pixels", "resize the images to 8x8"),
    "gray": (stored(RGB.convert("L")), "mode L", "convert('RGB')"),
    "palette": (stored(RGB.convert("P")), "mode P", "convert('RGB')"),
    "transparent": (stored(RGB.convert("RGBA")), "transparency", "background"),
    "ink": (stored(RGB.convert("CMYK"), "TIFF"), "CMYK", "convert('RGB')"),
    "bits": (stored(RGB.convert("1")), "mode 1", "convert('RGB')"),
    "deep gray": (stored(Image.fromarray(np.full((SIDE, SIDE), 4000, np.uint16))), "8 bits", "save the images"),
    "deep": (deep(), "8 bits", "save the images"),
    "float": (stored(Image.fromarray(np.ones((SIDE, SIDE), np.float32)), "TIFF"), "8 bits", "save the images"),
    "film": (stored(RGB, save_all=True, append_images=[Image.fromarray(pixels()[1])]), "one frame", "save each"),
    "turned": (stored(RGB, exif=TURNED), "EXIF", "upright"),
    "cut": (stored(RGB)[:100], "unreadable", ""),
    "empty": (b"", "unreadable", ""),
    "text": (b"no image", "unreadable", ""),
}


@pytest.mark.parametrize("bad", BAD)
def test_images_that_would_need_a_conversion(bad: str, tmp_path: Path) -> None:
    save_flat(tmp_path)
    content, *fragments = BAD[bad]
    (tmp_path / "007.png").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        look(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / '007.png'}: ") and "\n" not in str(caught.value)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def test_color_for_a_gray_reference(tmp_path: Path) -> None:
    refuses(save_flat(tmp_path), "RGB", "convert('L')", channels=1)


def test_errors_name_the_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels())
    refuses(tmp_path / "a.npz", "row 0", "8x8", "resize the images to 16x16", side=16)
    table = datasets.Dataset.from_dict({"image": [{"bytes": BAD[name][0], "path": None} for name in ("small", "text")]})
    table.cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "b.parquet")
    refuses(tmp_path / "b.parquet", "row 1", "unreadable", side=4)


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ([pixels() / 255], ["float64", "uint8"]),
        ([pixels().transpose(0, 3, 1, 2)], ["channels come first"]),
        ([pixels() // 128], ["allowed are gray levels from 0 to 255"]),
        ([pixels() * 0], ["multiply by 255"]),
        ([pixels(), np.arange(COUNT)], ["row 5: label 5 ", "allowed are 0 to 4"]),
        ([pixels(), np.arange(COUNT) - 1], ["label all or none"]),
        ([pixels(), np.arange(COUNT) * 2 - 20], ["row 0: label -20 ", "0 to 4"]),
        ([pixels(), np.arange(COUNT) / 2], ["label 0.0 (float)", "integer"]),
        ([pixels(), np.array(["dog"] * COUNT)], ["'dog'", "did you mean a dog?"]),
        ([pixels()[:0]], ["no images"]),
    ],
)
def test_arrays(arrays: list[np.ndarray], fragments: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", *arrays)
    refuses(tmp_path / "a.npz", *fragments)


def test_one_bright_image_is_enough(tmp_path: Path) -> None:
    images = pixels() // 128
    images[20, 3, 3, 1] = 2
    np.savez(tmp_path / "a.npz", images)
    assert len(look(tmp_path / "a.npz")) == COUNT


def test_classes_of_another_model(tmp_path: Path) -> None:
    write(tmp_path / "out", ("png",))
    fewer = ("cat", "Cat")
    refuses(tmp_path / "out", "'x_.._y'", "the classes are cat, Cat", class_names=fewer)
    write(tmp_path / "parquet", ("parquet",))
    refuses(tmp_path / "parquet", "row 1: 'x/../y'", class_names=fewer)
    many = tuple(f"class {i}" for i in range(100))
    with pytest.raises(ValueError, match=r"class 9, \.\.\.$"):
        look(tmp_path / "out", class_names=many)


def test_a_folder_name_that_fits_two_classes(tmp_path: Path) -> None:
    """Only "x?y" was generated, but its folder has the same name as that of "x/y" would have."""
    images, names = in_order(pixels()), ("x/y", "x?y", "z_3")
    requests = [Request("x?y", f"seed{i:06d}", 1, i) for i in range(COUNT)]
    write_samples(tmp_path / "out", requests, lambda indices: images[indices], 5, names, {}, tuple(FORMATS))
    refuses(tmp_path / "out", "'x_y'", "'x/y' and 'x?y'", "parquet or npz", class_names=names)
    assert look(tmp_path / "out" / "samples.npz", class_names=names).labels.tolist() == [1] * COUNT
    (tmp_path / "out" / "x_y").rename(tmp_path / "out" / "z_3")
    assert look(tmp_path / "out", class_names=names).labels.tolist() == [2] * COUNT


def test_folders(tmp_path: Path) -> None:
    refuses(tmp_path, "allowed are a folder of images", ".png")
    (tmp_path / "cat").mkdir()
    refuses(tmp_path, "allowed are a folder of images")
    refuses(tmp_path / "cot", f"did you mean {tmp_path / 'cat'}?")
    refuses(tmp_path / "no" / "where")
    save(tmp_path / "cat" / "0.png", pixels()[0])
    save(tmp_path / "grid.png", pixels()[0])
    refuses(tmp_path, "grid.png", "class folders")
    refuses(tmp_path / "grid.png", "single file")
    np.savez(tmp_path / "cat" / "a.npz", pixels())
    assert len(look(tmp_path / "cat")) == 1
    (tmp_path / "cat" / "0.png").unlink()
    np.savez(tmp_path / "cat" / "b.npz", pixels())
    refuses(tmp_path / "cat", "2 .npz files", "name one")


def test_some_folders_have_a_class(tmp_path: Path) -> None:
    for name in ("cat", "none"):
        save(tmp_path / name / "0.png", pixels()[0])
    refuses(tmp_path, str(Path("none") / "0.png"), "label all or none")


def test_unfinished_sampling(tmp_path: Path) -> None:
    write(tmp_path / "out", ("png",))
    (tmp_path / "out" / "cat" / "seed000000.png").unlink()
    refuses(tmp_path / "out", "22 images", "23", "remove samples.json")
    write(tmp_path / "shards", ("parquet",))
    next((tmp_path / "shards").glob("*.parquet")).unlink()
    refuses(tmp_path / "shards", "parquet", "scripts/sample.py")
    record = tmp_path / "out" / "samples.json"
    for text in ("{", "[]", "{}", '{"formats": ["gif"], "count": 3}', '{"formats": [], "count": 3}'):
        record.write_text(text)
        refuses(tmp_path / "out", "samples.json: ", "remove it")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet")
    refuses(path, "a.parquet: ", "cannot be read")
    twice = [Image.fromarray(image) for image in pixels()]
    datasets.Dataset.from_dict({"one": twice, "two": twice}).to_parquet(path)
    refuses(path, "name it image (the columns are: one, two)")
    datasets.Dataset.from_dict({"size": [1, 2]}).to_parquet(path)
    refuses(path, "a.parquet: no column holds images", "are: size", "PNG", "numpy.savez")


def test_an_image_that_becomes_unreadable(tmp_path: Path) -> None:
    found = look(save_flat(tmp_path))
    (tmp_path / "004.png").write_bytes(b"")
    assert len(found.read([3, 5])) == 2
    with pytest.raises(ValueError, match=r"004\.png: unreadable"):
        found.read(range(COUNT))


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "out", ("parquet",))
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(tmp_path / "out").read(range(COUNT))
    assert capfd.readouterr() == ("", "")
