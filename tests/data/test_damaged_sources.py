"""Damaged files end in an error of the program, one line that names the file, and in no other exception."""

import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs import array, gray, picture, tiff
from PIL import Image

from ddpm.data import load_data
from ddpm.data.pixels.decode import PixelFormat, UnreadableImage, to_pixels, unreadable_if_it_fails
from ddpm.data.pixels.frames import expand_frames
from ddpm.data.pixels.survey import examine
from ddpm.data.records import FilePictures

IMAGES, LABELS = array()
TRIALS = 1000


def save_image(form: str, mode: str = "RGB", count: int = 1) -> bytes:
    """Return a file of as many frames."""
    file = io.BytesIO()
    first, *others = (picture(0, i, mode=mode) for i in range(count))
    first.save(file, form, **{"save_all": True, "append_images": others} if others else {})
    return file.getvalue()


def save_arrays(**compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **compression) as archive:
        for name, values in (("images", IMAGES), ("labels", LABELS)):
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, values)
    return file.getvalue()


def save_array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut a file off, or overwrite its end or some of its bytes."""
    place = rng.randrange(len(content))
    match rng.randrange(3):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes(len(content) - place)
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 3, 10))):
        damaged[rng.choice((rng.randrange(len(damaged)), rng.randrange(min(len(damaged), 200))))] = rng.randrange(256)
    return bytes(damaged)


def without_width(tiff: bytes) -> bytes:
    """Return a TIFF whose last page has no width."""
    before, _, after = tiff.rpartition(struct.pack("<HHI", 256, 4, 1))
    return before + struct.pack("<HHI", 254, 4, 1) + after


FIRST_IS_DAMAGED = {
    **({"a.avif": save_image("AVIF")[:-50] + bytes(50)} if ".avif" in Image.registered_extensions() else {}),
    "a.tif": without_width(tiff(gray(0, 0), {262: 1})),
    "b.gif": save_image("GIF")[:70],
}
LAST_IS_DAMAGED = {"a.gif": save_image("GIF", count=3)[:115], "b.tif": without_width(save_image("TIFF", count=3))}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a damaged image beside others, and returns the folder."""

    def write_into_folders(name: str) -> str:
        for folder in ("cat", "dog"):
            (tmp_path / folder).mkdir()
            picture(0, 0).save(tmp_path / folder / "whole.png")
        (tmp_path / "cat" / name).write_bytes((FIRST_IS_DAMAGED | LAST_IS_DAMAGED)[name])
        return str(tmp_path)

    return write_into_folders


@pytest.mark.parametrize("options", [{}, {"frames": "all"}, {"channels": 1}, {"intensity": [0, 255]}])
@pytest.mark.parametrize("name", FIRST_IS_DAMAGED)
def test_a_damaged_image_is_named_and_can_be_skipped(name: str, options: dict, write: Callable, refused: Any) -> None:
    source = write(name)
    with refused(f"cat/{name}", "data.on_bad_image skip"):
        load_data(source, **options)
    assert load_data(source, on_bad_image="skip", **options).skipped == 1


@pytest.mark.parametrize("name", LAST_IS_DAMAGED)
def test_damaged_later_frames_do_not_matter_until_they_are_used(name: str, write: Callable, refused: Any) -> None:
    source = write(name)
    assert len(load_data(source)) == 3
    with refused(f"cat/{name}", "data.on_bad_image skip"):
        load_data(source, frames="all")
    assert load_data(source, frames="all", on_bad_image="skip").skipped == 1


def test_memory_that_is_used_up_is_no_damage() -> None:
    with pytest.raises(MemoryError), unreadable_if_it_fails():
        raise MemoryError


def encrypted() -> bytes:
    """Return an .npz whose headers say that its arrays are encrypted."""
    content = bytearray(save_arrays())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for place in range(len(content)):
            if content.startswith(signature, place):
                content[place + flags] |= 1
    return bytes(content)


def overwritten(content: bytes, place: int) -> bytes:
    return content[:place] + b"\xff" * 20 + content[place + 20 :]


@pytest.mark.parametrize(("name", "content"), [
    ("a.npz", encrypted()),
    ("a.npz", overwritten(save_arrays(compression=zipfile.ZIP_DEFLATED), 60)),
    ("a.npy", save_array(IMAGES).replace(b"(12, 16", b"((12, 1")),
    ("a.npy", save_array(IMAGES).replace(b"(12, 16", b"(-2, 16")),
    ("a.npy", save_array(IMAGES).replace(b"(12, 16, 16, 3), }      ", b"(12000000, 16, 16, 3), }")),
    ("a.npy", save_array(IMAGES)[:-1]),
])
def test_a_damaged_array_is_named(name: str, content: bytes, tmp_path: Path, refused: Any) -> None:
    (tmp_path / name).write_bytes(content)
    with refused("data.source", str(tmp_path / name), "again" if b"(-2" not in content else "no images"):
        load_data(str(tmp_path / name))


def test_a_stored_array_whose_checksum_is_wrong_is_refused(tmp_path: Path, refused: Any) -> None:
    """Its values are read by position, which would not notice."""
    np.savez(tmp_path / "a.npz", images=np.full((20, 16, 16, 3), 7, np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[400:500] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    with refused("a.npz", "damaged"):
        load_data(str(tmp_path / "a.npz"))


def test_a_damaged_array_of_labels_is_named(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "a.npy").write_bytes(save_array(IMAGES))
    (tmp_path / "b.npy").write_bytes(save_array(LABELS).replace(b"(12,)", b"((12)"))
    with refused("data.labels", str(tmp_path / "b.npy"), "again"):
        load_data(str(tmp_path / "a.npy"), labels=str(tmp_path / "b.npy"))


def whole_images() -> Iterator[bytes]:
    """Yield an image of every format and mode that Pillow writes, with one frame and several."""
    Image.init()
    for form in sorted(Image.SAVE):
        for mode in ("1", "L", "RGBA", "P", "I;16", "F", "CMYK"):
            for count in (1, 3):
                try:
                    yield save_image(form, mode, count)
                except (OSError, ValueError, KeyError):     # no format has every mode
                    continue
    for planes in (False, True):
        yield tiff(IMAGES[0], {262: 2}, planes, compressed=True)


@pytest.mark.filterwarnings("ignore")       # Pillow warns of damaged EXIF data
def test_no_damage_of_an_image_ends_in_another_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)      # damaged sizes take time
    rng, whole, unreadable = random.Random(0), list(whole_images()), 0
    target = PixelFormat(16, 3, intensity=(0.0, 65535.0))
    for trial in range(TRIALS):
        path = tmp_path / "image"
        path.write_bytes(damage(whole[trial % len(whole)], rng))
        file = FilePictures((str(path),))
        for pictures in (file, expand_frames(file, torch.tensor([0])) or file):
            try:
                for index in range(len(pictures)):
                    with pictures.open_header(index) as opened:
                        examine(opened, with_values=True)
                    to_pixels(pictures.open(index), target)
            except UnreadableImage as error:
                assert str(error) and "\n" not in str(error)
                unreadable += 1
    assert TRIALS / 4 < unreadable < 2 * TRIALS


def test_no_damage_of_an_array_ends_in_another_exception(tmp_path: Path) -> None:
    rng, refused = random.Random(0), 0
    whole = [
        save_arrays(), save_arrays(compression=zipfile.ZIP_DEFLATED), save_array(IMAGES),
        save_array(np.asfortranarray(IMAGES)), save_array(IMAGES.astype(np.float32)),
    ]
    for trial in range(TRIALS // 5):
        content = damage(whole[trial % len(whole)], rng)
        path = tmp_path / ("a.npz" if trial % len(whole) < 2 else "a.npy")
        path.write_bytes(content)
        try:
            load_data(str(path))
        except ValueError as error:
            assert str(error).startswith("data.") and "\n" not in str(error)
            refused += 1
    assert TRIALS / 20 < refused < TRIALS / 5
