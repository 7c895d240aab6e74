"""Animations and files with several pages: the first frame, or each frame as an image."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import ImageData, load_data

FORMATS = {"gif": {}, "webp": {"lossless": True}, "png": {}, "tif": {}}
COUNTS = (3, 1, 4)      # frames of each file
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


def frame(file: int, index: int, gray: bool) -> np.ndarray:
    """A picture that no other frame has, and that a palette holds exactly."""
    level = RAMP // 8 * 8 + file * 60 + index * 3
    return level.astype(np.uint8) if gray else np.dstack([level, 255 - level, level * 0 + index]).astype(np.uint8)


def write(root: Path, suffix: str, gray: bool = False) -> str:
    for file, count in enumerate(COUNTS):
        folder = root / "ab"[file % 2]
        folder.mkdir(parents=True, exist_ok=True)
        first, *others = (Image.fromarray(frame(file, index, gray)) for index in range(count))
        first.save(folder / f"{file}.{suffix}", save_all=True, append_images=others, **FORMATS[suffix])
    return str(root)


def pixels(data: ImageData, indices: list[int] | None = None) -> np.ndarray:
    return data.__getitems__(range(len(data)) if indices is None else indices)[0].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_first_frame_is_used_and_the_others_are_told(suffix: str, tmp_path: Path) -> None:
    for memory_gb in (4, 1e-9):
        data = load_data(write(tmp_path, suffix), memory_gb=memory_gb)
        assert len(data) == 3 and any("2;" in note and "--data.frames all" in note for note in data.notes)
        np.testing.assert_allclose(pixels(data), [frame(file, 0, False) for file in (0, 2, 1)], atol=1)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
def test_each_frame_is_an_image_with_the_label_of_its_file(suffix: str, gray: bool, tmp_path: Path) -> None:
    source = write(tmp_path, suffix, gray)
    data = load_data(source, frames="all")
    order = [(file, index) for file in (0, 2, 1) for index in range(COUNTS[file])]
    assert data.labels.tolist() == [file % 2 for file, _ in order]
    channels = 1 if gray and suffix != "webp" else 3        # WebP has no gray images
    expected = np.stack([frame(*of, gray) for of in order])
    expected = expected[..., None].repeat(channels, -1) if gray else expected
    np.testing.assert_allclose(pixels(data), expected, atol=1)
    assert data.part is not None and len(range(data.part.start, data.part.stop)) == 3      # files
    # Frames are decoded in any order, also in another process.
    on_demand = pickle.loads(pickle.dumps(load_data(source, frames="all", memory_gb=1e-9)))
    for indices in ([6, 0, 5, 5, 2], [1, 2, 3], [7, 6, 3, 0]):
        np.testing.assert_array_equal(pixels(on_demand, indices), pixels(data, indices))
    assert on_demand.fingerprint == data.fingerprint != load_data(source).fingerprint


def test_a_range_of_rows_selects_files(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, "gif"), split="train[1:]", frames="all")
    np.testing.assert_allclose(pixels(data), [*(frame(2, i, False) for i in range(4)), frame(1, 0, False)], atol=1)


def test_without_further_frames_nothing_changes(tmp_path: Path) -> None:
    for file in range(4):
        folder = tmp_path / "ab"[file % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(frame(file, 0, False)).save(folder / f"{file}.png")
    first, every = (load_data(str(tmp_path), frames=frames) for frames in ("first", "all"))
    assert first.fingerprint == every.fingerprint and first.notes == every.notes


def test_the_content_of_every_file_is_in_the_fingerprint(tmp_path: Path) -> None:
    source = write(tmp_path, "gif")
    before = load_data(source, frames="all").fingerprint
    images = [Image.fromarray(frame(2, index + 5, False)) for index in range(4)]
    images[0].save(tmp_path / "a/2.gif", save_all=True, append_images=images[1:])
    assert load_data(source, frames="all").fingerprint != before


def test_a_damaged_frame_is_named_and_can_be_skipped(tmp_path: Path, refused) -> None:
    source = write(tmp_path, "tif")
    path = tmp_path / "a/2.tif"
    path.write_bytes(path.read_bytes()[:-150])
    with refused("a/2.tif", "data.on_bad_image skip"):
        load_data(source, frames="all")
    data = load_data(source, frames="all", on_bad_image="skip")
    assert data.skipped >= 1 and set(data.labels.tolist()) == {0, 1}
    assert load_data(source).num_classes == 2       # the first frame is whole


def test_pages_of_a_tiff_have_their_fourth_channels(tmp_path: Path) -> None:
    """Also where an earlier page has none."""
    values = [np.dstack([frame(0, index, False), RAMP + index]) for index in range(3)]
    others = [Image.frombytes("RGBX", (8, 8), each.tobytes()) for each in values[1:]]
    Image.fromarray(values[0][..., :3]).save(tmp_path / "a.tif", save_all=True, append_images=others)
    data = load_data(str(tmp_path), frames="all", channels=4)
    values[0][..., 3] = 255
    np.testing.assert_array_equal(pixels(data), values)
    data = load_data(str(tmp_path), frames="all")
    np.testing.assert_array_equal(pixels(data), np.stack(values)[..., :3])
    assert any("a fourth channel" in note and "2;" in note for note in data.notes)
